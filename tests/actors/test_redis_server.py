"""The embedded server: started, supervised, ended; and what it lets a journal do."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.journal import Entry, RedisJournal
from actors.process import identify, read_identity, write_identity
from actors.redis_server import (
    SOCKET_PATH_BYTES_MAX,
    RedisServer,
    RedisServerError,
    ServerState,
    configuration,
    machine_memory_bytes,
    socket_path,
    socket_place,
)
from engine.codec import GENESIS, START
from tests.actors.servers import MEMORY_BYTES, SERVERS, binary_of, eventually, running

pytestmark = pytest.mark.redis

on_each_server = pytest.mark.parametrize("name", SERVERS)


def pid_of(server: RedisServer) -> int:
    assert server.pid is not None
    return server.pid


@asynccontextmanager
async def supervised(directory: Path, name: str) -> AsyncIterator[RedisServer]:
    async with running(directory, name) as server:
        watch = asyncio.create_task(server.supervise())
        try:
            yield server
        finally:
            await server.stop()
            await watch


async def ask(server: RedisServer, command: str) -> bytes:
    """The first line of the server's reply."""
    path = server.url.removeprefix("unix://")
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(command.encode() + b"\r\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


@on_each_server
async def test_it_serves_a_journal_and_leaves_nothing_running(name: str, tmp_path: Path) -> None:
    """Between start and stop it keeps a journal; afterwards only the data is left."""
    async with running(tmp_path, name) as server:
        pid = pid_of(server)
        assert "serving" == str(server.state)
        journal = RedisJournal(server.url)
        await journal.open()
        await journal.append(0, GENESIS, b"genesis", create=True)
        await journal.close()
        assert read_identity(tmp_path / "redis.identity") == identify(pid)

    assert "stopped" == str(server.state)
    assert None is identify(pid)
    left = {"appendonlydir", "redis.conf", "redis.lock", "redis.log"}
    assert left == set(os.listdir(tmp_path))


@on_each_server
async def test_what_it_kept_is_there_at_the_next_start(name: str, tmp_path: Path) -> None:
    """Stopping and starting again on the same directory keeps the journal."""
    for expected in ([], [Entry(GENESIS, b"genesis")]):
        async with running(tmp_path, name) as server:
            journal = RedisJournal(server.url)
            await journal.open()
            assert expected == await journal.read(0, START, 10)
            if not expected:
                await journal.append(0, GENESIS, b"genesis", create=True)
            await journal.close()


@on_each_server
async def test_only_this_user_can_reach_it(name: str, tmp_path: Path) -> None:
    """It listens on no port, and its socket is for nobody else."""
    async with running(tmp_path, name) as server:
        path = server.url.removeprefix("unix://")
        assert 0o700 == stat.S_IMODE(os.stat(path).st_mode)
        sockets = {
            os.readlink(f"/proc/{server.pid}/fd/{number}").removeprefix("socket:[").rstrip("]")
            for number in os.listdir(f"/proc/{server.pid}/fd")
        }
        listening = {line.split()[9] for line in tcp_table()}
        assert set() == sockets & listening


def tcp_table() -> list[str]:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return [line for path in tables if path.exists() for line in path.read_text().splitlines()[1:]]


DENIED = """
FLUSHALL
FLUSHDB
DEL onhand:{0}:journal
UNLINK onhand:{0}:journal
RENAME onhand:{0}:journal elsewhere
RESTORE onhand:{0}:journal 0 x
SET onhand:{0}:journal x
XADD onhand:{0}:chunk:x 1-1 r x
XSETID onhand:{0}:journal 0-1
SET elsewhere x
CONFIG SET appendonly no
CONFIG REWRITE
EVAL return 0
FUNCTION FLUSH
DEBUG SLEEP 0
MULTI
SWAPDB 0 0
REPLICAOF localhost 1
ACL WHOAMI
SHUTDOWN NOSAVE
"""


@on_each_server
async def test_what_nobody_may_do(name: str, tmp_path: Path) -> None:
    """Whatever could remove, replace or outwit a journal is denied to everybody."""
    async with running(tmp_path, name) as server:
        replies = {command: await ask(server, command) for command in DENIED.strip().splitlines()}

    denials = (b"-NOPERM", b"-ERR DEBUG command not allowed")
    assert {} == {c: reply for c, reply in replies.items() if not reply.startswith(denials)}


@on_each_server
async def test_a_killed_server_is_started_again(name: str, tmp_path: Path) -> None:
    """Supervision brings it back on the same data, and counts."""
    async with supervised(tmp_path, name) as server:
        journal = RedisJournal(server.url)
        await journal.open()
        await journal.append(0, GENESIS, b"genesis", create=True)
        for restarts in (1, 2):
            before = pid_of(server)
            os.kill(before, signal.SIGKILL)
            await eventually(lambda: server.restarts == restarts)  # noqa: B023 - awaited here
            await eventually(lambda: server.state is ServerState.SERVING)
            assert before != server.pid
        await eventually(lambda: journal.trouble is None)
        assert [Entry(GENESIS, b"genesis")] == await journal.read(0, START, 10)
        await journal.close()


@on_each_server
async def test_stopping_while_it_is_down_ends_the_supervision(name: str, tmp_path: Path) -> None:
    """No server is started after `stop`."""
    async with supervised(tmp_path, name) as server:
        os.kill(pid_of(server), signal.SIGKILL)
        await eventually(lambda: server.state is ServerState.DOWN)

    assert None is server.pid
    assert ServerState.STOPPED is server.state


@on_each_server
async def test_a_server_left_behind_is_ended(name: str, tmp_path: Path) -> None:
    """The next start on a directory ends the server of a predecessor that cannot do so itself."""
    async with running(tmp_path, name) as first:
        leftover = pid_of(first)
        os.kill(leftover, signal.SIGSTOP)
        async with running(tmp_path, name, grace_seconds=0.2) as second:
            assert leftover != second.pid
            assert None is identify(leftover)
            assert b"+PONG\r\n" == await ask(second, "PING")


@on_each_server
async def test_a_server_of_somebody_else_is_left_alone(name: str, tmp_path: Path) -> None:
    """Without proof of who it is, a server is not ended, and its directory not used."""
    async with running(tmp_path, name) as first:
        identity = read_identity(tmp_path / "redis.identity")
        assert identity is not None
        write_identity(tmp_path / "redis.identity", identity._replace(started=1))

        second = RedisServer(
            tmp_path, memory_bytes=MEMORY_BYTES, binary=binary_of(name), grace_seconds=0.2
        )
        with pytest.raises(RedisServerError, match="another server uses"):
            await second.start()
        assert b"+PONG\r\n" == await ask(first, "PING")


@on_each_server
async def test_it_dies_with_its_parent(name: str, tmp_path: Path) -> None:
    """A server whose parent is killed ends by itself."""
    code = (
        "import asyncio, pathlib, sys\n"
        "from actors.redis_server import RedisServer\n"
        "async def main():\n"
        "    path, binary = map(pathlib.Path, sys.argv[1:])\n"
        f"    server = RedisServer(path, memory_bytes={MEMORY_BYTES}, binary=binary)\n"
        "    await server.start()\n"
        "    sys.stderr.write(f'{server.pid}\\n')\n"
        "    await asyncio.Event().wait()\n"
        "with asyncio.Runner() as runner:\n"
        "    runner.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, tmp_path, binary_of(name)),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert parent.stderr is not None
    identity = identify(int(await parent.stderr.readline()))
    assert identity is not None
    parent.kill()
    await parent.wait()

    await eventually(lambda: identify(identity.pid) != identity)


@on_each_server
async def test_a_server_that_dies_at_the_start_says_why(name: str, tmp_path: Path) -> None:
    """The error carries the end of the server's log, and nothing is left running."""
    unreadable(tmp_path)
    server = RedisServer(tmp_path, memory_bytes=MEMORY_BYTES, binary=binary_of(name))

    with pytest.raises(RedisServerError, match=r"(?s)redis ended with 1: .*AOF"):
        await server.start()
    assert (ServerState.STOPPED, None) == (server.state, server.pid)


def unreadable(directory: Path) -> None:
    """An append-only file whose manifest makes no sense."""
    place = directory / "appendonlydir"
    place.mkdir()
    (place / "appendonly.aof.manifest").write_text("nonsense\n")


async def test_a_missing_binary_is_reported(tmp_path: Path) -> None:
    """A binary that is not there is an error like any other failed start."""
    server = RedisServer(tmp_path, memory_bytes=MEMORY_BYTES, binary=tmp_path / "nothing")

    with pytest.raises(RedisServerError, match="redis ended with 1"):
        await server.start()


async def test_a_server_that_does_not_load_in_time_is_ended(tmp_path: Path) -> None:
    """Patience has an end, and then nothing is left running."""
    server = RedisServer(tmp_path, memory_bytes=MEMORY_BYTES)
    with pytest.raises(RedisServerError, match=r"not within 0\.001 s"):
        await server.start(timeout=0.001)

    assert None is server.pid
    assert not any((tmp_path / f"redis.{name}").exists() for name in ("identity", "sock"))


async def test_a_large_log_is_put_aside(tmp_path: Path) -> None:
    """Logs are bounded: one of today, one before."""
    (tmp_path / "redis.log").write_bytes(b"old\n" * (2 << 20))

    async with running(tmp_path, "valkey"):
        assert (8 << 20) == (tmp_path / "redis.log.1").stat().st_size
        assert (tmp_path / "redis.log").stat().st_size < 64 << 10


def test_a_socket_lies_in_its_directory(tmp_path: Path) -> None:
    """Where the path is short enough, the socket is where its server's data is."""
    assert tmp_path / "redis.sock" == socket_path(tmp_path, "redis.sock")


async def test_a_long_directory_has_its_socket_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that no socket can have is replaced by a short, private one, cleared away later."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / ("x" * SOCKET_PATH_BYTES_MAX)
    async with running(directory, "valkey") as server:
        place = socket_place(directory)
        assert f"unix://{place}/redis.sock" == server.url
        assert 0o700 == stat.S_IMODE(place.stat().st_mode)

    assert [directory.name] == os.listdir(tmp_path)


def test_a_place_that_others_can_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was quicker to make the place cannot sit in it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / ("x" * SOCKET_PATH_BYTES_MAX)
    socket_place(directory).mkdir()
    socket_place(directory).chmod(0o755)

    with pytest.raises(RedisServerError, match="only this user"):
        socket_path(directory, "redis.sock")


async def test_odd_directories_are_quoted(tmp_path: Path) -> None:
    """Blanks, quotes and backslashes in a path reach the server as they are."""
    directory = tmp_path / 'a "b" \\c é'
    async with running(directory, "valkey") as server:
        assert b"+PONG\r\n" == await ask(server, "PING")
        assert (directory / "appendonlydir").is_dir()

    with pytest.raises(RedisServerError, match="cannot be written"):
        configuration(tmp_path / "a\nb", tmp_path / "s", "always", MEMORY_BYTES)


def test_the_memory_of_the_machine() -> None:
    """What is found is a plausible amount of memory."""
    assert 128 << 20 < machine_memory_bytes() < 1 << 50
