"""A disk in memory: the same promises for tests and trials.

What goes wrong in real life can be made to happen here, and only that:

    disk.full = True        whatever needs room fails with "No space left on device"
    disk.broken = 3         the third change from now fails with "Input/output error"
    disk.files[path]        what is there, to be altered or taken away
"""

import errno
import os
from io import BytesIO
from pathlib import Path
from typing import BinaryIO


class MemoryDisk:
    """See actors.disk.AnyDisk. Several archives may share one, as machines share a directory."""

    def __init__(self) -> None:
        self.files: dict[Path, bytes] = {}
        self.full = False
        self.broken = 0
        self._created = 0

    def names(self, directory: Path) -> list[str]:
        """See AnyDisk."""
        return [path.name for path in self.files if path.parent == directory]

    def open(self, path: Path) -> BinaryIO:
        """See AnyDisk."""
        return BytesIO(self._file(path))

    def size(self, path: Path) -> int:
        """See AnyDisk."""
        return len(self._file(path))

    def create(self, directory: Path, suffix: str) -> Path:
        """See AnyDisk."""
        self._change()
        self._created += 1
        path = directory / f"{self._created}{suffix}"
        self.files[path] = b""
        return path

    def append(self, path: Path, data: bytes) -> None:
        """See AnyDisk."""
        self._change()
        self.files[path] = self._file(path) + data

    def publish(self, path: Path, target: Path) -> bool:
        """See AnyDisk."""
        self._change()
        data = self._file(path)
        if target in self.files:
            return False
        self.files[target] = data
        return True

    def remove(self, path: Path) -> None:
        """See AnyDisk."""
        self.files.pop(path, None)

    def sync(self, directory: Path) -> None:
        """See AnyDisk."""
        self._change(needs_room=False)

    def _file(self, path: Path) -> bytes:
        data = self.files.get(path)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return data

    def _change(self, *, needs_room: bool = True) -> None:
        if self.broken:
            self.broken -= 1
            if not self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.full and needs_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
