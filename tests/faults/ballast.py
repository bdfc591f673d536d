"""What fills the journal: movements with long reasons, of SKUs that nobody buys."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from itertools import count, islice

from engine import limits
from engine.messages import LineRequest, Receive, Reserve, Status
from engine.placement import shard_of
from tests.faults.engine_process import EngineProcess
from tests.faults.history import Attempt, History
from tests.faults.load import LOCATION, SKUS, TTL_SECONDS
from tests.faults.till import Till

FRAME = 200
SKU_COUNT = 64
DEPTH, DEEP_FRAME = 60, 400
"""Frames that one shard is sent at once by who goes straight to its host, and their commands."""
TEXT = "x" * limits.TEXT_CHARS_MAX


class Ballast:
    """What was said to it."""

    def __init__(self) -> None:
        self.statuses: Counter[Status] = Counter()

    async def pour(self, engine: EngineProcess, pause: float) -> None:
        """Frames of movements, one after the other, until it is told to stop."""
        commands = [received(number % SKU_COUNT) for number in range(FRAME)]
        async with Till(engine.binary) as till:
            while True:
                await till.connected(60)
                response = await till.ask(commands) if till.up else None
                if response is not None:
                    self.statuses.update(each.status for each in response.answers)
                await asyncio.sleep(pause)

    async def pour_deep(self, address: str, shard: int, shards: int, depth: int = DEPTH) -> None:
        """Straight to the host that owns `shard`, `depth` frames at a time, until told to stop; by
        default that is more than it can take."""
        ours = (each for each in count() if shard_of(received(each).sku, shards) == shard)
        commands = [received(number) for number in islice(ours, SKU_COUNT)]
        frame = [commands[number % SKU_COUNT] for number in range(DEEP_FRAME)]
        async with Till(address) as till, asyncio.TaskGroup() as group:
            for _ in range(depth):
                group.create_task(self._insist(till, frame))

    async def _insist(self, till: Till, frame: list[Receive]) -> None:
        while True:
            await till.connected(60)
            response = await till.ask(frame) if till.up else None
            statuses = [each.status for each in response.answers] if response is not None else []
            self.statuses.update(statuses)
            if Status.MEMORY_FULL in statuses:
                await asyncio.sleep(0.01)


def received(number: int) -> Receive:
    """A movement that takes a lot of room."""
    return Receive(f"ballast-{number}", LOCATION, 1, TEXT, TEXT)


@asynccontextmanager
async def pouring(
    engine: EngineProcess, pourers: int = 1, pause: float = 0.0
) -> AsyncIterator[Ballast]:
    """Ballast, over so many connections, for as long as the block lasts."""
    ballast = Ballast()
    async with _working([ballast.pour(engine, pause) for _ in range(pourers)]):
        yield ballast


@asynccontextmanager
async def pouring_deep(engine: EngineProcess) -> AsyncIterator[Ballast]:
    """Ballast for every shard, straight to its host, for as long as the block lasts."""
    ballast, status = Ballast(), await engine.status()
    work = [
        ballast.pour_deep(host.address, int(shard), status.shards)
        for host in status.hosts
        for shard in host.epochs
    ]
    async with _working(work):
        yield ballast


@asynccontextmanager
async def pouring_on(engine: EngineProcess, shard: int, depth: int) -> AsyncIterator[Ballast]:
    """Ballast for one shard, straight to the host that it is at, so many frames at a time."""
    ballast, status = Ballast(), await engine.status()
    [address] = [host.address for host in status.hosts if str(shard) in host.epochs]
    async with _working([ballast.pour_deep(address, shard, status.shards, depth)]):
        yield ballast


@asynccontextmanager
async def _working(work: list[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def reserve_many(
    engine: EngineProcess, history: History, name: str, count: int, shards: int
) -> list[str]:
    """So many reservations at once, all of SKUs of which there is plenty; their ids."""
    skus = [sku for number, sku in enumerate(SKUS) if number % 4]
    commands = [
        Reserve(f"{name}-{number}", [LineRequest(skus[number % len(skus)], 1)], None, TTL_SECONDS)
        for number in range(count)
    ]
    loop = asyncio.get_running_loop()
    async with Till(engine.binary) as till:
        sent = loop.time()
        answers = await till.insist(commands, 120)
    for command, answer in zip(commands, answers, strict=True):
        shard = shard_of(command.lines[0].sku, shards)
        history.record(Attempt(command, shard, False, sent, loop.time(), answer.status, None))
    return [command.reservation_id for command in commands]
