"""A host dies that has much to remember, and a spare has kept up with it."""

import asyncio
import signal
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

import pytest

from actors.process import identify, send_signal
from engine.messages import LineRequest, Receive, Reserve, Status
from engine.placement import shard_of
from gateway.status import HostEntry
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.disk_probe import probing
from tests.faults.engine_process import EngineProcess, eventually, gone, running
from tests.faults.history import Attempt, History, all_served, first_success, statuses
from tests.faults.load import LOCATION, TTL_SECONDS, load, stock
from tests.faults.till import Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
OPEN = 100_000
"""Reservations in the shards of the host that dies."""
KILLS = 3
FRAME = 500
FLAGS = ("--shards", str(SHARDS), "--spares", "1")
DEADLINE_MS = 30_000


async def test_a_spare_takes_over_100_000_reservations(tmp_path: Path, figures: Figures) -> None:
    """kill -9, three times in a row, each time of the host that has them, and of nobody else."""
    history, loop = History(), asyncio.get_running_loop()
    first, every = list[float](), list[float]()
    async with running(tmp_path, *FLAGS) as engine:
        await stock(engine, history)
        victim = (await engine.hosts())[0]
        shards = victim.shards
        await fill(engine, history, shards)
        async with (
            load(engine, history, name="spare") as buyers,
            probing(tmp_path) as disk,
        ):
            for _ in range(KILLS):
                victim = await owner_with_a_spare(engine, shards)
                await buyers.until(2_000)
                identity = identify(victim.pid)
                assert identity is not None
                killed = loop.time()
                send_signal(identity, signal.SIGKILL)
                await buyers.until_served(shards)
                first.append(first_success(history.attempts, shards, killed))
                every.append(all_served(history.attempts, shards, killed))
                await gone([identity])
        books = await check(engine, history)
    figures(
        open_reservations=OPEN,
        first_success_s=first,
        all_shards_s=every,
        longest_fsync_of_the_disk_s=disk.longest,
        **books.figures,
        heard=statuses(history.attempts),
    )


async def fill(engine: EngineProcess, history: History, shards: Sequence[int]) -> None:
    """Open reservations in `shards`, of SKUs that nobody else buys."""
    every = (f"much-{number}" for number in count())
    skus = list(islice((each for each in every if shard_of(each, SHARDS) in shards), 64))
    async with Till(engine.binary) as till:
        received = [Receive(each, LOCATION, OPEN, key=f"much-{each}") for each in skus]
        await insist(till, history, received)
        wanted = [
            Reserve(f"open-{number}", [LineRequest(skus[number % 64], 1)], ttl_seconds=TTL_SECONDS)
            for number in range(OPEN)
        ]
        await insist(till, history, wanted)


async def insist(till: Till, history: History, commands: Sequence[Receive | Reserve]) -> None:
    loop = asyncio.get_running_loop()
    sent = loop.time()
    answers = await till.insist(commands, 120, FRAME, DEADLINE_MS)
    for command, answer in zip(commands, answers, strict=True):
        sku = command.sku if isinstance(command, Receive) else command.lines[0].sku
        shard, heard = shard_of(sku, SHARDS), loop.time()
        attempt = Attempt(command, shard, False, sent, heard, answer.status, None)
        history.record(attempt)
        assert answer.status in {Status.OK, Status.REPLAYED}, answer


async def owner_with_a_spare(engine: EngineProcess, shards: Sequence[int]) -> HostEntry:
    """Who owns `shards`, once another host could take over all of them in a moment."""

    async def found() -> HostEntry | None:
        hosts = await engine.hosts()
        if not any(set(shards) <= set(each.near) for each in hosts):
            return None
        return next((each for each in hosts if set(shards) <= set(map(int, each.epochs))), None)

    host = await eventually(found, 60)
    assert host is not None
    return host
