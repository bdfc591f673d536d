"""What was true when: a random life of a shard, and the naive model's view after every record.

Commands go to a living owner one at a time; the model follows by the journal: whatever record has
appeared is a moment, and the model is taken there before it is asked how things stand.
"""

import asyncio
from bisect import bisect_right
from random import Random
from typing import NamedTuple

from engine import limits
from engine.codec import Position, decode_record
from engine.messages import (
    Answer,
    Claimed,
    Command,
    Genesis,
    GetStock,
    LedgerEntry,
    LedgerPage,
    ListMovements,
    Opened,
    Release,
    Status,
    StockView,
)
from tests.actors.trial import Life, Trial, ownership
from tests.engine.comparison import SKUS, UNKNOWN_SKU
from tests.engine.model import Model
from tests.engine.traffic import Traffic

PLACE = tuple[int, int, int]
PAUSES = [0.0] * 12 + [0.3, 1.0, 2.5, 6.0, 61.0]
SOON = ownership()._replace(
    finished_window_us=10 * limits.SECOND_US,
    keys_window_us=20 * limits.SECOND_US,
    returns_window_us=40 * limits.SECOND_US,
)
"""Names are few and come again soon, so what is finished must be forgotten soon."""


class Moment(NamedTuple):
    """How things stood right after a record; None = the SKU was not known."""

    position: Position
    time: int
    views: dict[str, StockView | None]


class Chronicle:
    """One shard's."""

    def __init__(self, trial: Trial, seed: int) -> None:
        self.trial = trial
        self.random = Random(seed)
        self.traffic = Traffic(self.random)
        self.model = Model(0, 1)
        self.model.finished_window_us = SOON.finished_window_us
        self.model.keys_window_us = SOON.keys_window_us
        self.model.returns_window_us = SOON.returns_window_us
        self.moments: list[Moment] = []
        self.events = 0

    async def serve(self) -> Life:
        """An owner, who fences whoever was it before."""
        life = await self.trial.serve(settings=SOON)
        self.follow()
        return life

    async def live(self, life: Life, commands: int) -> None:
        """So many commands, with pauses in between; the first are those that open the shop."""
        for number in range(commands):
            opening = self.traffic.opening() if not self.traffic.sent else []
            for command in [*opening, self.traffic.command(self.model)]:
                await self.do(life, command)
            await asyncio.sleep(self.random.choice(PAUSES))
            if number % 3 == 0:
                life.owner.tick(asyncio.get_running_loop().time())
                await asyncio.sleep(0.001)
        self.follow()

    async def do(self, life: Life, command: Command) -> None:
        self.follow()  # so that what is new afterwards is the command's doing
        caller = life.send(command)
        answer = await caller.first()
        assert answer.status not in (Status.NOT_DONE, Status.OUTCOME_UNKNOWN), command
        assert caller.head is not None
        self.follow(Position(caller.head.epoch, caller.head.sequence), command, answer.status)

    def follow(
        self,
        head: Position | None = None,
        command: Command | None = None,
        said: Status | None = None,
    ) -> None:
        """Take the model to the journal's end, or to `head`, the record of `command`, of which the
        engine has `said` what came."""
        history = self.trial.store.history[0]
        while len(self.moments) < len(history):
            position, data = history[len(self.moments)]
            if head is not None and position > head:
                return
            record = decode_record(data, 0, position)
            self.events += len(record.events)
            first = record.events[0]
            if isinstance(first, Opened):
                self.model.opened(first.grace_until)
            elif not isinstance(first, Claimed | Genesis):
                self.model.begin(record.stamp)
            buries = isinstance(command, Release) and command.bury
            if position == head and command is not None and (buries or said is Status.OK):
                assert said is self.model.execute(command).status, command
            time = max(record.stamp, self.moments[-1].time if self.moments else 0)
            self.moments.append(Moment(position, time, self.views()))

    def views(self) -> dict[str, StockView | None]:
        bodies = {sku: self.model.execute(GetStock(sku)).body for sku in [*SKUS, UNKNOWN_SKU]}
        return {sku: body if isinstance(body, StockView) else None for sku, body in bodies.items()}

    def at(self, time: int) -> Moment | None:
        """The last moment not after `time`."""
        index = bisect_right(self.moments, time, key=lambda moment: moment.time)
        return self.moments[index - 1] if index else None

    def some_time(self) -> int:
        """Mostly at, just before or just after a record."""
        if self.random.randrange(3):
            return self.random.choice(self.moments).time + self.random.randint(-1, 1)
        first, last = self.moments[0].time, self.moments[-1].time
        return self.random.randint(first - limits.SECOND_US, last)


async def list_all(
    life: Life, sku: str, limit: int = 1_000, since: int = 0, until: int | None = None
) -> list[LedgerEntry]:
    """The movements of a SKU, page by page."""
    entries: list[LedgerEntry] = []
    after: PLACE | None = None
    while True:
        answer = await life.ask(ListMovements(sku, after, limit, since or None, until))
        assert isinstance(answer.body, LedgerPage), answer
        entries += answer.body.entries
        after = answer.body.next
        if after is None:
            return entries


def detail(answer: Answer) -> str:
    return getattr(answer.body, "message", "")
