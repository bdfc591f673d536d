"""Today's engine writes what the newest edition says, byte by byte, and nothing unannounced."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args
from zlib import decompress

import msgspec
import pytest

from actors.archive import _SEGMENT, _SNAPSHOT
from actors.journal import Entry
from engine import formats
from engine.codec import Position, checksum_of, decode_record, encode_record
from engine.messages import Event, SnapshotTaken
from engine.reservation import unpack
from engine.shard import Shard
from engine.snapshot import CHUNK_HEADER, SnapshotReader, encode_chunk
from tests.golden.editions import (
    JOURNALS,
    SNAPSHOTTED,
    Edition,
    editions,
    frames_of,
    kinds_in,
    schema,
)
from tests.golden.make import marked
from tests.golden.samples import samples
from tests.golden.written import SHARD, SHARDS, written

EDITIONS = editions()
NEWEST = EDITIONS[-1]
ANOTHER = "what is written has changed: FORMATS.md says what that takes"
PARTS_OF_STATE = {
    *("Draw", "Line", "Part", "UnitsMoved", "ChannelPolicy", "Reservation", "Settings"),
    "Dedications",
}


def journaled() -> set[str]:
    """The names of events, and of all that events and snapshots are made of."""
    return kinds_in([message for pair in samples(Event) for message in pair]) | PARTS_OF_STATE


# --- what may change without a new number ----------------------------------------------------


def test_the_newest_edition_is_todays() -> None:
    """What is written to the journal has just the fields that the newest edition has."""
    before, today = NEWEST.manifest(), schema()

    assert before.format == formats.FORMAT, ANOTHER
    for kind in journaled():
        assert before.schema.get(kind) == today[kind], f"{kind}: {ANOTHER}"


def changes(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The fields that types were given at their end; anything else that changed is an error."""
    added = set()
    for kind, fields in before.items():
        now = after[kind].split()
        assert now[: len(fields.split())] == fields.split(), kind
        added |= {f"{kind}.{field}" for field in now[len(fields.split()) :]}
    return added


def test_fields_come_at_the_end() -> None:
    """From edition to edition, and since the last: no type goes, no field goes or moves."""
    for before, after in pairwise([*(each.manifest().schema for each in EDITIONS), schema()]):
        changes(before, after)


def test_only_notes_come_without_a_new_number() -> None:
    """What an older reader of the same number does not know, it may drop, and that was said."""
    added = set()
    for one, other in pairwise(each.manifest() for each in EDITIONS):
        if one.format == other.format:
            added |= {
                each
                for each in changes(one.schema, other.schema)
                if each.partition(".")[0] in journaled()
            }

    assert added == formats.NOTES
    assert not any(each.partition(".")[0] in PARTS_OF_STATE for each in added)


def without_notes(data: bytes, entry: Entry, shard: int) -> list[Event]:
    """The record's events as an engine reads them that has never heard of the notes."""
    events = []
    for event in decode_record(data, shard, entry.position).events:
        kind = type(event)
        dropped = {
            field.name: field.default
            for field in msgspec.structs.fields(kind)
            if f"{kind.__name__}.{field.name}" in formats.NOTES
        }
        events.append(msgspec.structs.replace(event, **dropped))
    return events


@pytest.mark.parametrize("name", ["written", "walked"])
def test_who_drops_the_notes_is_right(name: str) -> None:
    """An older engine that leaves them out arrives at the same state."""
    facts = NEWEST.manifest().journals[name]
    shard = Shard(facts.shard, facts.shards)
    for entry in NEWEST.journal(name):
        record = decode_record(entry.record, facts.shard, entry.position)
        shard.replay(record.stamp, without_notes(entry.record, entry, facts.shard))

    assert facts.digest == shard.digest().hex()


# --- the same bytes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOURNALS)
def test_records(name: str) -> None:
    """The same events in the same place are the same record."""
    shard = NEWEST.manifest().journals[name].shard
    for position, data in NEWEST.journal(name):
        record = decode_record(data, shard, position)
        assert (data, checksum_of(data)) == encode_record(*record[:6])


@pytest.mark.parametrize("name", SNAPSHOTTED)
def test_chunks(name: str) -> None:
    """The same entries are the same chunk, and what is restored has the digest that was taken."""
    facts = NEWEST.manifest().journals[name]
    taken = dict(announced(name, facts.shard))
    for _, data in NEWEST.chunks(name):
        number, shard, epoch, sequence, chunk, last = CHUNK_HEADER.unpack_from(data)
        position = Position(epoch, sequence)
        if not chunk:
            reader = SnapshotReader(Shard(facts.shard, facts.shards).state, shard, position)
        kind, entries = msgspec.msgpack.decode(data[CHUNK_HEADER.size : -4], type=tuple[int, Any])
        reader.feed(data)

        assert formats.FORMAT == number
        assert data == encode_chunk(shard, position, chunk, bool(last), kind, entries)
        if last:
            assert taken.pop(position) == reader.digest()
    assert {} == taken


def announced(name: str, shard: int) -> Iterator[tuple[Position, bytes]]:
    """The snapshots that the journal announces, and the digest of each."""
    for entry in NEWEST.journal(name):
        for event in decode_record(entry.record, shard, entry.position).events:
            if isinstance(event, SnapshotTaken):
                yield Position(event.epoch, event.sequence), event.digest


def test_the_journal_by_hand() -> None:
    """Written anew, it is the same; its snapshots have the same entries."""
    scribe = written()

    assert NEWEST.journal("written") == scribe.entries
    assert entries_of(NEWEST.chunks("written")) == entries_of(scribe.chunks)


def entries_of(chunks: list[tuple[str, bytes]]) -> list[tuple[str, int, list[Any]]]:
    """By chunk; their order within one depends on the process."""
    found = []
    for name, data in chunks:
        kind, entries = msgspec.msgpack.decode(data[CHUNK_HEADER.size : -4], type=tuple[int, Any])
        found.append((name, kind, sorted(entries) if kind else entries))
    return found


def test_marks(tmp_path: Path) -> None:
    """The same marks are the same file."""
    assert NEWEST.marks() == asyncio.run(marked(tmp_path))


def test_the_archive(tmp_path: Path) -> None:
    """The same records and chunks are the same files, but for how zlib packs them."""
    again = Edition(tmp_path)
    again.put_archive(NEWEST.journal("trimmed"), NEWEST.chunks("trimmed"))

    assert 2 == len(archived(NEWEST))
    assert archived(NEWEST) == archived(again)


def archived(edition: Edition) -> dict[str, tuple[bytes, bytes]]:
    """Of each file of the archive: the header, and all its items."""
    found = {}
    for path in sorted(edition.path.glob("archive/0/*")):
        data = path.read_bytes()
        size = (_SEGMENT if path.suffix == ".records" else _SNAPSHOT).size + 4
        found[path.name] = data[:size], decompress(data[size:-4])
    return found


def test_frames() -> None:
    """What is said by types that have not grown since is said in the same bytes."""
    before, today = NEWEST.manifest().schema, schema()
    grown = {kind for kind, fields in today.items() if before.get(kind) != fields}
    for payload, message in frames_of(NEWEST):
        assert payload == msgspec.msgpack.encode(message) or kinds_in(message) & grown


# --- the journal by hand says everything -----------------------------------------------------


def test_every_event_and_every_field() -> None:
    """Each is used at least once, and no field has only its default."""
    used: dict[str, set[str]] = {}
    for position, data in NEWEST.journal("written"):
        for event in decode_record(data, SHARD, position).events:
            note_used(event, used)
    for _, data in NEWEST.chunks("written"):
        kind, entries = msgspec.msgpack.decode(data[CHUNK_HEADER.size : -4], type=tuple[int, Any])
        for _, packed in entries if kind == 2 else ():
            note_used(unpack(packed), used)

    assert {each.__name__ for each in get_args(Event)} <= set(used)
    for name in journaled() - {"Settings", "Dedications"}:
        assert set(schema()[name].split()) == used.get(name, set()), name


def note_used(value: Any, used: dict[str, set[str]]) -> None:
    """Add the fields of the messages in `value` that are not what they are by default."""
    if isinstance(value, list):
        for each in value:
            note_used(each, used)
    elif isinstance(value, msgspec.Struct):
        fields = used.setdefault(type(value).__name__, set())
        for field in msgspec.structs.fields(type(value)):
            inside = getattr(value, field.name)
            if inside != field.default and inside != []:
                fields.add(field.name)
            note_used(inside, used)


def test_the_shard_is_neither_first_nor_last() -> None:
    """A number that is 0 or the last could hide where it stands."""
    assert 0 < SHARD < SHARDS - 1


def test_an_edition_is_named_by_its_format() -> None:
    """`v<format>-<number>`, without gaps."""
    orders = [each.order for each in EDITIONS]
    assert orders == sorted(orders)
    assert all(each.manifest().format == each.order[0] for each in EDITIONS)
    assert [(1, 0)] == orders[:1]
