"""A disk in memory, for the archive of a simulated world: it outlives processes, and fills up."""

import errno
import io
from pathlib import Path
from typing import BinaryIO


class MemoryDisk:
    """See `actors.disk.AnyDisk`."""

    def __init__(self) -> None:
        self.is_full = False
        self._files: dict[Path, bytearray] = {}
        self._number = 0

    def names(self, directory: Path) -> list[str]:
        return [path.name for path in self._files if path.parent == directory]

    def open(self, path: Path) -> BinaryIO:
        return io.BytesIO(bytes(self._file(path)))

    def size(self, path: Path) -> int:
        return len(self._file(path))

    def create(self, directory: Path, suffix: str) -> Path:
        self._check()
        self._number += 1
        path = directory / f"{self._number}{suffix}"
        self._files[path] = bytearray()
        return path

    def append(self, path: Path, data: bytes) -> None:
        self._check()
        self._file(path).extend(data)

    def publish(self, path: Path, target: Path) -> bool:
        self._check()
        if target in self._files:
            return False
        self._files[target] = self._file(path)
        return True

    def remove(self, path: Path) -> None:
        self._files.pop(path, None)

    def sync(self, directory: Path) -> None:
        self._check()

    def _file(self, path: Path) -> bytearray:
        if path not in self._files:
            raise FileNotFoundError(path)
        return self._files[path]

    def _check(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
