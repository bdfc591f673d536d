"""Hosts for tests of the wire: real shards and real sockets, no journal; they obey the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

from actors.binary_server import BinaryServer, Reply
from actors.map_board import MapBoard
from engine import limits
from engine.messages import (
    ABOUT_SKU,
    Answer,
    Command,
    Dedicate,
    Find,
    GetMap,
    GetStatistics,
    Head,
    Homes,
    MovedTo,
    Outgoing,
    Request,
    Reserve,
    Statistics,
    Status,
)
from engine.placement import home_of, shard_of
from engine.scope import CHANNEL_VERBS, FULFIL, OPERATOR, STOCK, Scope
from engine.shard import Shard

SHARDS = 4
SCOPES = {
    None: OPERATOR,
    "operator": OPERATOR,
    "shop": Scope("shop", CHANNEL_VERBS, "shop"),
    "trade": Scope("trade", CHANNEL_VERBS, "trade"),
    "warehouse": Scope(None, frozenset({FULFIL}), "warehouse"),
    "stocktaker": Scope(None, frozenset({STOCK}), "stocktaker"),
}
"""What a host lets callers do, by the key that they show."""
START_US = 1_796_000_000 * limits.SECOND_US


class Store:
    """The shards themselves, whoever owns them at the moment."""

    def __init__(self, shards: int = SHARDS, dedicated: int = 0) -> None:
        self.hashed = shards
        self.shards = [Shard(number, shards) for number in range(shards + dedicated)]
        self.now = START_US

    def execute(self, shard: int, command: Command) -> Answer:
        self.now += 1
        self.shards[shard].begin(self.now)
        answer = self.shards[shard].execute(command)
        self.shards[shard].close()
        return answer


class Host:
    """Answers for the shards that it owns; may be frozen, thawed, or told what to say."""

    def __init__(self, store: Store, owned: set[int], path: Path, run: str = "run") -> None:
        self.store = store
        self.owned = owned
        self.moved: dict[int, tuple[int, str]] = {}
        """shard → (epoch, address) that it names instead of "nobody"."""
        self.executed: list[Command] = []
        self.frames: list[int] = []
        """How many commands came in each."""
        self.deadlines_ms: list[int] = []
        self.frozen = False
        self.held: list[tuple[Request, Reply]] = []
        self.replaced: Callable[[Command], Answer | None] = lambda command: None
        """What is answered instead of executing; None = nothing."""
        self.board = MapBoard(run, store.hashed, len(store.shards) - store.hashed)
        self.questions: list[GetMap] = []
        """What it was asked about the map."""
        self.address = f"unix:{path}"
        self.server: BinaryServer | None = None

    async def start(self) -> None:
        hashed, total = self.store.hashed, len(self.store.shards)
        self.server = BinaryServer("host", hashed, self, _authenticate, dedicated=total - hashed)
        await self.server.listen(self.address)

    async def die(self) -> None:
        """Every connection ends, nothing that is held is ever answered."""
        if self.server is not None:
            for connection in list(self.server.connections):
                connection.abort()
            await self.server.close()
        self.server = None
        self.held.clear()

    def submit(self, request: Request, scope: Scope, reply: Reply) -> None:
        if self.frozen:
            self.held.append((request, reply))
            return
        question = request.commands[0]
        if isinstance(question, GetMap):
            self.questions.append(question)
            self.board.ask(
                question,
                request.deadline_ms / 1_000,
                lambda answer: reply(Outgoing(request.request_id, [answer])),
            )
            return
        self.frames.append(len(request.commands))
        self.deadlines_ms.append(request.deadline_ms)
        answers = [self._answer(command, request.shard) for command in request.commands]
        heads = [Head(shard, 1, len(self.executed)) for shard in self.owned]
        reply(Outgoing(request.request_id, answers, heads))

    def thaw(self) -> None:
        """Answer what came while frozen."""
        self.frozen = False
        held, self.held = self.held, []
        for request, reply in held:
            self.submit(request, OPERATOR, reply)

    def _answer(self, command: Command, dedicated: int) -> Answer:
        replaced = self.replaced(command)
        if replaced is not None:
            return replaced
        if isinstance(command, Find):
            known = [
                shard
                for shard in sorted(self.owned)
                if self.store.shards[shard].knows(command.reservation_id, command.scope)
            ]
            return Answer(Status.OK, Homes(known, sorted(self.owned)))
        if isinstance(command, GetStatistics):
            return Answer(Status.OK, Statistics([]))
        shard = shard_for(command, self.store.hashed)
        if dedicated >= 0 and type(command) in ABOUT_SKU:
            shard = dedicated
        if shard not in self.owned:
            epoch, address = self.moved.get(shard, (0, ""))
            return Answer(Status.MOVED, MovedTo(shard, epoch, address))
        self.executed.append(command)
        return self.store.execute(shard, command)


def shard_for(command: Command, shards: int) -> int:
    """Where a host looks for what a command is about."""
    if isinstance(command, Dedicate):
        return shard_of(command.sku, shards)
    if isinstance(command, Reserve):
        return home_of([line.sku for line in command.lines], shards)
    for name in ("shard", "home"):
        number = getattr(command, name, None)
        if number is not None:
            return int(number)
    return shard_of(getattr(command, "sku", ""), shards)


def sku_at(shard: int, nth: int = 0, shards: int = SHARDS) -> str:
    """The nth SKU of that shard."""
    names = (f"sku-{number}" for number in range(100_000))
    return next(islice((name for name in names if shard_of(name, shards) == shard), nth, None))


def _authenticate(key: str | None, peer: str) -> Scope | None:
    return SCOPES.get(key)


@asynccontextmanager
async def two_hosts(tmp_path: Path) -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts over one store: shards 0 and 1 here, 2 and 3 there."""
    store = Store()
    first = Host(store, {0, 1}, tmp_path / "first")
    second = Host(store, {2, 3}, tmp_path / "second")
    await asyncio.gather(first.start(), second.start())
    try:
        yield first, second
    finally:
        await asyncio.gather(first.die(), second.die())


def tell(version: int, *hosts: Host, epoch: int = 1) -> None:
    """All of these hear of the shard map of what they own."""
    for host in hosts:
        host.board.post(version, map_of(*hosts, epoch=epoch))


def map_of(*hosts: Host, epoch: int = 1) -> dict[int, tuple[int, str]]:
    """The shard map of what these hosts own."""
    return {shard: (epoch, host.address) for host in hosts for shard in host.owned}
