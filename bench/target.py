"""What a run is sent to: an engine that runs already, one that is started for it, or nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from actors.config import Settings
from bench.ceiling import echo
from bench.options import BenchError, Target
from gateway.http_client import HttpClient
from gateway.place import find_place
from gateway.temporary import temporary_engine


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """`url` None = an engine is started, with these settings."""

    echo: bool
    """Nothing: the generator alone, against a handler that answers at once."""
    url: str | None
    key: str | None
    settings: Settings
    redis_binary: Path | None


@asynccontextmanager
async def target(where: Where) -> AsyncIterator[Target]:
    """For as long as the block lasts."""
    if where.echo:
        async with echo() as nothing:
            yield nothing
    elif where.url is not None:
        yield await asyncio.to_thread(running_engine, where.url, where.key)
    else:
        async with started_engine(where.settings, where.redis_binary) as started:
            yield started


def running_engine(url: str, key: str | None) -> Target:
    """The engine at `url`. Raises PlaceError and UnreachableError."""
    place = find_place(HttpClient(url, key), key)
    return Target(url=place.url, binary=place.binary, key=key, pids=place.pids, about=place.about)


@asynccontextmanager
async def started_engine(settings: Settings, redis_binary: Path | None) -> AsyncIterator[Target]:
    """An engine of one's own. Raises UpError if it does not start, BenchError if it stays."""
    about = {
        "journal": redis_binary.name if redis_binary else "embedded Valkey",
        "fsync": settings.fsync,
        "hosts": str(settings.hosts),
        "gateways": str(settings.gateways),
        "shards": str(settings.shards),
    }
    async with temporary_engine(settings, redis_binary) as engine:
        found = engine.running
        yield Target(url=found.http, binary=found.binary, pids=engine.pids(), about=about)
    if engine.left:
        pids = ", ".join(str(process.pid) for process in engine.left)
        raise BenchError(f"the engine left processes running: {pids}")
