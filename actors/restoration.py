"""A restoration: a backup becomes an installation again, in a place where there is none.

    verify all of it ─► nothing there? ─► archive, marks, keys ─► snapshots, records ─► its name

Nothing is written before every byte of the backup is proven, nor where there is anything already.
Records go in under their own ids, so the chain, the marks and every position that a caller has seen
hold; the hosts that claim the shards then come up as after any crash, and check it all once more.

The data directory is built under a temporary name, the embedded server's files in it, and gets its
own name last: one that is there is whole. A server that is named by URL cannot be written to that
way: if a restoration into it ends early, what is in there has to be flushed by hand, and until then
it is refused as not empty. Its data directory does not come to be, either.

This is also how an installation comes to be spread over more servers, or fewer: records do not say
where they are, so the shards go to whichever servers are named, and each is told who it is now.
"""

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from actors.archive import Archive, CorruptArchiveError, Segment
from actors.backup import (
    ARCHIVE,
    JOURNAL,
    KEYS,
    BackupError,
    Manifest,
    Progress,
    ShardEntry,
    verify,
)
from actors.data_directory import DataDirectory
from actors.fresh_directory import UnfitTargetError, fresh_directory, to_end
from actors.installation import Installation, write_installation
from actors.journal import Entry, FullError, Journal, JournalError, RedisJournal
from actors.journal_servers import Servers
from actors.marks import Marks
from actors.redis_server import RedisServerError
from actors.seat import SeatError
from actors.standing_journal import UnreachableJournalError, connected, embedded
from engine import limits
from engine.codec import START
from engine.snapshot import chunk_name

_WINDOW: Final = 256
_WINDOW_BYTES: Final = 4 << 20
"""Records that are on their way at once, in order, over one connection."""


async def restore(
    backup: Path, target: Path, *, redis: Sequence[str], memory_bytes: int, progress: Progress
) -> Manifest:
    """Make of `backup` an installation with the data directory `target`. Raises BackupError.

    `redis`: URLs of the empty servers that are to keep its journal, as many as one likes; none =
    the embedded one, which may use `memory_bytes`.
    """
    progress("verifying", 0, 0)
    manifest = await asyncio.to_thread(verify, backup)
    try:
        with fresh_directory(target) as fresh:
            restoration = _Restoration(backup, manifest, DataDirectory(fresh.path), progress)
            async with AsyncExitStack() as stack:
                servers = await _servers(fresh.path, redis, memory_bytes, stack)
                await restoration.journals(servers)
            await to_end(restoration.files)
            await restoration.marks()
            await to_end(fresh.publish)
    except UnfitTargetError as error:
        raise BackupError(str(error)) from error
    except (
        *(OSError, CorruptArchiveError),
        *(JournalError, RedisServerError, UnreachableJournalError),
    ) as error:
        raise BackupError(_reason(error, redis)) from error
    return manifest


async def _servers(
    fresh: Path, redis: Sequence[str], memory_bytes: int, stack: AsyncExitStack
) -> Servers[RedisJournal]:
    if not redis:
        server = embedded(DataDirectory(fresh).redis, "always", memory_bytes)
        redis = [(await stack.enter_async_context(server)).url]
    return Servers([await stack.enter_async_context(connected(url)) for url in redis])


def _reason(error: Exception, redis: Sequence[str]) -> str:
    if isinstance(error, FullError):
        where = "the server's maxmemory" if redis else "--maxmemory"
        return f"the backup does not fit into {where}: {error}"
    return f"cannot restore: {error}"


class _Restoration:
    """Writes what a verified backup holds."""

    def __init__(
        self, backup: Path, manifest: Manifest, directory: DataDirectory, progress: Progress
    ) -> None:
        self._backup = backup
        self._manifest = manifest
        self._directory = directory
        self._progress = progress
        self._archive = Archive(backup / JOURNAL, None)
        dedicated = manifest.dedicated or 0
        hashed = len(manifest.shards) - dedicated
        self._installation = Installation(manifest.cluster_id, hashed, dedicated=dedicated)

    async def journals(self, servers: Servers[RedisJournal]) -> None:
        """All shards, the first one last; then each server is told who it is, without which
        nothing takes what is there for whole."""
        await self._check_empty(servers)
        shards = self._manifest.shards
        for done, entry in enumerate(reversed(shards)):
            self._progress("shards", done, len(shards))
            await self._shard(servers.of(entry.shard), entry)
        self._installation = replace(self._installation, servers=len(servers.journals))
        seats = self._installation.seats() if self._installation.cluster_id else ()
        for journal, seat in zip(servers.journals, seats, strict=False):
            await journal.tell(seat)
            try:
                seat.check(await journal.said())
            except SeatError as error:
                raise BackupError(f"{journal.address}: {error}") from error

    async def _check_empty(self, servers: Servers[RedisJournal]) -> None:
        """None of them has a journal, of whatever number of shards or servers; or a word."""
        for journal in servers.journals:
            if await journal.said() is not None:
                raise BackupError(f"{journal.address} is not empty: it is another's already")
            for shard in range(min(len(self._manifest.shards) + 1, limits.SHARDS_MAX)):
                if await journal.read(shard, START, 1):
                    raise BackupError(f"the server is not empty: it has a journal of shard {shard}")

    async def _shard(self, journal: Journal, entry: ShardEntry) -> None:
        for kept in self._archive.snapshots(entry.shard):
            chunks = enumerate(self._archive.chunks(kept))
            while (following := await asyncio.to_thread(next, chunks, None)) is not None:
                number, chunk = following
                name = chunk_name(kept.position, number)
                if not await journal.store(entry.shard, name, chunk):
                    raise BackupError(f"the server is not empty: it has chunk {name}")
        entries = self._entries(self._archive.segments(entry.shard))
        while window := await asyncio.to_thread(_take, entries):
            await self._append(journal, entry.shard, window)
        newest = await journal.read(entry.shard, START, 1, newest=True)
        if [each.position for each in newest] != [entry.head] * (entry.head != START):
            raise BackupError(f"shard {entry.shard}: does not end with {entry.head} as it should")

    def _entries(self, segments: list[Segment]) -> Iterator[Entry]:
        for segment in segments:
            yield from self._archive.read(segment)

    async def _append(self, journal: Journal, shard: int, window: list[Entry]) -> None:
        """In order, over one connection: the server takes them in the order in which they are
        asked for, and refuses one that is out of it."""
        asked = [
            journal.append(shard, position, record, create=True) for position, record in window
        ]
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def files(self) -> None:
        """The archive, the keys, and what the installation is."""
        if (self._backup / ARCHIVE).is_dir():
            shutil.copytree(self._backup / ARCHIVE, self._directory.archive)
        if (self._backup / KEYS).exists():
            shutil.copyfile(self._backup / KEYS, self._directory.keys)
            self._directory.keys.chmod(0o600)
        write_installation(self._directory.path, self._installation)

    async def marks(self) -> None:
        """The journal must never be found to end before what was restored."""
        marks = Marks(self._directory.marks)
        for entry in self._manifest.shards:
            if entry.head != START:
                marks.note(entry.shard, entry.head, entry.checksum)
        await marks.write()


def _take(entries: Iterator[Entry]) -> list[Entry]:
    taken, size = list[Entry](), 0
    for entry in entries:
        taken.append(entry)
        size += len(entry.record)
        if size >= _WINDOW_BYTES or len(taken) >= _WINDOW:
            break
    return taken
