"""A host whose journal's server has no memory left: what is refused, and what makes room again."""

import asyncio
from pathlib import Path

import pytest

from actors.journal import Memory
from engine import limits
from engine.codec import Position
from engine.messages import Command, Commit, GetReservation, GetStock, Receive, Release, Status
from tests.actors.servers import eventually
from tests.actors.tenure import SKUS, RoomyJournal, Tenure, tenure
from tests.actors.trial import Trial, receive, reserve, timeless

TEXT = "x" * limits.TEXT_CHARS_MAX
POURED: list[list[Command]] = [[Receive(sku, "here", 1, TEXT, TEXT)] * 200 for sku in SKUS]
"""Frames that fill a journal: of all that waits here there is more than fits."""


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path, shards=2)


def fill(trial: Trial, share: float) -> None:
    """Let so much of the server's memory be used."""
    trial.store.limit = int(trial.store.used / share)


class SlowJournal(RoomyJournal):
    """Appends take a while, in which the host can look how full the server is."""

    async def append(
        self, shard: int, position: Position, record: bytes, *, create: bool = False
    ) -> None:
        await super().append(shard, position, record, create=create)
        self.most = max(self.most, (await self.memory()).used)
        await asyncio.sleep(0.05)

    most = 0


@timeless
async def test_a_flood_that_was_queued(trial: Trial) -> None:
    """What waits already when the server is found full is refused too, and so it never is full to
    the brim, where not even a snapshot could be begun; snapshots then make room."""
    journal = SlowJournal(trial.store)
    host = Tenure(trial, journal=journal)
    await host.own(0, 1)
    trial.store.limit = 20 << 20
    waiting = [host.send(*POURED[number % 2]) for number in range(200)]
    await eventually(lambda: all(waiting))
    heard = {each.status for [response] in waiting for each in response.answers}

    assert {Status.OK, Status.MEMORY_FULL} == heard
    assert 0.8 < journal.most / trial.store.limit < limits.MEMORY_STOP
    await asyncio.sleep(1)
    assert [Status.OK] * 2 == await host.statuses(*[reserve(sku, 1, sku) for sku in SKUS])
    await host.host.stop()


@timeless
async def test_hardly_any_memory(trial: Trial) -> None:
    """What is left is not for callers: they can read, and nothing else; what was queued is refused
    as well, all that is no writing is answered."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(5, SKUS[0]), reserve("r1", 1, SKUS[0]), reserve("r2", 1, SKUS[0]))
        host.journal.freeze()
        flying = host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.01)
        mixed: list[Command] = [
            GetStock(SKUS[0]),
            Commit("r1", 0),
            GetStock(SKUS[0]),
            GetReservation("r1", 0),
            Release("r2", 0),
        ]
        queued = host.send(*mixed)
        host.journal.memory_is = Memory(95, 100)
        await asyncio.sleep(1)
        assert [] == queued, "its reads wait"
        host.journal.thaw()
        await eventually(lambda: bool(queued and flying))

        full, ok = Status.MEMORY_FULL, Status.OK
        assert [ok, full, ok, ok, full] == [each.status for each in queued[0].answers]
        assert ok is flying[0].answers[0].status, "it had its place already"
        assert [ok, full, ok, ok, full] == await host.statuses(*mixed)
        host.journal.memory_is = Memory(94, 100)
        await asyncio.sleep(1)
        assert [full, ok] == await host.statuses(receive(1, SKUS[0]), Commit("r1", 0))


@pytest.mark.parametrize("generations", [1, 2])
def test_no_memory_for_an_append(
    trial: Trial, small_snapshots: None, monkeypatch: pytest.MonkeyPatch, generations: int
) -> None:
    """It waits until the older snapshot, and the journal before the newer one, were given up for
    it. What is left is a whole way back, and the next snapshot is taken at once."""

    @timeless
    async def run() -> None:
        async with tenure(trial, 0) as host:
            await grow(host, generations - 1)
            await host.ask(*POURED[0])
            await grow(host, generations)
            monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 10_000)
            fill(trial, 1.0)
            waiting = host.send(receive(1, SKUS[0]))
            await eventually(lambda: bool(waiting))
            assert Status.OK is waiting[0].answers[0].status
            assert trial.store.used < len(POURED[0]) * len(TEXT)
            assert [Status.OK] == await host.statuses(receive(1, SKUS[0]))

        again = await trial.serve()
        assert trial.lived() == again.owner.shard.digest()
        await again.stop()

    run()


async def grow(host: Tenure, generations: int) -> None:
    """Go on until so many snapshots were announced."""
    owner = host.owner(0)
    while owner.snapshotter is None or owner.snapshotter.count < generations:
        await host.ask(receive(1, SKUS[0]))
        await asyncio.sleep(1)
    await host.ask(receive(1, SKUS[0]))
    await asyncio.sleep(1)
