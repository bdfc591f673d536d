"""Conformance: what every journal keeps, in memory, on Valkey, Redis 7.0 and a simulated one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors.journal import (
    Entry,
    Journal,
    JournalError,
    MissingError,
    RedisJournal,
    RefusedError,
)
from actors.memory_journal import MemoryJournal, MemoryStore
from engine import limits
from engine.codec import GENESIS, START, Position
from tests.actors.servers import SERVERS, running
from tests.simulation.redis_server import SimulatedServer
from tests.simulation.redis_socket import serving

Connect = Callable[[], Awaitable[Journal]]
"""One more owner's journal on the same store."""

SHARD = 3


@pytest.fixture(
    params=[
        *("memory", "simulated"),
        *(pytest.param(name, marks=pytest.mark.redis) for name in SERVERS),
    ]
)
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            store = MemoryStore()

            async def memory() -> Journal:
                return MemoryJournal(store)

            yield memory
            return
        if request.param == "simulated":
            url = await stack.enter_async_context(serving(SimulatedServer(), tmp_path / "socket"))
        else:
            url = (await stack.enter_async_context(running(tmp_path, request.param))).url

        async def redis() -> Journal:
            journal = RedisJournal(url)
            await journal.open()
            stack.push_async_callback(journal.close)
            return journal

        yield redis


@pytest.fixture
async def journal(connect: Connect) -> Journal:
    return await connect()


async def fill(journal: Journal, count: int, epoch: int = 1) -> list[Entry]:
    """`count` entries of one epoch, after a genesis."""
    await journal.append(SHARD, GENESIS, b"genesis", create=True)
    entries = [Entry(Position(epoch, number), b"record %d" % number) for number in range(count)]
    await asyncio.gather(*(journal.append(SHARD, *entry) for entry in entries))
    return entries


async def test_what_is_appended_is_read_in_order(journal: Journal) -> None:
    """Entries come back whole and in journal order, after any position, as many as asked."""
    entries = await fill(journal, 5)

    assert [Entry(GENESIS, b"genesis"), *entries] == await journal.read(SHARD, START, 100)
    assert entries[1:3] == await journal.read(SHARD, Position(1, 0), 2)
    assert [] == await journal.read(SHARD, Position(1, 4), 100)


async def test_positions_in_a_gap_read_on(journal: Journal) -> None:
    """Reading may start after a position that holds no entry."""
    await journal.append(SHARD, GENESIS, b"genesis", create=True)
    await journal.append(SHARD, Position(7, 0), b"claim")

    assert [Entry(Position(7, 0), b"claim")] == await journal.read(SHARD, Position(3, 9), 10)


async def test_newest_first(journal: Journal) -> None:
    """`newest` gives the last entries, the very last one first, whatever `after` says."""
    entries = await fill(journal, 5)

    assert entries[:-3:-1] == await journal.read(SHARD, Position(9, 9), 2, newest=True)
    assert 6 == len(await journal.read(SHARD, START, 100, newest=True))


async def test_any_bytes_are_kept(journal: Journal) -> None:
    """A record is bytes: nothing in it is interpreted, and the largest one fits."""
    records = [bytes(range(256)), b"\r\n$-1\r\n", b"x" * limits.RECORD_BYTES_MAX]
    await journal.append(SHARD, GENESIS, b"genesis", create=True)
    for number, record in enumerate(records):
        await journal.append(SHARD, Position(1, number), record)

    assert records == [entry.record for entry in await journal.read(SHARD, GENESIS, 10)]


async def sent(journal: Journal, entry: Entry) -> JournalError | None:
    """What came of an entry that was sent without waiting."""
    heard: asyncio.Future[JournalError | None] = asyncio.get_running_loop().create_future()
    journal.send(SHARD, entry, heard.set_result)
    assert not heard.done(), "never before it returns"
    return await heard


async def test_what_is_sent_is_appended(journal: Journal) -> None:
    """Without waiting, the same happens, and what fails is told instead of raised."""
    [first, *others] = await fill(journal, 1)
    outcomes = [await sent(journal, Entry(Position(1, n), b"%d" % n)) for n in (1, 2)]
    again = await sent(journal, first)

    assert [None, None] == outcomes
    assert isinstance(again, RefusedError)
    assert [Position(1, n) for n in (0, 1, 2)] == [
        each.position for each in await journal.read(SHARD, GENESIS, 9)
    ]
    assert [] == others


async def test_nothing_is_sent_to_a_stream_that_is_not_there(journal: Journal) -> None:
    """Nor is one begun."""
    assert isinstance(await sent(journal, Entry(GENESIS, b"record")), MissingError)
    assert [] == await journal.read(SHARD, START, 10)


async def test_a_missing_stream_refuses_appends(journal: Journal) -> None:
    """Only `create` starts a journal; any other append to nothing fails, and reads find nothing."""
    with pytest.raises(MissingError):
        await journal.append(SHARD, GENESIS, b"record")

    assert [] == await journal.read(SHARD, START, 10)
    assert [] == await journal.read(SHARD, START, 10, newest=True)
    assert 0 == await journal.trim(SHARD, Position(5, 5))


@pytest.mark.parametrize("position", [Position(1, 2), Position(1, 1), Position(0, 9)])
async def test_positions_only_grow(journal: Journal, position: Position) -> None:
    """The last position, a smaller one, or one of an older epoch is refused and changes nothing."""
    entries = await fill(journal, 3)

    with pytest.raises(RefusedError):
        await journal.append(SHARD, position, b"record 2")
    with pytest.raises(RefusedError):
        await journal.append(SHARD, position, b"other", create=True)

    assert entries == await journal.read(SHARD, GENESIS, 10)


async def test_a_newer_epoch_fences(connect: Connect) -> None:
    """Once a new owner has claimed, the old one can append nothing any more."""
    old, new = await connect(), await connect()
    await fill(old, 3)
    await new.append(SHARD, Position(2, 0), b"claim")

    with pytest.raises(RefusedError):
        await old.append(SHARD, Position(1, 3), b"late")
    await new.append(SHARD, Position(2, 1), b"opened")

    last = await old.read(SHARD, START, 1, newest=True)
    assert [Entry(Position(2, 1), b"opened")] == last


async def test_the_last_position_survives_trimming(journal: Journal) -> None:
    """A stream that was trimmed to nothing still refuses what it refused before."""
    await fill(journal, 3)
    assert 4 == await journal.trim(SHARD, Position(9, 0))
    assert [] == await journal.read(SHARD, START, 10)

    with pytest.raises(RefusedError):
        await journal.append(SHARD, Position(1, 2), b"again")
    await journal.append(SHARD, Position(1, 3), b"next")

    assert [Entry(Position(1, 3), b"next")] == await journal.read(SHARD, START, 10)


async def test_a_claim_has_one_winner(connect: Connect) -> None:
    """Of several contenders for the same epoch exactly one is let in, time and again."""
    contenders = [await connect() for _ in range(4)]
    await contenders[0].append(SHARD, GENESIS, b"genesis", create=True)

    async def claim(journal: Journal, number: int, epoch: int) -> int | None:
        try:
            await journal.append(SHARD, Position(epoch, 0), b"claim of %d" % number)
        except RefusedError:
            return None
        return number

    for epoch in range(1, 21):
        claims = [claim(journal, number, epoch) for number, journal in enumerate(contenders)]
        winners = [number for number in await asyncio.gather(*claims) if number is not None]
        (claimed,) = await contenders[0].read(SHARD, START, 1, newest=True)
        assert [Entry(Position(epoch, 0), b"claim of %d" % winner) for winner in winners] == [
            claimed
        ]


async def test_trim_removes_exactly_what_lies_below(journal: Journal) -> None:
    """Everything below the bound goes, over many steps, and nothing at or above it."""
    count = 3 * limits.TRIM_ENTRIES_MAX + 7
    await fill(journal, count)

    assert 1 + count - 10 == await journal.trim(SHARD, Position(1, count - 10))
    left = await journal.read(SHARD, START, 100)
    assert list(range(count - 10, count)) == [entry.position.sequence for entry in left]
    assert 0 == await journal.trim(SHARD, Position(1, count - 10))


async def test_shards_are_apart(journal: Journal) -> None:
    """Each shard has a journal and chunks of its own."""
    await journal.append(1, GENESIS, b"one", create=True)
    await journal.append(2, GENESIS, b"two", create=True)
    assert await journal.store(1, "chunk", b"one")
    assert await journal.store(2, "chunk", b"two")

    assert [Entry(GENESIS, b"two")] == await journal.read(2, START, 10)
    assert (b"one", b"two") == (await journal.load(1, "chunk"), await journal.load(2, "chunk"))


async def test_a_chunk_is_written_once(connect: Connect) -> None:
    """The first writer of a name wins; any other is told, and changes nothing."""
    first, second = await connect(), await connect()
    chunk = bytes(range(256)) * (limits.SNAPSHOT_CHUNK_BYTES_MAX // 256)

    assert await first.store(SHARD, "1-7:0", chunk)
    assert not await second.store(SHARD, "1-7:0", b"other")
    assert not await first.store(SHARD, "1-7:0", chunk)
    assert chunk == await second.load(SHARD, "1-7:0")


async def test_a_chunk_is_removed_by_its_name(journal: Journal) -> None:
    """Storing None removes that chunk only, says whether there was one, and frees its name."""
    await journal.store(SHARD, "1-7:0", b"zero")
    await journal.store(SHARD, "1-7:1", b"one")

    assert await journal.store(SHARD, "1-7:0", None)
    assert not await journal.store(SHARD, "1-7:0", None)
    assert (None, b"one") == (
        await journal.load(SHARD, "1-7:0"),
        await journal.load(SHARD, "1-7:1"),
    )
    assert await journal.store(SHARD, "1-7:0", b"again")


async def test_operations_in_flight_together_keep_their_order(journal: Journal) -> None:
    """What is asked in one turn of the loop is done in that order, each with a reply of its own."""
    await journal.append(SHARD, GENESIS, b"genesis", create=True)
    appends = [journal.append(SHARD, Position(1, number), b"r") for number in (0, 1, 1, 2, 0)]

    outcomes = await asyncio.gather(*appends, return_exceptions=True)

    assert [type(None), type(None), RefusedError, type(None), RefusedError] == [
        type(outcome) for outcome in outcomes
    ]


async def test_a_caller_that_gives_up_disturbs_nobody(journal: Journal) -> None:
    """Cancelling one operation leaves the replies of the others where they belong."""
    entries = await fill(journal, 3)
    reads = [asyncio.create_task(journal.read(SHARD, GENESIS, number)) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    reads[1].cancel()

    results = await asyncio.gather(*reads, return_exceptions=True)

    assert (entries[:1], entries) == (results[0], results[2])
    assert isinstance(results[1], asyncio.CancelledError)


@pytest.mark.parametrize(
    ("shard", "position", "record"),
    [
        (-1, GENESIS, b"record"),
        (limits.SHARDS_MAX, GENESIS, b"record"),
        (SHARD, START, b"record"),
        (SHARD, GENESIS, b""),
        (SHARD, GENESIS, b"x" * (limits.RECORD_BYTES_MAX + 1)),
    ],
)
async def test_what_no_owner_may_append(shard: int, position: Position, record: bytes) -> None:
    """Shards, positions and records out of bounds are bugs of the caller, and stop there."""
    for journal in (MemoryJournal(MemoryStore()), RedisJournal("redis://localhost")):
        with pytest.raises(AssertionError):
            await journal.append(shard, position, record, create=True)


@pytest.mark.parametrize("name", ["", "a b", "a*", "é", "x" * 129, "a\n"])
async def test_what_is_no_name_for_a_chunk(name: str) -> None:
    """A chunk's name is short and plain, so that no key can mean anything else."""
    for journal in (MemoryJournal(MemoryStore()), RedisJournal("redis://localhost")):
        with pytest.raises(AssertionError, match="not a name"):
            await journal.store(SHARD, name, b"chunk")
