"""What fills the journal: movements with long reasons, of SKUs that nobody buys."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine import limits
from engine.messages import LineRequest, Receive, Reserve, Status
from engine.placement import shard_of
from tests.faults.engine_process import EngineProcess
from tests.faults.history import Attempt, History
from tests.faults.load import LOCATION, SKUS, TTL_SECONDS
from tests.faults.till import Till

FRAME = 200
SKU_COUNT = 64
TEXT = "x" * limits.TEXT_CHARS_MAX


class Ballast:
    """What was said to it."""

    def __init__(self) -> None:
        self.statuses: Counter[Status] = Counter()

    async def pour(self, engine: EngineProcess, pause: float) -> None:
        """Frames of movements, one after the other, until it is told to stop."""
        commands = [
            Receive(f"ballast-{number % SKU_COUNT}", LOCATION, 1, TEXT, TEXT)
            for number in range(FRAME)
        ]
        async with Till(engine.binary) as till:
            while True:
                await till.connected(60)
                response = await till.ask(commands) if till.up else None
                if response is not None:
                    self.statuses.update(each.status for each in response.answers)
                await asyncio.sleep(pause)


@asynccontextmanager
async def pouring(
    engine: EngineProcess, pourers: int = 1, pause: float = 0.0
) -> AsyncIterator[Ballast]:
    """Ballast, over so many connections, for as long as the block lasts."""
    ballast = Ballast()
    tasks = [asyncio.create_task(ballast.pour(engine, pause)) for _ in range(pourers)]
    try:
        yield ballast
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
