"""A server that went back in time, and has the snapshots that it had then: that is enough."""

import asyncio

import pytest

from actors.journal import chunk_key
from actors.marks import Marks
from actors.phase import Phase
from engine import limits
from engine.codec import Position
from engine.messages import SnapshotTaken, Status
from engine.snapshot import chunk_name
from tests.actors.trial import BUSY, Life, Trial, receive, timeless


class Copy:
    """What the server has now; `restore` makes another process serve that."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._position = trial.last.position
        self._chunks = dict(trial.store.chunks)

    def restore(self) -> None:
        store = self._trial.store
        newer = [each for each in store.positions() if each > self._position]
        if newer:
            store.forget(0, newer[0])
        store.chunks.clear()
        store.chunks.update(self._chunks)
        store.restart()


def announced(trial: Trial) -> int:
    records = trial.store.records()
    return sum(isinstance(event, SnapshotTaken) for each in records for event in each.events)


async def until_announced(life: Life, trial: Trial, snapshots: int) -> None:
    """Go on until so many snapshots were announced, each of more chunks than the one before."""
    while announced(trial) < snapshots:
        await life.ask(receive(1, f"sku-{trial.last.position}"))
        await asyncio.sleep(1)


@timeless
async def test_chunks_are_missed_later(
    trial: Trial, small_snapshots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest snapshot is gone, and no record that was written lately names another one."""
    life = await trial.serve()
    await until_announced(life, trial, 3)
    copy = Copy(trial)
    await until_announced(life, trial, 4)
    copy.restore()
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 10_000)
    for _ in range(100):
        await life.ask(receive(1))
    await life.crash()
    life = await trial.serve()

    assert trial.lived() == life.owner.shard.digest()


@pytest.mark.parametrize("operation", ["append", "load", "delete", "trim"])
def test_chunks_are_missed_when_others_go(
    trial: Trial, small_snapshots: None, operation: str
) -> None:
    """The two newest snapshots are gone while an older one is about to be given up for them: it
    stays, and so does the journal after it; the next snapshot makes up for those."""

    @timeless
    async def run() -> None:
        journal = trial.journal()
        life = await trial.serve(journal)
        await until_announced(life, trial, 2)
        copy = Copy(trial)
        await until_announced(life, trial, 3)

        def lose(name: str) -> None:
            snapshotter = life.owner.snapshotter
            assert snapshotter is not None
            if name == "append" and snapshotter._acknowledged is not None:
                journal.before = lambda name: None
                if operation == "append":
                    copy.restore()
                else:
                    journal.once(operation, copy.restore)

        journal.before = lose
        await until_announced(life, trial, 4)
        await asyncio.sleep(5)
        assert "memory-2" == trial.store.run_id
        await life.crash()
        life = await trial.serve()
        assert trial.lived() == life.owner.shard.digest()

        before = announced(trial)
        await until_announced(life, trial, before + 2)
        await life.crash()
        life = await trial.serve()
        assert trial.lived() == life.owner.shard.digest()

    run()


@timeless
async def test_one_is_announced_while_another_is_looked_at(
    trial: Trial, small_snapshots: None
) -> None:
    """A full server makes the host look if the newest snapshot is whole; if there is a newer one
    when it knows, that is not taken for the one it looked at."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await until_announced(life, trial, 2)
    busy = iter([True] * 4)

    def relieve(name: str) -> None:
        snapshotter = life.owner.snapshotter
        assert snapshotter is not None
        if name == "append" and snapshotter._acknowledged is not None:
            snapshotter.relieve()
        if name == "load" and next(busy, False):
            journal.fault_last(BUSY)

    journal.before = relieve
    await until_announced(life, trial, 3)
    journal.before = lambda name: None
    await asyncio.sleep(5)
    for event in [event for each in trial.store.records() for event in each.events]:
        if isinstance(event, SnapshotTaken):
            newest = event
    names = [chunk_name(Position(newest.epoch, newest.sequence), n) for n in range(newest.chunks)]
    assert {chunk_key(0, name) for name in names} <= trial.store.chunks.keys()
    await life.crash()
    life = await trial.serve()

    assert trial.lived() == life.owner.shard.digest()


@timeless
async def test_chunks_without_the_record_that_tells_of_them(
    trial: Trial, small_snapshots: None
) -> None:
    """All chunks of the newest snapshot are there, but nothing says so: the journal before it
    stays, whatever the server lacks."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await until_announced(life, trial, 3)
    copies: list[Copy] = []

    def keep(name: str) -> None:
        snapshotter = life.owner.snapshotter
        assert snapshotter is not None
        if name == "append" and snapshotter._acknowledged is not None:
            copies.append(Copy(trial))

    journal.before = keep
    await until_announced(life, trial, 4)
    journal.before = lambda name: None
    copies[0].restore()
    assert life.owner.snapshotter is not None
    life.owner.snapshotter.relieve()
    await asyncio.sleep(1)
    await life.crash()
    life = await trial.serve()

    assert trial.lived() == life.owner.shard.digest()


# --- who else knows --------------------------------------------------------------------------


async def mark(trial: Trial, position: Position) -> None:
    """Somebody notes that this was acknowledged."""
    marks = Marks(trial.directory)
    marks.note(0, position, 7)
    await marks.write()


@timeless
async def test_the_claim_that_fenced_us_is_forgotten(trial: Trial) -> None:
    """An owner that was replaced does not go on because the server has forgotten its successor."""
    life = await trial.serve()
    await life.ask(receive(1))
    copy = Copy(trial)
    await trial.claim()
    await mark(trial, Position(2, 1))
    copy.restore()
    waiting = life.send(receive(1))

    assert Phase.FENCED is await life.ended()
    assert "another's 2-1 was acknowledged, though it is gone" in life.owner.reason
    assert Status.OUTCOME_UNKNOWN is waiting.status


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_our_epoch_was_anothers(trial: Trial, ahead: int) -> None:
    """A server that has forgotten our claim lets another have our epoch; if it forgets the other's
    claim then, and takes ours again, the marks still tell."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await life.ask(receive(1))
        epoch, sequence = trial.last.position
        await mark(trial, Position(epoch, sequence + ahead))
        Copy(trial).restore()
        waiting = life.send(receive(1))

        assert Phase.FENCED is await life.ended()
        assert f"another's {epoch}-{sequence + ahead} was acknowledged" in life.owner.reason
        assert Status.OUTCOME_UNKNOWN is waiting.status

    run()


@pytest.mark.parametrize(
    ("later", "phase"), [(-1, Phase.FAILED), (0, Phase.FENCED), (1, Phase.FENCED)]
)
def test_what_is_marked_while_we_open(trial: Trial, later: int, phase: Phase) -> None:
    """Nothing is answered by an owner that has opened without what others have acknowledged: in an
    epoch before its own, in the same, in a later one."""

    @timeless
    async def run() -> None:
        await trial.live(1)
        marked = Position(trial.last.position.epoch + 1 + later, 9)
        life = trial.begin(journal := trial.journal())
        journal.once("append", lambda: journal.once("append", note))
        waiting = life.send(receive(1))

        def note() -> None:
            asyncio.get_running_loop().create_task(mark(trial, marked))
            journal.fault_last(BUSY)  # it is written in the meantime

        assert phase is await life.ended(), life.owner.reason
        assert f"{marked} was acknowledged" in life.owner.reason
        assert waiting.status not in (None, Status.OK)

    run()


async def marked_while_claiming(trial: Trial, position: Position) -> Life:
    """An owner whose claim waits for the server until somebody has marked `position`."""
    journal = trial.journal()
    journal.freeze()
    life = trial.begin(journal)
    await asyncio.sleep(1)
    await mark(trial, position)
    journal.thaw()
    return life


@timeless
async def test_what_was_acknowledged_while_a_claim_waited(trial: Trial) -> None:
    """A claim that the server takes late is held against what the owner before marked till then."""
    await trial.live(1)
    ended = trial.last.position
    life = await marked_while_claiming(trial, Position(ended.epoch, ended.sequence + 3))

    assert Phase.FAILED is await life.ended()
    lost = f"{ended.epoch}-{ended.sequence + 3}"
    assert f"{lost} was acknowledged meanwhile, and is not there" in life.owner.reason


@timeless
async def test_a_claim_is_no_proof_of_what_was_before_it(trial: Trial) -> None:
    """Somebody else has claimed meanwhile, and not opened: what is missing before that claim is
    missing still."""
    await trial.live(1)
    ended = trial.last.position
    await trial.claim()
    life = await marked_while_claiming(trial, Position(ended.epoch, ended.sequence + 3))

    assert Phase.FAILED is await life.ended()
    assert "was acknowledged meanwhile, and is not there" in life.owner.reason


@timeless
async def test_marks_of_what_is_there(trial: Trial, small_snapshots: None) -> None:
    """Marked meanwhile, before the newest snapshot or after it: the shard opens."""
    for which in (1, -1):
        life = await trial.serve()
        await until_announced(life, trial, announced(trial) + 1)
        await life.crash()
        life = await marked_while_claiming(trial, trial.store.positions()[which])
        await life.ask(receive(1))
        await life.crash()
