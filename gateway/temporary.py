"""An engine for a while: everything in a temporary directory, on free ports, gone afterwards.

What the demo and the benchmark run against when no engine is named. `left` says, once it is over,
which processes are still there although they should not be; it is empty, or there is a bug.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from actors.cluster import descendants
from actors.config import Settings
from actors.control import Kind
from actors.process import Identity, identify, is_alive
from actors.redis_server import RedisServer
from gateway.up import Running, UpError, running

GONE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05


class TemporaryEngine:
    """`running` while it lasts, `left` afterwards."""

    def __init__(self, engine: Running, redis: RedisServer | None) -> None:
        self.running = engine
        self.redis = redis or engine.redis
        self.left: list[Identity] = []
        self._started: list[Identity] = []

    def pids(self) -> dict[str, list[int]]:
        """The processes of the engine, by role. Ray's own are not among them."""
        members = self.running.map().members
        found = {
            "hosts": [each.pid for each in members if each.kind is Kind.HOST],
            "gateways": [each.pid for each in members if each.kind is Kind.GATEWAY],
            "coordinator": [os.getpid()],
        }
        if self.redis is not None and self.redis.pid is not None:
            found["redis"] = [self.redis.pid]
        return found

    def note(self, before: list[Identity]) -> None:
        """Remember who has been started since `before`."""
        self._started = [each for each in children() if each not in before]

    async def look(self) -> None:
        """Who of them is left, after a while."""
        deadline = asyncio.get_running_loop().time() + GONE_SECONDS
        while left := [each for each in self._started if is_alive(each)]:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_POLL_SECONDS)
        self.left = left


@contextmanager
def kept_if_it_fails() -> Iterator[str]:
    """A temporary directory. After an UpError it stays, for its logs are what to look at."""
    directory = tempfile.mkdtemp(prefix="onhand-temporary-")
    try:
        yield directory
    except UpError:
        raise
    except BaseException:  # an interruption, too, must not leave the directory behind
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def children() -> list[Identity]:
    """Every process that this one has started, and those have, and so on."""
    this = identify(os.getpid())
    assert this is not None, "no /proc"
    return descendants([this])


@asynccontextmanager
async def temporary_engine(
    settings: Settings, redis_binary: Path | None = None
) -> AsyncIterator[TemporaryEngine]:
    """A ready engine with these settings, but for its directory and ports. Raises UpError.

    `redis_binary`: the server to keep the journal, in place of the embedded one.
    """
    before = children()
    with kept_if_it_fails() as directory:
        settings = msgspec.structs.replace(settings, data_dir=directory, port=0, binary_port=0)
        async with AsyncExitStack() as stack:
            server = None
            if redis_binary is not None:
                server = RedisServer(
                    Path(directory) / "server",
                    fsync=settings.fsync,
                    memory_bytes=settings.maxmemory_bytes,
                    binary=redis_binary,
                )
                stack.push_async_callback(server.stop)
                await server.start()
                settings = msgspec.structs.replace(settings, redis=(server.url,))
            engine = TemporaryEngine(await stack.enter_async_context(running(settings)), server)
            try:
                yield engine
            finally:
                engine.note(before)
        await engine.look()
