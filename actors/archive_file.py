"""The files of the archive: written whole or not at all, once, and proven when they are read.

    header    magic, format, what it holds; ends with the crc32 of itself
    body      a zlib stream: of each item its length (u32) and its bytes
    end       the crc32 of everything before it

A file is written under a temporary name and published under its own, which fails if that is taken
(`actors.disk`). So a file never changes once it can be seen, and of two who write the same one, one
wins. What a killed writer leaves has a name that no reader looks at, and the next one removes it.

The header has its own checksum so that a directory can be listed without reading its files. Items
carry checksums of their own (`engine.codec`, `engine.snapshot`), so whoever reads may use each as
it comes; that nothing is missing at the end is known at the end.
"""

import errno
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from actors.disk import AnyDisk

CRC: Final = struct.Struct(">I")
_LENGTH: Final = struct.Struct(">I")
_LEVEL: Final = 1
"""Of compression: a journal of random ids shrinks to 35 %, at 50 MB/s; level 6 makes that 32 %, at
30 MB/s."""
_READ_BYTES: Final = 64 << 10
FRESH: Final = ".new"
"""How the name of a file ends that is being written."""


class CorruptArchiveError(Exception):
    """A file of the archive is not what was written; names the file, the place and the reason."""

    def __init__(self, path: Path, place: str, reason: str) -> None:
        super().__init__(f"{path}: {place}: {reason}")


class Draft:
    """A file that is being written. Holds nothing open in between, so it may be dropped anywhere;
    the calls may come from different threads, one after the other."""

    def __init__(self, disk: AnyDisk, directory: Path, header: bytes) -> None:
        """`header`: all of it but its checksum. Raises OSError."""
        self._disk = disk
        self._directory = directory
        self._path = disk.create(directory, FRESH)
        self._compress = zlib.compressobj(_LEVEL)
        self._crc = 0
        try:
            self._write(header + CRC.pack(zlib.crc32(header)))
        except OSError:
            self.discard()
            raise

    def put(self, *items: bytes) -> None:
        """Add items. Raises OSError."""
        raw = b"".join(part for each in items for part in (_LENGTH.pack(len(each)), each))
        self._write(self._compress.compress(raw))

    def publish(self, name: str) -> bool:
        """Let it be seen under its name, to stay; False if the name is taken. Raises OSError."""
        self._write(self._compress.flush())
        self._write(CRC.pack(self._crc))
        try:
            return self._disk.publish(self._path, self._directory / name)
        finally:
            self.discard()

    def discard(self) -> None:
        """It is not wanted any more."""
        self._disk.remove(self._path)

    def _write(self, data: bytes) -> None:
        self._disk.append(self._path, data)
        self._crc = zlib.crc32(data, self._crc)


def read_header(disk: AnyDisk, path: Path, header: struct.Struct) -> tuple[Any, ...]:
    """The fields of a file's header. Raises CorruptArchiveError, FileNotFoundError."""
    with disk.open(path) as file:
        return _header(path, file, header)


def _header(path: Path, file: BinaryIO, header: struct.Struct) -> tuple[Any, ...]:
    data = file.read(header.size + CRC.size)
    if len(data) < header.size + CRC.size:
        raise CorruptArchiveError(path, "header", f"{len(data)} bytes are too few")
    body, (checksum,) = data[: header.size], CRC.unpack(data[header.size :])
    if zlib.crc32(body) != checksum:
        raise CorruptArchiveError(
            path, "header", f"checksum {checksum:08x}, bytes {zlib.crc32(body):08x}"
        )
    return header.unpack(body)


def read_items(disk: AnyDisk, path: Path, header: struct.Struct, bytes_max: int) -> Iterator[bytes]:
    """The items of a file, none larger than `bytes_max`. Raises CorruptArchiveError, and OSError if
    it cannot be read now, or was pruned, which is no damage.

    What is wrong with the file as a whole is said after the last item, if not before.
    """
    try:
        with disk.open(path) as file:
            _header(path, file, header)
            yield from _cut(path, _Body(path, file), bytes_max)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CorruptArchiveError(path, "file", f"cannot be read: {error.strerror}") from error


def _cut(path: Path, body: "_Body", bytes_max: int) -> Iterator[bytes]:
    number, buffer = 0, b""
    for piece in body.pieces():
        buffer += piece
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if not 0 < length <= bytes_max:
                raise CorruptArchiveError(path, f"item {number}", f"{length} bytes long")
            end = start + _LENGTH.size + length
            if end > len(buffer):
                break
            yield buffer[start + _LENGTH.size : end]
            number, start = number + 1, end
        buffer = buffer[start:]
    if buffer:
        raise CorruptArchiveError(path, f"item {number}", "is cut off")


class _Body:
    """What stands between the header and the end, unpacked piece by piece, and proven."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._at = file.tell()
        self._end = file.seek(0, io.SEEK_END) - CRC.size
        file.seek(0)
        self._crc = zlib.crc32(file.read(self._at))

    def pieces(self) -> Iterator[bytes]:
        unpack = zlib.decompressobj()
        while self._at < self._end and not unpack.eof:
            data = self._read(min(_READ_BYTES, self._end - self._at))
            try:
                while data and not unpack.eof:
                    yield unpack.decompress(data, 16 * _READ_BYTES)
                    data = unpack.unconsumed_tail
            except zlib.error as error:
                raise CorruptArchiveError(self._path, self._where(), str(error)) from error
        if not unpack.eof:
            raise CorruptArchiveError(self._path, self._where(), "ends too early")
        if unpack.unused_data or self._at < self._end:
            raise CorruptArchiveError(self._path, self._where(), "goes on after its end")
        (checksum,) = CRC.unpack(self._file.read(CRC.size))
        if checksum != self._crc:
            raise CorruptArchiveError(
                self._path, "end", f"checksum {checksum:08x}, bytes {self._crc:08x}"
            )

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        self._at += len(data)
        self._crc = zlib.crc32(data, self._crc)
        if not data:
            raise CorruptArchiveError(self._path, self._where(), "ends too early")
        return data

    def _where(self) -> str:
        return f"byte {self._at}"
