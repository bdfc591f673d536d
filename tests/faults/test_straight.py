"""Clients that go straight to the hosts, while shards move and hosts and gateways die."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, pairwise
from pathlib import Path
from random import Random

import pytest

from actors.data_directory import DataDirectory
from actors.keys import KeyFile
from actors.process import Identity, identify, send_signal
from engine.messages import Command, Find, Homes, SetStock, Status, StockView
from engine.placement import shard_of
from gateway.client import Client, Refused
from gateway.http_client import HttpClient
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, eventually, gone, running
from tests.faults.history import DONE, UNAVAILABLE, Attempt, History, longest_wait, statuses
from tests.faults.load import LOCATION, SKUS, Doors, Load, stock

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
MOVES = 24
CLIENTS = 4
BUYERS = 24
COUNTED = "counted"
"""SKUs of these names are of the counters: nobody buys them."""


class StraightLoad(Load):
    """The buyers of every other test, on clients that find the owners by themselves."""

    clients: Sequence[Client] = ()

    async def _once(self, command: Command, sku: str, number: int, direct: bool) -> Attempt:
        sent = self._loop.time()
        answer = await self.clients[number % len(self.clients)].submit(command)
        shard = shard_of(sku, self._doors.shards)
        attempt = Attempt(command, shard, False, sent, self._loop.time(), answer.status, None)
        self._history.record(attempt)
        return attempt


class Counter:
    """Sets one number of one SKU to 1, 2, 3 …, without waiting for the answers."""

    def __init__(self, client: Client, sku: str) -> None:
        self.sku = sku
        self.answered: list[tuple[int, Status, int]] = []
        """The number, what was heard, and the version that the SKU had by then."""
        self._client = client
        self._room = asyncio.Semaphore(64)
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        for number in count(1):
            await self._room.acquire()
            call = asyncio.create_task(self._set(number))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def finish(self) -> None:
        await asyncio.gather(*self._calls)

    async def _set(self, number: int) -> None:
        answer = await self._client.submit(SetStock(self.sku, {LOCATION: number}))
        version = answer.body.version if isinstance(answer.body, StockView) else 0
        self.answered.append((number, answer.status, version))
        self._room.release()

    def out_of_order(self) -> list[int]:
        """Numbers that were set after a higher one."""
        done = sorted((number, version) for number, status, version in self.answered if version)
        return [number for (_, before), (number, version) in pairwise(done) if version <= before]


@asynccontextmanager
async def straight_load(
    engine: EngineProcess, history: History, name: str
) -> AsyncIterator[tuple[StraightLoad, list[Counter]]]:
    """Buyers and, for each shard, a counter, for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        doors = await stack.enter_async_context(Doors(engine, SHARDS))
        clients = [
            await stack.enter_async_context(Client.connect(engine.binary, straight=True))
            for _ in range(CLIENTS)
        ]
        buyers = StraightLoad(doors, history, SKUS, 1, name)
        buyers.clients = clients
        counters = [
            Counter(clients[shard % CLIENTS], counted_sku(shard)) for shard in range(SHARDS)
        ]
        counting = [asyncio.create_task(each.run()) for each in counters]
        buyers.start(BUYERS, 0)
        try:
            yield buyers, counters
        finally:
            for task in counting:
                task.cancel()
            await asyncio.gather(*counting, return_exceptions=True)
            await asyncio.gather(*(each.finish() for each in counters))
            await buyers.stop()


def counted_sku(shard: int) -> str:
    return next(name for n in count() if shard_of(name := f"{COUNTED}-{n}", SHARDS) == shard)


async def move(engine: EngineProcess, random: Random) -> bool:
    """Have some shard moved to another host, and wait until somebody has it anew; False if it was
    on its way already, because the coordinator evens the load out."""
    hosts = await engine.until_hosts(2)
    source = random.choice([each for each in hosts if each.epochs])
    target = random.choice([each for each in hosts if each is not source])
    shard, epoch = random.choice(sorted(source.epochs.items()))
    http = HttpClient(engine.http)
    reply = await asyncio.to_thread(http.post, f"/v1/shards/{shard}/move", {"host": target.name})

    async def has_moved() -> bool:
        return any(each.epochs.get(shard, 0) > epoch for each in await engine.hosts())

    if reply.ok:
        await eventually(has_moved)
    return reply.ok


async def test_straight_clients_while_shards_move(tmp_path: Path, figures: Figures) -> None:
    """Nobody hears of a move: every call is answered as if there had been none, in order."""
    history, random = History(), Random(4)
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history, [*SKUS, *map(counted_sku, range(SHARDS))])
        async with straight_load(engine, history, "moves") as (buyers, counters):
            await buyers.until(500)
            moves = 0
            while moves < MOVES:
                moves += await move(engine, random)
                await buyers.until(50)
        books = await check(engine, history)
    assert [[]] * SHARDS == [each.out_of_order() for each in counters]
    assert {Status.OK} == {status for each in counters for _, status, _ in each.answered}
    assert [] == [each for each in history.attempts if each.status in UNAVAILABLE]
    figures(
        longest_wait_s=longest_wait(history.attempts),
        set=sum(len(each.answered) for each in counters),
        **books.figures,
        heard=statuses(history.attempts),
    )


async def test_straight_clients_while_processes_fail(tmp_path: Path, figures: Figures) -> None:
    """A host is killed, another freezes and wakes up, the entry is killed: what was acknowledged
    is there once, in order; at most the outcome of a few calls stays unknown."""
    history = History()
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history, [*SKUS, *map(counted_sku, range(SHARDS))])
        async with straight_load(engine, history, "fails") as (buyers, counters):
            await buyers.until(1_000)
            killed = await strike(engine, signal.SIGKILL)
            await buyers.until_served(range(SHARDS))
            await gone([killed])
            await engine.until_hosts(2)
            frozen = await strike(engine, signal.SIGSTOP)
            await buyers.until_served(range(SHARDS))
            send_signal(frozen, signal.SIGCONT)
            await gone([frozen])
            for each in (await engine.status()).gateways:
                entry = identify(each.pid)
                assert entry is not None
                send_signal(entry, signal.SIGKILL)
            await buyers.until(1_000)
            await engine.until_hosts(2)
            await engine.until_ready()
            await buyers.until_served(range(SHARDS))
        books = await check(engine, history)
    assert [[]] * SHARDS == [each.out_of_order() for each in counters]
    heard = {status for each in counters for _, status, _ in each.answered}
    assert heard <= {*DONE, Status.OUTCOME_UNKNOWN, Status.NOT_DONE}
    figures(
        longest_wait_s=longest_wait(history.attempts),
        set=sum(len(each.answered) for each in counters),
        **books.figures,
        heard=statuses(history.attempts),
    )


async def strike(engine: EngineProcess, number: signal.Signals) -> Identity:
    """Send a signal to the host that has most shards."""
    victim = identify((await engine.until_hosts(2))[0].pid)
    assert victim is not None
    send_signal(victim, number)
    return victim


async def test_straight_clients_from_elsewhere(tmp_path: Path) -> None:
    """Where gateways are reached from other machines, so are hosts, with a key: each sees there
    what its key may see."""
    keys = KeyFile(DataDirectory(tmp_path).keys)
    shop, trade, operator = keys.create("shop"), keys.create("trade"), keys.create()
    async with running(tmp_path, "--bind", "0.0.0.0", "--shards", str(SHARDS)) as engine:
        entry = f"tcp:127.0.0.1:{engine.binary.rpartition(':')[2]}"
        async with AsyncExitStack() as stack:
            seller, rival, clerk = [
                await stack.enter_async_context(Client.connect(entry, key, straight=True))
                for key in (shop, trade, operator)
            ]
            await clerk.receive(SKUS[0], LOCATION, 5)
            await seller.reserve([(SKUS[0], 2)], reservation_id="cart")
            assert Homes([], list(range(SHARDS))) == (await rival.submit(Find("cart"))).body
            with pytest.raises(Refused, match="unknown_reservation"):
                await rival.commit("cart")
            assert "shop" == (await seller.commit("cart")).channel
            assert 2 == (await clerk.stock(SKUS[0])).allocated
        with pytest.raises(Refused, match="opens nothing"):
            await stack.enter_async_context(Client.connect(entry, straight=True))
