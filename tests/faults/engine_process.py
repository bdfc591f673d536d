"""`onhand up` as its users run it: a process of its own, from its first line to its last trace.

Whatever it starts is known by identity, so that a test can end any one of its processes, and can
prove in the end that none of them is left, and no socket either.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

import msgspec

from actors.cluster import descendants
from actors.process import Identity, identify, is_alive, send_signal
from gateway.status import HostEntry, StatusReport

ONHAND = Path(sys.executable).with_name("onhand")
START_SECONDS = 90
STOP_SECONDS = 45
POLL_SECONDS = 0.02
Found = TypeVar("Found")


class StartError(Exception):
    """It ended before it was ready; the message is what it said."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code
        self.said = said


class NotReadyError(ConnectionError):
    """A gateway that does not know anything yet."""


class EngineProcess:
    """One `onhand up` that has said where it serves."""

    def __init__(self, process: Process, ready: dict[str, Any]) -> None:
        self._process = process
        self.data_dir = Path(ready["data_dir"])
        self.http: str = ready["http"]
        self.binary: str = ready["binary"]
        self.run_dir = (self.data_dir / "run").readlink()
        self.seen: set[Identity] = set()
        """All processes of it that were ever noticed."""
        self.note()

    # --- its processes ---

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def redis_url(self) -> str:
        """Of the embedded server."""
        return f"unix://{self.run_dir}/redis.sock"

    def note(self) -> list[Identity]:
        """All of its processes, now; they are remembered."""
        found = identify(self.pid)
        if found is None or self._process.returncode is not None:
            return []
        everything = [found, *descendants([found])]
        self.seen.update(everything)
        return everything

    def find(self, *programs: str) -> list[Identity]:
        """Its processes that run one of these programs."""
        return [each for each in self.note() if Path(each.program).name in programs]

    @property
    def redis(self) -> Identity:
        """The embedded server."""
        (found,) = self.find("valkey-server", "redis-server")
        return found

    def left_running(self) -> list[Identity]:
        """Of all its processes that were noticed, those alive."""
        return [each for each in self.seen if is_alive(each)]

    # --- what it says ---

    async def status(self) -> StatusReport:
        """What a gateway says of hosts and shards."""
        code, body = await get(self.http, "/v1/status")
        if code != 200:  # it has just come up
            raise NotReadyError(body.decode())
        return msgspec.convert(json.loads(body), StatusReport)

    async def hosts(self) -> list[HostEntry]:
        """Those alive, the one with most shards first."""
        alive = [each for each in (await self.status()).hosts if each.alive]
        return sorted(alive, key=lambda each: -len(each.epochs))

    async def is_ready(self) -> bool:
        """Whether every shard is owned and acknowledged."""
        try:
            code, _ = await get(self.http, "/readyz")
        except (OSError, asyncio.IncompleteReadError):
            return False
        return code == 200

    async def until_ready(self, seconds: float = 30) -> float:
        """Wait until every shard is served; how long that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await eventually(self.is_ready, seconds)
        return loop.time() - began

    async def until_hosts(self, count: int, seconds: float = 30) -> list[HostEntry]:
        """Wait until so many hosts are alive."""

        async def enough() -> list[HostEntry]:
            found = await self.hosts()
            return found if len(found) >= count else []

        return await eventually(enough, seconds)

    def log(self, name: str) -> list[dict[str, Any]]:
        """What one of its processes has logged."""
        text = (self.data_dir / "logs" / f"{name}.log").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    # --- its end ---

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, if it has not done so already; its exit status."""
        if self._process.returncode is None:
            self.note()
            self._process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        return await asyncio.wait_for(self._process.wait(), STOP_SECONDS)

    async def kill_all(self) -> int:
        """kill -9 of every process at the same moment; how many there were."""
        everything = self.note()
        for each in everything:
            send_signal(each, signal.SIGSTOP)  # so that none can react to another's death
        for each in everything:
            send_signal(each, signal.SIGKILL)
        await self._process.wait()
        return len(everything)

    async def end(self) -> None:
        """However it stands: nothing of it runs afterwards."""
        if self._process.returncode is None:
            for each in self.note():
                send_signal(each, signal.SIGCONT)
            with contextlib.suppress(TimeoutError):
                await self.stop()
        self.note()
        for each in self.left_running():
            send_signal(each, signal.SIGKILL)
        if self._process.returncode is None:
            await self._process.wait()


async def start(
    data_dir: Path,
    *flags: str | Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = START_SECONDS,
) -> EngineProcess:
    """`onhand up` on `data_dir`. Raises StartError if it does not come up."""
    with TemporaryFile("w+") as errors:  # a pipe that nobody reads would hold it up in the end
        process = await asyncio.create_subprocess_exec(
            *(ONHAND, "up", "--json", "--port", "0", "--binary-port", "0"),
            *("--data-dir", data_dir, *flags),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), seconds)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if not line:
            code = await process.wait()
            errors.seek(0)
            raise StartError(code, errors.read().strip())
    return EngineProcess(process, json.loads(line))


@asynccontextmanager
async def running(
    data_dir: Path,
    *flags: str | Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = START_SECONDS,
) -> AsyncIterator[EngineProcess]:
    """An engine for as long as the block lasts."""
    engine = await start(data_dir, *flags, environment=environment, seconds=seconds)
    try:
        yield engine
    finally:
        await engine.end()


async def get(url: str, path: str, seconds: float = 5) -> tuple[int, bytes]:
    """One HTTP request on a connection of its own: status and body."""
    return await _request(url, f"GET {path} HTTP/1.1", b"", seconds)


async def post(url: str, path: str, body: object, seconds: float = 5) -> tuple[int, bytes]:
    """The same, with a body of JSON."""
    return await _request(url, f"POST {path} HTTP/1.1", json.dumps(body).encode(), seconds)


async def _request(url: str, line: str, body: bytes, seconds: float) -> tuple[int, bytes]:
    host, port = url.removeprefix("http://").split(":")
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            lines = (line, f"Host: {host}", "Connection: close", "Content-Type: application/json")
            length = f"Content-Length: {len(body)}"
            writer.write("\r\n".join((*lines, length, "", "")).encode() + body)
            head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    if not head:
        raise asyncio.IncompleteReadError(b"", None)
    return int(head.split()[1]), answer


async def gone(processes: Iterable[Identity], seconds: float = 10) -> None:
    """Wait until none of them runs."""

    async def are_gone() -> bool:
        return not any(is_alive(each) for each in processes)

    await eventually(are_gone, seconds)


async def eventually(ask: Callable[[], Awaitable[Found]], seconds: float = 10) -> Found:
    """Ask until the answer is something true; fail if that does not come in time."""
    async with asyncio.timeout(seconds):
        while not (found := await ask()):  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(POLL_SECONDS)
    return found
