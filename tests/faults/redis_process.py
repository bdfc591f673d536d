"""A Redis of the operator's own, as Debian ships it: for `onhand up --redis`."""

import asyncio
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis import Redis

from actors.process import Identity, identify, send_signal
from tests.actors.servers import binary_of
from tests.faults.engine_process import eventually

SETTINGS = {
    "port": "0",
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory": "256mb",
    "maxmemory-policy": "noeviction",
}


class RedisProcess:
    """One server on one directory, behind one socket, and a port if there is to be one."""

    def __init__(self, directory: Path, name: str = "redis", where: str = "") -> None:
        """`name`: of the server's program, see `tests.actors.servers`; `where`: an address and a
        port, host:port."""
        self._directory = directory
        self._name = name
        self._where = where
        self._process: Process | None = None
        self._socket = directory / "redis.sock"

    @property
    def url(self) -> str:
        if self._where:
            return f"redis://{self._where}/0"
        return f"unix://{self._socket}"

    @property
    def identity(self) -> Identity:
        assert self._process is not None
        found = identify(self._process.pid)
        assert found is not None
        return found

    def client(self) -> Redis:
        return Redis(unix_socket_path=str(self._socket))

    def configure(self, **settings: str) -> None:
        """CONFIG SET; connections that are open stay open."""
        with self.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    def used_memory(self) -> int:
        """In bytes."""
        with self.client() as client:
            return int(client.info("memory")["used_memory"])

    def configure_and_hang_up(self, name: str, value: str) -> None:
        """CONFIG SET, and the end of every other connection, in one turn of the server's loop."""
        with self.client() as client, client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("CONFIG", "SET", name, value)
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            pipeline.execute()

    async def start(self) -> None:
        """Start it on what is there; returns when it answers."""
        await asyncio.to_thread(self._directory.mkdir, exist_ok=True)
        settings: Sequence[str] = [
            word for name, value in SETTINGS.items() for word in (f"--{name}", value)
        ]
        self._process = await asyncio.create_subprocess_exec(
            binary_of(self._name),
            *settings,
            *("--dir", self._directory, "--unixsocket", self._socket),
            *self._listen(),
            stdout=DEVNULL,
            start_new_session=True,
        )
        await eventually(self._answers, 30)

    def _listen(self) -> list[str]:
        host, _, port = self._where.rpartition(":")
        return ["--bind", host, "--port", port, "--protected-mode", "no"] if self._where else []

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """However it stands."""
        if self._process is not None and self._process.returncode is None:
            send_signal(self.identity, signal.SIGCONT)
            self._process.terminate()
            await self._process.wait()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        finally:
            writer.close()


@asynccontextmanager
async def redis_running(
    directory: Path, name: str = "redis", where: str = ""
) -> AsyncIterator[RedisProcess]:
    """A server for as long as the block lasts."""
    server = RedisProcess(directory, name, where)
    try:
        await server.start()
        yield server
    finally:
        await server.end()
