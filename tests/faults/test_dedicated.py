"""SKUs that are given a shard of their own while everything else sells, and whoever is at it dies.

A declaration is three steps, in two shards (`engine.dedication_rules`). Here the hosts of both are
killed between the first and the second, between the second and the third, and again in the sale.
"""

import asyncio
import json
import signal
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from actors.process import Identity, identify, send_signal
from engine.messages import Bind, Command, Dedicate, Status
from engine.placement import shard_of
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, eventually, gone, post, running
from tests.faults.history import UNAVAILABLE, UNKNOWN, History, all_served, statuses
from tests.faults.load import Load, load, stock
from tests.faults.redis_process import redis_running
from tests.faults.till import Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
LIVES = {"hot-0": SHARDS, "hot-1": SHARDS + 1}
HOT = tuple(LIVES)
UNITS = 600
BUYERS, DIRECT = 6, 2
EARLY = 1
"""Who comes before the sale hears that there is nothing, and asks again at once."""
SALE_SECONDS = 180
DECLARING_SECONDS = 60
SOLD = {Status.OK, Status.REPLAYED, Status.INSUFFICIENT_STOCK}
EXCUSED = {*UNAVAILABLE, *UNKNOWN}
"""What a kill allows."""


@pytest.mark.parametrize("count", [0, 2], ids=["embedded", "two servers"])
async def test_hosts_die_while_skus_are_dedicated_and_sold(
    tmp_path: Path, figures: Figures, count: int
) -> None:
    """The call that is made again completes each; all is sold, in one shard, and once. Of two
    servers the one has the first SKU's hashed shard, and the other its dedicated one."""
    history, loop = History(), asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(redis_running(tmp_path / f"server-{number}"))
            for number in range(count)
        ]
        urls = [each.url for each in servers]
        flags = ("--shards", str(SHARDS), "--dedicated", str(len(HOT)))
        redis = [f"--redis={url}" for url in urls]
        engine = await stack.enter_async_context(running(tmp_path / "data", *flags, *redis))
        await stock(engine, history)
        async with (
            load(engine, history, name="rest", buyers=BUYERS, direct=DIRECT) as rest,
            crowd(engine, history, "early", EARLY, 0),
        ):
            await rest.until(500)
            for steps, sku in enumerate(HOT, start=1):
                await begin(engine, sku, steps)
                killed = await kill_owners(engine, [sku])
                await declare(engine, sku)
                await gone(killed)
            await stock(engine, history, HOT, LIVES, UNITS)
            began = loop.time()
            async with crowd(engine, history, "late", BUYERS, DIRECT) as late:
                await late.until(100)
                killed = await kill_owners(engine, HOT)
                killed_at = loop.time()
                await late.until_served(list(LIVES.values()))
                served = all_served(history.attempts, LIVES.values(), killed_at)
                await eventually(lambda: sold_out(history, began), SALE_SECONDS)
                await gone(killed)
        books = await check(engine, history, redis_url=urls or None)
    hot = [each for each in history.attempts if each.shard in LIVES.values()]
    figures(served_s=served, **books.figures, heard=statuses(hot))
    assert {each.status for each in hot} <= SOLD | EXCUSED


def crowd(
    engine: EngineProcess, history: History, name: str, buyers: int, direct: int
) -> AbstractAsyncContextManager[Load]:
    """Buyers of the hot SKUs alone, who bring nothing."""
    return load(
        engine,
        history,
        name=name,
        skus=HOT,
        buyers=buyers,
        direct=direct,
        lives=LIVES,
        refill=0,
    )


async def begin(engine: EngineProcess, sku: str, steps: int) -> None:
    """Take the first steps, as a gateway does that dies after them."""
    commands: Sequence[Command] = (Bind(LIVES[sku], sku), Dedicate(sku, LIVES[sku]))
    async with Till(engine.binary) as till:
        for command in commands[:steps]:
            (answer,) = await till.insist([command])
            assert answer.status in (Status.OK, Status.REPLAYED), answer


async def kill_owners(engine: EngineProcess, skus: Iterable[str]) -> list[Identity]:
    """Kill the hosts of their dedicated and of their hashed shards."""
    await engine.until_ready()
    shards = {shard for sku in skus for shard in (shard_of(sku, SHARDS), LIVES[sku])}
    victims = []
    for host in await engine.hosts():
        if shards & set(map(int, host.epochs)):
            identity = identify(host.pid)
            assert identity is not None
            victims.append(identity)
    assert victims
    for each in victims:
        send_signal(each, signal.SIGKILL)
    return victims


async def declare(engine: EngineProcess, sku: str) -> None:
    """Make the call until it is done; it is told meanwhile that nobody is there."""

    async def is_done() -> bool:
        code, said = await post(
            engine.http, f"/v1/stock/{sku}/dedicate", {"shard": LIVES[sku]}, DECLARING_SECONDS
        )
        assert code in (200, 503), said
        return code == 200 and json.loads(said) == {"sku": sku, "shard": LIVES[sku]}

    await eventually(is_done, DECLARING_SECONDS)


async def sold_out(history: History, began: float) -> bool:
    """Whether of each of them somebody was told so who has come since."""
    told = {each.shard for each in history.since(began) if each.status is Status.INSUFFICIENT_STOCK}
    return set(LIVES.values()) <= told
