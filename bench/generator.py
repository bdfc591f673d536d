"""One generator process: `python -m bench.generator`, told what to do on its standard input.

It runs apart from the command that started it, so that neither a live screen nor a second generator
takes time from it, and may be several. Whatever goes wrong ends the run with a reason: a generator
that limps would measure itself.
"""

import asyncio
import gc
import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import uvloop

from bench.connections import BinaryConnection, Connection, HttpConnection
from bench.driver import Driver
from bench.plan import Failed, Go, Message, Moved, Plan, Ready, decode, encode
from bench.requests import BinaryDialect, Dialect, HttpDialect
from engine.placement import shard_of

PROGRESS_SECONDS: Final = 1.0
RECONNECT_SECONDS: Final = 0.1
RECONNECTS_MAX: Final = 300
"""In a row."""


class Generator:
    """Connects, drives, reports."""

    def __init__(self, plan: Plan, say: Callable[[Message], None]) -> None:
        self._plan = plan
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._broke)
        self._driver = Driver(plan, dialect(plan))
        self._addresses, self._routes = plan.addresses, plan.routes
        self._where: dict[Connection, int] = {}
        """Which of the addresses each is connected to."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def connect(self) -> None:
        """Open every connection, and deal the slots out among them."""
        plan = self._plan
        slots, more = divmod(plan.in_flight, plan.connections)
        for number in range(plan.connections):
            address = number % len(plan.addresses)
            self._driver.add(await self._open(address), slots + (number < more))

    async def run(self, go: Go) -> None:
        """The whole run, from the moment agreed upon."""
        delay = go.start_ns / 1e9 - self._loop.time()
        await asyncio.sleep(max(0.0, delay))
        gc.collect()
        gc.freeze()
        gc.disable()
        self._driver.start(go.start_ns)
        reports = self._loop.create_task(self._report())
        await asyncio.shield(self._driver.finished)
        reports.cancel()

    async def reroute(self, moved: Moved) -> None:
        """Shards have moved: what is sent from now on goes to where they are."""
        self._addresses, self._routes = moved.addresses, moved.routes
        for address in set(moved.routes) - set(self._where.values()):
            await self._open(address)
        lanes: dict[int, deque[Connection]] = {}
        for connection, address in self._where.items():
            for shard, owner in enumerate(moved.routes):
                if owner == address:
                    lanes.setdefault(shard, deque()).append(connection)
        self._driver.set_lanes(lanes)

    async def end(self) -> None:
        """Say what came of it."""
        self._closing = True
        self._say(self._driver.result())
        for connection in list(self._where):
            connection.close()

    async def _open(self, address: int) -> Connection:
        where = self._addresses[address]
        create = self._make_protocol
        if where.startswith("unix:"):
            path = where.removeprefix("unix:")
            _, connection = await self._loop.create_unix_connection(create, path)
        else:
            host, _, port = where.removeprefix("tcp:").rpartition(":")
            _, connection = await self._loop.create_connection(create, host.strip("[]"), int(port))
        await connection.ready
        self._where[connection] = address
        owned = [shard for shard, owner in enumerate(self._routes) if owner == address]
        self._driver.add_lane(owned, connection)
        return connection

    def _make_protocol(self) -> BinaryConnection | HttpConnection:
        if self._plan.via == "http":
            return HttpConnection(self._driver.answered, self._lost)
        return BinaryConnection(self._driver.answered, self._lost, self._plan.key)

    def _lost(self, connection: Connection) -> None:
        if self._closing:
            return
        slots = self._driver.lose(connection)
        address = self._where.pop(connection)
        others = [each for each, where in self._where.items() if where != address]
        if self._routes and others:  # a host is gone, and others have its shards by now
            self._driver.add(others[slots % len(others)], slots)
            return
        task = self._loop.create_task(self._reconnect(address, slots))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reconnect(self, address: int, slots: int) -> None:
        for _ in range(RECONNECTS_MAX):
            try:
                connection = await self._open(address)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            self._driver.reconnects += 1
            self._driver.add(connection, slots)
            return
        self._fail(f"{self._addresses[address]} does not come back")

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            self._say(self._driver.progress())

    def stop(self) -> None:
        """Nobody is interested any more."""
        self._driver.stop()
        self._driver.give_up()

    def _broke(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._fail(f"{context.get('message')}: {context.get('exception')!r}")

    def _fail(self, reason: str) -> None:
        if not self._driver.finished.done():
            self._driver.finished.set_exception(GeneratorError(reason))


class GeneratorError(Exception):
    """The run cannot go on; says why."""


def dialect(plan: Plan) -> Dialect:
    """How this plan's requests are spelt."""
    homes = [shard_of(name, plan.shards) for name in plan.names]
    if plan.via == "http":
        return HttpDialect(
            plan.names, homes, plan.prefix, plan.scenario, plan.host_header, plan.key
        )
    return BinaryDialect(plan.names, homes, plan.prefix, plan.scenario)


def say(message: Message) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


async def listen(stream: asyncio.StreamReader) -> Message | None:
    """The next message, or None at the end of the stream."""
    try:
        head = await stream.readexactly(4)
        return decode(await stream.readexactly(int.from_bytes(head)))
    except asyncio.IncompleteReadError:
        return None


async def serve() -> None:
    """One plan, from standard input to standard output."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    plan = await listen(stream)
    assert isinstance(plan, Plan)
    generator = Generator(plan, say)
    await generator.connect()
    say(Ready())
    go = await listen(stream)
    if not isinstance(go, Go):
        return
    watch = loop.create_task(obey(stream, generator))
    await generator.run(go)
    watch.cancel()
    await generator.end()


async def obey(stream: asyncio.StreamReader, generator: Generator) -> None:
    """Standard input says where shards have moved to; when it ends, so does the run."""
    while isinstance(message := await listen(stream), Moved):
        try:
            await generator.reroute(message)
        except OSError:
            continue  # it is gone again; so will the map say
    generator.stop()


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process closes its input
    try:
        uvloop.run(serve())
    except (TimeoutError, OSError, GeneratorError) as error:
        say(Failed(str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
