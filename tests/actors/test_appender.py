"""Appends in order, each exactly once or not at all, whatever becomes of the server."""

import asyncio
from itertools import pairwise

import pytest

from actors.appender import Appender, FencedError, RegressedError
from actors.claim import claim
from actors.journal import Entry
from engine import limits
from engine.codec import START, Position, encode_record
from engine.messages import Claimed, Event, Passed, Received
from tests.actors.trial import BUSY, REPLY, REQUEST, FaultyJournal, RememberingStore, timeless


class End:
    """The writing end of a stream that holds its genesis and our claim."""

    store: RememberingStore
    journal: FaultyJournal
    appender: Appender

    @classmethod
    async def opened(cls, store: RememberingStore | None = None) -> "End":
        end = cls()
        end.store = store or RememberingStore()
        end.journal = FaultyJournal(end.store)
        ours = await claim(
            end.journal,
            0,
            shards=1,
            cluster_id="here",
            host="host",
            nonce=bytes(16),
            stamp=1,
            floors=[],
        )
        before = end.store.records()[-2]
        end.appender = Appender(
            end.journal, 0, ours, before.position, before.checksum, START, end.journal.run_id
        )
        end.journal.operations.clear()
        return end

    async def append(self, number: int) -> int:
        """Batch `number`, from 1: it stands at 1-`number`, unless something was passed between."""
        return await self.appender.append(number, [received(number)])

    async def filled(self, count: int) -> list[Entry]:
        """Append so many batches; all that stands then."""
        for number in range(1, count + 1):
            await self.append(number)
        return list(self.store.entries())

    def lose_from(self, sequence: int) -> None:
        """The server dies and comes back without our records from `sequence` on."""
        self.store.forget(0, Position(1, sequence))
        self.store.restart()


def received(number: int) -> Event:
    return Received("sku", "here", number)


def claim_of(epoch: int) -> Entry:
    position = Position(epoch, 0)
    record, _ = encode_record(0, position, 1, 0, START, [Claimed(b"another", "host")])
    return Entry(position, record)


def take_over(store: RememberingStore, epoch: int = 2) -> None:
    """Another owner claims the shard."""
    store.append(0, *claim_of(epoch), create=False)


def events(end: End) -> list[Event]:
    """What was appended after the claim."""
    return [event for record in end.store.records()[2:] for event in record.events]


# --- nothing goes wrong ----------------------------------------------------------------------


@timeless
async def test_records_are_chained() -> None:
    """Positions have no gap, every record holds the checksum of the one before and the pointer."""
    end = await End.opened()
    written = await end.append(1)
    end.appender.pointer = Position(1, 1)
    await end.append(2)
    await end.append(3)

    claimed, *ours = end.store.records()[1:]
    assert [Position(1, number) for number in range(4)] == end.store.positions()[1:]
    for before, after in pairwise([claimed, *ours]):
        assert before.checksum == after.previous
    assert [START, Position(1, 1), Position(1, 1)] == [each.snapshot for each in ours]
    assert [1, 2, 3] == [each.stamp for each in ours]
    assert len(end.store.entries()[2].record) == written
    assert (Position(1, 3), ours[-1].checksum) == (end.appender.position, end.appender.checksum)


@timeless
async def test_an_append_is_one_operation() -> None:
    """In calm weather an append and a proof cost one operation each."""
    end = await End.opened()
    await end.append(1)
    await end.appender.prove()
    await end.append(2)

    assert ["append", "read", "append"] == end.journal.operations
    assert (0, 0) == (end.appender.retried, end.appender.resent)


# --- one operation goes wrong ----------------------------------------------------------------


@timeless
async def test_a_busy_server_gets_the_same_bytes() -> None:
    """While the server certainly did nothing the batch is offered again, less and less often."""
    end = await End.opened()
    end.store.busy = "OOM"
    loop = asyncio.get_running_loop()
    batch = asyncio.ensure_future(end.append(1))
    began = loop.time()
    await asyncio.sleep(60)
    end.store.busy = None
    await batch

    assert [received(1)] == events(end)
    assert 100 < len(end.journal.operations) < 130
    assert loop.time() - began < 61
    assert end.appender.retried == len(end.journal.operations) - 1


@pytest.mark.parametrize(
    "faults",
    [
        (REPLY,),
        (REQUEST,),
        (REPLY, REQUEST),
        (REPLY, REPLY, BUSY),
        (REQUEST, REQUEST, REQUEST),
        (REQUEST, "", REPLY),
        (REQUEST, "", REQUEST, BUSY, "", REPLY),
        (BUSY, REPLY),
    ],
    ids="-".join,
)
def test_what_is_lost_is_appended_once(faults: tuple[str, ...]) -> None:
    """Lost on the way there, on the way back, or looking for it: there is one copy, in order."""

    @timeless
    async def run() -> None:
        end = await End.opened()
        end.journal.fault_next(*faults)
        await end.append(1)
        await end.append(2)

        assert [received(1), received(2)] == events(end)

    run()


@timeless
async def test_the_same_server_is_believed() -> None:
    """What the server process that took it gives back is durable: nothing is added to it."""
    end = await End.opened()
    end.journal.fault_next(REPLY)
    await end.append(1)

    assert [received(1)] == events(end)


@timeless
async def test_a_new_server_is_believed_once_it_appends() -> None:
    """A batch that only a new server process gives back counts after one more append."""
    end = await End.opened()
    end.journal.fault_next(REPLY)
    end.journal.once("read", end.store.restart)
    await end.append(1)

    assert [received(1), Passed()] == events(end)
    assert Position(1, 2) == end.appender.position
    await end.append(2)
    assert [received(1), Passed(), received(2)] == events(end)


@timeless
async def test_the_pass_may_get_lost_as_well() -> None:
    """Every server process that gives something back has to append something itself."""
    end = await End.opened()
    end.journal.fault_next(REPLY, "", "", REPLY)

    def again() -> None:
        end.store.restart()
        end.journal.once("append", lambda: end.journal.once("read", end.store.restart))

    end.journal.once("read", again)
    await end.append(1)

    assert [received(1), Passed(), Passed()] == events(end)


@timeless
async def test_a_frozen_server_holds_the_batch() -> None:
    """Nothing is decided while the server is silent, and nothing is sent twice."""
    end = await End.opened()
    end.journal.freeze()
    batch = asyncio.ensure_future(end.append(1))
    await asyncio.sleep(3600)
    assert not batch.done()
    assert 1 == end.journal.waiting
    end.journal.thaw()
    await batch

    assert [received(1)] == events(end)


# --- fenced ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["", REQUEST, REPLY, BUSY])
def test_a_newer_epoch_fences(fault: str) -> None:
    """After another's claim nothing of ours gets into the stream, not even what was on its way."""

    @timeless
    async def run() -> None:
        end = await End.opened()
        stands = await end.filled(2)
        take_over(end.store)
        end.journal.fault_next(fault)

        with pytest.raises(FencedError, match="2-0"):
            await end.append(3)
        assert [*stands, claim_of(2)] == end.store.entries()

    run()


@timeless
async def test_a_batch_that_stands_before_anothers_claim_is_fenced() -> None:
    """It is in the journal, and its outcome is the new owner's to tell."""
    end = await End.opened()
    end.journal.fault_next(REPLY)
    end.journal.once("read", lambda: take_over(end.store))

    with pytest.raises(FencedError, match="2-0"):
        await end.append(1)
    assert [Position(1, 1), Position(2, 0)] == end.store.positions()[2:]


@pytest.mark.parametrize("fault", ["", REQUEST, REPLY])
def test_a_proof_finds_a_newer_epoch(fault: str) -> None:
    """A batch without events is not answered either once somebody else has claimed."""

    @timeless
    async def run() -> None:
        end = await End.opened()
        await end.append(1)
        await end.appender.prove()
        take_over(end.store)
        end.journal.fault_next(fault)

        with pytest.raises(FencedError, match="2-0"):
            await end.appender.prove()

    run()


@timeless
async def test_a_proof_waits_for_an_answer() -> None:
    """A proof is an answer of the server, not the lack of one."""
    end = await End.opened()
    await end.append(1)
    end.journal.fault_next(REQUEST, REPLY, REQUEST, REPLY, BUSY, "", REPLY)
    await end.appender.prove()

    assert len(end.journal.operations) > 8
    assert [received(1)] == events(end)


@timeless
async def test_anothers_record_of_the_same_position() -> None:
    """The stream lost our epoch and another took it: there we cannot go on."""
    end = await End.opened()
    await end.filled(2)
    end.lose_from(0)
    end.store.append(0, *claim_of(1), create=False)
    for number in (1, 2):
        position = Position(1, number)
        record, _ = encode_record(0, position, 1, 0, START, [received(7)])
        end.store.append(0, position, record, create=False)

    with pytest.raises(FencedError, match="another's 1-2"):
        await end.append(3)
    assert Position(1, 2) == end.store.positions()[-1]


# --- the server goes back in time ------------------------------------------------------------


@timeless
async def test_a_restart_that_lost_nothing() -> None:
    """The end of the stream is looked at once, then it goes on."""
    end = await End.opened()
    await end.filled(2)
    end.store.restart()
    end.journal.operations.clear()
    await end.append(3)
    await end.append(4)

    assert ["read", "append", "append"] == end.journal.operations
    assert [received(number) for number in (1, 2, 3, 4)] == events(end)


@timeless
async def test_a_restart_that_lost_what_was_in_flight() -> None:
    """A batch that the new process does not have is appended to it, under its own position."""
    end = await End.opened()
    await end.append(1)
    end.journal.fault_next(REPLY)
    end.journal.once("read", lambda: end.lose_from(2))
    await end.append(2)

    assert [received(1), received(2)] == events(end)
    assert Position(1, 2) == end.appender.position


@pytest.mark.parametrize("sequence", range(6))
def test_the_ring_gives_back_what_was_acknowledged(sequence: int) -> None:
    """However much of our epoch the server lost, it gets it back bit by bit, in order."""

    @timeless
    async def run() -> None:
        end = await End.opened()
        stood = await end.filled(5)
        end.lose_from(sequence)
        await end.append(6)

        assert stood == end.store.entries()[:-1]
        assert [received(number) for number in range(1, 7)] == events(end)
        assert 6 - sequence == end.appender.resent

    run()


@timeless
async def test_a_proof_gives_back_as_well() -> None:
    """Who only reads does not rest on what the journal has lost."""
    end = await End.opened()
    stood = await end.filled(5)
    end.lose_from(2)
    await end.appender.prove()

    assert stood == end.store.entries()


@timeless
async def test_a_restart_while_proving() -> None:
    """A proof by a process that is not there any more is none."""
    end = await End.opened()
    stood = await end.filled(5)
    end.journal.once("read", lambda: end.lose_from(2))
    await end.appender.prove()

    assert stood == end.store.entries()


@pytest.mark.parametrize("fault", [REQUEST, REPLY, BUSY])
@pytest.mark.parametrize("number", range(8))
def test_giving_back_survives_faults(number: int, fault: str) -> None:
    """What gets lost while it is given back is found out by looking again."""

    @timeless
    async def run() -> None:
        end = await End.opened()
        stood = await end.filled(5)
        end.lose_from(2)
        end.journal.fault_next(*[""] * number, fault)
        await end.append(6)

        assert stood == end.store.entries()[:-1]
        assert received(6) == events(end)[5]

    run()


@timeless
async def test_going_back_while_giving_back() -> None:
    """The server may lose again what it was just given."""
    end = await End.opened()
    stood = await end.filled(5)
    end.lose_from(3)
    end.journal.fault_next("", "", REQUEST)
    end.journal.once("append", lambda: end.journal.once("append", lambda: end.lose_from(1)))
    await end.append(6)

    assert stood == end.store.entries()[:-1]


@timeless
async def test_what_is_given_back_has_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was given to one server process is not followed by the next on another."""
    end = await End.opened()
    stood = await end.filled(5)
    end.lose_from(3)
    append = end.store.append

    def append_and_vanish(shard: int, position: Position, record: bytes, create: bool) -> None:
        append(shard, position, record, create)
        if position == Position(1, 3):
            monkeypatch.undo()
            end.lose_from(1)

    monkeypatch.setattr(end.store, "append", append_and_vanish)
    await end.append(6)

    assert stood == end.store.entries()[:-1]


@pytest.mark.parametrize("sequence", range(1, 8))
def test_the_ring_reaches_as_far_as_its_bytes(
    monkeypatch: pytest.MonkeyPatch, sequence: int
) -> None:
    """Back to the record before the ring all can be given back; further back the shard stops."""
    size = 3

    @timeless
    async def run() -> None:
        end = await End.opened()
        await end.append(1)
        length = len(end.store.entries()[-1].record)
        monkeypatch.setattr(limits, "RING_BYTES_MAX", size * length)
        for number in range(2, 8):
            await end.append(number)
        stood = list(end.store.entries())
        end.lose_from(sequence)
        if sequence > 7 - size:
            await end.append(8)
            assert stood == end.store.entries()[:-1]
        else:
            with pytest.raises(RegressedError, match="the ring begins after 1-4"):
                await end.append(8)
            assert Position(1, sequence - 1) == end.store.positions()[-1]

    run()


@timeless
async def test_the_last_record_stays_in_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a record that is larger than the ring can be given back."""
    monkeypatch.setattr(limits, "RING_BYTES_MAX", 1)
    end = await End.opened()
    stood = await end.filled(3)
    end.lose_from(3)
    await end.append(4)

    assert stood == end.store.entries()[:-1]


@timeless
async def test_more_than_our_epoch_is_lost() -> None:
    """What was before our claim is not ours to give back."""
    end = await End.opened()
    await end.append(1)
    ours = await End.opened(end.store)
    ours.store.forget(0, Position(1, 1))
    ours.store.restart()

    with pytest.raises(RegressedError, match="the ring begins after 1-1"):
        await ours.append(1)
    assert Position(1, 0) == ours.store.positions()[-1]


@pytest.mark.parametrize("restart", [False, True])
def test_a_stream_that_vanished(restart: bool) -> None:
    """An empty stream is never begun anew by an owner who knows of records in it."""

    @timeless
    async def run() -> None:
        end = await End.opened()
        await end.append(1)
        end.store.drop(0)
        if restart:
            end.store.restart()
            with pytest.raises(RegressedError, match="gone"):
                await end.appender.prove()
        with pytest.raises(RegressedError, match="gone"):
            await end.append(2)
        assert [] == end.store.read(0, START, 9, newest=False)

    run()


@timeless
async def test_a_stream_that_vanishes_while_it_is_given_back() -> None:
    """Looking, resending, looking again: nowhere a stream is begun."""
    end = await End.opened()
    await end.filled(3)
    end.lose_from(2)
    end.journal.once("append", lambda: end.store.drop(0))

    with pytest.raises(RegressedError, match="gone"):
        await end.append(4)


@timeless
async def test_records_that_somebody_deleted() -> None:
    """The stream refuses what is next after its last record: there is no way on."""
    end = await End.opened()
    await end.filled(3)
    del end.store.entries()[-1]
    end.store.restart()

    with pytest.raises(RegressedError, match="what follows 1-2 is refused"):
        await end.append(4)
    assert len(end.journal.operations) < 10


@timeless
async def test_a_full_server_is_not_pressed() -> None:
    """What cannot be given back for lack of room is offered now and then."""
    end = await End.opened()
    stood = await end.filled(3)
    end.lose_from(2)
    end.store.busy = "OOM"
    end.journal.operations.clear()
    batch = asyncio.ensure_future(end.append(4))
    await asyncio.sleep(10)
    end.store.busy = None
    await batch

    assert stood == end.store.entries()[:-1]
    assert len(end.journal.operations) < 100


@timeless
async def test_a_position_that_a_stray_record_took_for_a_while() -> None:
    """Another server process, with a stray record in it, refuses; the next one takes the batch."""
    end = await End.opened()
    await end.append(1)
    stray = claim_of(1)._replace(position=Position(1, 2))
    end.journal.fault_next(REQUEST)

    def stray_comes() -> None:
        end.store.append(0, *stray, create=False)
        end.journal.once("read", lambda: end.lose_from(2))

    end.journal.once("read", lambda: end.journal.once("append", stray_comes))
    await end.append(2)

    assert [received(1), received(2)] == events(end)
