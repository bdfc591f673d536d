"""The faults that a journal in memory can be made to have."""

import asyncio

import pytest

from actors.journal import BusyError, Entry, LostError, MissingError, RefusedError
from actors.memory_journal import MemoryJournal, MemoryStore
from engine.codec import GENESIS, START, Position

CLAIM = Entry(Position(1, 0), b"claim")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def journal(store: MemoryStore) -> MemoryJournal:
    journal = MemoryJournal(store)
    await journal.append(0, GENESIS, b"genesis", create=True)
    return journal


async def test_a_frozen_owner_is_overtaken(store: MemoryStore, journal: MemoryJournal) -> None:
    """What a frozen owner wanted to append reaches the store when it wakes, and is refused."""
    journal.freeze()
    late = asyncio.create_task(journal.append(0, Position(1, 0), b"claim"))
    await asyncio.sleep(0)
    assert 1 == journal.waiting
    await MemoryJournal(store).append(0, Position(2, 0), b"claim")
    journal.thaw()

    with pytest.raises(RefusedError):
        await late
    assert 0 == journal.waiting


async def test_a_lost_reply_was_stored(journal: MemoryJournal) -> None:
    """As often as asked, an append succeeds without its caller being told."""
    journal.lose_replies = 1
    with pytest.raises(LostError):
        await journal.append(0, *CLAIM)

    assert [CLAIM] == await journal.read(0, GENESIS, 10)
    with pytest.raises(RefusedError):
        await journal.append(0, *CLAIM)


async def test_a_lost_request_was_not_stored(journal: MemoryJournal) -> None:
    """As often as asked, an append gets lost on its way."""
    journal.lose_requests = 1
    with pytest.raises(LostError):
        await journal.append(0, *CLAIM)

    assert [] == await journal.read(0, GENESIS, 10)
    await journal.append(0, *CLAIM)


async def test_a_busy_store_refuses_only_what_takes_room(
    store: MemoryStore, journal: MemoryJournal
) -> None:
    """While the store is full one can read and make room, and nothing is stored by halves."""
    await journal.store(0, "chunk", b"chunk")
    store.busy = "OOM"
    with pytest.raises(BusyError, match="OOM"):
        await journal.append(0, *CLAIM)
    with pytest.raises(BusyError, match="OOM"):
        await journal.store(0, "other", b"chunk")
    assert await journal.store(0, "chunk", None)
    assert 1 == await journal.trim(0, Position(1, 0))

    store.busy = None
    await journal.append(0, *CLAIM)
    assert [CLAIM] == await journal.read(0, START, 10)


async def test_a_store_that_goes_back_in_time(store: MemoryStore, journal: MemoryJournal) -> None:
    """Another process may have lost the end, and takes it again; what waited is not sent to it."""
    await journal.append(0, *CLAIM)
    before = journal.run_id
    journal.freeze()
    waiting = asyncio.create_task(journal.append(0, Position(1, 1), b"opened"))
    await asyncio.sleep(0)
    store.restart()
    store.forget(0, CLAIM.position)
    journal.thaw()

    with pytest.raises(BusyError, match="another server process"):
        await waiting
    assert before != journal.run_id
    assert [Entry(GENESIS, b"genesis")] == await journal.read(0, START, 10)
    await journal.append(0, *CLAIM)


async def test_a_stream_that_vanishes(store: MemoryStore, journal: MemoryJournal) -> None:
    """A stream that is gone stays gone, unless it is created."""
    store.drop(0)

    with pytest.raises(MissingError):
        await journal.append(0, *CLAIM)
    await journal.append(0, *CLAIM, create=True)
