"""The journal is on two servers, of two makes, and one of them dies under load."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.placement import shard_of
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, StartError, eventually, get, running, start
from tests.faults.history import UNAVAILABLE, History, all_served, longest_gap, statuses
from tests.faults.load import SKUS, load, stock
from tests.faults.redis_process import RedisProcess, redis_running
from tests.faults.test_backup import onhand

pytestmark = [pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
HERE, THERE = range(0, SHARDS, 2), range(1, SHARDS, 2)
"""The shards of the server that lives, and of the one that dies."""
DOWN_SECONDS = 4.0
NAMES = ("valkey", "redis")


def flags(*servers: RedisProcess) -> list[str]:
    return ["--shards", str(SHARDS), *(f"--redis={each.url}" for each in servers)]


def on(shards: range) -> list[str]:
    """The SKUs of these shards."""
    return [sku for sku in SKUS if shard_of(sku, SHARDS) in shards]


@asynccontextmanager
async def two_servers(directory: Path) -> AsyncIterator[list[RedisProcess]]:
    async with (
        redis_running(directory / "server-0", NAMES[0]) as first,
        redis_running(directory / "server-1", NAMES[1]) as second,
    ):
        yield [first, second]


async def test_one_of_two_is_killed(tmp_path: Path, figures: Figures) -> None:
    """Nobody who asks for the other's shards hears an error; status and readiness say which one is
    down and what that stops; when it is back nothing is lost."""
    history = History()
    loop = asyncio.get_running_loop()
    async with (
        two_servers(tmp_path) as servers,
        running(tmp_path / "data", *flags(*servers)) as engine,
    ):
        await stock(engine, history)
        async with (
            load(engine, history, name="here", skus=on(HERE), buyers=12, direct=3) as here,
            load(engine, history, name="there", skus=on(THERE), buyers=12, direct=3) as there,
        ):
            await there.until(300)
            await servers[1].kill()
            killed = loop.time()
            await there.until_refused()
            await eventually(lambda: tells(engine, down=[1]))
            await here.for_seconds(DOWN_SECONDS)
            meanwhile = [each for each in history.since(killed) if each.answered < loop.time()]
            back = loop.time()
            await servers[1].start()
            await there.until_served(THERE)
            await eventually(lambda: tells(engine, down=[]))
        books = await check(engine, history, redis_url=[each.url for each in servers])
    fine = [each for each in meanwhile if each.shard in HERE]
    figures(
        all_shards_s=all_served(history.attempts, THERE, back),
        longest_gap_of_the_other_s=longest_gap(fine, killed),
        meanwhile_here=statuses(fine),
        meanwhile_there=statuses(each for each in meanwhile if each.shard in THERE),
        **books.figures,
    )
    assert len(fine) > 100
    assert [] == [each for each in fine if each.status is None or each.status in UNAVAILABLE]


async def tells(engine: EngineProcess, down: list[int]) -> bool:
    """Whether everybody who is asked says that these servers are down, and what follows from it."""
    code, body = await get(engine.http, "/readyz")
    report = await engine.status()
    _, page = await get(engine.http, "/metrics")
    up = {
        line.partition('server="')[2][0]
        for line in page.decode().splitlines()
        if line.startswith("onhand_journal_up{") and line.endswith(" 1.0")
    }
    named = f"Servers of the journal that are down: {', '.join(map(str, down))}."
    return (
        (code == 503 and named in json.loads(body)["detail"] if down else code == 200)
        and [each.server for each in report.servers if not each.up] == down
        and [list(HERE), list(THERE)] == [each.shards for each in report.servers]
        and up == {str(number) for number in range(2) if number not in down}
    )


async def test_an_engine_comes_up_without_one_of_two(tmp_path: Path) -> None:
    """Everything dies, and one server stays down: the shards of the other are served, and what was
    acknowledged on both is there when it is back."""
    history = History()
    async with two_servers(tmp_path) as servers:
        async with running(tmp_path / "data", *flags(*servers)) as engine:
            await stock(engine, history)
            async with load(engine, history, name="before") as buyers:
                await buyers.until(300)
                await servers[1].kill()
                await engine.kill_all()
        async with running(tmp_path / "data", *flags(*servers)) as engine:
            async with load(engine, history, name="without", skus=on(HERE)) as buyers:
                await buyers.until_served(HERE)
            await eventually(lambda: tells(engine, down=[1]))
            await servers[1].start()
            await engine.until_ready()
            await check(engine, history, redis_url=[each.url for each in servers])


async def test_swapped_or_missing_servers_are_refused(tmp_path: Path) -> None:
    """In one line that says what is wrong, and before anything is claimed; under their own names
    the engine comes up again. A backup moves it to one server, or to others."""
    history = History()
    async with two_servers(tmp_path) as servers, redis_running(tmp_path / "server-2") as third:
        async with running(tmp_path / "data", *flags(*servers)) as engine:
            await stock(engine, history)
        for named, said in (
            (servers[::-1], "it is server 1 of 2 for 8 shards, and was named as server 0 of 2"),
            (servers[:1], "is on 2 servers, but --redis names 1; `onhand backup`"),
            ([*servers, third], "is on 2 servers, but --redis names 3; `onhand backup`"),
            ([servers[0], third], "it does not know that it is server 1 of 2 for 8 shards"),
        ):
            with pytest.raises(StartError) as refused:
                await start(tmp_path / "data", *flags(*named))
            assert said in refused.value.said
            assert 1 == len(refused.value.said.splitlines())
        place = ("--data-dir", tmp_path / "data", "--to", tmp_path / "backup")
        await onhand("backup", *place, *flags(*servers)[2:])
        async with running(tmp_path / "data", *flags(*servers)) as engine:
            await check(engine, history, redis_url=[each.url for each in servers])
        await servers[0].kill()
        await servers[1].kill()
        named = [third]
        await onhand(
            "restore", tmp_path / "backup", "--data-dir", tmp_path / "new", *flags(*named)[2:]
        )
        async with running(tmp_path / "new", *flags(*named)) as engine:
            await check(engine, history, redis_url=third.url)
