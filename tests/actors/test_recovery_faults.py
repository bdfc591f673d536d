"""A journal that was damaged: nothing is skipped, nothing is guessed."""

import struct
from collections.abc import Callable
from zlib import crc32

import pytest

from actors.journal import Entry
from actors.phase import Phase
from engine import limits
from engine.codec import START, Position, checksum_of, encode_record
from engine.messages import (
    Committed,
    Event,
    GetStock,
    Opened,
    Received,
    Status,
    StockSet,
    StockView,
)
from engine.snapshot import chunk_name
from tests.actors.servers import eventually
from tests.actors.trial import (
    REQUEST,
    Trial,
    timeless,
)


def sealed(body: bytes) -> bytes:
    """Bytes that prove themselves."""
    return body + struct.pack(">I", crc32(body))


# --- records that do not prove themselves ----------------------------------------------------


async def refusals(trial: Trial, change: Callable[[int, Entry], bytes]) -> list[str]:
    """Why nobody serves, for each record of the journal that is changed, one at a time."""
    reasons = []
    for number, entry in enumerate(list(trial.store.entries())):
        trial.store.entries()[number] = Entry(entry.position, change(number, entry))
        reasons.append(await trial.refused())
        trial.store.entries()[number] = entry
    return reasons


def flipped(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("offset", [0, 1, 8, 16, 24, 30, 40, 50, -5, -1])
def test_a_flipped_bit(trial: Trial, small_snapshots: None, offset: int) -> None:
    """Anywhere in any record that is read, a single bit stops the shard."""

    @timeless
    async def run() -> None:
        await trial.live(4)
        positions = trial.store.positions()
        reasons = await refusals(trial, lambda number, entry: flipped(entry.record, offset))

        for position, reason in zip(positions, reasons, strict=True):
            assert f"CorruptRecord: shard 0, record {position}: checksum" in reason

    run()


@timeless
async def test_a_torn_record(trial: Trial) -> None:
    """Half a record is none."""
    await trial.live(4)
    reasons = await refusals(trial, lambda number, entry: entry.record[: len(entry.record) // 2])
    reasons += await refusals(trial, lambda number, entry: b"")

    assert all("CorruptRecord" in reason for reason in reasons)


@timeless
async def test_the_record_before_in_its_place(trial: Trial) -> None:
    """A record belongs to its position."""
    await trial.live(4)
    entries = list(trial.store.entries())
    reasons = await refusals(trial, lambda number, entry: entries[number - 1].record)

    assert all("holds record" in reason for reason in reasons)


@timeless
async def test_the_record_of_another_shard(trial: Trial) -> None:
    """A record belongs to its shard."""
    await trial.live(4)
    reasons = await refusals(
        trial, lambda number, entry: sealed(entry.record[:4] + b"\x01" + entry.record[5:-4])
    )

    assert all("of shard 1" in reason for reason in reasons)


@timeless
async def test_a_record_of_another_format(trial: Trial) -> None:
    """What a later engine wrote is not guessed at."""
    await trial.live(4)
    reasons = await refusals(trial, lambda number, entry: sealed(b"\x02" + entry.record[1:-4]))

    assert all("format 2, this engine reads 1" in reason for reason in reasons)


@timeless
async def test_events_that_do_not_decode(trial: Trial) -> None:
    """A record that proves itself, and holds something else than events."""
    await trial.live(4)
    reasons = await refusals(trial, lambda number, entry: sealed(entry.record[:-4] + b"\xc1"))

    assert all("events do not decode" in reason for reason in reasons)


@timeless
async def test_events_that_do_not_apply(trial: Trial) -> None:
    """A record that proves itself and tells what cannot have been: the place is named."""
    await trial.live(2)
    last = trial.last
    impossible: list[tuple[Event, str]] = [
        (Received("sku-0", "here", -9), "InvariantError"),
        (Committed("nobody's"), "InvariantError"),
        (StockSet("sku-0", {"nowhere": 1}, {}), "KeyError"),
    ]
    for event, says in impossible:
        position = Position(last.position.epoch, last.position.sequence + 1)
        record, _ = encode_record(0, position, last.stamp, last.checksum, START, [event])
        trial.store.append(0, position, record, create=False)

        reason = await trial.refused()
        assert f"CorruptRecord: shard 0, record {position}: does not apply: {says}" in reason
        trial.store.forget(0, position)


@timeless
async def test_a_record_that_is_missing(trial: Trial) -> None:
    """A gap anywhere is found by the record after it."""
    await trial.live(4)
    await trial.live(2)
    entries = trial.store.entries()
    for number in range(len(entries) - 1):
        removed = entries.pop(number)
        reason = await trial.refused()
        entries.insert(number, removed)
        assert "CorruptRecord" in reason, removed.position


@timeless
async def test_a_torn_tail(trial: Trial) -> None:
    """What nobody has acknowledged, as far as anybody knows, may be missing at the end."""
    await trial.live(4)
    trial.store.forget(0, Position(1, 4))
    life = await trial.serve()

    answer = await life.ask(GetStock("sku-1"))
    assert isinstance(answer.body, StockView)
    assert Status.UNKNOWN_SKU is (await life.ask(GetStock("sku-2"))).status


@timeless
async def test_another_history_in_the_middle(trial: Trial) -> None:
    """A record that stands at its place and proves itself, but does not follow the one before."""
    await trial.live(4)
    events = [Received("sku", "here", 7)]
    reasons = await refusals(
        trial, lambda number, entry: encode_record(0, entry.position, 1, 9, START, events)[0]
    )

    assert all("CorruptRecord" in reason for reason in reasons[:-1])
    assert any("follows checksum" in reason for reason in reasons)


@pytest.mark.parametrize("field", range(3))
def test_opened_after_something_else(trial: Trial, field: int) -> None:
    """What an owner found before its claim must still be what stands there."""

    @timeless
    async def run() -> None:
        await trial.live(2)
        found = trial.last
        ours = await trial.claim()
        epoch, sequence, checksum = (
            value + (number == field)
            for number, value in enumerate((*found.position, found.checksum))
        )
        wrong = Opened(epoch, sequence, checksum, bytes(16), 1, 1, 1, 1, 1)
        position = Position(ours.position.epoch, 1)
        record, _ = encode_record(0, position, 1, checksum_of(ours.record), START, [wrong])
        trial.store.append(0, position, record, create=False)

        assert f"record {position}: opened after" in await trial.refused()

    run()


@timeless
async def test_the_stream_of_a_shard_that_begins_in_the_middle(trial: Trial) -> None:
    """Without a snapshot only genesis may come first."""
    await trial.live(4)
    trial.store.trim(0, Position(1, 2))

    assert "begins with 1-2, not with 0-1" in await trial.refused()


@timeless
async def test_a_failure_to_look_is_not_a_successor(trial: Trial, small_snapshots: None) -> None:
    """Corrupt is corrupt if nobody newer stands behind it."""
    await trial.live(4)
    entries = trial.store.entries()
    entries[3] = Entry(entries[3].position, flipped(entries[3].record, 40))
    journal = trial.journal()

    def fail(name: str) -> None:
        if journal.operations.count("read") >= 5:
            journal.fault_last(REQUEST)

    journal.before = fail

    assert "CorruptRecord" in await trial.refused(journal)


# --- snapshots that do not prove themselves --------------------------------------------------


@timeless
async def test_every_chunk_proves_itself(trial: Trial, small_snapshots: None) -> None:
    """A single bit in any chunk of the newest snapshot stops the shard."""
    _, newest = await trial.generations()
    chunks = trial.store.chunks
    ours = [key for key in chunks if f"{newest}:" in key]
    assert len(ours) > 3
    for key in ours:
        for offset in (0, 10, 30, -1):
            whole = chunks[key]
            chunks[key] = flipped(whole, offset)
            assert "CorruptSnapshot" in await trial.refused(), (key, offset)
            chunks[key] = whole
    await trial.serve()


@timeless
async def test_chunks_that_are_swapped(trial: Trial, small_snapshots: None) -> None:
    """A chunk belongs to its number and to its snapshot."""
    older, newest = await trial.generations()
    chunks = trial.store.chunks
    [one] = [key for key in chunks if key.endswith(chunk_name(newest, 1))]
    for other in (chunk_name(newest, 2), chunk_name(older, 1)):
        [key] = [key for key in chunks if key.endswith(other)]
        whole, chunks[one] = chunks[one], chunks[key]
        assert f"snapshot {newest}, chunk 1: holds" in await trial.refused()
        chunks[one] = whole


@timeless
async def test_a_snapshot_of_something_else(trial: Trial, small_snapshots: None) -> None:
    """Chunks that prove themselves and add up to something else than was announced."""
    _, newest = await trial.generations()
    chunks = trial.store.chunks
    [key] = [key for key in chunks if key.endswith(chunk_name(newest, 1))]
    at = chunks[key].index(b"\xa4here") + 5
    chunks[key] = sealed(flipped(chunks[key][:-4], at))

    assert f"snapshot {newest}: digest" in await trial.refused()


@timeless
async def test_a_snapshot_of_a_time_to_come(trial: Trial, small_snapshots: None) -> None:
    """It proves itself and has the right digest, and would forget what is still to be known."""
    _, newest = await trial.generations()
    [key] = [key for key in trial.store.chunks if key.endswith(chunk_name(newest, 0))]
    chunk = trial.store.chunks[key]
    [cut] = [each for each in trial.store.records() if each.position == newest]
    later = cut.stamp + 3_600 * limits.SECOND_US
    assert cut.stamp.to_bytes(8) in chunk
    body = chunk[:-4].replace(cut.stamp.to_bytes(8), later.to_bytes(8))
    trial.store.chunks[key] = sealed(body)

    assert f"CorruptSnapshot: shard 0, snapshot {newest}: of {later} µs" in await trial.refused()


@pytest.mark.parametrize("number", range(4))
def test_a_chunk_that_is_missing(trial: Trial, small_snapshots: None, number: int) -> None:
    """The snapshot before serves as well: the journal reaches back to it."""

    @timeless
    async def run() -> None:
        older, newest = await trial.generations()
        lost = [key for key in trial.store.chunks if key.endswith(chunk_name(newest, number))]
        for key in lost:
            del trial.store.chunks[key]
        assert lost
        found = trial.lived()
        life = await trial.serve()

        assert found == trial.opened.digest
        assert life.owner.appender is not None
        assert older == trial.last.snapshot == life.owner.appender.pointer

    run()


@timeless
async def test_no_snapshot_is_whole(trial: Trial, small_snapshots: None) -> None:
    """The journal alone does not reach back: nothing is guessed."""
    older, _ = await trial.generations()
    trial.store.chunks.clear()

    assert f"begins with {older}, not with 0-1" in await trial.refused()


@timeless
async def test_no_snapshot_is_needed(trial: Trial, small_snapshots: None) -> None:
    """Before anything was trimmed, the journal is enough."""
    await trial.live(6)
    assert trial.last.snapshot != START
    trial.store.chunks.clear()
    found = trial.lived()
    await trial.serve()

    assert found == trial.opened.digest


@timeless
async def test_a_pointer_from_long_ago(trial: Trial, small_snapshots: None) -> None:
    """A claimant that looked, slept, claimed and died leaves a pointer at what is long gone."""
    life = await trial.serve()
    await life.go_on(12)
    slow = trial.journal()
    slow.before = lambda name: slow.freeze() if name == "append" else None
    claimant = trial.begin(slow)
    await eventually(lambda: slow.waiting == 1)
    await life.go_on(40)
    slow.before = lambda name: slow.freeze() if name == "read" else None
    slow.thaw()
    await eventually(lambda: claimant.owner.phase is Phase.RECOVERING)
    await claimant.crash()
    stale = trial.last.snapshot
    found = trial.lived()

    assert not [key for key in trial.store.chunks if f"{stale}:" in key]
    await trial.serve()
    assert found == trial.opened.digest
