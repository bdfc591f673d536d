"""The journal of an installation, for one who comes from outside, as a backup does.

While the engine runs, its server answers, and nothing but reads is asked of it. While it does not,
the data directory is locked and the embedded server is started for as long as it is needed: the
same server, which does what it would do for `onhand up`, and no more.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, get_args

import structlog

from actors.config import MAXMEMORY_BYTES_DEFAULT, Fsync
from actors.data_directory import DataDirectory, DataDirectoryError
from actors.journal import JournalError, RedisJournal, ServerSettingsError
from actors.redis_server import RedisServer, RedisServerError
from actors.redis_wire import Target

OPEN_SECONDS: Final = 5.0
_log = structlog.get_logger(__name__)


class UnreachableJournalError(Exception):
    """The journal's server cannot be asked; the message is one line for the operator."""


@asynccontextmanager
async def standing_journal(
    directory: DataDirectory, redis: str | None
) -> AsyncIterator[RedisJournal]:
    """The journal, to be read. `redis`: the server's URL, None if it is the embedded one.

    Raises UnreachableJournalError.
    """
    async with AsyncExitStack() as stack:
        yield await _reach(directory, redis, stack)


async def _reach(
    directory: DataDirectory, redis: str | None, stack: AsyncExitStack
) -> RedisJournal:
    if redis is not None:
        return await stack.enter_async_context(connected(redis))
    if directory.redis_socket.exists():
        url = f"unix://{directory.redis_socket.resolve()}"
        try:
            return await stack.enter_async_context(connected(url))
        except UnreachableJournalError as error:
            _log.info("no server there", reason=str(error))  # else the lock says who runs
    if not directory.redis.is_dir():
        raise UnreachableJournalError(
            f"{directory.path} has no server of its own; name the one that it uses with --redis"
        )
    try:
        directory.lock()
        stack.callback(directory.unlock)
        await directory.end_leftovers()
        server = embedded(directory.redis, "always", MAXMEMORY_BYTES_DEFAULT)
        url = (await stack.enter_async_context(server)).url
    except (DataDirectoryError, RedisServerError) as error:
        raise UnreachableJournalError(str(error)) from error
    return await stack.enter_async_context(connected(url))


@asynccontextmanager
async def embedded(path: Path, fsync: Fsync, memory_bytes: int) -> AsyncIterator[RedisServer]:
    """A server of our own on this directory, for a while. Raises RedisServerError."""
    server = RedisServer(path, fsync=fsync, memory_bytes=memory_bytes)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisJournal]:
    """A connection to a server that is set up as a journal, whatever its fsync.

    Raises UnreachableJournalError.
    """
    journal = await _open(url)
    try:
        yield journal
    finally:
        await journal.close()


async def _open(url: str) -> RedisJournal:
    reason = ""
    try:
        target = Target.parse(url)
    except ValueError as error:
        raise UnreachableJournalError(f"--redis: {error}") from error
    for fsync in get_args(Fsync):
        journal = RedisJournal(url, fsync=fsync)
        try:
            await journal.open(OPEN_SECONDS)
        except asyncio.CancelledError:
            await journal.close()
            raise
        except ServerSettingsError as error:
            reason = str(error)
        except JournalError as error:
            raise UnreachableJournalError(f"cannot use Redis at {target}: {error}") from error
        else:
            return journal
    raise UnreachableJournalError(reason)
