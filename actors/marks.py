"""Marks: how far each shard's journal has been acknowledged, told by somebody other than Redis.

A journal that lost its end looks complete. So hosts and gateways remember, in a file per shard, the
last record that they know to be acknowledged; a stream that ends below a mark has gone back in time
and is refused. A mark is written whole or not at all (new file, fsync, rename, fsync of the
directory), proves itself by a checksum, and only ever grows: several processes may share a
directory, each writes under its lock and leaves a newer mark alone.

    shard-<n>.mark:  "onhmark1" | shard u32 | epoch u64 | sequence u64 | checksum u32 | crc32 u32

An illegible mark is an error: where it stands was written with care, so the disk is not to be
trusted, and guessing that there was none would defeat the purpose.
"""

import asyncio
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from engine.codec import Position

_MAGIC: Final = b"onhmark1"
_BODY: Final = struct.Struct(">8sIQQI")
_CHECKSUM: Final = struct.Struct(">I")


class CorruptMarkError(Exception):
    """A mark does not prove itself; the message names the file."""


class Mark(NamedTuple):
    """A record that was acknowledged: where it stands, and its checksum."""

    position: Position
    checksum: int


def mark_path(directory: Path, shard: int) -> Path:
    """The file of a shard's mark."""
    return directory / f"shard-{shard}.mark"


def read_mark(directory: Path, shard: int) -> Mark | None:
    """What the directory says about a shard; None if it says nothing. Raises CorruptMarkError."""
    path = mark_path(directory, shard)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != _BODY.size + _CHECKSUM.size:
        raise CorruptMarkError(f"{path}: {len(data)} bytes are no mark")
    body, (checksum,) = data[: _BODY.size], _CHECKSUM.unpack(data[_BODY.size :])
    if crc32(body) != checksum:
        raise CorruptMarkError(f"{path}: checksum {checksum:08x}, bytes {crc32(body):08x}")
    magic, number, epoch, sequence, record = _BODY.unpack(body)
    if magic != _MAGIC:
        raise CorruptMarkError(f"{path}: starts with {magic!r}, not {_MAGIC!r}")
    if number != shard:
        raise CorruptMarkError(f"{path}: is the mark of shard {number}")
    return Mark(Position(epoch, sequence), record)


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
                await asyncio.to_thread(_write_marks, self._directory, changed)
                self._written.update(changed)
        return len(changed)


def _write_marks(directory: Path, marks: dict[int, Mark]) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory) as descriptor:
        for shard, mark in marks.items():
            there = read_mark(directory, shard)
            if there is None or there.position < mark.position:
                _replace(mark_path(directory, shard), _encode(shard, mark))
        os.fsync(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _encode(shard: int, mark: Mark) -> bytes:
    body = _BODY.pack(_MAGIC, shard, *mark.position, mark.checksum)
    return body + _CHECKSUM.pack(crc32(body))


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
