"""An engine without processes or journal: the real shards behind the real binary protocol.

It is what a benchmark needs of an engine, in the loop of the test, and it can be made to lie.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from actors.binary_server import BinaryServer
from actors.map_board import MapBoard
from bench.options import Target
from engine.messages import (
    Answer,
    Audit,
    Command,
    GetMap,
    MovedTo,
    Outgoing,
    Request,
    Reserve,
    Status,
)
from engine.placement import home_of, shard_of
from engine.scope import OPERATOR, Scope
from engine.shard import Shard

Lie = Callable[[Command, Answer], Answer]

METRICS = "# TYPE onhand_lies counter\nonhand_lies_total 0\n"


class Shelf:
    """Answers every command at once. `lie` may change the answer, `forget` swallow it."""

    def __init__(self, shards: int, dedicated: int = 0) -> None:
        self.hashed = shards
        self.shards = [Shard(number, shards) for number in range(shards + dedicated)]
        self.lie: Lie = lambda command, answer: answer
        self.forget: Callable[[Request], bool] = lambda request: False
        self.disconnect: Callable[[], None] = lambda: None
        self.owners: list[str] = []
        """By shard, the address that answers for it; the others say that it has moved."""
        self.board = MapBoard("shelf", shards, dedicated)
        self.taken: Counter[str] = Counter()
        """Reserves, by the address that took them."""

    def give(self, *owners: str) -> None:
        """The shards belong to these from now on, in turn; whoever asks is told."""
        self.owners = [owners[shard % len(owners)] for shard in range(len(self.shards))]
        version = self.board.version + 1
        self.board.post(version, {n: (version, owner) for n, owner in enumerate(self.owners)})

    def answer(self, command: Command, address: str) -> Answer:
        """At the server of that address."""
        shard = self._place(command)
        if isinstance(command, Reserve):
            if self.owners[shard] != address:
                return Answer(Status.MOVED, MovedTo(shard, 1, ""))
            self.taken[address] += 1
        return self.lie(command, self.execute(command))

    def execute(self, command: Command) -> Answer:
        """As the owner of the command's shard would, but at once."""
        shard = self.shards[self._place(command)]
        shard.begin(time.time_ns() // 1_000)
        answer = shard.execute(command)
        shard.close()
        return answer

    def _place(self, command: Any) -> int:
        if isinstance(command, Reserve):
            return home_of((line.sku for line in command.lines), self.hashed)
        if isinstance(command, Audit):
            return command.shard
        home = getattr(command, "home", None)
        return shard_of(command.sku, self.hashed) if home is None else int(home)


class Door:
    """The shelf behind one address."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.address = ""

    def submit(self, request: Request, scope: Scope, reply: Callable[[Outgoing], None]) -> None:
        question = request.commands[0]
        if isinstance(question, GetMap):
            self._shelf.board.ask(
                question,
                request.deadline_ms / 1_000,
                lambda answer: reply(Outgoing(request.request_id, [answer])),
            )
            return
        answers = [self._shelf.answer(command, self.address) for command in request.commands]
        if not self._shelf.forget(request):
            reply(Outgoing(request.request_id, answers))


@asynccontextmanager
async def serve(shelf: Shelf) -> AsyncIterator[Target]:
    """The shelf on loopback, with just enough of HTTP for the metrics."""
    door = Door(shelf)
    hashed, dedicated = shelf.hashed, len(shelf.shards) - shelf.hashed
    server = BinaryServer("shelf", hashed, door, lambda key, peer: OPERATOR, dedicated=dedicated)
    door.address = binary = await server.listen("tcp:127.0.0.1:0")
    shelf.disconnect = lambda: abort(server)

    shelf.give(binary)

    pages: dict[str, tuple[str, Callable[[], bytes]]] = {
        "/metrics": ("text/plain", METRICS.encode),
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        media, make = pages[request.split()[1].decode()]
        page = make()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {len(page)}\r\n\r\n"
        writer.write(head.encode() + page)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as pages_server:
        port = pages_server.sockets[0].getsockname()[1]
        yield Target(url=f"http://127.0.0.1:{port}", binary=binary)
    await server.close()


def abort(server: BinaryServer) -> None:
    """End every connection, as a killed process would."""
    for connection in list(server.connections):
        connection.abort()
