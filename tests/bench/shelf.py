"""An engine without processes or journal: the real shards behind the real binary protocol.

It is what a benchmark needs of an engine, in the loop of the test, and it can be made to lie.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from actors.binary_server import BinaryServer
from bench.options import Target
from engine.messages import (
    Answer,
    Audit,
    Command,
    Request,
    Reserve,
    Response,
)
from engine.placement import home_of, shard_of
from engine.scope import OPERATOR, Scope
from engine.shard import Shard

Lie = Callable[[Command, Answer], Answer]

METRICS = "# TYPE onhand_lies counter\nonhand_lies_total 0\n"


class Shelf:
    """Answers every command at once. `lie` may change the answer, `forget` swallow it."""

    def __init__(self, shards: int) -> None:
        self.shards = [Shard(number, shards) for number in range(shards)]
        self.lie: Lie = lambda command, answer: answer
        self.forget: Callable[[Request], bool] = lambda request: False
        self.disconnect: Callable[[], None] = lambda: None

    def submit(self, request: Request, scope: Scope, reply: Callable[[Response], None]) -> None:
        answers = [self.lie(command, self.execute(command)) for command in request.commands]
        if not self.forget(request):
            reply(Response(request.request_id, answers))

    def execute(self, command: Command) -> Answer:
        """As the owner of the command's shard would, but at once."""
        shard = self.shards[self._place(command)]
        shard.begin(time.time_ns() // 1_000)
        answer = shard.execute(command)
        shard.close()
        return answer

    def _place(self, command: Any) -> int:
        if isinstance(command, Reserve):
            return home_of((line.sku for line in command.lines), len(self.shards))
        if isinstance(command, Audit):
            return command.shard
        home = getattr(command, "home", None)
        return shard_of(command.sku, len(self.shards)) if home is None else int(home)


@asynccontextmanager
async def serve(shelf: Shelf) -> AsyncIterator[Target]:
    """The shelf on loopback, with just enough of HTTP for the shard map and the metrics."""
    server = BinaryServer("shelf", len(shelf.shards), shelf, lambda key, peer: OPERATOR)
    binary = await server.listen("tcp:127.0.0.1:0")
    shelf.disconnect = lambda: abort(server)
    owners = [{"shard": number, "host": binary} for number in range(len(shelf.shards))]
    pages = {
        "/metrics": ("text/plain", METRICS.encode()),
        "/v1/shards": ("application/json", msgspec.json.encode({"shards": owners})),
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        media, page = pages[request.split()[1].decode()]
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
