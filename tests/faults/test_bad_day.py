"""One engine through a bad day: a flash sale, deaths, the death of everything, and the end.

A short selection of what the other modules of this package do at length, told in order on one data
directory, because starting takes seconds. Everything that any client was ever told is held against
what is there after each of the deaths.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from actors.process import identify, is_alive, send_signal
from engine.messages import (
    Command,
    Commit,
    LineRequest,
    Receive,
    ReservationView,
    Reserve,
    Response,
    Status,
)
from engine.placement import shard_of
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, gone, start
from tests.faults.history import Attempt, History, first_success, longest_gap, statuses
from tests.faults.load import LOCATION, TTL_SECONDS, load, stock
from tests.faults.till import Till

pytestmark = [pytest.mark.ray, pytest.mark.redis, pytest.mark.asyncio(loop_scope="module")]

SHARDS = 8
FLAGS = ("--shards", str(SHARDS), "--gateways", "2")
UNITS, BUYERS, TILLS = 100, 320, 32
FIRST_SUCCESS_SECONDS = 2.5
LOADED = 1_000
"""Operations that are acknowledged before each blow."""


class Day:
    """The engine, as often as it is started, and what everybody was told."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.engines: list[EngineProcess] = []
        self.history = History()

    @property
    def engine(self) -> EngineProcess:
        return self.engines[-1]

    async def start(self) -> None:
        self.engines.append(await start(self.data_dir, *FLAGS))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def day(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Day]:
    day = Day(tmp_path_factory.mktemp("day"))
    await day.start()
    try:
        await stock(day.engine, day.history)
        yield day
    finally:
        for engine in day.engines:
            await engine.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tills(day: Day) -> AsyncIterator[list[Till]]:
    """Clients, some at the one gateway and some at the other."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(Till(day.engine.binary)) for _ in range(TILLS)]
        for till in made:
            assert await till.connected(10)
        yield made


async def ask(day: Day, till: Till, command: Command, sku: str) -> Response:
    """What is answered; nothing is in the way."""
    loop = asyncio.get_running_loop()
    sent = loop.time()
    response = await till.ask([command], 10_000)
    assert response is not None
    status = response.answers[0].status
    shard = shard_of(sku, SHARDS)
    if status in (Status.OK, Status.INSUFFICIENT_STOCK):
        day.history.record(Attempt(command, shard, False, sent, loop.time(), status, None))
    return response


async def test_a_hundred_units_for_320_buyers(
    day: Day, tills: list[Till], figures: Figures
) -> None:
    """All at once, through two gateways: exactly a hundred have bought."""
    sku = "sneaker"
    home = shard_of(sku, SHARDS)
    await ask(day, tills[0], Receive(sku, LOCATION, UNITS, key="sneakers"), sku)

    async def buy(number: int) -> Status:
        till, name = tills[number % TILLS], f"buyer-{number}"
        reserve = Reserve(name, [LineRequest(sku, 1)], ttl_seconds=TTL_SECONDS)
        status = (await ask(day, till, reserve, sku)).answers[0].status
        if status is Status.OK:
            status = (await ask(day, till, Commit(name, home), sku)).answers[0].status
        return status

    began = asyncio.get_running_loop().time()
    heard = Counter(await asyncio.gather(*(buy(number) for number in range(BUYERS))))

    took = asyncio.get_running_loop().time() - began
    gateways = Counter(till.name for till in tills)
    figures(bought=heard[Status.OK], seconds=took, connections=dict(gateways))
    assert {Status.OK: UNITS, Status.INSUFFICIENT_STOCK: BUYERS - UNITS} == heard
    assert 2 == len(gateways)


async def test_one_id_from_32_clients(day: Day, tills: list[Till], figures: Figures) -> None:
    """The same reserve, and then the same commit, at the same moment through both gateways: done
    once, and every answer shows the same reservation."""
    sku = "sku-1"
    home = shard_of(sku, SHARDS)
    commands: list[Command] = [
        Reserve("same", [LineRequest(sku, 3)], ttl_seconds=TTL_SECONDS),
        Commit("same", home),
    ]
    for command in commands:
        asked = (ask(day, till, command, sku) for till in tills)
        answers = [response.answers[0] for response in await asyncio.gather(*asked)]

        views = [each.body for each in answers]
        assert {Status.OK: 1, Status.REPLAYED: TILLS - 1} == Counter(a.status for a in answers)
        assert isinstance(views[0], ReservationView)
        assert views == [views[0]] * TILLS
    figures(clients=TILLS, done=1)


async def test_a_host_is_killed(day: Day, figures: Figures) -> None:
    """Under load: others serve its shards within moments; nothing is lost or doubled."""
    engine, history = day.engine, day.history
    loop = asyncio.get_running_loop()
    async with load(engine, history, name="host") as buyers:
        await buyers.until(LOADED)
        victim = (await engine.until_hosts(2))[0]
        identity = identify(victim.pid)
        assert identity is not None
        send_signal(identity, signal.SIGKILL)
        killed = loop.time()
        shards = [int(each) for each in victim.epochs]
        await buyers.until_served(shards)
        first = first_success(history.attempts, shards, killed)
        await gone([identity])
    books = await check(engine, history)
    figures(first_success_s=first, **books.figures)
    assert first <= FIRST_SUCCESS_SECONDS


async def test_the_embedded_server_is_killed(day: Day, figures: Figures) -> None:
    """Under load: it comes back by itself, and so does service."""
    engine, history = day.engine, day.history
    loop = asyncio.get_running_loop()
    async with load(engine, history, name="redis") as buyers:
        await buyers.until(LOADED)
        send_signal(engine.redis, signal.SIGKILL)
        killed = loop.time()
        await buyers.until_served(range(SHARDS))
        gap = longest_gap(history.attempts, killed)
    books = await check(engine, history)
    figures(longest_without_success_s=gap, **books.figures)


async def test_everything_is_killed(day: Day, figures: Figures) -> None:
    """kill -9 of every process under load: the next one ends what is left, and has everything."""
    engine, history = day.engine, day.history
    loop = asyncio.get_running_loop()
    async with load(engine, history, name="everything") as buyers:
        await buyers.until(LOADED)
        killed = await engine.kill_all()
    began = loop.time()
    await day.start()
    up = loop.time() - began
    assert [] == [each for each in engine.seen if is_alive(each)]
    books = await check(day.engine, history)
    figures(processes_killed=killed, up_s=up, **books.figures, heard=statuses(history.attempts))


async def test_an_end_in_order(day: Day, figures: Figures) -> None:
    """SIGTERM under load: exit status 0, no process left, no socket left."""
    engine = day.engine
    loop = asyncio.get_running_loop()
    async with load(engine, day.history, name="end") as buyers:
        await buyers.until(LOADED)
        before = loop.time()
        assert 0 == await engine.stop()
        took = loop.time() - before
    assert [] == engine.left_running()
    assert not engine.run_dir.exists()
    figures(stopped_s=took)
