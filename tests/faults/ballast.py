"""What fills the journal: movements with long reasons, of SKUs that nobody buys."""

import asyncio
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
    """Frames of movements, one after the other, until it is told to stop."""

    def __init__(self, engine: EngineProcess, pause: float) -> None:
        self._engine = engine
        self._pause = pause
        self.statuses: dict[Status, int] = {}

    async def _pour(self) -> None:
        async with Till(self._engine.binary) as till:
            while True:
                await till.connected(60)
                commands = [
                    Receive(f"ballast-{number % SKU_COUNT}", LOCATION, 1, TEXT, TEXT)
                    for number in range(FRAME)
                ]
                response = await till.ask(commands) if till.up else None
                for answer in response.answers if response is not None else []:
                    self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
                await asyncio.sleep(self._pause)


@asynccontextmanager
async def pouring(engine: EngineProcess, pause: float = 0.0) -> AsyncIterator[Ballast]:
    """Ballast for as long as the block lasts."""
    ballast = Ballast(engine, pause)
    task = asyncio.create_task(ballast._pour())
    try:
        yield ballast
    finally:
        task.cancel()
        await asyncio.wait([task])


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
