"""Everything restarts, one process after the other, while it sells."""

import asyncio
from math import inf
from pathlib import Path

import pytest

from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, eventually, post, running
from tests.faults.history import History, longest_gap, statuses
from tests.faults.load import load, stock
from tests.faults.test_moves import BUYERS, SOLD

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4


async def test_everything_restarts_in_turn(tmp_path: Path, figures: Figures) -> None:
    """Hosts and gateways: nobody is refused, nobody is cut off, nothing is lost."""
    history, loop = History(), asyncio.get_running_loop()
    flags = ("--shards", str(SHARDS), "--gateways", "2")
    async with running(tmp_path, *flags) as engine:
        await stock(engine, history)
        async with load(engine, history, name="roll", buyers=BUYERS, direct=0) as buyers:
            await buyers.until(500)
            began = loop.time()
            before = await processes(engine)
            took = {name: await restart(engine, name) for name in before}
            await buyers.until(500)
        after = await processes(engine)
        during = [each for each in history.attempts if each.sent > began]
        books = await check(engine, history)
    figures(
        seconds_each=took,
        operations=len(during),
        longest_gap_ms=longest_gap(during, began) * 1_000,
        longest_wait_ms=max(e.answered - e.sent for e in during if e.answered < inf) * 1_000,
        **books.figures,
        heard=statuses(during),
    )
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert {each.status for each in during} <= SOLD


async def processes(engine: EngineProcess) -> dict[str, int]:
    """The name and the process id of every host and gateway that is alive."""
    status = await engine.status()
    hosts = {each.name: each.pid for each in status.hosts if each.alive}
    return hosts | {each.name: each.pid for each in status.gateways if each.alive}


async def restart(engine: EngineProcess, name: str) -> float:
    """Restart it; how long it took until it was back and every shard was served."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    before = (await processes(engine))[name]
    code, said = await post(engine.http, f"/v1/processes/{name}/restart", {})
    assert code == 202, said

    async def is_back() -> bool:
        try:
            return (await processes(engine)).get(name, before) != before
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return False  # asked of a gateway that was about to end

    await eventually(is_back, 60)
    await engine.until_ready()
    return loop.time() - began
