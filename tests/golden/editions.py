"""Editions: what one engine wrote, kept as files with a manifest that says what they add up to.

An edition is a directory `v<format>-<number>`: journals, a journal's end with the snapshots before
it, marks, and frames of the wire. Its number counts what was added without a new format. A file of
an edition is never changed, and its sha256 stands in the manifest; when what is written changes,
`python -m tests.golden.make` writes another edition beside the others.

    journal    zlib of MessagePack [[epoch, sequence, record], …]
    chunks     zlib of MessagePack [[name, chunk], …]
    marks      zlib of the file
    archive    a directory as it stands on a disk, since edition v1-2
    frames     the bytes of one connection
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from zlib import compress, decompress

import msgspec
from msgspec import inspect

from actors.archive import Archive
from actors.journal import Entry
from engine.audit import audit
from engine.codec import Position, decode_record
from engine.dedications import Dedications
from engine.messages import Body, Command, Event, Hello, Message, Request, Response
from engine.reservation import Reservation
from engine.shard import Shard
from engine.state import Settings
from engine.wire import FrameReader, WireError, decode_hello, decode_request, decode_response

ROOT = Path(__file__).parent
JOURNALS = ("written", "walked", "trimmed")
"""By hand, every event; a long random walk; what is left of a random one beside its snapshots."""
SNAPSHOTTED = ("written", "trimmed")


class FileFacts(msgspec.Struct):
    bytes: int
    sha256: str


class JournalFacts(msgspec.Struct):
    """What a journal says, and what its records add up to."""

    shard: int
    shards: int
    cluster_id: str
    records: int
    events: int
    first: str
    last: str
    stamp: int
    checksum: str
    digest: str
    sums: dict[str, int]


class Manifest(msgspec.Struct):
    """`schema` names the fields of every type that is written, in order."""

    format: int
    protocol: int
    schema: dict[str, str]
    journals: dict[str, JournalFacts]
    marks: dict[str, str]
    frames: int
    files: dict[str, FileFacts]
    archive: list[str] = []
    """Of the journal "trimmed": its segments and snapshots."""


class Edition(NamedTuple):
    """The files of one edition."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def order(self) -> tuple[int, int]:
        """Format and number, by which editions follow each other."""
        form, _, number = self.name.removeprefix("v").partition("-")
        return int(form), int(number)

    def manifest(self) -> Manifest:
        return msgspec.json.decode((self.path / "manifest.json").read_bytes(), type=Manifest)

    def journal(self, name: str) -> list[Entry]:
        data = decompress((self.path / f"{name}.journal").read_bytes())
        rows = msgspec.msgpack.decode(data, type=list[tuple[int, int, bytes]])
        return [Entry(Position(epoch, sequence), record) for epoch, sequence, record in rows]

    def chunks(self, name: str) -> list[tuple[str, bytes]]:
        """Names and bytes of the chunks that stood beside the journal of that name."""
        data = decompress((self.path / f"{name}.chunks").read_bytes())
        return msgspec.msgpack.decode(data, type=list[tuple[str, bytes]])

    def marks(self) -> bytes:
        return decompress((self.path / "marks").read_bytes())

    def frames(self) -> bytes:
        return (self.path / "frames").read_bytes()

    def archive(self) -> Archive:
        """Where the journal "trimmed" is archived, and the newest snapshot beside it."""
        return Archive(self.path / "archive", None)

    def put_archive(self, entries: list[Entry], chunks: list[tuple[str, bytes]]) -> None:
        """Archive them, as an owner does."""
        cut = max(cut_of(name) for name, _ in chunks)
        [record] = [each.record for each in entries if each.position == cut]
        stamp = decode_record(record, 0, cut).stamp
        self.archive().add(0, entries)
        self.archive().keep(0, cut, stamp, (data for name, data in chunks if cut_of(name) == cut))

    def archived(self) -> list[str]:
        """What is in the archive, by what its files say of themselves."""
        archive = self.archive()
        segments = [
            f"{each.first} to {each.last}, {each.records} records of {each.size} bytes, stamped"
            f" {each.first_stamp} to {each.last_stamp}"
            for each in archive.segments(0)
        ]
        return segments + [
            f"{each.position}, stamped {each.stamp}" for each in archive.snapshots(0)
        ]

    def put_journal(self, name: str, entries: list[Entry]) -> None:
        self._put(f"{name}.journal", packed([[*entry.position, entry.record] for entry in entries]))

    def put_chunks(self, name: str, chunks: list[tuple[str, bytes]]) -> None:
        self._put(f"{name}.chunks", packed(chunks))

    def put_marks(self, data: bytes) -> None:
        self._put("marks", compress(data, 9))

    def put_frames(self, data: bytes) -> None:
        self._put("frames", data)

    def put_manifest(self, manifest: Manifest) -> None:
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        self._put("manifest.json", data + b"\n")

    def _put(self, name: str, data: bytes) -> None:
        with (self.path / name).open("xb") as file:
            file.write(data)

    def facts(self) -> dict[str, FileFacts]:
        """Of every file but the manifest, as they are now."""
        paths = sorted(path for path in self.path.rglob("*") if path.is_file())
        facts = {
            path.relative_to(self.path).as_posix(): FileFacts(
                path.stat().st_size, sha256(path.read_bytes()).hexdigest()
            )
            for path in paths
        }
        facts.pop("manifest.json", None)
        return facts


def cut_of(name: str) -> Position:
    """Of the snapshot that the chunk of that name belongs to."""
    epoch, sequence = map(int, name.partition(":")[0].split("-"))
    return Position(epoch, sequence)


def packed(value: Any) -> bytes:
    return compress(msgspec.msgpack.encode(value), 9)


def editions() -> list[Edition]:
    """All there are, oldest first."""
    return sorted((Edition(path) for path in ROOT.glob("v*-*")), key=lambda each: each.order)


def schema() -> dict[str, str]:
    """The fields, in the order in which they are written, of every type that today's engine puts
    into records, snapshots and frames."""
    found: dict[str, str] = {}
    for kind in (
        Event,
        Command,
        Body,
        Hello,
        Request,
        Response,
        Reservation,
        Settings,
        Dedications,
    ):
        _note_fields(inspect.type_info(kind), found)
    return dict(sorted(found.items()))


def _note_fields(info: Any, found: dict[str, str]) -> None:
    match info:
        case inspect.StructType() if info.cls.__name__ not in found:
            found[info.cls.__name__] = " ".join(field.name for field in info.fields)
            for field in info.fields:
                _note_fields(field.type, found)
        case inspect.UnionType():
            for each in info.types:
                _note_fields(each, found)
        case inspect.ListType():
            _note_fields(info.item_type, found)
        case inspect.DictType():
            _note_fields(info.value_type, found)
        case inspect.Metadata():
            _note_fields(info.type, found)


def kinds_in(value: Any) -> set[str]:
    """The names of all types of messages in there."""
    if isinstance(value, msgspec.Struct):
        return {type(value).__name__}.union(kinds_in(msgspec.structs.astuple(value)))
    if isinstance(value, list | tuple):
        return set[str]().union(*map(kinds_in, value))
    return set()


def frames_of(edition: Edition) -> Iterator[tuple[bytes, Message]]:
    """Each frame's payload, and what it says."""
    reader = FrameReader()
    payloads = reader.feed(edition.frames())
    assert 0 == reader.pending
    for number, payload in enumerate(payloads):
        yield payload, _decode_frame(number, payload)


def _decode_frame(number: int, payload: bytes) -> Message:
    if number < 2:
        return decode_hello(payload)
    try:
        return decode_request(payload)
    except WireError:
        return decode_response(payload)


def replayed(entries: list[Entry], shard: Shard) -> Shard:
    """The shard after these records."""
    for position, data in entries:
        record = decode_record(data, shard.number, position)
        shard.replay(record.stamp, record.events)
    return shard


def sums_of(shard: Shard) -> dict[str, int]:
    """What a recomputed audit counts; an audit with findings is an error."""
    view = audit(shard.state, shard.number)
    assert [] == view.findings
    sums = {
        "skus": view.skus,
        "on_hand": view.on_hand,
        "reserved": view.reserved,
        "allocated": view.allocated,
        "available": view.available,
        "shipped": view.shipped,
    }
    sums |= {f"{state} reservations": count for state, count in view.reservations.items()}
    return sums | {f"{state} units": count for state, count in view.units.items()}


def facts_of(entries: list[Entry], shard: Shard) -> JournalFacts:
    """`entries`: at least the last ones; `shard`: what the whole history adds up to."""
    last = decode_record(entries[-1].record, shard.number, entries[-1].position)
    return JournalFacts(
        shard.number,
        shard.shards,
        shard.state.cluster_id,
        len(entries),
        sum(len(decode_record(data, shard.number, at).events) for at, data in entries),
        str(entries[0].position),
        str(last.position),
        last.stamp,
        f"{last.checksum:08x}",
        shard.digest().hex(),
        sums_of(shard),
    )
