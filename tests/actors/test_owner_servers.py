"""Owners over real servers: Valkey as it is embedded, Redis as it is distributed."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors.claim import Floor
from actors.journal import RedisJournal
from actors.phase import Phase
from actors.redis_server import RedisServer
from engine import limits
from engine.codec import GENESIS, START, Position, Record, decode_record
from engine.messages import (
    Audit,
    AuditView,
    Commit,
    GetReservation,
    GetStock,
    Opened,
    SnapshotTaken,
    Status,
)
from engine.snapshot import chunk_name
from tests.actors.servers import SERVERS, eventually, running
from tests.actors.trial import Caller, Life, Trial, receive, reserve

pytestmark = pytest.mark.redis
NOT_SERVED = (Status.OUTCOME_UNKNOWN, Status.MOVED)
"""What a fenced owner answers: to what it had decided, and to what it had not."""


class Ground:
    """A server, and the owners that come and go on it."""

    def __init__(self, stack: AsyncExitStack, server: RedisServer, directory: Path) -> None:
        self._stack = stack
        self.server = server
        self.trial = Trial(directory / "marks")
        self.data = directory / "data"
        self.copy = directory / "copy"
        self._lives: list[Life] = []
        stack.push_async_callback(self._end)

    async def _end(self) -> None:
        for life in self._lives:
            life.task.cancel()
            await asyncio.wait([life.task])
            if life.owner.snapshotter is not None:
                await life.owner.snapshotter.stop()

    async def journal(self, timeout: float = 5.0) -> RedisJournal:
        """A connection of its own."""
        journal = RedisJournal(self.server.url, timeout=timeout)
        await journal.open()
        self._stack.push_async_callback(journal.close)
        return journal

    async def serve(self, timeout: float = 5.0) -> Life:
        """One more owner, which serves."""
        life = await self.trial.serve(await self.journal(timeout))
        self._lives.append(life)
        return life

    async def records(self) -> list[Record]:
        """All that stands."""
        journal = await self.journal()
        entries = await journal.read(0, START, limits.JOURNAL_READ_ENTRIES_MAX)
        return [decode_record(data, 0, where) for where, data in entries]

    async def found(self) -> bytes:
        """The digest of what the newest owner has found."""
        [opened] = (await self.records())[-1].events
        assert isinstance(opened, Opened)
        return opened.digest

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        assert self.server.pid is not None
        os.kill(self.server.pid, number)

    async def restart(self) -> None:
        """Another process serves what the last one left."""
        await self.server.stop()
        await self.server.start(timeout=30)

    async def take_copy(self) -> None:
        """What an operator may restore later."""
        await self.server.stop()
        shutil.copytree(self.data, self.copy)
        await self.server.start(timeout=30)

    async def go_back(self) -> None:
        """The operator restores the copy."""
        await self.server.stop()
        shutil.rmtree(self.data)
        shutil.copytree(self.copy, self.data)
        await self.server.start(timeout=30)


@pytest.fixture(params=SERVERS)
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    async with AsyncExitStack() as stack:
        (tmp_path / "data").mkdir()
        (tmp_path / "marks").mkdir()
        server = await stack.enter_async_context(running(tmp_path / "data", request.param))
        yield Ground(stack, server, tmp_path)


async def sums(life: Life) -> AuditView:
    """What the shard holds; it adds up."""
    audit = (await life.ask(Audit(0))).body
    assert isinstance(audit, AuditView)
    assert [] == audit.findings
    return audit


async def test_lives_on_a_server(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work, snapshots, trims, departure, recovery: what is found is what was left."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 20)
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 5)
    for epoch in (1, 2):
        life = await ground.serve()
        for number in range(60):
            callers = [life.send(receive(3, f"sku-{number % 9}"))]
            name = f"r{epoch}-{number}"
            callers += [
                life.send(reserve(name, 2, f"sku-{number % 9}")),
                life.send(Commit(name, 0)),
            ]
            assert Status.OK is (await callers[-1].first()).status
        left = (await sums(life)).digest
        await life.stop()
        await ground.serve()
        assert left == await ground.found()

    records = await ground.records()
    taken = [event for each in records for event in each.events if isinstance(event, SnapshotTaken)]
    assert len(taken) >= 2
    assert records[0].position != GENESIS
    journal = await ground.journal()
    for each in taken[-2:]:
        position = Position(each.epoch, each.sequence)
        assert position >= records[0].position
        for number in range(each.chunks):
            assert await journal.load(0, chunk_name(position, number)) is not None


async def test_the_last_claimant_serves(ground: Ground) -> None:
    """Two owners meet: the older one is fenced, whether it writes or only reads."""
    first, second = await ground.serve(), await ground.serve()
    stale = first.send(GetStock("sku"))
    assert Phase.FENCED is await first.ended()
    assert stale.status in NOT_SERVED
    third = await ground.serve()
    late = second.send(receive(1))
    assert Phase.FENCED is await second.ended()
    assert late.status in NOT_SERVED

    assert Status.OK is (await third.ask(receive(1))).status
    assert 1 == (await sums(third)).on_hand


async def test_claimants_at_once(ground: Ground) -> None:
    """On a new journal, all in the same moment: one is left."""
    lives = [ground.trial.begin(await ground.journal()) for _ in range(4)]
    for life in lives:
        await life.settled()
        life.owner.poke(prove=True)
    await eventually(lambda: sum(life.task.done() for life in lives) == 3)

    phases = sorted(life.owner.phase.value for life in lives)
    assert ["fenced", "fenced", "fenced", "serving"] == phases
    for life in lives:
        await life.crash()


async def test_a_server_that_is_killed(ground: Ground) -> None:
    """Under load, three times: all that was acknowledged is there, nothing twice."""
    life = await ground.serve()
    await life.ask(receive(10_000))
    callers: list[Caller] = []
    for _ in range(3):
        for number in range(50):
            if number == 40:
                ground.kill()
            callers.append(life.send(reserve(f"r{len(callers)}")))
            await asyncio.sleep(0.001)
        await ground.restart()
        assert Status.OK is (await life.ask(receive(1))).status

    assert {Status.OK} == {(await caller.first()).status for caller in callers}
    await life.crash()
    life = await ground.serve()
    assert len(callers) == (await sums(life)).reserved
    for number in range(0, len(callers), 10):
        assert Status.OK is (await life.ask(GetReservation(f"r{number}", 0))).status


async def test_a_server_that_freezes(ground: Ground) -> None:
    """Silence is not loss: what was sent is there once, and everybody is answered."""
    life = await ground.serve(timeout=0.3)
    await life.ask(receive(10))
    ground.signal(signal.SIGSTOP)
    caller = life.send(reserve("r1"))
    appender = life.owner.appender
    assert appender is not None
    await eventually(lambda: appender.retried > 0)
    ground.signal(signal.SIGCONT)

    assert Status.OK is (await caller.first()).status
    assert Status.REPLAYED is (await life.ask(reserve("r1"))).status
    assert 1 == (await sums(life)).reserved


async def test_a_server_that_went_back(ground: Ground) -> None:
    """An older copy under a living owner: it gives back what the copy does not have."""
    life = await ground.serve()
    await life.ask(receive(10))
    await ground.take_copy()
    for number in range(5):
        assert Status.OK is (await life.ask(reserve(f"r{number}"))).status
    await ground.go_back()
    assert Status.OK is (await life.ask(reserve("r5"))).status
    left = (await sums(life)).digest
    await life.crash()

    life = await ground.serve()
    assert 6 == (await sums(life)).reserved
    assert left == await ground.found()


async def test_a_server_that_went_back_too_far(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the ring the owner stops, and whoever knows of the lost records does not start."""
    monkeypatch.setattr(limits, "RING_BYTES_MAX", 1)
    life = await ground.serve()
    await life.ask(receive(10))
    await ground.take_copy()
    for number in range(5):
        await life.ask(reserve(f"r{number}"))
    known = life.owner.appender
    assert known is not None
    await ground.go_back()
    caller = life.send(reserve("r5"))
    assert Phase.FAILED is await life.ended()
    assert Status.OUTCOME_UNKNOWN is caller.status

    floor = Floor(known.position, known.checksum)
    reason = await ground.trial.refused(await ground.journal(), floors=[floor])
    assert f"{known.position} was acknowledged" in reason
