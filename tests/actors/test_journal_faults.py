"""The journal on a real server that freezes, dies, is full, or is set up wrongly."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.journal import (
    BusyError,
    Entry,
    LostError,
    RedisJournal,
    RefusedError,
    ServerSettingsError,
)
from actors.redis_server import RedisServer
from engine import limits
from engine.codec import GENESIS, START, CorruptRecordError, Position
from tests.actors.servers import MEMORY_BYTES, SERVERS, binary_of, eventually, running

pytestmark = pytest.mark.redis

SHARD = 5
on_each_server = pytest.mark.parametrize("name", SERVERS)


@asynccontextmanager
async def opened(server: RedisServer, timeout: float = 2.0) -> AsyncIterator[RedisJournal]:
    journal = RedisJournal(server.url, timeout=timeout, jitter=lambda: 0.5)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def pid_of(server: RedisServer) -> int:
    assert server.pid is not None
    return server.pid


async def restart(server: RedisServer) -> None:
    """The server is killed, and started again on what it left."""
    os.kill(pid_of(server), signal.SIGKILL)
    await server.stop()
    await server.start(timeout=30)


@on_each_server
async def test_a_frozen_server_leaves_one_copy(name: str, tmp_path: Path) -> None:
    """Silence is ambiguous: the append is lost to its caller, stored once, and not repeated."""
    async with running(tmp_path, name) as server, opened(server, timeout=0.5) as journal:
        await journal.append(SHARD, GENESIS, b"genesis", create=True)
        os.kill(pid_of(server), signal.SIGSTOP)
        try:
            with pytest.raises(LostError, match=r"no reply within 0\.5 s"):
                await journal.append(SHARD, Position(1, 0), b"claim")
            with pytest.raises(BusyError):  # frozen for two timeouts and more by now
                await journal.append(SHARD, Position(1, 1), b"never sent")
        finally:
            os.kill(pid_of(server), signal.SIGCONT)
        await eventually(lambda: journal.connections == 2)

        with pytest.raises(RefusedError):
            await journal.append(SHARD, Position(1, 0), b"claim")
        expected = [Entry(GENESIS, b"genesis"), Entry(Position(1, 0), b"claim")]
        assert expected == await journal.read(SHARD, START, 10)


@on_each_server
async def test_a_killed_server_keeps_what_it_acknowledged(name: str, tmp_path: Path) -> None:
    """After kill -9 and a start on the same directory all acknowledged entries are there."""
    async with running(tmp_path, name) as server, opened(server) as journal:
        before = journal.run_id
        await journal.append(SHARD, GENESIS, b"genesis", create=True)
        for number in range(100):
            await journal.append(SHARD, Position(1, number), b"record %d" % number)
        await restart(server)
        await eventually(lambda: journal.connections == 2)

        entries = await journal.read(SHARD, GENESIS, limits.JOURNAL_READ_ENTRIES_MAX)

        assert [b"record %d" % number for number in range(100)] == [r for _, r in entries]
        assert before != journal.run_id


@on_each_server
async def test_everything_in_flight_is_lost_with_the_connection(name: str, tmp_path: Path) -> None:
    """Each operation in flight when the server dies fails by itself, as ambiguous."""
    async with running(tmp_path, name) as server, opened(server) as journal:
        os.kill(pid_of(server), signal.SIGSTOP)
        appends = [
            asyncio.create_task(journal.append(shard, GENESIS, b"r", create=True))
            for shard in range(50)
        ]
        await asyncio.sleep(0)
        os.kill(pid_of(server), signal.SIGKILL)

        outcomes = await asyncio.gather(*appends, return_exceptions=True)

        assert {LostError} == {type(outcome) for outcome in outcomes}


@on_each_server
async def test_an_append_is_never_sent_to_another_process(name: str, tmp_path: Path) -> None:
    """What was asked while the server was away is not sent to its successor; a read is."""
    async with running(tmp_path, name) as server, opened(server, timeout=10) as journal:
        await journal.append(SHARD, GENESIS, b"genesis", create=True)
        os.kill(pid_of(server), signal.SIGKILL)
        await server.stop()
        await eventually(lambda: journal.trouble is not None)
        append = asyncio.create_task(journal.append(SHARD, Position(1, 0), b"claim"))
        read = asyncio.create_task(journal.read(SHARD, START, 10))
        await asyncio.sleep(0)
        await server.start(timeout=30)

        with pytest.raises(BusyError, match="another server process"):
            await append
        assert [Entry(GENESIS, b"genesis")] == await read


@on_each_server
async def test_waiting_for_a_connection_ends(name: str, tmp_path: Path) -> None:
    """While there is no server, an operation fails after the timeout, as certainly not done."""
    async with running(tmp_path, name) as server, opened(server, timeout=0.1) as journal:
        await server.stop()
        await eventually(lambda: journal.trouble is not None)

        with pytest.raises(BusyError, match="no connection"):
            await journal.append(SHARD, GENESIS, b"genesis", create=True)


@on_each_server
async def test_a_full_server_refuses_until_there_is_room(name: str, tmp_path: Path) -> None:
    """Out of memory is a plain refusal; what was stored stays readable, and room helps at once."""
    async with running(tmp_path, name, memory_bytes=4 << 20) as server, opened(server) as journal:
        await journal.append(SHARD, GENESIS, b"genesis", create=True)
        stored = await fill(journal)
        record = b"r" * (256 << 10)
        with pytest.raises(BusyError, match="OOM"):
            await journal.append(SHARD, Position(1, 0), record)
        memory = await journal.memory()
        assert 4 << 20 == memory.limit
        assert memory.used > 0.8 * memory.limit
        assert [Entry(GENESIS, b"genesis")] == await journal.read(SHARD, START, 10)

        for number in range(stored):
            assert await journal.store(SHARD, f"{number}", None)
        await journal.append(SHARD, Position(1, 0), record)
        assert [Entry(Position(1, 0), record)] == await journal.read(SHARD, GENESIS, 10)


async def fill(journal: RedisJournal) -> int:
    """Store chunks until the server refuses. How many there are."""
    chunk = b"c" * (64 << 10)
    for number in range(100):
        try:
            await journal.store(SHARD, f"{number}", chunk)
        except BusyError:
            return number
    raise AssertionError("the server takes everything")


@on_each_server
async def test_large_replies_arrive_whole(name: str, tmp_path: Path) -> None:
    """A reply of a hundred megabytes is read, and those behind it as well."""
    large = running(tmp_path, name, memory_bytes=512 << 20)
    async with large as server, opened(server) as journal:
        await journal.append(SHARD, GENESIS, b"genesis", create=True)
        record = os.urandom(limits.RECORD_BYTES_MAX)
        for number in range(128):
            await journal.append(SHARD, Position(1, number), record)

        entries, last = await asyncio.gather(
            journal.read(SHARD, GENESIS, 128), journal.read(SHARD, START, 1, newest=True)
        )

        assert 128 == len(entries)
        assert {record} == {entry.record for entry in entries}
        assert entries[-1:] == last


@on_each_server
async def test_a_wrong_setting_is_refused_at_the_start(name: str, tmp_path: Path) -> None:
    """A server that promises less than was declared is not used, and the error says what to set."""
    async with running(tmp_path, name, fsync="everysec") as server:
        journal = RedisJournal(server.url, fsync="always")
        with pytest.raises(
            ServerSettingsError, match="appendfsync is 'everysec', must be 'always'"
        ):
            await journal.open()
        await journal.close()


@on_each_server
async def test_a_wrong_setting_is_refused_at_a_reconnect(name: str, tmp_path: Path) -> None:
    """A server that comes back with other settings is not used, until it has the right ones."""
    binary, where = binary_of(name), tmp_path / "s"

    async def serve(fsync: str) -> asyncio.subprocess.Process:
        settings = "--port 0 --appendonly yes --save '' --maxmemory-policy noeviction"
        words = [w.strip("'") for w in settings.split()] + ["--maxmemory", str(MEMORY_BYTES)]
        words += ["--unixsocket", str(where), "--dir", str(tmp_path), "--appendfsync", fsync]
        silent = asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(binary, *words, stdout=silent, stderr=silent)

    async def end(process: asyncio.subprocess.Process) -> None:
        process.kill()
        await process.wait()

    process = await serve("always")
    journal = RedisJournal(f"unix://{where}", timeout=0.3)
    try:
        await journal.open()
        await end(process)
        process = await serve("everysec")
        await eventually(lambda: isinstance(journal.trouble, ServerSettingsError))
        with pytest.raises(ServerSettingsError, match="appendfsync"):
            await journal.append(SHARD, GENESIS, b"genesis", create=True)
        await end(process)
        process = await serve("always")
        await eventually(lambda: journal.trouble is None)
        await journal.append(SHARD, GENESIS, b"genesis", create=True)
    finally:
        await journal.close()
        await end(process)


@on_each_server
@pytest.mark.parametrize(
    ("login", "refusal"), [(":secret", None), (":wrong", "WRONGPASS"), ("", "NOAUTH")]
)
async def test_a_password_and_a_database(
    name: str, tmp_path: Path, login: str, refusal: str | None
) -> None:
    """Over TCP the journal logs in and uses its own database, or says that it was not let in."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = f"--port {port} --bind 127.0.0.1 --requirepass secret --appendonly yes"
    words += f" --appendfsync always --maxmemory {MEMORY_BYTES} --save"
    command = [str(binary_of(name)), *words.split(), "", "--dir", str(tmp_path)]
    silent = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=silent, stderr=silent)
    journal = RedisJournal(f"redis://{login}@127.0.0.1:{port}/2")
    try:
        if refusal is None:
            await journal.open()
            await journal.append(SHARD, GENESIS, b"genesis", create=True)
            assert [Entry(GENESIS, b"genesis")] == await journal.read(SHARD, START, 1)
        else:
            with pytest.raises(ServerSettingsError, match=refusal):
                await journal.open()
    finally:
        await journal.close()
        process.kill()
        await process.wait()


@on_each_server
async def test_a_foreign_entry_is_reported(name: str, tmp_path: Path) -> None:
    """What no journal wrote is not handed out as a record."""
    async with running(tmp_path, name) as server, opened(server) as journal:
        path = server.url.removeprefix("unix://")
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"XADD onhand:{5}:journal 3-1 other field\r\n")
        assert b"$3\r\n3-1\r\n" == await reader.readexactly(9)
        writer.close()
        await writer.wait_closed()

        with pytest.raises(CorruptRecordError, match="entry 3-1: not written by a journal"):
            await journal.read(SHARD, START, 1)


async def test_too_much_in_flight_is_refused(tmp_path: Path) -> None:
    """Beyond its bound the journal takes no more, and says so at once; then it goes on."""
    async with running(tmp_path, "valkey") as server, opened(server) as journal:
        count = limits.JOURNAL_IN_FLIGHT_MAX + 10

        outcomes = await asyncio.gather(
            *(journal.read(SHARD, START, 1) for _ in range(count)), return_exceptions=True
        )

        assert 10 == sum(isinstance(outcome, BusyError) for outcome in outcomes)
        assert [] == await journal.read(SHARD, START, 1)


async def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    """After `close` every operation is refused, and what was in flight is lost."""
    async with running(tmp_path, "valkey") as server, opened(server) as journal:
        os.kill(pid_of(server), signal.SIGSTOP)
        in_flight = asyncio.create_task(journal.read(SHARD, START, 1))
        await asyncio.sleep(0)
        await journal.close()
        os.kill(pid_of(server), signal.SIGCONT)

        with pytest.raises(LostError, match="closed"):
            await in_flight
        with pytest.raises(BusyError, match="closed"):
            await journal.read(SHARD, START, 1)


async def test_no_server_at_the_start(tmp_path: Path) -> None:
    """Opening gives up after its timeout and says where there was nobody."""
    journal = RedisJournal(f"unix://{tmp_path}/nobody")

    with pytest.raises(BusyError, match="no connection"):
        await journal.open(timeout=0.05)
    await journal.close()
