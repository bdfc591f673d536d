"""A shard that takes all that its host can do, and what that is to the others there."""

import asyncio
from math import inf
from pathlib import Path
from statistics import median

import pytest

from engine.messages import Status
from gateway.status import StatusReport
from tests.faults.ballast import pouring_on
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import eventually, running
from tests.faults.history import Attempt, History, statuses
from tests.faults.load import load, stock
from tests.faults.test_moves import BUYERS, SOLD

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
HOT = 0
DEPTH = 16
"""Frames at a time that are enough to keep a host busy."""
SECONDS = 5


async def test_a_hot_shard_is_left_alone(tmp_path: Path, figures: Figures) -> None:
    """Who shares a host with it leaves, nobody is refused for that, and nobody comes back."""
    history, loop = History(), asyncio.get_running_loop()
    flags = ("--shards", str(SHARDS), "--hot-shards", "move")
    async with running(tmp_path, *flags) as engine:
        await stock(engine, history)
        before = owners(await engine.status())
        neighbours = {each for each in before if before[each] == before[HOT]} - {HOT}
        async with load(engine, history, name="hot", buyers=BUYERS, direct=0) as buyers:
            await buyers.until(500)
            async with pouring_on(engine, HOT, DEPTH) as ballast:
                began = loop.time()

                async def is_alone() -> bool:
                    return any(each.alone for each in (await engine.status()).hot)

                await eventually(is_alone, 120)
                alone = loop.time()
                await buyers.for_seconds(SECONDS)
                status = await engine.status()
        during = [each for each in history.attempts if each.sent > began]
        books = await check(engine, history, whole=False)
    of_neighbours = [each for each in during if each.shard in neighbours]
    figures(
        alone_after_s=alone - began,
        share=status.hot[0].share,
        ballast={each.name.lower(): count for each, count in ballast.statuses.items()},
        neighbours_wait_ms=wait_ms([e for e in of_neighbours if e.sent < alone - 2]),
        neighbours_wait_elsewhere_ms=wait_ms([e for e in of_neighbours if e.sent > alone]),
        **books.figures,
        heard=statuses(during),
    )
    assert [(HOT, before[HOT])] == [(each.shard, each.host) for each in status.hot]
    assert [HOT] == [shard for shard, host in owners(status).items() if host == before[HOT]]
    assert {Status.OK} == set(ballast.statuses)
    assert {each.status for each in during} <= SOLD


def owners(status: StatusReport) -> dict[int, str]:
    """shard → host, of those that are served."""
    return {int(shard): host.name for host in status.hosts for shard in host.epochs}


def wait_ms(attempts: list[Attempt]) -> float:
    """The median."""
    return median(each.answered - each.sent for each in attempts if each.answered < inf) * 1_000
