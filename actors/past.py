"""What is kept of a shard's past, as one stream of proven records.

    archived snapshots ─┐                        ┌─ archived segments ─┐
    stored snapshots  ──┼─► the newest that fits ┤                     ├─► the moment asked for
    the beginning     ──┘                        └─ the journal ───────┘

A question about the past begins at the newest snapshot that is not too late for it, archived or
still stored, and goes on record by record: out of the archive as far as that reaches, then out of
the journal itself. Every chunk and every record proves itself, and each record must follow the one
before, across claims and across the seam. What does not is damage, and is named with its place;
what is merely not kept any more is another matter, and is told from damage:

- nothing is missing as long as the journal's first entry is not after the record that was read
  last: trimming takes entries from the front only;
- if it is after it, the journal was trimmed meanwhile. What went is in the archive by now. If there
  is none, or it has a hole, that past is not kept: NotKeptError says what is.

It ends at the *head* of its `Moment`: the last record that was acknowledged when the question was
put, never one that merely stands in the journal; and the head must have the checksum that was
acknowledged. Nothing here is remembered between questions, and no more is held in memory than one
state of the shard and a few records.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import dropwhile
from typing import NamedTuple, TypeVar

from actors.archive import AnyArchive, Kept, Segment
from actors.journal import Entry, Journal
from actors.patience import patiently
from engine import limits
from engine.chain import Link
from engine.codec import GENESIS, START, CorruptRecordError, Position, Record
from engine.history import Replay
from engine.shard import Shard
from engine.snapshot import SnapshotReader, chunk_name

T = TypeVar("T")
Fits = Callable[[Position, int], bool]
"""Whether a snapshot of that position and time comes early enough."""


class NotKeptError(Exception):
    """That part of the past is not kept; the message says what is."""


class VanishedError(Exception):
    """What was there is gone: trimmed, pruned or replaced meanwhile. Asking anew may succeed."""


class Moment(NamedTuple):
    """A shard between two batches, with everything acknowledged."""

    head: Position
    checksum: int
    """Of the record at `head`."""
    now: int
    """The shard's time: no later record will be stamped earlier."""
    generations: list[Position]
    """Its stored snapshots, older first."""


class _Base(NamedTuple):
    """A snapshot to begin at."""

    position: Position
    time: int
    kept: Kept | None
    """Where it is archived; None = it is stored beside the journal."""


class Past:
    """One shard's, as of one moment, for one question."""

    def __init__(
        self,
        journal: Journal,
        shard: int,
        shards: int,
        archive: AnyArchive | None,
        moment: Moment,
    ) -> None:
        self._journal = journal
        self._number = shard
        self._shards = shards
        self._archive = archive
        self._rest: Iterator[Entry] | None = None
        """What follows in the archive, once it is known…"""
        self._count = limits.HISTORY_READ_ENTRIES
        """…and how many to take: few at first, since that may be all that is needed."""
        self.moment = moment

    # --- where to begin ---

    async def begin(self, fits: Fits) -> Replay:
        """A replay at the newest snapshot that fits, or before the beginning of all."""
        bases = [each for each in await self._bases() if fits(each.position, each.time)]
        for base in sorted(bases, key=lambda each: each.position, reverse=True):
            replay = await self._restore(base)
            if replay is not None:
                return replay
        return Replay(Shard(self._number, self._shards))

    async def earliest(self) -> Replay:
        """A replay from where what is kept begins."""
        if await self._reaches_back():
            return Replay(Shard(self._number, self._shards))
        for base in sorted(await self._bases(), key=lambda each: each.position):
            replay = await self._restore(base)
            if replay is not None:
                return replay
        raise VanishedError("there is no snapshot, and no beginning")

    async def _reaches_back(self) -> bool:
        """Whether the very first record is kept."""
        if self._archive is not None:
            segments = await asyncio.to_thread(self._archive.segments, self._number)
            if segments and segments[0].first == GENESIS:
                return True
        oldest = await self._read(START, 1)
        return bool(oldest) and oldest[0].position == GENESIS

    async def _bases(self) -> list[_Base]:
        found = []
        if self._archive is not None:
            for kept in await asyncio.to_thread(self._archive.snapshots, self._number):
                found.append(_Base(kept.position, kept.stamp, kept))
        for position in self.moment.generations:
            for data in await self._stored(position, 0):
                shard = Shard(self._number, self._shards)
                SnapshotReader(shard.state, self._number, position).feed(data)
                found.append(_Base(position, shard.state.now, None))
        return found

    async def _restore(self, base: _Base) -> Replay | None:
        """None if it has been deleted meanwhile; VanishedError is raised if it was pruned."""
        shard = Shard(self._number, self._shards)
        reader = SnapshotReader(shard.state, self._number, base.position)
        archived = None
        if base.kept is not None and self._archive is not None:
            archived = self._archive.chunks(base.kept)
        while not reader.complete:
            if archived is not None:
                page = await _next(archived, limits.HISTORY_READ_ENTRIES, len_of=len)
            else:
                page = await self._stored(base.position, reader.chunks)
            if not page:
                return None
            for chunk in page:
                for _ in reader.feeding(chunk):
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
        return Replay(shard, Link(base.position, reader.checksum))

    async def _stored(self, position: Position, number: int) -> list[bytes]:
        """The chunk, if it is there."""
        name = chunk_name(position, number)
        data = await patiently(lambda: self._journal.load(self._number, name))
        return [] if data is None else [data]

    # --- what follows ---

    async def page(self, replay: Replay) -> list[Entry]:
        """The next entries, each of which must be proven and applied in turn; none at the head.

        Raises NotKeptError, VanishedError, CorruptRecordError, CorruptArchiveError.
        """
        after, head = replay.position, self.moment.head
        if after >= head:
            return []
        page = await self._archived(after) or await self._journaled(replay)
        if after == START and page[0].position != GENESIS:
            raise await self._not_kept(after)
        page = [each for each in page if each.position <= head]
        if not page:  # only a claim links with anything: what was before this one is lost
            raise VanishedError(f"what was acknowledged after {after}, up to {head}, is not there")
        return page

    def prove(self, replay: Replay, entry: Entry) -> tuple[Record, Link]:
        """The next record. Raises CorruptRecordError."""
        record, link = replay.prove(*entry)
        head, checksum, _, _ = self.moment
        if entry.position == head and record.checksum != checksum:
            raise CorruptRecordError(
                f"shard {self._number}, record {head}: checksum {record.checksum:08x}, but"
                f" {checksum:08x} was acknowledged"
            )
        return record, link

    async def _archived(self, after: Position) -> list[Entry]:
        """What the archive has next; nothing, if that is not in there."""
        if self._archive is None:
            return []
        if self._rest is None:
            segments = await asyncio.to_thread(self._archive.segments, self._number)
            self._rest = _entries(self._archive, segments, after)
        page = await _next(self._rest, self._count, len_of=lambda entry: len(entry.record))
        self._count = min(2 * self._count, limits.JOURNAL_READ_ENTRIES_MAX)
        return page

    async def _journaled(self, replay: Replay) -> list[Entry]:
        """What the journal has next, or the archive by now."""
        after = replay.position
        page = await self._read(after, limits.HISTORY_READ_ENTRIES)
        if not page:
            raise VanishedError(f"the journal ends at {after}")
        if not await self._is_gap(replay, page[0]):
            return page
        self._rest = None
        page = await self._archived(after)
        if not page:
            raise await self._not_kept(after)
        return page

    async def _is_gap(self, replay: Replay, first: Entry) -> bool:
        """Whether something was trimmed between the record that was applied last and `first`, which
        the journal gave as the next. What links is whole; but a claim links with anything."""
        after, error = replay.position, None
        if first.position.sequence != 0 and after != START:
            try:
                replay.prove(*first)
            except CorruptRecordError as found:
                error = found
            else:
                return False
        oldest = await self._read(START, 1)
        if not oldest or oldest[0].position > max(after, GENESIS):
            return True
        if error is not None:
            raise error
        return False

    async def _not_kept(self, after: Position) -> Exception:
        """Why what follows `after` cannot be had."""
        bases = await self._bases()
        earliest = min(bases, key=lambda each: each.position, default=None)
        if earliest is None or earliest.position <= after:
            return VanishedError(f"what followed {after} is gone")
        since = datetime.fromtimestamp(earliest.time / limits.SECOND_US, UTC)
        return NotKeptError(
            f"what is kept begins with record {earliest.position}, of {since.isoformat()}"
        )

    async def _read(self, after: Position, count: int) -> list[Entry]:
        return await patiently(lambda: self._journal.read(self._number, after, count))


def _entries(archive: AnyArchive, segments: list[Segment], after: Position) -> Iterator[Entry]:
    """What follows `after` in segments of which each follows the one before."""
    rest = dropwhile(lambda each: each.last <= after, segments)
    for number, segment in enumerate(rest):
        if not number and not _reaches(segment, after):
            return
        for entry in archive.read(segment):
            if entry.position > after:
                yield entry


def _reaches(segment: Segment, after: Position) -> bool:
    """Whether nothing is missing between `after` and the segment, which ends later."""
    # before a claim of which nothing more is known, anything may be missing
    is_known = segment.before.position != START or segment.first == GENESIS
    return segment.first <= after or (is_known and segment.before.position <= after)


async def _next(items: Iterator[T], most: int, len_of: Callable[[T], int]) -> list[T]:
    """The next of them, so many as make one piece of work for a thread."""
    try:
        return await asyncio.to_thread(_take, items, most, len_of)
    except FileNotFoundError as error:
        raise VanishedError(f"{error.filename} has been pruned") from error


def _take(items: Iterator[T], most: int, len_of: Callable[[T], int]) -> list[T]:
    taken, size = list[T](), 0
    for item in items:
        taken.append(item)
        size += len_of(item)
        if size >= limits.HISTORY_READ_BYTES or len(taken) >= most:
            break
    return taken
