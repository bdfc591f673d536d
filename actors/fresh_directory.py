"""A fresh directory: it gets its name when it is whole, or never exists.

    nothing there ──► .<name>.onhand-… beside it, written ──► synced ──► renamed
                          ├ whatever goes wrong: removed
                          └ killed: removed by the next who makes that directory

Beside it, since a directory cannot be renamed from one file system to another. For the same reason
a mount point is refused before anything is written, even an empty one: it is on another file system
than its own parent, and nothing can be renamed over it. A symbolic link is followed: what it leads
to is made.

Who writes one holds a lock on it, which goes with the process: so what a killed one has left is
told from what a living one is writing.

Who is interrupted waits for the thread that writes (`to_end`) and removes everything after that;
otherwise the thread would go on behind the removal, and make anew what it needs.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class UnfitTargetError(Exception):
    """There can be no fresh directory of that name; the message is one line for the operator."""


class FreshDirectory:
    """One that is being written."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        """Where to write."""
        self._target = target
        """What it will be."""

    def publish(self) -> None:
        """Put all of it on the disk, and give it its name. Raises OSError."""
        for path in (*self.path.rglob("*"), self.path):
            _sync(path)
        self.path.rename(self._target)
        _sync(self._target.parent)


@contextmanager
def fresh_directory(target: Path) -> Iterator[FreshDirectory]:
    """A directory that is to become `target`, which is not there yet, or empty. What is not
    published in the end is removed. Raises UnfitTargetError."""
    target = Path(os.path.realpath(target))
    fresh = FreshDirectory(_beside(target), target)
    lock = os.open(fresh.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield fresh
    finally:
        shutil.rmtree(fresh.path, ignore_errors=True)
        os.close(lock)


def _beside(target: Path) -> Path:
    try:
        if target.exists() and not (target.is_dir() and not os.listdir(target)):
            raise UnfitTargetError(f"{target} exists already, and is not an empty directory")
        if os.path.ismount(target):
            raise UnfitTargetError(f"{target} is a mount point: name a directory in it")
        _make(target.parent)
        prefix = f".{target.name}.onhand-"
        for name in os.listdir(target.parent):
            if name.startswith(prefix):
                _remove_abandoned(target.parent / name)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    except OSError as error:
        raise UnfitTargetError(f"cannot write to {target.parent}: {error.strerror}") from error


def _remove_abandoned(path: Path) -> None:
    """Remove what nobody is writing any more. Raises OSError."""
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(path)
    finally:
        os.close(lock)


def _make(directory: Path) -> None:
    """Make it, and whatever leads there, to last."""
    if directory.is_dir():
        return
    _make(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync(directory.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def to_end(work: Callable[[], T]) -> T:
    """Do it in a thread; who is cancelled leaves when it has ended."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise
