"""Puts what a host's shards are about to trim into its archive, off the event loop.

`keep_records` reads a shard's journal from its first record on, page by page, and returns when all
up to a position is in the archive and synced: then, and only then, may it be trimmed. The first
record is the last one that is archived already, so each time the seam is compared. `keep_snapshot`
does the same for a snapshot whose chunks are about to be deleted, if it is worth it.

Whatever keeps it from that, a full disk or damage on either side, is told in one log line, counted
and raised as NotArchivedError: the shard goes on, nothing is trimmed, and whoever asked tries it
again. One shard of a host and a journal's server at a time, so that what is held in memory does not
grow with the number of shards, and a server that is down holds up no other's.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Final, Protocol

import structlog

from actors.archive import AnyArchive, ArchiveGapError, CorruptArchiveError, Segment
from actors.fresh_directory import to_end
from actors.journal import Entry, Journal
from actors.patience import patiently
from engine import limits
from engine.codec import START, CorruptRecordError, Position
from engine.placement import server_of
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, chunk_name

_PAGE_FIRST: Final = 16
"""Records of the first page; then as many as make `limits.ARCHIVE_PAGE_BYTES`."""
_log = structlog.get_logger(__name__)


class NotArchivedError(Exception):
    """Nothing may be trimmed; why, has been told."""


class JournalEndsError(Exception):
    """The journal ends before the record up to which it was to be read: it has gone back in time,
    and will be given back what it lost, or refused."""


_EXPECTED: Final = (
    OSError,
    JournalEndsError,
    CorruptArchiveError,
    CorruptRecordError,
    CorruptSnapshotError,
)


class Archiver:
    """The way into the archive of one host."""

    def __init__(self, archive: AnyArchive, snapshot_bytes: int, servers: int = 1) -> None:
        """`snapshot_bytes`: so much journal lies between two snapshots that are kept, at least;
        `servers`: on which the journal is."""
        self.archive = archive
        self._snapshot_bytes = snapshot_bytes
        self._turns = [asyncio.Lock() for _ in range(servers)]
        self._newest: dict[int, Position] = {}
        """Of each shard the newest record that was counted."""
        self.errors = 0
        self.segments = 0
        self.bytes = 0
        """Of the records in those segments."""
        self.snapshots = 0

    def _turn(self, shard: int) -> asyncio.Lock:
        return self._turns[server_of(shard, len(self._turns))]

    # --- records ---

    async def keep_records(self, journal: Journal, shard: int, through: Position) -> None:
        """Archive the journal up to `through`, inclusive. Raises NotArchivedError."""
        async with self._turn(shard):
            try:
                await self._keep_records(journal, shard, through)
            except _EXPECTED as error:
                raise self._failed(shard, error) from error

    async def _keep_records(self, journal: Journal, shard: int, through: Position) -> None:
        async for batch in batches(journal, shard, through):
            await self._add(shard, batch)

    async def _add(self, shard: int, entries: list[Entry]) -> None:
        try:
            found = await asyncio.to_thread(self.archive.add, shard, entries)
        except ArchiveGapError as error:
            _log.warning("archive_gap", shard=shard, reason=str(error))
            found = await asyncio.to_thread(partial(self.archive.add, shard, entries, anew=True))
        self._count(found)

    def _count(self, found: Segment) -> None:
        if found.last > self._newest.get(found.shard, START):
            self._newest[found.shard] = found.last
            self.segments += 1
            self.bytes += found.size

    # --- snapshots ---

    async def keep_snapshot(self, journal: Journal, shard: int, cut: Position) -> None:
        """Archive the snapshot cut at `cut`, if there is one to be kept. Raises NotArchivedError.

        One that is not whole, or does not prove itself, is told of and left: it is about to be
        deleted, and the next one will do. So is one that an older file of the archive, being
        damaged, keeps from being judged: the records are all there, and lead past it.
        """
        async with self._turn(shard):
            try:
                if await asyncio.to_thread(self._is_due, shard, cut):
                    self.snapshots += await copy_snapshot(self.archive, journal, shard, cut)
            except (CorruptSnapshotError, CorruptArchiveError) as error:
                self._failed(shard, error)
            except _EXPECTED as error:
                raise self._failed(shard, error) from error

    def _is_due(self, shard: int, cut: Position) -> bool:
        """Whether enough is archived since the one that was kept last, in bytes, to keep another.

        At least twice what that one takes, so that most of the archive is records. The first one is
        due at once where the archive does not begin with the first record of all.
        """
        segments, kept = self.archive.segments(shard), self.archive.snapshots(shard)
        if not segments or (kept and kept[-1].position >= cut):
            return False
        if not kept and segments[0].before.position != START:
            return cut >= segments[0].before.position
        last, least = (kept[-1].position, 2 * kept[-1].size) if kept else (START, 0)
        since = sum(each.size for each in segments if last < each.last <= cut)
        return since >= max(self._snapshot_bytes, least)

    # --- retention ---

    async def prune(self, shard: int, now_us: int) -> None:
        """Remove what has been kept long enough; if that fails, the next time."""
        try:
            files = await asyncio.to_thread(self.archive.prune, shard, now_us)
        except _EXPECTED as error:
            self._failed(shard, error)
            return
        if files:
            _log.info("archive_pruned", shard=shard, files=files)

    def _failed(self, shard: int, error: Exception) -> NotArchivedError:
        self.errors += 1
        _log.error("archive_failed", shard=shard, error=f"{type(error).__name__}: {error}")
        return NotArchivedError(str(error))


class Readable(Protocol):
    """Of a journal, what is needed to read it."""

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        """See Journal."""

    async def load(self, shard: int, name: str) -> bytes | None:
        """See Journal."""


async def batches(journal: Readable, shard: int, through: Position) -> AsyncIterator[list[Entry]]:
    """The journal from its first record up to `through`, in batches of bounded size; each begins
    with the last record of the one before, with which the others must link.

    Ends early if the journal is trimmed beyond `through` meanwhile: whoever did that has archived
    it. Raises JournalEndsError.
    """
    after, count, waiting, size = START, _PAGE_FIRST, list[Entry](), 0
    while after < through:
        read = await patiently(partial(journal.read, shard, after, count))
        if not read:
            raise JournalEndsError(f"shard {shard}: the journal ends with {after}, not {through}")
        page = [each for each in read if each.position <= through]
        if not page:
            break
        waiting += page
        after, length = page[-1].position, sum(len(each.record) for each in page)
        size += length
        average = max(1, length // len(page))
        count = min(limits.JOURNAL_READ_ENTRIES_MAX, limits.ARCHIVE_PAGE_BYTES // average + 1)
        if size >= limits.ARCHIVE_SEGMENT_BYTES:
            yield waiting
            waiting, size = waiting[-1:], 0
    if size:
        yield waiting


async def copy_snapshot(archive: AnyArchive, journal: Readable, shard: int, cut: Position) -> bool:
    """Archive the snapshot cut at `cut`; False if a chunk of it is not there.

    Raises CorruptSnapshotError, OSError.
    """
    chunk = await patiently(partial(journal.load, shard, chunk_name(cut, 0)))
    if chunk is None:
        return False
    scratch = Shard(shard, limits.SHARDS_MAX)
    SnapshotReader(scratch.state, shard, cut).feed(chunk)
    keeping = await to_end(partial(archive.begin_keep, shard, cut, scratch.state.now))
    chunks = 1
    try:
        while not await to_end(partial(keeping.put, chunk)):
            chunk = await patiently(partial(journal.load, shard, chunk_name(cut, chunks)))
            if chunk is None:
                _log.warning("chunk_missing", shard=shard, chunk=chunk_name(cut, chunks))
                return False
            chunks += 1
        await to_end(keeping.finish)
    finally:
        await to_end(keeping.discard)
    _log.info("snapshot_archived", shard=shard, position=str(cut), chunks=chunks)
    return True
