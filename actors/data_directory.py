"""The data directory: what an installation keeps on this machine, and who may use it now.

    lock            locked by the `onhand up` that runs here; says which process that is
    processes/      who it has started: named so that a successor can end what it left behind
    run -> …        its sockets, in a short path elsewhere
    redis/          the embedded server and its append-only file
    marks/          the last acknowledged record of each shard, as the hosts knew it
    archive/        what was trimmed off the journal, and old snapshots
    keys.json       API keys, hashed
    backed-up       when the newest backup was begun
    logs/           what every process had to say

One engine at a time: the lock is the kernel's, so it ends with its holder, however that ends. What
a killed holder leaves running is ended before anything new is started, and only if it is that very
process still: its id, its start and its program agree with what was written down on this boot of
the machine (`actors.process`).

The directory with the sockets is locked as well, and says whose it is. Those of engines that were
killed and whose data directory nobody has used since are removed by whoever comes next, if nothing
of them runs any more.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import structlog

from actors.process import Identity, identify, is_alive, terminate

GONE_SECONDS: Final = 10.0
_ENGINE: Final = "engine"
"""In a directory for sockets: locked by its engine, whose data directory it names."""
_PREFIX: Final = "onhand-"
_PATH_BYTES_MAX: Final = 4_096
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_log = structlog.get_logger(__name__)


class DataDirectoryError(Exception):
    """The directory cannot be used; the message is one line for the operator."""


class DataDirectory:
    """One directory. `lock` it before changing anything in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.redis = self.path / "redis"
        self.marks = self.path / "marks"
        self.archive = self.path / "archive"
        self.keys = self.path / "keys.json"
        self.logs = self.path / "logs"
        self._processes = self.path / "processes"
        self._run = self.path / "run"
        self._lock: int | None = None
        self._run_lock: int | None = None

    @property
    def redis_socket(self) -> Path:
        """Of the embedded server, while an engine runs."""
        return self._run / "redis.sock"

    def lock(self) -> None:
        """Use it alone until `unlock`. Raises DataDirectoryError, naming who is in the way."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._processes.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = error.strerror or error
            raise DataDirectoryError(f"cannot use {self.path}: {reason}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            raise DataDirectoryError(
                f"{self.path} is in use by process {holder}; stop it, or use another --data-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def unlock(self) -> None:
        """Nothing of this engine runs any more; somebody else may use the directory."""
        assert self._lock is not None, "not locked"
        for record in self._processes.iterdir():
            record.unlink()
        self._remove_run_dir()
        os.close(self._lock)
        self._lock = None

    def remember(self, process: Identity) -> None:
        """`process` belongs to this engine: whoever comes next ends it if it is still there."""
        path = self._processes / str(process.pid)
        path.write_bytes(msgspec.json.encode((_boot(), process)))

    def remembered(self) -> list[Identity]:
        """Who was started from here, on this boot of the machine, and still runs."""
        return [
            process
            for record in self._processes.iterdir()
            if (process := _read(record)) is not None and is_alive(process)
        ]

    async def end_leftovers(self) -> list[Identity]:
        """End what a killed predecessor has left running; returns when it is gone.

        Raises DataDirectoryError if something cannot be ended.
        """
        assert self._lock is not None, "not locked"
        leftovers = [each for each in self.remembered() if each.pid != os.getpid()]
        await end(leftovers)
        for process in leftovers:
            _log.warning("ended what was left behind", pid=process.pid, program=process.program)
        for record in self._processes.iterdir():
            record.unlink()
        self._remove_run_dir()
        remove_dead_run_dirs()
        return leftovers

    def make_run_dir(self) -> Path:
        """A new directory for this run's sockets, which only this user can enter."""
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._run_lock = os.open(path / _ENGINE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._run_lock, fcntl.LOCK_EX)
        os.write(self._run_lock, os.fsencode(self.path))  # before it is locked it says nothing
        self._run.symlink_to(path)
        return path

    def _remove_run_dir(self) -> None:
        if self._run_lock is not None:
            os.close(self._run_lock)
            self._run_lock = None
        if self._run.is_symlink():
            shutil.rmtree(self._run.readlink(), ignore_errors=True)
            self._run.unlink()


def remove_dead_run_dirs() -> None:
    """Remove this user's directories for sockets of engines of which nothing runs any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            engine = os.open(path / _ENGINE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # not such a directory, another user's, or gone by now
        try:
            fcntl.flock(engine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.lstat().st_uid == os.getuid() and _is_dead(os.read(engine, _PATH_BYTES_MAX)):
                shutil.rmtree(path, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # its engine runs; or somebody else removes it
        finally:
            os.close(engine)


def _is_dead(data_dir: bytes) -> bool:
    """Whether nothing is left of the engine that was killed on this data directory."""
    if not data_dir:
        return False
    try:
        return not DataDirectory(Path(os.fsdecode(data_dir))).remembered()
    except FileNotFoundError:
        return True


async def end(processes: list[Identity]) -> None:
    """Kill them; returns when they are gone. Raises DataDirectoryError if one will not go."""
    try:
        async with asyncio.timeout(GONE_SECONDS):
            await asyncio.gather(*(terminate(process, 0.0) for process in processes))
    except TimeoutError:
        left = ", ".join(str(each.pid) for each in processes if is_alive(each))
        raise DataDirectoryError(f"cannot end process {left}, left by a killed engine") from None


def this_process() -> Identity:
    """The process that asks."""
    found = identify(os.getpid())
    assert found is not None, "no /proc"
    return found


def _read(record: Path) -> Identity | None:
    """None if it was written on another boot, or not to its end."""
    try:
        boot, process = msgspec.json.decode(record.read_bytes(), type=tuple[str, Identity])
    except msgspec.MsgspecError:
        return None
    return process if boot == _boot() else None


def _boot() -> str:
    return _BOOT.read_text(encoding="ascii").strip()
