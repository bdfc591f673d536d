"""Marks: how far each shard's journal has been acknowledged, told by somebody other than Redis.

A journal that lost its end looks complete. So hosts remember, in a file that all those of a machine
share, the last record of each shard that they know to be acknowledged; a stream that ends below a
mark has gone back in time and is refused. A mark proves itself by a checksum and only ever grows:
who writes holds a lock, looks at what is there, and leaves a newer mark alone.

Every shard has two slots, and a new mark overwrites the older one, so that whatever happens to a
write, the mark before it is still whole. They lie half a file apart, that no one sector holds both:

    marks:   first half   | shard 0 | shard 1 | … | shard 4095 |     64 bytes each, so that
             second half  | shard 0 | shard 1 | … | shard 4095 |     none straddles a sector

    slot:    "onhmark1" | shard u32 | epoch u64 | sequence u64 | checksum u32 | 28 zeros | crc32 u32
             or 64 zeros: empty

    first \\ second   empty      whole      illegible
    empty            nothing    second     nothing
    whole            first      newer      first
    illegible        nothing    second     CorruptMarkError

A shard's first mark goes into both slots, one after the other: from then on one bad sector loses at
most the newest mark, and an illegible slot beside an empty one is a first mark that was never
reported as written. Two illegible slots are an error: no write touches both, so the disk is not to
be trusted, and guessing that there was no mark would defeat the purpose. So is a slot that proves
itself but is another shard's, or of another format: somebody wrote it there.

The file has its full size, written out and synced, before it gets its name. From then on a write
overwrites blocks that exist and `fdatasync` has no metadata to commit: marks are written every
second beside the append-only file that everybody waits for, and on ext4 a commit of the
filesystem's journal stalls that one too. For the same reason a full disk stops no mark.
"""

import asyncio
import fcntl
import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from engine import limits
from engine.codec import Position

_MAGIC: Final = b"onhmark1"
_BODY: Final = struct.Struct(">8sIQQI28x")
_CHECKSUM: Final = struct.Struct(">I")
SLOT_BYTES: Final = _BODY.size + _CHECKSUM.size
HALF_BYTES: Final = limits.SHARDS_MAX * SLOT_BYTES
FILE_BYTES: Final = 2 * HALF_BYTES
LOCK_SECONDS_MAX: Final = 1.0
"""A process that is frozen while it holds the lock keeps the others from writing, no more."""
_LOCK_RETRY_SECONDS: Final = 0.005
_PAGE_BYTES: Final = 4_096
"""What is read and written at once: the disk gets no less in any case."""
_EMPTY: Final = bytes(SLOT_BYTES)

assert SLOT_BYTES == 64
assert HALF_BYTES % _PAGE_BYTES == 0


class CorruptMarkError(Exception):
    """A mark does not prove itself; the message names the file and where in it."""


class Mark(NamedTuple):
    """A record that was acknowledged: where it stands, and its checksum."""

    position: Position
    checksum: int


def marks_path(directory: Path) -> Path:
    """The file of the marks of all shards."""
    return directory / "marks"


def slot_offsets(shard: int) -> tuple[int, int]:
    """Where in the file the two slots of a shard are."""
    assert 0 <= shard < limits.SHARDS_MAX, shard
    return shard * SLOT_BYTES, HALF_BYTES + shard * SLOT_BYTES


def read_mark(directory: Path, shard: int) -> Mark | None:
    """What the directory says about a shard; None if it says nothing. Raises CorruptMarkError.

    Takes no lock: a slot that is being written is at worst illegible, and then the other counts.
    """
    path = marks_path(directory)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _newest(_File(path, descriptor).slots(shard)).mark
    finally:
        os.close(descriptor)


def newest_mark(directories: Iterable[Path], shard: int) -> Mark | None:
    """The newest mark of a shard in any of the directories. Raises CorruptMarkError."""
    found = (read_mark(directory, shard) for directory in directories)
    return max((mark for mark in found if mark is not None), default=None)


class Marks:
    """What this process knows; `note` it as it comes, and `write` it now and then."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._newest: dict[int, Mark] = {}
        self._written: dict[int, Mark] = {}
        self._doubtful: dict[int, Mark] = {}
        """Of a write that failed: a slot may hold it without the disk having it."""
        self._writing = asyncio.Lock()

    def note(self, shard: int, position: Position, checksum: int) -> None:
        """This record is acknowledged. An older one than is known already changes nothing."""
        known = self._newest.get(shard)
        if known is None or position > known.position:
            self._newest[shard] = Mark(position, checksum)

    def read(self, shard: int) -> Mark | None:
        """The newest mark, noted or written. Raises CorruptMarkError."""
        marks = (self._newest.get(shard), read_mark(self._directory, shard))
        return max((mark for mark in marks if mark is not None), default=None)

    async def write(self) -> int:
        """Write what has changed, off the event loop. How many marks that were.

        Raises OSError or CorruptMarkError; what was not written stays to be written.
        """
        async with self._writing:
            changed = {
                shard: mark
                for shard, mark in self._newest.items()
                if self._written.get(shard) != mark
            }
            if changed:
                doubtful = self._doubtful
                self._doubtful = changed | doubtful
                corrupt = await asyncio.to_thread(_write, self._directory, changed, doubtful)
                self._doubtful = {}
                self._written |= {each: changed[each] for each in changed if each not in corrupt}
                for error in corrupt.values():
                    raise error
        return len(changed)


# --- one write ---


def _write(
    directory: Path, marks: dict[int, Mark], doubtful: dict[int, Mark]
) -> dict[int, CorruptMarkError]:
    """Write all but those whose slots are both illegible, which are returned."""
    corrupt = {}
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory) as lock, _opened(marks_path(directory), lock) as file:
        lonely = {}
        for shard, mark in marks.items():
            try:
                slots = file.slots(shard)
            except CorruptMarkError as error:
                corrupt[shard] = error
                continue
            slot = _slot_for(mark, slots, doubtful.get(shard))
            if slot is not None:
                file.put(slot.offset, _encode(shard, mark))
                other = _other(slots, slot)
                if other.mark is None:
                    lonely[other.offset] = _encode(shard, mark)
        file.sync()
        for offset, data in lonely.items():
            file.put(offset, data)
        file.sync()
    return corrupt


def _slot_for(mark: Mark, slots: "_Slots", doubtful: Mark | None) -> "_Slot | None":
    """Where to put `mark`: not where the last one is that the disk has; None if it has a newer.

    `doubtful` and what is newer may be known to the page cache only, so that is overwritten.
    """
    newest = _newest(slots)
    there = newest.mark
    if there is None or there == mark:
        return newest
    if there.position >= mark.position:
        return None
    if doubtful is not None and there.position >= doubtful.position:
        return newest
    return _other(slots, newest)


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, directory)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{directory}: locked for {LOCK_SECONDS_MAX} s") from None
        time.sleep(_LOCK_RETRY_SECONDS)


@contextmanager
def _opened(path: Path, lock: int) -> Iterator["_File"]:
    """The file, created if need be; `lock` is its locked directory."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        _create(path)
        os.fsync(lock)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield _File(path, descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> None:
    """Of full size, and with blocks that were written: an allocated one is metadata till then."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
        file.write(bytes(FILE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


# --- the file ---


class _Slot(NamedTuple):
    offset: int
    mark: Mark | None
    flaw: str
    """Why it is illegible; nothing if it is whole or empty."""


_Slots = tuple[_Slot, _Slot]


class _File:
    """The open file, read and written by pages, as far as it is asked for."""

    def __init__(self, path: Path, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size != FILE_BYTES:
            raise CorruptMarkError(f"{path}: {size} bytes, not {FILE_BYTES}")
        self._path = path
        self._descriptor = descriptor
        self._pages: dict[int, bytearray] = {}
        self._dirty: set[int] = set()

    def slots(self, shard: int) -> _Slots:
        """Both slots of a shard. Raises CorruptMarkError."""
        one, other = (self._slot(shard, offset) for offset in slot_offsets(shard))
        if one.flaw and other.flaw:
            raise CorruptMarkError(
                f"{self._path}: at {one.offset}: {one.flaw}; at {other.offset}: {other.flaw}"
            )
        return one, other

    def _slot(self, shard: int, offset: int) -> _Slot:
        within = offset % _PAGE_BYTES
        data = bytes(self._page(offset - within)[within : within + SLOT_BYTES])
        if data == _EMPTY:
            return _Slot(offset, None, "")
        body, (checksum,) = data[: _BODY.size], _CHECKSUM.unpack(data[_BODY.size :])
        if crc32(body) != checksum:
            return _Slot(offset, None, f"checksum {checksum:08x}, bytes {crc32(body):08x}")
        magic, number, epoch, sequence, record = _BODY.unpack(body)
        if magic != _MAGIC:
            raise CorruptMarkError(f"{self._path}: at {offset}: {magic!r}, not {_MAGIC!r}")
        if number != shard:
            raise CorruptMarkError(f"{self._path}: at {offset}: shard {number}, not {shard}")
        return _Slot(offset, Mark(Position(epoch, sequence), record), "")

    def _page(self, start: int) -> bytearray:
        page = self._pages.get(start)
        if page is None:
            page = bytearray(os.pread(self._descriptor, _PAGE_BYTES, start))
            assert len(page) == _PAGE_BYTES
            self._pages[start] = page
        return page

    def put(self, offset: int, data: bytes) -> None:
        """Overwrite a slot, from the next `sync` on."""
        within = offset % _PAGE_BYTES
        self._page(offset - within)[within : within + SLOT_BYTES] = data
        self._dirty.add(offset - within)

    def sync(self) -> None:
        """What was put is on the disk."""
        for start in sorted(self._dirty):
            written = os.pwrite(self._descriptor, self._pages[start], start)
            if written != _PAGE_BYTES:
                raise OSError(f"{self._path}: wrote {written} bytes of a page at {start}")
        if self._dirty:
            os.fdatasync(self._descriptor)
        self._dirty.clear()


def _newest(slots: _Slots) -> _Slot:
    """The slot of the newest mark; of two without a mark the first."""
    one, other = slots
    if other.mark is not None and (one.mark is None or one.mark < other.mark):
        return other
    return one


def _other(slots: _Slots, slot: _Slot) -> _Slot:
    return slots[1] if slot is slots[0] else slots[0]


def _encode(shard: int, mark: Mark) -> bytes:
    body = _BODY.pack(_MAGIC, shard, *mark.position, mark.checksum)
    return body + _CHECKSUM.pack(crc32(body))
