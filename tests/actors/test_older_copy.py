"""A server that went back in time, and has the snapshots that it had then: that is enough."""

import asyncio

import pytest

from engine import limits
from engine.messages import SnapshotTaken
from tests.actors.trial import Life, Trial, receive, timeless


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
    while announced(trial) < snapshots:
        await life.go_on(1)


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
