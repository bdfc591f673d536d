"""The archive: what the journal's server no longer keeps, in files, for as long as is wanted.

    <directory>/<shard>/0000000003-00000000000000000041.records     a segment of the journal
                        0000000003-00000000000000007712.snapshot    a snapshot, all its chunks

Before the journal of a shard is trimmed, what will go is added here: records as they stood, in
segments that directly follow each other. Nothing is trimmed that is not here, synced. Snapshots are
kept beside them now and then, so that a moment of the past need not be reached from the beginning.
Every record and chunk that is read is proven again: by its checksum, by the chain, by its place.

**Whoever is late does no damage.** An owner that was frozen and replaced may wake up in the middle
of archiving, and no fence holds it back: there is no server here that could refuse. But

- it has nothing wrong to add: it adds records that stood in the journal, below a snapshot that was
  acknowledged when it was the owner, and a record that has its place never changes. What it reads
  late was written by the rightful owner, and links, or is refused here;
- it cannot overwrite: a segment's name is the position of its first record, which is the one after
  the last of all, and a name that is taken is refused (`actors.archive_file`). So of two who
  add the same records one wins, and the other looks again and has nothing left to add;
- it cannot leave a hole: it reads the journal first and lists the archive after that. What its
  successor trimmed in between is in the archive by then;
- it cannot prune too much: it prunes by the shard's own time, and its is older.

**Overlaps are compared, not assumed.** Who archives gives the journal from its first record on,
which is the last one here: the same bytes, or it is not the same journal. An archive left over
from another installation would otherwise pass for one that has everything already, and let the
journal be trimmed.

What the journal has still though it was pruned here (its server has come back without a trim) is
held against the record that the oldest segment follows.

**A gap is an error** that names both ends. It is real where hosts of several machines archive into
directories of their own: another one has trimmed in between. Then the next run is begun `anew`;
`segments` are those of the newest run, and what is before the gap stays until it is pruned.

**Retention.** The newest snapshot that is older than the horizon stays, with all that follows it;
only what is before it goes. So everything that is kept can be replayed from a snapshot, or from the
first record of all, and until there is such a snapshot nothing is pruned.

Everything here blocks, and belongs in a thread. Any number of threads and processes may use one
directory, as long as its file system has hard links and shows a new name to everybody at once.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple, Protocol, Self

from actors.archive_file import FRESH, CorruptArchiveError, Draft, read_header, read_items
from actors.disk import DISK, AnyDisk
from actors.journal import Entry
from engine import limits
from engine.chain import Link, follow_on, link_before
from engine.codec import (
    START,
    CorruptRecordError,
    Position,
    checksum_of,
    position_of,
    skim_record,
)
from engine.snapshot import CorruptSnapshotError, check_chunk

__all__ = ["Archive", "ArchiveGapError", "CorruptArchiveError", "Kept", "Segment"]

FORMAT: Final = 1
_SEGMENT_MAGIC: Final = b"onhrecs1"
_SNAPSHOT_MAGIC: Final = b"onhsnap1"
_LINK: Final = "QQIQQI"
_SEGMENT: Final = struct.Struct(f">8sBIQQQQQQ{_LINK}{_LINK}")
"""Magic, format, shard, first position, first and last stamp, records, bytes, link before, link
after: the last position is that of the link after."""
_SNAPSHOT: Final = struct.Struct(">8sBIQQQ")
"""Magic, format, shard, position, stamp."""
_NAME: Final = re.compile(r"(\d{10})-(\d{20})\.(records|snapshot)")


class ArchiveGapError(Exception):
    """Records are missing between what is here and what was to be added."""


class Segment(NamedTuple):
    """A file of records that directly follow each other."""

    shard: int
    first: Position
    last: Position
    first_stamp: int
    last_stamp: int
    records: int
    path: Path
    size: int
    """Bytes of the records, unpacked."""
    before: Link
    """What the first record follows…"""
    after: Link
    """…and what follows the last one must link with."""


class Kept(NamedTuple):
    """An archived snapshot."""

    shard: int
    position: Position
    stamp: int
    path: Path
    size: int
    """Bytes of the file."""


class Keeping(Protocol):
    """A snapshot on its way into the archive, chunk by chunk."""

    def put(self, chunk: bytes) -> bool:
        """The next chunk. Whether it is the last. Raises CorruptSnapshotError, OSError."""

    def finish(self) -> Kept:
        """All chunks are there. Raises CorruptSnapshotError if they are not, OSError."""

    def discard(self) -> None:
        """It is not wanted any more."""


class AnyArchive(Protocol):
    """What is asked of an archive, wherever it keeps its files. All of it blocks."""

    def add(self, shard: int, entries: list[Entry], *, anew: bool = False) -> Segment:
        """Keep records, in journal order without a gap; those that are here already must be the
        same. The segment in which the last of them is.

        Raises ArchiveGapError if they do not follow what is here, unless `anew`;
        CorruptRecordError, CorruptArchiveError, OSError.
        """

    def begin_keep(self, shard: int, position: Position, stamp: int) -> Keeping:
        """Begin to keep the snapshot that was cut at `position`. Raises OSError."""

    def segments(self, shard: int) -> list[Segment]:
        """In journal order, each directly following the one before: the newest run of them."""

    def snapshots(self, shard: int) -> list[Kept]:
        """Oldest first: those from which the records of `segments` can be replayed."""

    def read(self, segment: Segment) -> Iterator[Entry]:
        """Its records, each proven before it is given. Raises CorruptArchiveError, and OSError:
        FileNotFoundError if it was pruned."""

    def chunks(self, kept: Kept) -> Iterator[bytes]:
        """Its chunks, each proven before it is given. Raises CorruptArchiveError, and OSError:
        FileNotFoundError if it was pruned."""

    def prune(self, shard: int, now_us: int) -> int:
        """Remove what is kept long enough. How many files that were."""


class Archive:
    """The archive in one directory; see AnyArchive."""

    def __init__(self, directory: Path, retention_us: int | None, disk: AnyDisk = DISK) -> None:
        """`retention_us`: how long records are kept; None = for ever."""
        self._disk = disk
        self._directory = directory
        self._retention_us = retention_us
        self._swept: set[int] = set()
        self._known: dict[Path, Segment | Kept] = {}
        """Headers that were read: files do not change."""

    # --- writing ---

    def add(self, shard: int, entries: list[Entry], *, anew: bool = False) -> Segment:
        """See AnyArchive."""
        assert entries, "nothing to add"
        self._sweep(shard)
        while True:
            newest = self._newest(shard)
            last = newest.last if newest is not None else START
            known = [each for each in entries if each.position <= last]
            if newest is not None and known:
                self._compare(newest, known)
            if len(known) == len(entries):
                return self._holding(shard, entries[-1].position)
            fresh = entries[len(known) :]
            follows = None if newest is None else newest.after
            ends = _chained(shard, fresh, follows, is_read_on=bool(known), anew=anew)
            found = self._write(shard, ends, fresh)
            if found is not None:
                return found

    def begin_keep(self, shard: int, position: Position, stamp: int) -> "Draught":
        """See AnyArchive."""
        self._sweep(shard)
        return Draught(self._disk, self._place(shard), shard, position, stamp)

    def keep(self, shard: int, position: Position, stamp: int, chunks: Iterable[bytes]) -> Kept:
        """Keep a whole snapshot. Raises CorruptSnapshotError, OSError."""
        with self.begin_keep(shard, position, stamp) as keeping:
            for chunk in chunks:
                keeping.put(chunk)
            return keeping.finish()

    def _sweep(self, shard: int) -> None:
        if shard not in self._swept:
            place = self._place(shard)
            for name in self._disk.names(place):
                if name.endswith(FRESH):  # a living writer of it will fail, and try again
                    self._disk.remove(place / name)
            self._swept.add(shard)

    def _place(self, shard: int) -> Path:
        assert 0 <= shard < limits.SHARDS_MAX, f"shard {shard}"
        return self._directory / str(shard)

    def _write(self, shard: int, ends: "_Ends", entries: list[Entry]) -> Segment | None:
        """The new segment; None if somebody else has written one at this place."""
        place, first = self._place(shard), entries[0].position
        path = place / _name(first, "records")
        found = Segment(
            *(shard, first, ends.after.position, ends.first_stamp, ends.last_stamp, len(entries)),
            *(path, sum(len(each.record) for each in entries), ends.before, ends.after),
        )
        draft = Draft(self._disk, place, _header(found))
        try:
            draft.put(*(each.record for each in entries))
            if not draft.publish(path.name):
                return None
        except OSError:
            draft.discard()
            raise
        self._known[path] = found
        return found

    def _holding(self, shard: int, position: Position) -> Segment:
        """The segment that holds `position`, where whoever wrote it may have had no time to make
        its name last."""
        self._disk.sync(self._place(shard))
        found = (self._segment(path) for path in reversed(self._list(shard, "records")))
        holding = (each for each in found if each is not None and each.first <= position)
        return next(holding, None) or self.segments(shard)[0]

    def _compare(self, newest: Segment, entries: list[Entry]) -> None:
        """Raise CorruptArchiveError if one of `entries` is not the one that is here."""
        position, record = entries[0]
        if (position, checksum_of(record)) == newest.after[:2]:
            return  # as it should be: the journal begins with the last one that is here
        segments = self.segments(newest.shard)
        before = segments[0].before
        pruned = [each for each in entries if each.position <= before.position]
        if pruned and (pruned[-1].position, checksum_of(pruned[-1].record)) != before[:2]:
            reason = f"{before.position} was pruned: this is the archive of something else"
            raise CorruptArchiveError(segments[0].path, f"record {pruned[-1].position}", reason)
        there = dict(entries[len(pruned) :])
        for segment in segments:
            if segment.last < entries[0].position or segment.first > entries[-1].position:
                continue
            for position, record in self.read(segment):
                if there.pop(position, record) != record:
                    reason = "the journal has another: this is the archive of something else"
                    raise CorruptArchiveError(segment.path, f"record {position}", reason)
        for position in there:
            reason = "is in the journal, and not here: this is the archive of something else"
            raise CorruptArchiveError(self._place(newest.shard), f"record {position}", reason)

    # --- what is there ---

    def segments(self, shard: int) -> list[Segment]:
        """See AnyArchive."""
        found = self._all_segments(shard)
        begin = 0
        for number, (one, other) in enumerate(pairwise(found), 1):
            if other.before != one.after:
                begin = number
        return found[begin:]

    def snapshots(self, shard: int) -> list[Kept]:
        """See AnyArchive."""
        segments = self.segments(shard)
        begin = segments[0].before.position if segments else START
        return [each for each in self._all_snapshots(shard) if each.position >= begin]

    def _newest(self, shard: int) -> Segment | None:
        """The segment that the next one follows; damage to an older one is of no concern."""
        paths = self._list(shard, "records")
        return self._segment(paths[-1]) if paths else None

    def _all_segments(self, shard: int) -> list[Segment]:
        found = [self._segment(path) for path in self._list(shard, "records")]
        return [each for each in found if each is not None]

    def _all_snapshots(self, shard: int) -> list[Kept]:
        found = [self._kept(path) for path in self._list(shard, "snapshot")]
        return [each for each in found if each is not None]

    def _list(self, shard: int, kind: str) -> list[Path]:
        place = self._place(shard)
        names = [_NAME.fullmatch(name) for name in self._disk.names(place)]
        return sorted(place / each[0] for each in names if each is not None and each[3] == kind)

    def _segment(self, path: Path) -> Segment | None:
        """None if it has been pruned meanwhile."""
        known = self._known.get(path)
        if isinstance(known, Segment):
            return known
        try:
            magic, version, shard, *rest = read_header(self._disk, path, _SEGMENT)
        except FileNotFoundError:
            return None
        first, (first_stamp, last_stamp, records, size) = Position(*rest[:2]), rest[2:6]
        before, after = _link(rest[6:12]), _link(rest[12:])
        self._check(path, (magic, version, shard, first), _SEGMENT_MAGIC)
        found = Segment(
            *(shard, first, after.position, first_stamp, last_stamp, records),
            *(path, size, before, after),
        )
        self._known[path] = found
        return found

    def _kept(self, path: Path) -> Kept | None:
        """None if it has been pruned meanwhile."""
        known = self._known.get(path)
        if isinstance(known, Kept):
            return known
        try:
            magic, version, shard, *rest = read_header(self._disk, path, _SNAPSHOT)
            size = self._disk.size(path)
        except FileNotFoundError:
            return None
        position, stamp = Position(rest[0], rest[1]), rest[2]
        self._check(path, (magic, version, shard, position), _SNAPSHOT_MAGIC)
        found = self._known[path] = Kept(shard, position, stamp, path, size)
        return found

    def _check(self, path: Path, found: tuple[bytes, int, int, Position], magic: bytes) -> None:
        """A header that proves itself must also be the one that belongs there."""
        kind = "records" if magic == _SEGMENT_MAGIC else "snapshot"
        if found[:2] != (magic, FORMAT):
            reason = f"{found[0]!r} format {found[1]}, this engine reads {magic!r} format {FORMAT}"
            raise CorruptArchiveError(path, "header", reason)
        if path != self._place(found[2]) / _name(found[3], kind):
            reason = f"is that of {found[3]} of shard {found[2]}"
            raise CorruptArchiveError(path, "header", reason)

    # --- reading ---

    def read(self, segment: Segment) -> Iterator[Entry]:
        """See AnyArchive."""
        path, link, count = segment.path, segment.before, 0
        for data in read_items(self._disk, path, _SEGMENT, limits.RECORD_BYTES_MAX):
            where = f"record {count} (from 0)"
            position = position_of(data)
            try:
                _, link = follow_on(link, data, segment.shard, position)
            except CorruptRecordError as error:
                raise CorruptArchiveError(path, where, str(error)) from error
            count += 1
            yield Entry(position, data)
        if (count, link) != (segment.records, segment.after):
            reason = f"{segment.records} up to {segment.last} were written"
            raise CorruptArchiveError(path, f"{count} records up to {link.position}", reason)

    def chunks(self, kept: Kept) -> Iterator[bytes]:
        """See AnyArchive."""
        count, complete = 0, False
        for data in read_items(self._disk, kept.path, _SNAPSHOT, limits.SNAPSHOT_CHUNK_BYTES_MAX):
            where = f"chunk {count}"
            if complete:
                raise CorruptArchiveError(kept.path, where, "after the last one")
            try:
                complete = check_chunk(data, kept.shard, kept.position, count)
            except CorruptSnapshotError as error:
                raise CorruptArchiveError(kept.path, where, str(error)) from error
            count += 1
            yield data
        if not complete:
            raise CorruptArchiveError(kept.path, f"chunk {count}", "is missing")

    # --- retention ---

    def prune(self, shard: int, now_us: int) -> int:
        """See AnyArchive. Snapshots first: what is left at any moment can be replayed, or has no
        snapshot that says so."""
        if self._retention_us is None:
            return 0
        horizon = now_us - self._retention_us
        old = [each for each in self.snapshots(shard) if each.stamp <= horizon]
        if not old:
            return 0
        base = old[-1].position
        gone = [each.path for each in self._all_snapshots(shard) if each.position < base]
        gone += [each.path for each in self._all_segments(shard) if each.last <= base]
        for path in gone:
            self._disk.remove(path)
            self._known.pop(path, None)
        return len(gone)


class Draught:
    """A snapshot on its way into a file; see Keeping."""

    def __init__(
        self, disk: AnyDisk, place: Path, shard: int, position: Position, stamp: int
    ) -> None:
        header = _SNAPSHOT.pack(_SNAPSHOT_MAGIC, FORMAT, shard, *position, stamp)
        self._name = _name(position, "snapshot")
        self._place = shard, position, stamp, place / self._name
        self._disk = disk
        self._draft = Draft(disk, place, header)
        self._chunks = 0
        self._complete = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()

    def put(self, chunk: bytes) -> bool:
        """See Keeping."""
        shard, position, _, _ = self._place
        if self._complete:
            raise CorruptSnapshotError(f"shard {shard}, snapshot {position}: goes on after its end")
        self._complete = check_chunk(chunk, shard, position, self._chunks)
        self._draft.put(chunk)
        self._chunks += 1
        return self._complete

    def finish(self) -> Kept:
        """See Keeping."""
        shard, position, _, _ = self._place
        if not self._complete:
            raise CorruptSnapshotError(
                f"shard {shard}, snapshot {position}: chunk {self._chunks} is missing"
            )
        self._draft.publish(self._name)  # if the name is taken: by this snapshot
        return Kept(*self._place, self._disk.size(self._place[3]))

    def discard(self) -> None:
        """See Keeping."""
        self._draft.discard()


# --- links -----------------------------------------------------------------------------------


class _Ends(NamedTuple):
    """What a segment's header says of its records."""

    before: Link
    after: Link
    first_stamp: int
    last_stamp: int


def _chained(
    shard: int, entries: list[Entry], follows: Link | None, *, is_read_on: bool, anew: bool
) -> _Ends:
    """Prove that `entries` follow each other, and `follows` if there is anything.

    `is_read_on`: what stands there was read just before them, so nothing can be missing. Raises
    CorruptRecordError and ArchiveGapError.
    """
    first = skim_record(entries[0].record, shard, entries[0].position)
    if follows is not None and not is_read_on:
        try:
            _follow(shard, follows, entries[:2])  # a claim is proven by the record after it
        except CorruptRecordError as error:
            if not anew:
                raise ArchiveGapError(
                    f"shard {shard}: the archive ends with {follows.position}, the journal begins"
                    f" with {first.position}: {error}"
                ) from error
            follows = None
    before = link_before(first) if follows is None else follows
    after, stamp = _follow(shard, before, entries)
    return _Ends(before, after, first.stamp, stamp)


def _follow(shard: int, link: Link, entries: list[Entry]) -> tuple[Link, int]:
    """The link after `entries`, and the stamp of the last. Raises CorruptRecordError."""
    stamp = 0
    for position, data in entries:
        stamp, link = follow_on(link, data, shard, position)
    return link, stamp


def _header(segment: Segment) -> bytes:
    return _SEGMENT.pack(
        *(_SEGMENT_MAGIC, FORMAT, segment.shard, *segment.first),
        *(segment.first_stamp, segment.last_stamp, segment.records, segment.size),
        *(*_flat(segment.before), *_flat(segment.after)),
    )


def _flat(link: Link) -> tuple[int, ...]:
    return (*link.position, link.checksum, *link.before_claim, link.before_claim_checksum)


def _link(fields: list[int]) -> Link:
    epoch, sequence, checksum, *claim = fields
    return Link(Position(epoch, sequence), checksum, Position(claim[0], claim[1]), claim[2])


def _name(position: Position, kind: str) -> str:
    return f"{position.epoch:010d}-{position.sequence:020d}.{kind}"
