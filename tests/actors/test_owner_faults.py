"""Whole lives of owners, with faults at every step or at any: nothing is lost, nothing twice."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from actors.phase import Phase
from engine import limits
from engine.codec import Position
from engine.messages import (
    Adjust,
    Audit,
    AuditView,
    Cancel,
    ChannelPolicy,
    Command,
    Commit,
    Count,
    Extend,
    GetReservation,
    GetStock,
    LineRequest,
    Receive,
    Received,
    Release,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    Status,
    Transfer,
)
from tests.actors.trial import (
    BUSY,
    REPLY,
    REQUEST,
    Caller,
    FaultyJournal,
    Life,
    TimelessLoop,
    Trial,
    receive,
    replayed,
    timeless,
)

BATCHES = 14


async def little_life(journal: FaultyJournal, trial: Trial) -> Life:
    """Batches, snapshots and a read, one after the other, and a departure in order."""
    life = trial.begin(journal)
    for number in range(BATCHES):
        assert Status.OK is (await life.ask(receive(100, f"sku-{number}"))).status
        await asyncio.sleep(0.5)
    assert Status.OK is (await life.ask(GetStock("sku-1"))).status
    await life.stop()
    return life


@pytest.mark.parametrize("fault", [REQUEST, REPLY, BUSY])
def test_a_fault_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Whichever operation fails, all is acknowledged, once, and nothing is left over."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 4)
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 3)

    async def fault_at(number: int) -> list[str]:
        trial = Trial(tmp_path)
        journal = trial.journal()
        journal.faults = {number: fault}
        life = await little_life(journal, trial)

        assert Phase.RELEASED is life.owner.phase
        positions = [position for position, _ in trial.store.history[0]]
        assert sorted(set(positions)) == positions
        await trial.serve()
        await asyncio.sleep(1)
        assert replayed(trial.store.records()[:-2], 0, 1).digest() == trial.opened.digest
        kept = sorted({record.snapshot for record in trial.store.records()})[-2:]
        assert {str(each) for each in kept} == {key.split(":")[-2] for key in trial.store.chunks}
        assert kept[0] == trial.store.positions()[0]
        return journal.operations

    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        operations = runner.run(fault_at(-1))
        assert {"append", "read", "store", "delete", "load", "trim"} == set(operations)
        for number in range(len(operations)):
            runner.run(fault_at(number))


@pytest.mark.parametrize("lost", range(4))
def test_a_restart_at_every_step(tmp_path: Path, lost: int) -> None:
    """The server comes back without its last records: all that was acknowledged is there again."""

    async def restart_at(number: int) -> int:
        trial = Trial(tmp_path)
        journal = trial.journal()
        await trial.live(2)
        life = await trial.serve(journal)
        await life.ask(receive(1))

        def restart(name: str) -> None:
            if len(journal.operations) == number:
                stands = trial.store.positions()
                trial.store.forget(0, [*stands, Position(9, 9)][-1 - lost])
                trial.store.restart()

        journal.operations.clear()
        journal.before = restart
        callers: list[Caller] = []
        for batch in range(5):
            callers += [life.send(receive(1)), life.send(GetStock("sku"))]
            await callers[batch * 2].first()
            callers.append(life.send(GetStock("sku")))
            await callers[-1].first()
        await asyncio.sleep(1)

        assert {Status.OK} == {caller.status for caller in callers}
        events = [event for record in trial.store.records() for event in record.events]
        assert 8 == sum(isinstance(event, Received) for event in events)
        await life.stop()
        await trial.serve()
        assert replayed(trial.store.records()[:-2], 0, 1).digest() == trial.opened.digest
        return len(journal.operations)

    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        for number in range(1, runner.run(restart_at(-1)) + 1):
            runner.run(restart_at(number))


class Traffic:
    """Commands at random that meet: few names, small numbers."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.count = 0

    def command(self) -> Command:
        draw, self.count = self.random.randrange, self.count + 1
        newest = self.count
        name = f"r{draw(newest // 2, newest + 1)}"
        sku, place, some = f"sku-{draw(6)}", f"place-{draw(3)}", draw(1, 6)
        key = f"k{newest}" if draw(2) else None
        ttl = self.random.choice([1, 5, 600])
        lines = [LineRequest(f"sku-{draw(6)}", draw(1, 5)) for _ in range(draw(1, 4))]
        pools = ChannelPolicy(None, ["few"], True, draw(3))
        commands: list[Command] = [
            Receive(sku, place, some * 5, key=key),
            Reserve(f"r{newest}", lines, ttl_seconds=ttl),
            Reserve(f"r{newest}", lines[:1], channel="shop", ttl_seconds=ttl),
            Commit(name, 0),
            Commit(name, 0, if_available=True),
            Release(name, 0, bury=bool(draw(2))),
            Extend(name, 100, 0),
            Ship(name, 0, key=key),
            Cancel(name, 0, key=key),
            Restock(name, 0, key=key),
            Adjust(sku, place, -some, key=key),
            Count(sku, place, some * 3, key=key),
            Transfer(sku, place, f"place-{draw(3)}", some, key=key),
            SetStock(sku, {place: draw(3)}, {"few": draw(4)}),
            SetChannel(0, "shop", pools),
            GetStock(sku),
            GetReservation(name, 0),
            Audit(0),
        ]
        return self.random.choice(commands)


class Walk:
    """Lives that follow each other on one store, each with its faults, until it stops or dies."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = Random(seed)
        self.traffic = Traffic(self.random)
        self.trial = Trial(directory)

    def journal(self) -> FaultyJournal:
        """It fails at four places at random, and freezes at another."""
        journal, random = self.trial.journal(), self.random
        for _ in range(4):
            journal.faults[random.randrange(150)] = random.choice([REQUEST, REPLY, BUSY])
        return journal

    async def live(self) -> None:
        random, journal = self.random, self.journal()
        life = await self.trial.serve(journal)
        end = len(journal.operations) + random.randrange(10, 200)
        dead = asyncio.Event()

        def die(name: str) -> None:
            if len(journal.operations) >= end:
                journal.freeze()
                dead.set()

        journal.before = die
        callers: list[Caller] = []
        while not dead.is_set() and len(callers) < 250:
            some = random.choice([1, 1, 3, 10])
            callers += [life.send(self.traffic.command()) for _ in range(some)]
            await asyncio.sleep(random.choice([0, 0.01, 0.3, 1.2]))
            assert Phase.SERVING is life.owner.phase, life.owner.reason
        journal.before = lambda name: None
        if not dead.is_set():
            await self.check_sums(life)
            if random.randrange(2):
                await life.stop()
        await life.crash()
        self.check_acknowledged(callers)

    async def check_sums(self, life: Life) -> None:
        audit = (await life.ask(Audit(0))).body
        assert isinstance(audit, AuditView)
        assert (True, "", []) == (audit.complete, audit.skipped, audit.findings)
        assert life.owner.shard.digest() == audit.digest

    def check_acknowledged(self, callers: list[Caller]) -> None:
        """What was answered rests on what stands."""
        last = self.trial.last.position
        assert all((each.head.epoch, each.head.sequence) <= last for each in callers if each.head)

    async def check_recovery(self) -> None:
        """What a last owner finds is what all records add up to."""
        life = await self.trial.serve()
        assert self.trial.lived() == life.owner.shard.digest()
        await self.check_sums(life)
        await asyncio.sleep(1)
        stored = {key.split(":")[-2] for key in self.trial.store.chunks}
        assert len(stored) <= 2


@pytest.mark.parametrize("seed", range(12))
def test_random_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Random work, random faults, random deaths: what is recovered is what was lived."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 20)
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 5)
    monkeypatch.setattr(limits, "FINISHED_WINDOW_US", 4 * limits.SECOND_US)
    monkeypatch.setattr(limits, "KEYS_WINDOW_US", 6 * limits.SECOND_US)
    monkeypatch.setattr(limits, "RETURNS_WINDOW_US", 8 * limits.SECOND_US)

    @timeless
    async def walk() -> None:
        walk = Walk(tmp_path, seed)
        for _ in range(5):
            await walk.live()
        await walk.check_recovery()

    walk()
