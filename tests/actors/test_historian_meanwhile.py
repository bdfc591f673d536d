"""Questions about the past while all goes on: trims, faults, other questions, the end."""

import asyncio
from pathlib import Path
from typing import BinaryIO

import pytest

from actors.journal import Entry
from actors.memory_journal import MemoryStore
from actors.pending import NOT_DONE
from actors.phase import Phase
from engine import limits
from engine.codec import Position
from engine.messages import (
    Answer,
    GetStock,
    GetStockAsOf,
    LedgerEntry,
    LedgerPage,
    ListMovements,
    Status,
)
from tests.actors.chronicle import PLACE, SOON, Chronicle, detail, list_all
from tests.actors.servers import eventually
from tests.actors.trial import (
    BUSY,
    REPLY,
    REQUEST,
    FaultyJournal,
    Trial,
    receive,
    timeless,
)


class TrimAt:
    """Everything but the last record is trimmed when so many operations have been asked for."""

    def __init__(self, trial: Trial, operations: int) -> None:
        self.store = trial.store
        self.operations = operations

    def before(self, name: str) -> None:
        if not self.operations:
            self.store.trim(0, self.store.entries()[-1].position)
        self.operations -= 1


@timeless
async def test_trimmed_while_it_is_read(trial: Trial, small_snapshots: None) -> None:
    """What is trimmed under a question is found in the archive, or the question begins anew."""
    journal = trial.journal()
    chronicle = Chronicle(trial, 7)
    life = await trial.serve(journal, settings=SOON)
    await chronicle.live(life, 100)
    everything = list(trial.store.entries())
    trial.archive.add(0, everything)
    for moment in chronicle.moments[-12:]:
        question = GetStockAsOf("apple", position=moment.position)
        expected = await life.ask(question)
        for operation in range(8):
            trim = TrimAt(trial, operation)
            journal.before = trim.before
            assert expected == await life.ask(question)
            journal.before = lambda name: None
            trial.store.entries()[:] = everything
    await life.stop()


class PruneAt:
    """What is before a snapshot goes from a disk when a file of it is opened for the nth time."""

    def __init__(self, trial: Trial, base: Position, opens: int) -> None:
        self._disk, self._open, self._opens = trial.disk, trial.disk.open, opens
        kept, segments = trial.archive.snapshots(0), trial.archive.segments(0)
        self.gone = [each.path for each in kept if each.position < base]
        self.gone += [each.path for each in segments if each.last <= base]

    def open(self, path: Path) -> BinaryIO:
        if not self._opens:
            for each in self.gone:
                self._disk.remove(each)
        self._opens -= 1
        return self._open(path)


@timeless
async def test_pruned_while_it_is_read(trial: Trial, small_snapshots: None) -> None:
    """What is pruned under a question is not kept any more; nobody is told that it is damaged."""
    trial.archive_snapshot_bytes = 4_000
    chronicle = Chronicle(trial, 4)
    life = await chronicle.serve()
    await chronicle.live(life, 300)
    base, files = trial.archive.snapshots(0)[1].position, dict(trial.disk.files)
    statuses = set[Status]()
    for moment in [each for each in chronicle.moments if each.position < base][4::20]:
        question = GetStockAsOf("apple", position=moment.position)
        expected = await life.ask(question)
        for opens in (0, 1, 2, 3, 100):
            prune = PruneAt(trial, base, opens)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trial.disk, "open", prune.open)
                answer = await life.ask(question)
            statuses.add(answer.status)
            assert answer == expected or f"begins with record {base}, of 2023" in detail(answer)
            trial.disk.files.update(files)
    assert {Status.OK, Status.HISTORY_NOT_KEPT} == statuses
    await life.stop()


@timeless
async def test_an_archive_that_cannot_be_opened(trial: Trial, small_snapshots: None) -> None:
    """For want of file descriptors, say: it was not done, nothing is called damaged, and later it
    is answered."""
    kept = await trial.generations()
    life = await trial.serve()
    question = GetStockAsOf("sku-0", position=kept[0])

    def fail(path: Path) -> BinaryIO:
        raise OSError(24, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.disk, "open", fail)
        assert NOT_DONE == await life.ask(question)
    assert Status.OK is (await life.ask(question)).status
    await life.stop()


@timeless
async def test_a_journal_that_does_not_answer(trial: Trial) -> None:
    """Reads that are refused or lost are made again, up to the deadline."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(10)
    position = life.owner.position
    assert position is not None
    expected = await life.ask(GetStockAsOf("sku-3", position=position))
    for fault in (REQUEST, REPLY, BUSY):
        for number in range(5):
            journal.fault_next(*[""] * number, fault, fault)
            assert expected == await life.ask(GetStockAsOf("sku-3", position=position))

    journal.freeze()
    caller = life.send(GetStockAsOf("sku-3", position=position), 2)
    assert NOT_DONE == await caller.first()
    journal.thaw()
    await life.stop()


class CountingJournal(FaultyJournal):
    """Knows how many pages of the past were being read at once."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.reading = self.most = 0

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        is_past = count == limits.HISTORY_READ_ENTRIES
        self.reading += is_past
        self.most = max(self.most, self.reading)
        await asyncio.sleep(0.01 * is_past)
        self.reading -= is_past
        return await super().read(shard, after, count, newest=newest)


@timeless
async def test_few_at_a_time(trial: Trial) -> None:
    """One is answered, a few wait for it, the rest are refused; meanwhile the shard serves."""
    life = await trial.serve(journal := CountingJournal(trial.store))
    for number in range(40):
        await life.ask(receive(number + 1))
    position = life.owner.position
    question = GetStockAsOf("sku", position=position)

    callers = [life.send(question) for _ in range(limits.HISTORY_QUEUE_MAX + 2)]

    overloaded = [Answer(Status.OVERLOADED)] * 2
    assert overloaded == [await caller.first() for caller in callers[-2:]]
    assert Status.OK is (await life.ask(receive(1))).status
    assert callers[-3].status is None
    for caller in callers[:-2]:
        assert Status.OK is (await caller.first()).status
    assert 1 == journal.most
    await life.stop()


@timeless
async def test_others_have_their_turn(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long replay goes in slices: commands that come meanwhile are answered before it ends."""
    monkeypatch.setattr(limits, "HISTORY_SLICE_EVENTS", 4)
    life = await trial.serve()
    for number in range(200):
        await life.ask(receive(number + 1))
    caller = life.send(GetStockAsOf("sku", position=life.owner.position))
    served = 0
    while caller.status is None:
        assert Status.OK is (await life.ask(GetStock("sku"))).status
        served += 1

    assert served > 10
    await life.stop()


@timeless
async def test_others_have_their_turn_in_the_midst_of_a_chunk(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk has thousands of entries: a snapshot is restored in slices of few, not of one."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 300)
    life = await trial.serve()
    for number in range(301):
        await life.ask(receive(1, f"sku-{number}"))
    snapshotter = life.owner.snapshotter
    assert snapshotter is not None
    await eventually(lambda: bool(snapshotter.generations))
    [cut] = snapshotter.generations
    monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", 10)
    caller = life.send(GetStockAsOf("sku-7", position=cut))
    turns = 0
    while caller.status is None:
        await asyncio.sleep(0)
        turns += 1

    assert Status.OK is caller.status
    assert turns > 30
    await life.stop()


class SlowJournal(FaultyJournal):
    """A server that takes its time to read."""

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        await asyncio.sleep(0.2)
        return await super().read(shard, after, count, newest=newest)


@timeless
async def test_movements_leave_in_time(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that takes longer than its asker waits is answered with what was found, and from where
    to go on; going on brings the rest."""
    monkeypatch.setattr(limits, "HISTORY_READ_ENTRIES", 2)
    life = await trial.serve(SlowJournal(trial.store))
    for number in range(24):
        await life.ask(receive(number + 1))
    whole = await list_all(life, "sku")
    entries: list[LedgerEntry] = []
    after: PLACE | None = None
    pages = 0
    while pages == 0 or after is not None:
        answer = await life.send(ListMovements("sku", after), 3.5).first()
        assert isinstance(answer.body, LedgerPage), answer
        entries += answer.body.entries
        after = answer.body.next
        pages += 1
        assert pages < 100
    hopeless = await life.send(ListMovements("sku", (1, 20, 0)), 1).first()

    assert whole == entries
    assert pages > 1
    assert NOT_DONE == hopeless
    await life.stop()


@timeless
async def test_an_owner_that_leaves(trial: Trial) -> None:
    """Nobody is left waiting by an owner that stops, or dies before it could begin."""
    life = await trial.serve()
    await life.go_on(3)
    caller = life.send(GetStockAsOf("sku-0", time=0))
    life.owner.stop()
    late = life.send(GetStockAsOf("sku-0", time=0))

    assert NOT_DONE == await caller.first()
    assert NOT_DONE == await late.first()
    assert Phase.RELEASED is await life.ended()
