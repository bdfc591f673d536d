"""An engine in one process, for tests of HTTP: real shards, no journal, no network, no waiting.

It is what `gateway.http_api.Engine` asks for. A test may hold back answers, replace them, or move
the clock.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import msgspec

from engine import limits
from engine.chain import Link
from engine.codec import START, Position, Record
from engine.history import Movements, Replay
from engine.messages import (
    Answer,
    Command,
    Dedicate,
    GetStockAsOf,
    LedgerEntry,
    LedgerPage,
    ListMovements,
    Receive,
    Sample,
    Statistics,
    Status,
    StockAsOf,
    Trace,
)
from engine.placement import shard_of
from engine.scope import OPERATOR, Scope
from engine.shard import Shard
from gateway.homes import home_in, mint, sku_of
from gateway.http_api import Api
from gateway.http_edge import HttpEdge
from gateway.http_table import route_table
from gateway.metrics import Others
from gateway.router import RouterStatistics

SHARDS = 4
DEADLINE_SECONDS = 10.0
START_US = 1_796_000_000 * limits.SECOND_US

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Command).decode


class LocalEngine:
    """Commands are executed as they come, one batch each."""

    def __init__(self, shards: int = SHARDS, dedicated: int = 0) -> None:
        self.hashed = shards
        self.shards = [Shard(number, shards) for number in range(shards + dedicated)]
        self.heads: dict[int, Position] = {0: Position(3, 7)}
        self.now = START_US
        self.replaced: Callable[[Command], Answer | None] = lambda command: None
        """What is answered instead; None = what the shard says."""
        self.held: list[Callable[[], None]] | None = None
        """Where answers are put, if they are held back."""
        self.commands: list[Command] = []
        self.traces: list[Trace | None] = []
        """One for each command."""
        self.records: list[Record] = []
        """Of every batch in which anything happened."""

    def forward(
        self,
        command: Command,
        deadline_ms: int,
        reply: Callable[[Answer], None],
        trace: Trace | None = None,
    ) -> None:
        """Execute and answer at once, or hold the answer back."""
        assert 0 < deadline_ms <= limits.DEADLINE_MS_MAX
        assert command == _decode(_encode(command))
        self.commands.append(command)
        self.traces.append(trace)
        answer = self.replaced(command) or self._execute(command)
        if self.held is None:
            reply(answer)
        else:
            self.held.append(lambda: reply(answer))

    async def ask(self, command: Command, deadline_ms: int = limits.DEADLINE_MS_DEFAULT) -> Answer:
        """The answer to one command."""
        answers: list[Answer] = []
        self.forward(command, deadline_ms, answers.append)
        return answers[0]

    async def ask_all(
        self, make: Callable[[int], Command], deadline_ms: int = limits.DEADLINE_MS_DEFAULT
    ) -> dict[int, Answer]:
        """The answers of all shards."""
        return {each.number: await self.ask(make(each.number)) for each in self.shards}

    def place_of(self, sku: str) -> int:
        """The SKU's dedicated shard, if it has one."""
        hashed = shard_of(sku, self.hashed)
        return self.shards[hashed].state.dedications.dedicated.get(sku, hashed)

    def owners(self) -> dict[int, tuple[int, str | None]]:
        """All shards are owned."""
        return {each.number: (3, "unix:/run/host-1") for each in self.shards}

    def statistics(self) -> RouterStatistics:
        """Some numbers."""
        return RouterStatistics(1, 2, 3, 4, {Status.OK: 5}, 6, 7, 8, 9, 10, 11)

    def _execute(self, command: Command) -> Answer:
        shard = self._shard(command)
        self.now += 1
        if isinstance(command, GetStockAsOf | ListMovements):
            return self._look_back(shard.number, command)
        shard.begin(self.now)
        answer = shard.execute(command)
        if events := list(shard.close()):
            position = Position(3, len(self.records) + 1)
            self.records.append(Record(shard.number, position, self.now, 0, START, events, 0))
        return answer

    def _look_back(self, number: int, command: GetStockAsOf | ListMovements) -> Answer:
        """What a historian would answer, short of the pages."""
        replay, watch = Replay(Shard(number, self.hashed)), Movements(command.sku, None)
        records = [each for each in self.records if each.shard == number]
        entries: list[LedgerEntry] = []
        for each in records:
            if isinstance(command, GetStockAsOf) and (
                each.stamp > command.time
                if command.time is not None
                else each.position > (command.position or START)
            ):
                break
            entries += watch.apply(replay, each, Link(each.position, 0))
        if isinstance(command, ListMovements):
            found = entries[: command.limit]
            return Answer(Status.OK, LedgerPage(found, None, *replay.position))
        if (command.time or 0) >= self.now or (command.position or START) > replay.position:
            return Answer(Status.NOT_YET)
        stock = replay.shard.state.skus.get(command.sku)
        if stock is None:
            return Answer(Status.UNKNOWN_SKU)
        return Answer(Status.OK, StockAsOf(*replay.position, replay.time, stock.view()))

    def _shard(self, command: Any) -> Shard:
        if (sku := sku_of(command)) is not None:
            return self.shards[self.place_of(sku)]
        if isinstance(command, Dedicate):
            return self.shards[shard_of(command.sku, self.hashed)]
        if hasattr(command, "reservation_id"):
            known = [each for each in self.shards if each.knows(command.reservation_id, None)]
            hint = command.home if command.home >= 0 else home_in(command.reservation_id)
            return known[0] if known else self.shards[hint % len(self.shards)]
        number: int = command.shard
        return self.shards[number]

    def receive(self, sku: str, quantity: int, location: str = "berlin") -> None:
        """Stock, behind the API's back."""
        assert self._execute(Receive(sku, location, quantity)).status is Status.OK


class Keys:
    """Scopes by key; without a key, `anonymous`."""

    def __init__(self, anonymous: Scope | None = OPERATOR, **keys: Scope) -> None:
        self.anonymous = anonymous
        self.keys = keys

    def __call__(self, key: str | None, peer: str) -> Scope | None:
        return self.anonymous if key is None else self.keys.get(key)


async def ask_others() -> Others:
    """One host, one sample."""
    return Others([("host-1", Statistics([Sample("shard_queue_commands", [("shard", "0")], 3)]))])


def make_api(engine: LocalEngine, authenticate: Keys | None = None, **options: Any) -> Api:
    """An Api over `engine`; ids are minted in sequence."""
    count = iter(range(1_000_000))
    return Api(
        engine,
        engine.hashed,
        route_table(),
        authenticate or Keys(),
        lambda home: mint(home, 0, next(count).to_bytes(8)),
        options.pop("ask_others", ask_others),
        **options,
    )


class Answered(NamedTuple):
    """An answer, as a caller sees it; header names are in lower case."""

    status: int
    headers: dict[str, str]
    payload: bytes

    @property
    def body(self) -> Any:
        """The JSON."""
        return msgspec.json.decode(self.payload)


class Server:
    """An edge that listens on a free port, and a caller of it."""

    def __init__(self, engine: LocalEngine, api: Api, edge: HttpEdge, port: int) -> None:
        self.engine = engine
        self.api = api
        self.edge = edge
        self.port = port

    @property
    def url(self) -> str:
        """Without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    async def get(self, path: str, **headers: str) -> Answered:
        """GET."""
        return await self.call("GET", path, None, **headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answered:
        """POST."""
        return await self.call("POST", path, body, **headers)

    async def put(self, path: str, body: object = None, **headers: str) -> Answered:
        """PUT."""
        return await self.call("PUT", path, body, **headers)

    async def call(self, method: str, path: str, body: object, **headers: str) -> Answered:
        """One request on a connection of its own. `body`: bytes as they are, else as JSON."""
        data = (
            b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        )
        fields = {"host": f"127.0.0.1:{self.port}", "connection": "close"}
        if body is not None:
            fields |= {"content-type": "application/json", "content-length": str(len(data))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        return await self.send("\r\n".join([*lines, "", ""]).encode() + data)

    async def send(self, data: bytes) -> Answered:
        """The first answer to `data` on a connection of its own."""
        async with self.connect() as (reader, writer):
            writer.write(data)
            return await read_answer(reader)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader, *, is_head: bool = False) -> Answered:
    """The next answer. Raises IncompleteReadError if there is none."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")[:-2]
        headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
        length = 0 if is_head else int(headers["content-length"])
        return Answered(int(status_line.split()[1]), headers, await reader.readexactly(length))


@asynccontextmanager
async def serving(
    engine: LocalEngine | None = None, keys: Keys | None = None, **options: Any
) -> AsyncIterator[Server]:
    """Serve on a free port of loopback."""
    engine = engine or LocalEngine()
    connections_max = options.pop("connections_max", limits.CONNECTIONS_MAX)
    api = make_api(engine, keys, **options)
    edge = HttpEdge(api, connections_max=connections_max)
    address = await edge.listen("tcp:127.0.0.1:0")
    try:
        yield Server(engine, api, edge, int(address.rpartition(":")[2]))
    finally:
        await edge.close()
