"""Shards that move while they sell."""

import asyncio
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from engine.messages import Status
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.disk_probe import probing
from tests.faults.engine_process import EngineProcess, eventually, post, running
from tests.faults.history import Attempt, History, longest_gap, statuses
from tests.faults.load import load, stock

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
MOVES = 100
MOVED = 0
"""The shard that travels."""
BUYERS = 6
"""About half of what would keep the machine busy."""
SOLD = {Status.OK, Status.REPLAYED, Status.INSUFFICIENT_STOCK}


async def test_a_shard_moves_a_hundred_times(tmp_path: Path, figures: Figures) -> None:
    """Nobody is refused or kept waiting for long, of that shard or of another."""
    history, loop = History(), asyncio.get_running_loop()
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="move", buyers=BUYERS, direct=0) as buyers:
            await buyers.until(500)
            async with probing(tmp_path) as disk:
                began = loop.time()
                took = [await move(engine, MOVED) for _ in range(MOVES)]
                ended = loop.time()
        during = [each for each in history.attempts if began < each.sent < ended]
        books = await check(engine, history)
    figures(
        moves=MOVES,
        seconds_each=sorted(took)[MOVES // 2],
        operations=len(during),
        longest_gap_ms=_gap(during, began, moved=True) * 1_000,
        longest_gap_elsewhere_ms=_gap(during, began, moved=False) * 1_000,
        longest_fsync_of_the_disk_ms=disk.longest * 1_000,
        longest_waits_ms=_waits(during, _nothing, moved=True),
        longest_waits_elsewhere_ms=_waits(during, _nothing, moved=False),
        without_the_disk_ms=_waits(during, disk.held_up, moved=True),
        elsewhere_without_the_disk_ms=_waits(during, disk.held_up, moved=False),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert {each.status for each in during} <= SOLD


async def move(engine: EngineProcess, shard: int) -> float:
    """Have the shard moved to a host that it is not at; how long it took until it was there."""
    hosts = await engine.until_hosts(2)
    other = next(each.name for each in hosts if str(shard) not in each.epochs)
    loop = asyncio.get_running_loop()
    began = loop.time()
    code, said = await post(engine.http, f"/v1/shards/{shard}/move", {"host": other})
    assert code == 202, said

    async def is_there() -> bool:
        return any(
            each.name == other and str(shard) in each.epochs for each in await engine.hosts()
        )

    await eventually(is_there, 30)
    return loop.time() - began


def _gap(attempts: list[Attempt], after: float, *, moved: bool) -> float:
    """The longest time without a success, on the shard or on any one of the others."""
    shards = [MOVED] if moved else [each for each in range(SHARDS) if each != MOVED]
    return max(
        longest_gap([each for each in attempts if each.shard == shard], after) for shard in shards
    )


def _nothing(_: float, __: float) -> float:
    return 0.0


def _waits(
    attempts: list[Attempt], excused: Callable[[float, float], float], *, moved: bool
) -> list[float]:
    """The three longest that somebody waited for an answer, in milliseconds, less what is
    `excused` of the time from one moment to another."""
    waits = [
        each.answered - each.sent - excused(each.sent, each.answered)
        for each in attempts
        if (each.shard == MOVED) == moved and each.answered < inf
    ]
    return [1_000 * wait for wait in sorted(waits)[-3:]]
