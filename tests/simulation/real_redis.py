"""A real server for the conformance tests: everything that `SimulatedServer` can do, done for real.

It is configured as the embedded one, but may do everything, and its streams have small nodes that
are closed by the number of their entries alone. Talking to it blocks, always with a deadline.
"""

import contextlib
import os
import resource
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import hiredis

from actors.config import Fsync
from actors.process import tied_to_parent
from actors.redis_server import configuration
from actors.redis_wire import pack
from tests.actors.servers import MEMORY_BYTES, binary_of

SECONDS_MAX: Final = 20.0
_POLL_SECONDS: Final = 0.005
_MORE: Final = object()


class RealSession:
    """One connection."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS_MAX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def feed(self, data: bytes, replies: int) -> bytes:
        """Send `data`; so many replies to it, or fewer if the server hangs up before."""
        self._socket.sendall(data)
        reader, chunks = hiredis.Reader(notEnoughData=_MORE), list[bytes]()
        while replies and (chunk := self._socket.recv(1 << 20)):
            chunks.append(chunk)
            reader.feed(chunk)
            while replies and reader.gets() is not _MORE:
                replies -= 1
        return b"".join(chunks)

    def rest(self) -> bytes:
        """What comes until the server hangs up."""
        chunks = list[bytes]()
        while chunk := self._socket.recv(1 << 20):
            chunks.append(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        self._socket.close()


class RealServer:
    """One server on one directory; not running until `start`."""

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        node_entries: int,
        fsync: Fsync = "always",
        load_delay_us: int = 0,
    ) -> None:
        directory.mkdir()
        self.directory = directory
        self._socket = directory / "redis.sock"
        self._file = directory / "redis.conf"
        lines = [
            *(
                line
                for line in configuration(directory, self._socket, fsync, MEMORY_BYTES).splitlines()
                if not line.startswith("user ")
            ),
            "user default on nopass ~* &* +@all",
            f"stream-node-max-entries {node_entries}",
            "stream-node-max-bytes 0",
            f"key-load-delay {load_delay_us}",
            "loading-process-events-interval-bytes 1024",
        ]
        self._file.write_text("\n".join(lines), encoding="utf-8")
        self._binary = binary_of(name)
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions = list[RealSession]()

    def start(self, *, loaded: bool = True) -> None:
        """Run, and wait until it answers, or only until it can be connected to."""
        assert self._process is None, "it runs already"
        self._socket.unlink(missing_ok=True)
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                tied_to_parent([str(self._binary), str(self._file)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + SECONDS_MAX
        while not self._answers(loaded):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_POLL_SECONDS)
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, (self.directory / "redis.log").read_text(encoding="utf-8")

    def _answers(self, loaded: bool) -> bool:
        """Whether it does now, or can at least be connected to."""
        try:
            session = self.session()
        except OSError:
            return False
        return not loaded or session.feed(pack(b"PING"), 1) == b"+PONG\r\n"

    def session(self) -> RealSession:
        """A new connection. Raises OSError if there is nothing to connect to."""
        session = RealSession(self._socket)
        self._sessions.append(session)
        return session

    def kill(self) -> None:
        """SIGKILL, if it runs; and no connection is left."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(SECONDS_MAX)
        while self._sessions:
            self._sessions.pop().close()

    def ask(self, *words: bytes) -> bytes:
        """The reply to one command, over a connection of its own."""
        session = self.session()
        try:
            return session.feed(pack(*words), 1)
        finally:
            self._sessions.remove(session)
            session.close()

    def rewrite_file(self) -> None:
        """Have the append-only file rewritten from memory, and wait until that is done."""
        self.ask(b"BGREWRITEAOF")
        deadline = time.monotonic() + SECONDS_MAX
        busy = (b"aof_rewrite_in_progress:1", b"aof_rewrite_scheduled:1")
        while any(line in self.ask(b"INFO", b"persistence") for line in busy):
            assert time.monotonic() < deadline, "it is still rewriting its file"

    def limit_file(self, more_bytes: int | None) -> None:
        """Let no file of it grow larger than its append-only file is now, and `more_bytes`.

        A write beyond that fails, as on a full disk: the Python that runs before the server has
        the signal ignored that would end it instead.
        """
        assert self._process is not None, "it does not run"
        (path,) = self.directory.glob("appendonlydir/*.incr.aof")
        most = resource.RLIM_INFINITY if more_bytes is None else os.stat(path).st_size + more_bytes
        hard = resource.RLIM_INFINITY
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (most, hard))
