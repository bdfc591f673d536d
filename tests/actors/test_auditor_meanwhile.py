"""Audits while the shard goes on, and others with it: nothing is found that is not so."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import limits
from engine.codec import Position, encode_record
from engine.messages import Audit, AuditView, Claimed, Status
from tests.actors.audits import snapshots, trade, view
from tests.actors.trial import BUSY, REPLY, REQUEST, FaultyJournal, Life, Trial, receive, timeless


def at_first_read(journal: FaultyJournal, change: Callable[[], object]) -> None:
    """Do that when the journal is walked for the first time: at the first read but the proof."""
    seen = journal.operations.count("read")

    def look(operation: str) -> None:
        if operation == "read" and journal.operations.count("read") == seen + 2:
            change()

    journal.before = look


@pytest.mark.parametrize("fault", [REQUEST, REPLY, BUSY])
def test_a_journal_that_stumbles(trial: Trial, fault: str) -> None:
    """What fails is asked again."""

    @timeless
    async def run() -> None:
        journal = trial.journal()
        life = await trial.serve(journal)
        await trade(life)
        at_first_read(journal, lambda: journal.fault_last(fault))
        found = await view(life)
        assert (True, 0) == (found.complete, found.drift)
        assert fault in journal.faults.values()

    run()


@timeless
async def test_a_server_that_is_replaced(trial: Trial) -> None:
    """The new one may have gone back in time, and is given back what it lacks: nothing is said."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await trade(life)
    last = trial.last.position

    def replace() -> None:
        trial.store.restart()
        trial.store.forget(0, last)

    at_first_read(journal, replace)
    found = await view(life)

    assert (False, 0, []) == (found.complete, found.drift, found.findings)
    assert "another process answers for the journal's server meanwhile" == found.skipped
    await life.ask(receive(1))
    assert (True, 0) == ((again := await view(life)).complete, again.drift)


@timeless
async def test_a_shard_that_is_taken_over(trial: Trial) -> None:
    """What its new owner does with the journal is no business of the old one's."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await trade(life)

    def take_over() -> None:
        trial.store.entries().pop(4)
        trial.store.append(0, *claimed(), False)

    at_first_read(journal, take_over)
    found = await view(life)

    assert (False, 0, "the shard has another owner meanwhile") == (
        *(found.complete, found.drift),
        found.skipped,
    )


def claimed() -> tuple[Position, bytes]:
    position = Position(7, 0)
    record, _ = encode_record(0, position, 0, 0, Position(0, 0), [Claimed(b"nonce", "elsewhere")])
    return position, record


@pytest.mark.parametrize("deleted", [0, 1, 3, 4])
def test_a_snapshot_that_an_owner_before_gives_up(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    """It does not know yet that it is one, and its server is full; it may not get to the end."""
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 4)

    @timeless
    async def run() -> None:
        old = await trial.serve(journal := trial.journal())
        await trade(old)
        older, newer = await snapshots(old, 2, monkeypatch)
        new = await trial.serve()
        await new.idle(1)
        await give_up(old, journal, deleted)
        found = await view(new)

        assert (True, 0, []) == (found.complete, found.drift, found.findings)
        assert new.owner.snapshotter is not None
        kept = new.owner.snapshotter.generations
        assert kept == ([newer] if deleted else [older, newer])
        assert bool(deleted) is not any(str(older) in name for name in trial.store.chunks)
        await new.stop()
        assert (True, 0) == ((again := await view(await trial.serve())).complete, again.drift)

    run()


async def give_up(life: Life, journal: FaultyJournal, chunks: int) -> None:
    """The owner's server is full, so the older snapshot goes, until so many chunks are gone."""

    def look(name: str) -> None:
        if name in ("delete", "trim") and journal.operations.count("delete") > chunks:
            journal.freeze()

    journal.before = look
    assert life.owner.snapshotter is not None
    life.owner.snapshotter.relieve()
    await asyncio.sleep(60)


def test_a_journal_that_is_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far the shard gets meanwhile: there is another way, or none, and never a finding."""
    monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", 1)
    monkeypatch.setattr(limits, "AUDIT_HURRIED_SECONDS", 1.0)
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 8)
    skipped: list[str] = []

    @timeless
    async def run(batches: int) -> None:
        trial = Trial(tmp_path / str(batches))
        life = await trial.serve()
        for number in range(20):
            await life.ask(receive(1, f"sku-{number % 4}"))
        asked = life.send(Audit(0))
        for number in range(batches):
            await life.ask(receive(1, f"sku-{number % 4}"))
            await asyncio.sleep(1)
        found = (await asked.first()).body
        assert isinstance(found, AuditView)
        assert (0, []) == (found.drift, found.findings)
        assert found.complete is not bool(found.skipped)
        skipped.append(found.skipped)

    for batches in range(30):
        run(batches)
    assert {"", "the journal was trimmed beyond the copy meanwhile"} == set(skipped)


@pytest.mark.parametrize("crash", [False, True])
def test_an_audit_ends_with_its_owner(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, crash: bool
) -> None:
    """Who waits for it learns that there will be none, and nothing goes on."""
    monkeypatch.setattr(limits, "AUDIT_HURRIED_SECONDS", 100.0)
    monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", 1)

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await trade(life)
        asked = [life.send(Audit(0)), life.send(Audit(0))]
        await asyncio.sleep(150)
        assert [None, None] == [each.status for each in asked]
        if crash:
            await life.crash()
        else:
            await life.stop()
        assert [Status.NOT_DONE] * 2 == [each.status for each in asked]
        await asyncio.sleep(1)
        assert {asyncio.current_task()} == asyncio.all_tasks()

    run()
