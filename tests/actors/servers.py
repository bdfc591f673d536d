"""Real servers for tests: the embedded Valkey, and the Redis of the machine's distribution."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.config import Fsync
from actors.redis_server import GRACE_SECONDS_DEFAULT, RedisServer, find_binary

SERVERS = ("valkey", "redis")
MEMORY_BYTES = 64 << 20


def binary_of(name: str) -> Path:
    """The server of that name; where it is missing, the test is skipped, but never in CI."""
    if name == "valkey":
        return find_binary()
    if found := shutil.which("redis-server"):
        return Path(found)
    if os.environ.get("CI") == "true":
        pytest.fail("redis-server is not installed")
    pytest.skip("redis-server is not installed")


@asynccontextmanager
async def running(
    directory: Path,
    name: str,
    *,
    fsync: Fsync = "always",
    memory_bytes: int = MEMORY_BYTES,
    grace_seconds: float = GRACE_SECONDS_DEFAULT,
) -> AsyncIterator[RedisServer]:
    """A server on `directory`, ended afterwards."""
    server = RedisServer(
        directory,
        fsync=fsync,
        memory_bytes=memory_bytes,
        binary=binary_of(name),
        grace_seconds=grace_seconds,
    )
    await server.start(timeout=30)
    try:
        yield server
    finally:
        await server.stop()


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return as soon as `condition` holds; fail if it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.005)
