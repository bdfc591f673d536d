"""What the archive asks of a disk: little enough that one in memory can stand in for it.

A file is made under a name that nobody looks at, appended to, and published: synced, and linked to
a name of its own, which fails if that is taken. A rename would silently replace what somebody else
has put there; a link cannot. From then on the file does not change until it is removed.
"""

import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Final, Protocol


class AnyDisk(Protocol):
    """Any of it may raise OSError."""

    def names(self, directory: Path) -> list[str]:
        """Of the files in it; none if there is no such directory."""

    def open(self, path: Path) -> BinaryIO:
        """To read it. Raises FileNotFoundError."""

    def size(self, path: Path) -> int:
        """In bytes. Raises FileNotFoundError."""

    def create(self, directory: Path, suffix: str) -> Path:
        """A new, empty file whose name ends with `suffix`; the directory is made if need be."""

    def append(self, path: Path, data: bytes) -> None:
        """Add to a file that `create` has made. Raises FileNotFoundError if it was removed."""

    def publish(self, path: Path, target: Path) -> bool:
        """Give it a second name beside its first; False if that name is taken. Either way the name
        lasts."""

    def remove(self, path: Path) -> None:
        """Remove the name, if it is there."""

    def sync(self, directory: Path) -> None:
        """Make the names in it last."""


class Disk:
    """The file system of this machine."""

    def names(self, directory: Path) -> list[str]:
        """See AnyDisk."""
        try:
            return os.listdir(directory)
        except FileNotFoundError:
            return []

    def open(self, path: Path) -> BinaryIO:
        """See AnyDisk."""
        return path.open("rb")

    def size(self, path: Path) -> int:
        """See AnyDisk."""
        return path.stat().st_size

    def create(self, directory: Path, suffix: str) -> Path:
        """See AnyDisk."""
        self._make(directory)
        descriptor, name = tempfile.mkstemp(suffix=suffix, dir=directory)
        os.close(descriptor)
        return Path(name)

    def _make(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        self.sync(directory.parent)

    def append(self, path: Path, data: bytes) -> None:
        """See AnyDisk."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)  # never makes it
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def publish(self, path: Path, target: Path) -> bool:
        """See AnyDisk."""
        _sync(path, os.O_RDONLY)
        try:
            os.link(path, target)
            is_ours = True
        except FileExistsError:
            is_ours = False  # and perhaps not on the disk yet
        self.sync(target.parent)
        return is_ours

    def remove(self, path: Path) -> None:
        """See AnyDisk."""
        path.unlink(missing_ok=True)

    def sync(self, directory: Path) -> None:
        """See AnyDisk."""
        _sync(directory, os.O_RDONLY | os.O_DIRECTORY)


DISK: Final = Disk()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
