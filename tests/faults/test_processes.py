"""Every kind of process is killed: all at once, and each on its own."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from actors.process import Identity, identify, is_alive, send_signal
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, eventually, gone, running
from tests.faults.history import History, longest_gap, statuses
from tests.faults.load import load, stock

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
OUTAGE_SECONDS_MAX = 30.0
"""Ray starts anew in 4 to 10 s on two cores."""


async def test_everything_is_killed_at_once(tmp_path: Path, figures: Figures) -> None:
    """kill -9 of every process; `onhand up` on the same directory has everything, twice over."""
    history, killed, up = History(), [], []
    loop = asyncio.get_running_loop()
    seen: set[Identity] = set()
    for life in range(3):
        before = loop.time()
        async with running(tmp_path, "--shards", str(SHARDS)) as engine:
            up.append(loop.time() - before)
            if life == 0:
                await stock(engine, history)
            else:
                assert [] == [each for each in seen if is_alive(each)]
                books = await check(engine, history)
            async with load(engine, history, name=f"life-{life}") as buyers:
                await buyers.until(2_000)
                killed.append(await engine.kill_all())
            seen |= engine.seen
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        assert [] == [each for each in seen if is_alive(each)]
        books = await check(engine, history)
    heard = statuses(history.attempts)
    figures(processes_killed=killed, up_s=up, **books.figures, heard=heard)


async def test_only_onhand_itself_is_killed(tmp_path: Path, figures: Figures) -> None:
    """kill -9 of `onhand up` alone: what it leaves behind ends, at the next start at the latest."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="before") as buyers:
            await buyers.until(2_000)
            engine.note()
            identity = identify(engine.pid)
            assert identity is not None
            send_signal(identity, signal.SIGKILL)
            await gone([identity])
        left = engine.left_running()
        before = loop.time()
        async with running(tmp_path, "--shards", str(SHARDS)) as second:
            up = loop.time() - before
            assert [] == engine.left_running()
            assert not engine.run_dir.exists()
            async with load(second, history, name="after") as buyers:
                await buyers.until(1_000)
            books = await check(second, history)
    figures(left_behind=len(left), up_s=up, **books.figures, heard=statuses(history.attempts))


async def gateway(engine: EngineProcess) -> list[Identity]:
    try:
        status = await engine.status()
    except (OSError, asyncio.IncompleteReadError):
        return []
    found = [identify(each.pid) for each in status.gateways if each.alive]
    return [each for each in found if each is not None]


async def raylet(engine: EngineProcess) -> list[Identity]:
    return engine.find("raylet")


async def gcs(engine: EngineProcess) -> list[Identity]:
    return engine.find("gcs_server")


async def redis(engine: EngineProcess) -> list[Identity]:
    return engine.find("valkey-server", "redis-server")


Find = Callable[[EngineProcess], Awaitable[list[Identity]]]


@pytest.mark.parametrize("victim", [gateway, raylet, gcs, redis])
async def test_one_is_killed(tmp_path: Path, figures: Figures, victim: Find) -> None:
    """Twice in a row, under load: service returns by itself, and nothing is lost or doubled."""
    history, gaps, back = History(), [], []
    loop = asyncio.get_running_loop()
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="kill") as buyers:
            for _ in range(2):
                await buyers.until(2_000)
                (identity,) = await victim(engine)
                send_signal(identity, signal.SIGKILL)
                killed = loop.time()
                await replaced(engine, victim, identity)
                await engine.until_ready(60)
                await buyers.until_served(range(SHARDS), 60)
                back.append(loop.time() - killed)
                through = [each for each in history.attempts if not each.direct]
                gaps.append(longest_gap(through, killed))
        books = await check(engine, history)
        assert 0 == await engine.stop()
        assert [] == engine.left_running()
    heard = statuses(history.attempts)
    figures(longest_without_success_s=gaps, replaced_s=back, **books.figures, heard=heard)
    assert max(gaps) < OUTAGE_SECONDS_MAX


async def replaced(engine: EngineProcess, find: Find, dead: Identity) -> None:
    """Wait until there is another in the place of the dead."""

    async def others() -> set[Identity]:
        return set(await find(engine)) - {dead}

    await eventually(others, 60)
