"""Snapshots beside the batches: in the right order, as seldom as may be, and nothing left over."""

import asyncio
from itertools import pairwise

import pytest

from actors.journal import FullError, chunk_key
from actors.phase import Phase
from actors.snapshotter import Snapshotter
from engine import limits
from engine.codec import GENESIS, START, Position
from engine.messages import (
    Audit,
    Commit,
    Event,
    GetStock,
    Passed,
    SnapshotBegun,
    SnapshotTaken,
    Status,
)
from engine.snapshot import chunk_name
from tests.actors.servers import eventually
from tests.actors.trial import (
    BUSY,
    REPLY,
    REQUEST,
    Life,
    Trial,
    receive,
    reserve,
    timeless,
)


def snapshotter(life: Life) -> Snapshotter:
    assert life.owner.snapshotter is not None
    return life.owner.snapshotter


def announced(trial: Trial) -> list[Position]:
    """Where the snapshots were cut that the journal tells of."""
    events: list[Event] = [event for each in trial.store.records() for event in each.events]
    taken = [event for event in events if isinstance(event, SnapshotTaken)]
    return [Position(event.epoch, event.sequence) for event in taken]


def begun(trial: Trial) -> list[Position]:
    """Where the journal tells of a beginning."""
    return [each.position for each in trial.store.records() if SnapshotBegun() in each.events]


def stored(trial: Trial) -> set[Position]:
    """The snapshots of which there are chunks."""
    found = set()
    for key in trial.store.chunks:
        epoch, _, sequence = key.split(":")[-2].partition("-")
        found.add(Position(int(epoch), int(sequence)))
    return found


async def crash_at(trial: Trial, name: str, number: int = 0, batches: int = 40) -> None:
    """A life that ends without a word at its operation `number` (from 0) of that name."""
    journal = trial.journal()
    life = await trial.serve(journal)

    def freeze(operation: str) -> None:
        if journal.operations.count(name) > number and operation == name:
            journal.freeze()

    journal.operations.clear()
    journal.before = freeze
    for _ in range(batches):
        life.send(receive(1))
        life.send(receive(1, f"sku-{number}"))
        await asyncio.sleep(1)
    assert journal.waiting, f"{name} {number} was never asked"
    await life.crash()


# --- when ------------------------------------------------------------------------------------


@timeless
async def test_as_many_events_as_are_worth_it(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is begun by the first batch after so many events, and not before."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 10)
    life = await trial.serve()
    await life.go_on(9)  # and genesis was replayed
    assert [] == begun(trial)
    await life.go_on(2)

    assert 1 == len(begun(trial)) == snapshotter(life).count


@timeless
async def test_as_many_bytes_as_are_worth_it(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large events make a snapshot due earlier."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_BYTES", 2_000)
    life = await trial.serve()
    await life.go_on(10)
    assert 0 == snapshotter(life).count
    await life.go_on(20)

    assert 1 == snapshotter(life).count


@timeless
async def test_no_more_often_than_there_is_to_write(
    trial: Trial, small_snapshots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that remembers much does not write it down again for a few events."""
    life = await trial.serve()
    await life.ask(receive(1000))
    for number in range(200):
        await life.ask(reserve(f"r{number}"))
        await life.ask(Commit(f"r{number}", 0))
        await asyncio.sleep(1)

    assert 200 == life.owner.shard.state.remembered
    assert 4 < snapshotter(life).count < 10


@timeless
async def test_when_the_server_fills_up(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wanted, a snapshot is taken at once, if there is anything to be trimmed by it."""
    life = await trial.serve()
    await life.go_on(3)
    snapshotter(life).want(full=False)
    await life.go_on(3)
    assert 0 == snapshotter(life).count
    monkeypatch.setattr(limits, "SNAPSHOT_AT_LEAST_BYTES", 100)
    snapshotter(life).want(full=False)
    await life.go_on(1)

    assert 1 == snapshotter(life).count


@timeless
async def test_a_full_server_gets_new_ones(trial: Trial) -> None:
    """What was remembered may be forgotten: once a minute the two that it has are put to the test,
    though there is nothing to trim."""
    life = await trial.serve()
    await life.go_on(1)
    for _ in range(100):
        snapshotter(life).want(full=True)
        life.owner.poke(prove=True)
        await asyncio.sleep(2)

    assert 3 == snapshotter(life).count


@timeless
async def test_a_full_server_does_not_wait_for_an_audit(
    trial: Trial, small_snapshots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held back is so while there is room; then selling comes first."""
    monkeypatch.setattr(limits, "SNAPSHOT_AT_LEAST_BYTES", 100)
    life = await trial.serve()
    snapshotter(life).hold()
    await life.go_on(20)
    assert not snapshotter(life).want(full=False)
    await life.go_on(1)
    assert [] == begun(trial)

    assert snapshotter(life).want(full=True)
    await life.go_on(3)
    assert [] != announced(trial)


@timeless
async def test_a_snapshot_under_way_is_not_announced(trial: Trial, small_snapshots: None) -> None:
    """It was cut of a memory that may be wrong: no chunk of it stays, and nothing is trimmed."""
    life = await trial.serve()
    while not begun(trial):
        await life.ask(receive(1))
    entries = len(trial.store.entries())
    snapshotter(life).hold()
    await life.go_on(5)
    await asyncio.sleep(10)

    assert ([], set()) == (announced(trial), stored(trial))
    assert entries + 5 == len(trial.store.entries())


@timeless
async def test_short_lives_take_snapshots_too(trial: Trial, small_snapshots: None) -> None:
    """What the owners before have left to be replayed counts, or it would grow for ever."""
    for _ in range(20):
        await trial.live(2)

    assert len(announced(trial)) > 2
    assert len(trial.store.entries()) < 20


@timeless
async def test_nobody_asks_and_it_is_announced(trial: Trial, small_snapshots: None) -> None:
    """A shard that falls silent finishes its snapshot."""
    life = await trial.serve()
    waiting = [life.send(receive(1)) for _ in range(6)]
    await eventually(lambda: waiting[-1].status is Status.OK)
    for _ in range(5):
        life.owner.poke(prove=True)
        await asyncio.sleep(1)

    assert 1 == len(announced(trial))


# --- in which order --------------------------------------------------------------------------


@timeless
async def test_the_order_of_things(trial: Trial, small_snapshots: None) -> None:
    """Begun, every chunk stored, announced and acknowledged, what goes is archived, and only then
    deleted and trimmed."""
    journal = trial.journal()

    def look(name: str) -> None:
        check_the_way_back(trial)
        number = len(journal.operations)
        if name == "store":
            assert begun(trial)[-1:] != announced(trial)[-1:], "stored without a word"
        if name == "append" and number % 4:
            journal.fault_last(BUSY)  # what comes next would have time to come too early

    life = await trial.serve(journal)
    journal.operations.clear()
    journal.before = look
    await life.go_on(40)

    assert {"store", "append", "delete", "trim", "load"} == set(journal.operations) - {"read"}
    assert len(announced(trial)) > 4


def check_the_way_back(trial: Trial) -> None:
    """The two snapshots that were announced last are whole, and so is the journal back to them;
    what is before that is archived."""
    for segment in trial.archive.segments(0):
        if segment.last < trial.store.positions()[0]:
            there = [each for each in trial.store.history[0] if each.position <= segment.last]
            assert there[-segment.records :] == [*trial.archive.read(segment)]
    if trial.store.positions()[0] != GENESIS:
        assert trial.store.positions()[0] <= trial.archive.segments(0)[-1].last
    taken = [
        (event, record)
        for record in trial.store.records()
        for event in record.events
        if isinstance(event, SnapshotTaken)
    ]
    for event, record in taken[-2:]:
        cut = Position(event.epoch, event.sequence)
        assert cut == record.snapshot, "the announcing record carries the pointer"
        names = [chunk_key(0, chunk_name(cut, number)) for number in range(event.chunks)]
        assert set(names) <= trial.store.chunks.keys()
        assert trial.store.positions()[0] <= cut
    if len(taken) < 2:
        assert GENESIS == trial.store.positions()[0]


@timeless
async def test_no_memory_for_a_third(trial: Trial, small_snapshots: None) -> None:
    """What was stored of it goes, and the older of the two before; the next one has that room, and
    at every moment there is a whole way back."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(20)
    before = len(announced(trial))

    def refuse(name: str) -> None:
        found = stored(trial)
        if name == "store" and len(found & set(announced(trial))) > 1 and begun(trial)[-1] in found:
            raise FullError("OOM command not allowed")  # the first chunk went in

    journal.before = refuse
    for _ in range(5):
        await life.go_on(8)
        assert announced(trial)[-1] in stored(trial)
    assert len(announced(trial)) > before + 2
    await asyncio.sleep(5)
    assert stored(trial) <= set(announced(trial)[-2:])
    for one, next_one in pairwise(begun(trial)):
        if one not in announced(trial):
            assert next_one.sequence - one.sequence < 4, "there is room now"
    await life.crash()
    life = await trial.serve()

    assert trial.lived() == life.owner.shard.digest()


@timeless
async def test_no_memory_at_all(trial: Trial, small_snapshots: None) -> None:
    """Nothing is left lying about, batches go on, and it is tried again now and then."""
    journal = trial.journal()
    life = await trial.serve(journal)

    def refuse(name: str) -> None:
        if name == "store":
            raise FullError("OOM command not allowed")

    journal.before = refuse
    began = asyncio.get_running_loop().time()
    for _ in range(60):
        await life.go_on(1)
        await asyncio.sleep(1)

    assert set() == stored(trial)
    assert 3 < len(begun(trial)) <= (asyncio.get_running_loop().time() - began) / 10 + 1


@timeless
async def test_two_generations_are_kept(trial: Trial, small_snapshots: None) -> None:
    """The newest snapshot, the one before, and the journal back to that one; nothing else."""
    life = await trial.serve()
    for _ in range(40):
        await life.go_on(1)
        kept = announced(trial)[-2:]
        assert set(kept) <= stored(trial)
        assert len(stored(trial)) <= 4, "two, one that comes and one that goes"
    await asyncio.sleep(5)

    assert set(announced(trial)[-2:]) == stored(trial)
    assert announced(trial)[-2] == trial.store.positions()[0]


@timeless
async def test_before_there_are_two(trial: Trial, small_snapshots: None) -> None:
    """After the first snapshot the whole journal is still there."""
    life = await trial.serve()
    await life.go_on(5)

    assert 1 == len(announced(trial))
    assert Position(0, 1) == trial.store.positions()[0]
    assert START == trial.store.records()[2].snapshot
    assert announced(trial)[0] == trial.last.snapshot


@timeless
async def test_a_snapshot_is_of_one_moment(trial: Trial, small_snapshots: None) -> None:
    """However much happens while it is taken, it holds what was there when it was begun."""
    journal = trial.journal()
    life = await trial.serve(journal)
    for number in range(30):
        await life.ask(receive(5, f"sku-{number}"))
    journal.before = lambda name: _hurry(life) if name == "store" else None
    for number in range(30):
        life.send(reserve(f"r{number}", 1, f"sku-{number}"))
        await asyncio.sleep(0.5)
    journal.before = lambda name: None
    await life.stop()
    found = trial.lived()
    await trial.serve()

    assert len(announced(trial)) > 1
    assert found == trial.opened.digest


def _hurry(life: Life) -> None:
    for number in range(30):
        life.send(receive(1, f"sku-{number}"))


@timeless
async def test_an_audit_waits_for_what_is_announced(
    trial: Trial, small_snapshots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that is complete while a batch is on its way is announced by the next; an audit
    that was asked for meanwhile comes after that, and not into the way of the one after."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 1_000)
    journal = trial.journal()
    life = await trial.serve(journal)
    for number in range(400):
        await life.ask(receive(1, f"sku-{number}"))
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 1)
    await life.ask(receive(1))
    await life.ask(receive(1))
    assert 1 == len(begun(trial)) > len(announced(trial))
    journal.once("append", lambda: journal.fault_last(BUSY))
    waiting = life.send(receive(1))
    monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", 1)
    audit = life.send(Audit(0, quick=True))
    await waiting.first()
    for _ in range(100):
        await life.ask(receive(1))
    assert 1 == len(announced(trial))

    assert Status.OK is (await audit.first()).status


@timeless
async def test_batches_do_not_wait(trial: Trial, small_snapshots: None) -> None:
    """While chunks are on their way, commands are answered."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(4)
    journal.operations.clear()
    seen = []
    journal.before = lambda name: seen.append(
        (name, life.send(GetStock("sku-1"))) if name == "store" else (name, None)
    )
    await life.go_on(1)
    asked = [caller for name, caller in seen if caller is not None]
    assert len(asked) > 1

    stores = [number for number, (name, _) in enumerate(seen) if name == "store"]
    reads = [number for number, (name, _) in enumerate(seen) if name == "read"]
    assert stores[0] < reads[0] < stores[-1]
    assert {Status.OK} == {caller.status for caller in asked}


# --- faults ----------------------------------------------------------------------------------


@timeless
async def test_what_is_lost_is_asked_again(trial: Trial, small_snapshots: None) -> None:
    """Chunks, deletions and trims may be repeated, and are until they are done."""
    journal = trial.journal()
    life = await trial.serve(journal)
    faults = [REQUEST, REPLY, BUSY]

    def fail(name: str) -> None:
        number = len(journal.operations) - 1
        if name not in ("append", "read") and number % 4:
            journal.fault_last(faults[number % 3])

    journal.before = fail
    await life.go_on(100)
    journal.before = lambda name: None
    await asyncio.sleep(10)

    assert len(announced(trial)) > 5
    assert set(announced(trial)[-2:]) == stored(trial)
    assert announced(trial)[-2] == trial.store.positions()[0]


@timeless
async def test_a_full_server_takes_the_chunks_later(trial: Trial, small_snapshots: None) -> None:
    """No room: nothing is announced; room: it goes on where it was."""
    journal = trial.journal()
    life = await trial.serve(journal)

    def full(name: str) -> None:
        if name == "store":
            journal.fault_last(BUSY)

    journal.before = full
    await life.go_on(10)
    assert [] == announced(trial)
    assert journal.operations.count("store") > 10
    journal.before = lambda name: None
    await life.go_on(2)

    assert begun(trial)[:1] == announced(trial)[:1]


@timeless
async def test_chunks_that_another_server_process_took(trial: Trial, small_snapshots: None) -> None:
    """A snapshot is not announced if its chunks may be lost, but deleted; the next one is."""
    journal = trial.journal()
    life = await trial.serve(journal)

    def lose(name: str) -> None:
        if len(trial.store.chunks) == 2 and name == "store":
            trial.store.chunks.clear()
            trial.store.restart()
            journal.before = keep

    def keep(name: str) -> None:
        if name == "delete":
            journal.fault_last(BUSY)

    journal.before = lose
    await life.go_on(9)
    assert "memory-2" == trial.store.run_id
    assert 1 == len(begun(trial)), "as long as something is left of the first"
    journal.before = lambda name: None
    await life.go_on(3)

    assert 2 == len(begun(trial))
    assert begun(trial)[1:] == announced(trial)
    assert {begun(trial)[1]} == stored(trial)


@timeless
async def test_chunks_that_are_lost_while_they_are_announced(
    trial: Trial, small_snapshots: None
) -> None:
    """The record is on its way and says what it says: whoever reads it does without."""
    journal = trial.journal()
    life = await trial.serve(journal)

    def lose(name: str) -> None:
        if trial.store.chunks and name == "append":
            trial.store.chunks.clear()
            trial.store.restart()
            journal.before = lambda name: None

    journal.before = lose
    await life.go_on(7)
    await life.stop()
    assert 1 == len(announced(trial))
    assert set() == stored(trial)
    found = trial.lived()
    await trial.serve()

    assert found == trial.opened.digest


@timeless
async def test_a_pass_behind_the_beginning(trial: Trial, small_snapshots: None) -> None:
    """A snapshot is cut at the record that says so, or not at all: else nobody could find it."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(4)
    journal.fault_next(REPLY)
    journal.once("read", trial.store.restart)
    await life.go_on(3)

    passed = [each.position for each in trial.store.records() if Passed() in each.events]
    assert [Position(1, begun(trial)[0].sequence + 1)] == passed
    assert begun(trial)[1:] == announced(trial)


@timeless
async def test_nothing_is_left_of_a_stop(trial: Trial, small_snapshots: None) -> None:
    """A snapshot in the middle is left off, and the next owner deletes what there is of it."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(4)

    def stop(name: str) -> None:
        if journal.operations.count("store") == 2:
            life.owner.stop()

    journal.before = stop
    await life.ask(receive(1))
    assert Phase.RELEASED is await life.ended()
    assert 0 < len(trial.store.chunks) < 3
    assert {asyncio.current_task()} == asyncio.all_tasks()

    await trial.serve()
    await asyncio.sleep(5)
    assert set() == stored(trial)


@timeless
async def test_fenced_in_the_middle(trial: Trial, small_snapshots: None) -> None:
    """An owner that was replaced leaves off storing; its successor's snapshots are not touched."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(4)

    def freeze(name: str) -> None:
        if journal.operations.count("store") == 2:
            journal.freeze()

    journal.before = freeze
    life.send(receive(1))
    await eventually(lambda: journal.waiting > 0)
    other = await trial.serve()
    await asyncio.sleep(5)
    assert set() == stored(trial)
    journal.before = lambda name: None
    journal.thaw()
    life.owner.poke(prove=True)
    assert Phase.FENCED is await life.ended()

    asked = len(journal.operations)
    await other.go_on(20)
    assert asked == len(journal.operations)
    assert set(announced(trial)[-2:]) <= stored(trial)


@pytest.mark.parametrize("name", ["store", "append", "load", "delete", "trim"])
@pytest.mark.parametrize("number", range(4))
def test_a_crash_between_any_two_steps(
    trial: Trial, small_snapshots: None, name: str, number: int
) -> None:
    """What is recovered is what was lived, and nothing is left behind that nobody will delete."""

    @timeless
    async def run() -> None:
        await crash_at(trial, name, number)
        found = trial.lived()
        life = await trial.serve()
        assert found == trial.opened.digest
        await asyncio.sleep(5)

        kept = set(announced(trial)[-2:])
        assert kept == stored(trial)
        if len(kept) == 2:
            assert min(kept) == trial.store.positions()[0]
        await life.go_on(20)
        await asyncio.sleep(5)
        assert set(announced(trial)[-2:]) == stored(trial)
        assert announced(trial)[-2] == trial.store.positions()[0]

    run()


@pytest.mark.parametrize("name", ["store", "delete", "trim"])
def test_crash_after_crash(trial: Trial, small_snapshots: None, name: str) -> None:
    """Lives that all end in the middle of the same step leave no more than one of them does."""

    @timeless
    async def run() -> None:
        for number in range(6):
            await crash_at(trial, name, number % 3)
        await trial.serve()
        await asyncio.sleep(5)
        assert set(announced(trial)[-2:]) == stored(trial)

    run()


@timeless
async def test_a_late_trimmer_harms_nobody(trial: Trial, small_snapshots: None) -> None:
    """A frozen owner that wakes up deletes what it was about to: nothing that anybody needs."""
    journal = trial.journal()
    life = await trial.serve(journal)
    journal.before = lambda name: journal.freeze() if name in ("delete", "trim") else None
    while not journal.waiting:
        life.send(receive(1))
        await asyncio.sleep(1)
    other = await trial.serve()
    await other.go_on(10)
    journal.before = lambda name: None
    journal.thaw()
    life.owner.poke(prove=True)
    assert Phase.FENCED is await life.ended()
    await other.crash()
    found = trial.lived()
    await trial.serve()

    assert found == trial.opened.digest


@timeless
async def test_an_old_snapshot_that_is_illegible(trial: Trial, small_snapshots: None) -> None:
    """To clean up is a chore: the shard is served if it fails."""
    older, _ = await trial.generations()
    [key] = [key for key in trial.store.chunks if key.endswith(f":{older}:0")]
    trial.store.chunks[key] = trial.store.chunks[key][:-1] + b"?"
    life = await trial.serve()
    await life.go_on(30)

    assert set(announced(trial)[-2:]) == stored(trial)


@pytest.mark.parametrize("chunks", range(18))
def test_any_number_of_chunks_is_found(trial: Trial, small_snapshots: None, chunks: int) -> None:
    """They are found by few looks, and deleted from the last to the first."""

    @timeless
    async def run() -> None:
        await crash_at(trial, "store")
        [cut] = begun(trial)
        for number in range(chunks):
            trial.store.store(chunk_key(0, chunk_name(cut, number)), b"chunk")
        journal = trial.journal()
        left: list[list[str]] = []
        journal.before = lambda name: left.append(list(trial.store.chunks))
        await trial.serve(journal)
        await asyncio.sleep(1)

        assert {} == trial.store.chunks
        assert journal.operations.count("load") <= 10
        assert chunks == journal.operations.count("delete")
        for some in left:
            assert [chunk_key(0, chunk_name(cut, number)) for number in range(len(some))] == some

    run()


@pytest.mark.parametrize("left", [0, 1, 2])
def test_an_older_one_that_was_given_up(trial: Trial, small_snapshots: None, left: int) -> None:
    """Whoever comes next does not count on it, and deletes what is left of it."""

    @timeless
    async def run() -> None:
        older, newer = await trial.generations()
        for number in range(left, 99):
            trial.store.chunks.pop(chunk_key(0, chunk_name(older, number)), None)
        life = await trial.serve()
        await asyncio.sleep(5)

        assert [newer] == snapshotter(life).generations
        assert {newer} == stored(trial)
        await life.go_on(20)
        await asyncio.sleep(5)
        assert set(announced(trial)[-2:]) == stored(trial)

    run()
