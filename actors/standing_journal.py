"""The journal of an installation, for one who comes from outside, as a backup does.

While the engine runs, its servers answer, and nothing but reads is asked of them. While it does
not, the data directory is locked and the embedded server is started for as long as it is needed:
the same server, which does what it would do for `onhand up`, and no more.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, get_args

import structlog

from actors.config import MAXMEMORY_BYTES_DEFAULT, Fsync
from actors.data_directory import DataDirectory, DataDirectoryError
from actors.installation import InstallationError, read_installation
from actors.journal import JournalError, RedisJournal, ServerSettingsError, WrongServerError
from actors.journal_servers import Servers
from actors.redis_server import RedisServer, RedisServerError
from actors.redis_wire import Target
from actors.seat import Seat

OPEN_SECONDS: Final = 5.0
_log = structlog.get_logger(__name__)


class UnreachableJournalError(Exception):
    """The journal's server cannot be asked; the message is one line for the operator."""


@asynccontextmanager
async def standing_journal(
    directory: DataDirectory, redis: Sequence[str]
) -> AsyncIterator[Servers[RedisJournal]]:
    """The journal, to be read. `redis`: the URLs of its servers, none if it is the embedded one.

    Raises UnreachableJournalError.
    """
    async with AsyncExitStack() as stack:
        seats = _seats(directory, max(1, len(redis)))
        if redis:
            named = zip(redis, seats, strict=True)
            journals = [
                await stack.enter_async_context(connected(url, seat)) for url, seat in named
            ]
        else:
            journals = [await _reach(directory, stack)]
        yield Servers(journals)


def _seats(directory: DataDirectory, servers: int) -> list[Seat | None]:
    """What each server ought to say of itself; None = there is no installation to say it."""
    try:
        installation = read_installation(directory.path)
    except InstallationError as error:
        raise UnreachableJournalError(str(error)) from error
    if installation is None:
        return [None] * servers
    if installation.servers != servers:
        raise UnreachableJournalError(
            f"the journal of {directory.path} is on {installation.servers} servers, and not on"
            f" {servers}: name each of them with --redis, in their order"
        )
    return [*installation.seats()]


async def _reach(directory: DataDirectory, stack: AsyncExitStack) -> RedisJournal:
    if directory.redis_socket.exists():
        url = f"unix://{directory.redis_socket.resolve()}"
        try:
            return await stack.enter_async_context(connected(url))
        except UnreachableJournalError as error:
            _log.info("no server there", reason=str(error))  # else the lock says who runs
    if not directory.path.is_dir():
        raise UnreachableJournalError(f"there is no data directory {directory.path}")
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
async def connected(url: str, seat: Seat | None = None) -> AsyncIterator[RedisJournal]:
    """A connection to a server that is set up as a journal, whatever its fsync, and sits there.

    Raises UnreachableJournalError.
    """
    journal = await _open(url, seat)
    try:
        yield journal
    finally:
        await journal.close()


async def _open(url: str, seat: Seat | None) -> RedisJournal:
    reason = ""
    try:
        target = Target.parse(url)
    except ValueError as error:
        raise UnreachableJournalError(f"--redis: {error}") from error
    for fsync in get_args(Fsync):
        journal = RedisJournal(url, fsync=fsync, seat=seat)
        try:
            await journal.open(OPEN_SECONDS)
        except asyncio.CancelledError:
            await journal.close()
            raise
        except WrongServerError as error:
            raise UnreachableJournalError(str(error)) from error
        except ServerSettingsError as error:
            reason = str(error)
        except JournalError as error:
            raise UnreachableJournalError(f"cannot use Redis at {target}: {error}") from error
        else:
            return journal
    raise UnreachableJournalError(reason)
