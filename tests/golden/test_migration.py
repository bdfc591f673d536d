"""The rule for a new format, played through with one that this page makes up.

    today      reads 1       writes 1
    between    reads 1 2     writes 1        what is rolled out first, and rolled back to
    next       reads 1 2     writes 2

In format 2 the events of a record are deflated, and a key is remembered in four bytes more. Real
owners of the three engines come and go on one journal in memory.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch
from zlib import compress, crc32, decompress, error

import pytest

from engine import formats, state
from engine.codec import CorruptRecordError, Position, UnknownFormatError, skim_record
from engine.formats import Format, UndecodableError, pack_array, unchanged, unpack_events
from engine.messages import Event, Opened, Receive, SnapshotTaken, Status
from engine.shard import Shard
from engine.snapshot import (
    CHUNK_HEADER,
    CorruptSnapshotError,
    SnapshotReader,
    UnknownSnapshotFormatError,
)
from tests.actors.trial import Trial, ownership, replayed, timeless
from tests.golden.editions import SNAPSHOTTED, Edition, editions, sums_of
from tests.golden.test_editions import every_edition, trial_of
from tests.golden.written import SHARD, SHARDS

TODAY = formats.FORMATS[1]
TODAYS_KEY = struct.Struct(">Q8s")
NEXT_KEY = struct.Struct(">Q8s4x")


def pack_deflated(encoded: Sequence[bytes]) -> bytes:
    return compress(pack_array(encoded), 1)


def unpack_deflated(packed: bytes) -> list[Event]:
    try:
        return unpack_events(decompress(packed))
    except error as wrong:
        raise UndecodableError(str(wrong)) from wrong


def longer(packed: bytes) -> bytes:
    return packed + bytes(4)


def shorter(packed: bytes) -> bytes:
    return packed[:-4]


def deflated(key: Callable[[bytes], bytes]) -> Format:
    """Format 2, for an engine that has to do so much with its keys."""
    return Format(pack_deflated, unpack_deflated, unchanged, unchanged, unchanged, key)


@contextmanager
def engine(
    reads: dict[int, Format], writes: int, key: struct.Struct = TODAYS_KEY
) -> Iterator[None]:
    """An engine that has these formats, and this packing in memory."""
    with (
        patch.dict(formats.FORMATS, reads, clear=True),
        patch.object(formats, "FORMAT", writes),
        patch.object(state, "_KEY", key),
    ):
        yield


def today() -> AbstractContextManager[None]:
    return engine({1: TODAY}, 1)


def between() -> AbstractContextManager[None]:
    return engine({1: TODAY, 2: deflated(shorter)}, 1)


def following() -> AbstractContextManager[None]:
    return engine({1: TODAY._replace(key=longer), 2: deflated(unchanged)}, 2, NEXT_KEY)


async def live(trial: Trial, batches: int) -> bytes:
    """A life of so many movements, the first under a key: the digest of all that is appended then.

    What it found must be what all records before add up to, packed as this engine packs it.
    """
    found = trial.lived() if trial.store.history else b""
    life = await trial.serve()
    assert not found or found == trial.opened.digest
    for number in range(batches):
        key = None if number else f"key-{life.owner.epoch}"
        command = Receive(f"sku-{number}", "here", 1, key=key)
        assert Status.OK is (await life.ask(command)).status
    await life.idle(2)
    await life.stop()
    return trial.lived()


def written_by(trial: Trial) -> list[int]:
    """The formats of all records that were ever appended, in order."""
    return [record.format for record in trial.store.records()]


def pointers(trial: Trial) -> dict[Position, int]:
    """The snapshots that were announced, and the format of each."""
    return {
        Position(event.epoch, event.sequence): record.format
        for record in trial.store.records()
        for event in record.events
        if isinstance(event, SnapshotTaken)
    }


# --- read by the next ------------------------------------------------------------------------


@every_edition
@pytest.mark.parametrize("name", SNAPSHOTTED)
@timeless
async def test_the_next_engine_reads_what_is_written_today(
    tmp_path: Path, edition: Edition, name: str
) -> None:
    """From snapshot and tail it has the sums of then, and the digest that it makes of the whole."""
    facts = edition.manifest().journals[name]
    trial = trial_of(edition, name, tmp_path)
    with following():
        settings = ownership(facts.shards, cluster_id=facts.cluster_id)
        life = await trial.serve(number=facts.shard, settings=settings)
        assert facts.sums == sums_of(life.owner.shard)
        assert 2 == trial.store.records(facts.shard)[-1].format
        if name == "written":
            [*before, _, last] = trial.store.records(facts.shard)
            [opened] = last.events
            digest = replayed(before, facts.shard, facts.shards).digest()
            assert isinstance(opened, Opened)
            assert opened.digest == digest != bytes.fromhex(facts.digest)
        await life.stop()


@timeless
async def test_a_journal_of_two_formats(trial: Trial) -> None:
    """Its first half is of one and its second of the other, and replay does not notice."""
    with today():
        await live(trial, 3)
    with following():
        await live(trial, 3)
        await live(trial, 0)

        assert [*[1] * 6, *[2] * 7] == written_by(trial)
        keys = replayed(trial.store.records(), 0, 1).state.keys
        assert [b"key-1", b"key-2"] == sorted(key for key, _ in keys.items())


@timeless
async def test_a_snapshot_of_the_format_before(trial: Trial, small_snapshots: None) -> None:
    """It is restored, and its own digest is still the one that was taken."""
    with today():
        await live(trial, 20)
    old = pointers(trial)
    with following():
        await live(trial, 0)
        assert trial.last.snapshot in old
        await live(trial, 20)
        new = {cut: written for cut, written in pointers(trial).items() if cut not in old}
        assert {2} == set(new.values())
        await live(trial, 0)
        assert trial.last.snapshot in new


@timeless
async def test_a_snapshot_of_something_else(trial: Trial, small_snapshots: None) -> None:
    """Under its own format the digest tells a snapshot that adds up to something else."""
    with today():
        await live(trial, 20)
    name = next(key for key in trial.store.chunks if key.endswith(f"{trial.last.snapshot}:1"))
    body = trial.store.chunks[name][:-4].replace(b"\xa4here", b"\xa4hers", 1)
    trial.store.chunks[name] = body + crc32(body).to_bytes(4)
    with following():
        assert f"snapshot {trial.last.snapshot}: digest" in await trial.refused()


# --- refused by the one before ---------------------------------------------------------------


@timeless
async def test_todays_engine_refuses_what_the_next_has_written(trial: Trial) -> None:
    """By number, with both named, and before it has claimed: who owns the shard goes on."""
    with today():
        await live(trial, 3)
    with following():
        await live(trial, 2)
    stood = trial.store.positions()
    with today():
        reason = await trial.refused()

    assert f"UnknownFormat: shard 0, record {stood[-1]}: format 2, this engine reads 1" == reason
    assert stood == trial.store.positions()
    with following():
        await live(trial, 1)


def test_a_newer_chunk_is_refused_by_number() -> None:
    """So is a snapshot, before anything of it is taken."""
    edition = editions()[-1]
    name, data = edition.chunks("trimmed")[0]
    body = b"\x02" + data[1:-4]
    epoch, sequence = map(int, name.partition(":")[0].split("-"))
    reader = SnapshotReader(Shard(0, 1).state, 0, Position(epoch, sequence))

    with pytest.raises(UnknownSnapshotFormatError, match="format 2, this engine reads 1"):
        reader.feed(body + crc32(body).to_bytes(4))


def test_chunks_of_two_formats_are_no_snapshot() -> None:
    """Nobody writes the one half of a snapshot so and the other half otherwise."""
    chunks = [data for name, data in editions()[-1].chunks("written") if name.startswith("1-")]
    cut = Position(*CHUNK_HEADER.unpack_from(chunks[0])[2:4])
    body = b"\x02" + chunks[1][1:-4]
    with following():
        reader = SnapshotReader(Shard(SHARD, SHARDS).state, SHARD, cut)
        reader.feed(chunks[0])
        with pytest.raises(CorruptSnapshotError, match="format 2, the chunks before are 1"):
            reader.feed(body + crc32(body).to_bytes(4))


def test_what_is_damaged_is_not_called_newer() -> None:
    """The frame is the same in every format: damage and misplacement are told apart from it."""
    at, data = editions()[-1].journal("trimmed")[0]
    newer = b"\x02" + data[1:-4]
    sealed = newer + crc32(newer).to_bytes(4)

    for wrong, where, says in (
        (newer + data[-4:], at, "checksum"),
        (sealed, Position(at.epoch, at.sequence + 1), "holds record"),
    ):
        with pytest.raises(CorruptRecordError, match=says) as raised:
            skim_record(wrong, 0, where)
        assert not isinstance(raised.value, UnknownFormatError)
    with pytest.raises(UnknownFormatError):
        skim_record(sealed, 0, at)


# --- rolled out, and back --------------------------------------------------------------------


@timeless
async def test_readers_come_first_and_the_way_back_is_open(trial: Trial) -> None:
    """today → between → next → between: each serves what it finds, in memory as it packs it."""
    for kind, formats_written in ((today, 1), (between, 1), (following, 2), (between, 1)):
        with kind():
            before = len(trial.store.records()) if trial.store.history else 0
            await live(trial, 9)
            assert {formats_written} == set(written_by(trial)[before:])
    with today():
        assert "format 2, this engine reads 1" in await trial.refused()


@timeless
async def test_two_releases_back_once_nothing_newer_is_left(
    trial: Trial, small_snapshots: None
) -> None:
    """Snapshots and trims by the engine between take out what the oldest could not read."""
    for kind in (today, following, between, between):
        with kind():
            await live(trial, 30)
    assert all(record[0] == 1 for _, record in trial.store.entries())
    with today():
        life = await trial.serve()
        assert Status.OK is (await life.ask(Receive("sku-1", "here", 1))).status
        await life.stop()


def test_the_engine_of_this_tree_is_the_one_of_today() -> None:
    """What this page calls format 2 is not one that has come to be meanwhile."""
    assert [1] == list(formats.FORMATS)
    assert formats.FORMAT == 1
