"""The connection, against peers that do what servers should not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.redis_wire import Connection, ConnectionLostError, ReplyError, Target, connect, pack
from tests.actors.servers import eventually

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PING = b"*1\r\n$4\r\nPING\r\n"
TIMEOUT = 0.1


@asynccontextmanager
async def facing(
    peer: Peer, directory: Path, timeout: float = 5.0
) -> AsyncIterator[tuple[Connection, list[str]]]:
    """A connection to `peer`, and the reasons for which it was lost so far."""
    path, lost = str(directory / "peer"), list[str]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    connection = await connect(target(f"unix://{path}"), timeout, lost.append)
    try:
        yield connection, lost
    finally:
        connection.drop("the test is over")
        server.close()
        await server.wait_closed()


def target(url: str) -> Target:
    return Target.parse(url)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def saying(*chunks: bytes) -> Peer:
    """Waits for a command, says the chunks one after the other, and then nothing more."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        await reader.read()

    return peer


def test_commands_are_packed() -> None:
    """A command is an array of byte strings, whatever bytes they are."""
    assert PING == pack(b"PING")
    assert b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n" == pack(b"SET", b"", b"\r\n")


async def test_replies_come_in_order(tmp_path: Path) -> None:
    """Each command gets its own reply; the server's errors are replies like any other."""
    peer = saying(b"+PONG\r\n-ERR wrong\r\n:7\r\n", b"$-1\r\n*2\r\n$1\r\na\r\n:1\r\n")
    async with facing(peer, tmp_path) as (connection, _):
        replies = await asyncio.gather(*(connection.send(PING) for _ in range(5)))

        assert [b"PONG", 7, None, [b"a", 1]] == [replies[0], *replies[2:]]
        assert isinstance(replies[1], ReplyError)
        assert (0, 0) == (connection.in_flight, connection.bytes_in_flight)


async def test_commands_of_one_turn_share_a_write(tmp_path: Path) -> None:
    """What is sent without waiting in between reaches the server in one piece."""
    pieces = list[bytes]()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pieces.append(await reader.read(1 << 20))
        writer.write(b"+PONG\r\n" * 100)
        await reader.read()

    async with facing(peer, tmp_path) as (connection, _):
        await asyncio.gather(*(connection.send(PING) for _ in range(100)))

    assert [PING * 100] == pieces


async def test_a_hang_up_loses_everything_in_flight(tmp_path: Path) -> None:
    """Every command without a reply fails, the owner is told once, and later ones fail at once."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(b"+PONG\r\n")

    async with facing(peer, tmp_path) as (connection, lost):
        first, *others = [connection.send(PING) for _ in range(3)]
        assert b"PONG" == await first
        for future in [*others, connection.send(PING)]:
            with pytest.raises(ConnectionLostError):
                await future
        with pytest.raises(ConnectionLostError):
            await connection.send(PING)

        assert [connection.lost] == lost


async def test_silence_loses_the_connection(tmp_path: Path) -> None:
    """A server that says nothing for the timeout is given up."""
    async with facing(silent, tmp_path, TIMEOUT) as (connection, lost):
        with pytest.raises(ConnectionLostError, match=r"no reply within 0\.1 s"):
            await connection.send(PING)

        assert 1 == len(lost)


async def test_an_idle_connection_is_kept(tmp_path: Path) -> None:
    """Nobody is missed who was not asked, however long the others take to be given up."""
    other = tmp_path / "other"
    other.mkdir()
    async with (
        facing(silent, tmp_path, TIMEOUT / 10) as (idle, lost),
        facing(silent, other, TIMEOUT) as (asked, _),
    ):
        with pytest.raises(ConnectionLostError):
            await asked.send(PING)

        assert ([], None) == (lost, idle.lost)


async def test_a_slow_long_reply_is_no_silence(tmp_path: Path) -> None:
    """While bytes keep coming the reply is waited for, longer than the timeout."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        for chunk in (b"$6\r\n", b"abc", b"def", b"\r\n"):
            await asyncio.sleep(0.6 * TIMEOUT)
            writer.write(chunk)
        await reader.read()

    async with facing(peer, tmp_path, TIMEOUT) as (connection, _):
        assert b"abcdef" == await connection.send(PING)


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [(b"HTTP/1.1 400\r\n", "does not speak RESP"), (b"+PONG\r\n+PONG\r\n", "nobody asked for")],
)
async def test_nonsense_loses_the_connection(tmp_path: Path, chunk: bytes, reason: str) -> None:
    """Bytes that are no replies, or one reply too many: nothing after them can be trusted."""
    async with facing(saying(chunk), tmp_path) as (connection, lost):
        reply = connection.send(PING)
        await asyncio.wait([reply])
        await eventually(lambda: lost != [])

        assert connection.lost is not None
        assert reason in connection.lost
        if reply.exception() is None:
            assert b"PONG" == reply.result()


async def test_a_cancelled_caller_is_skipped(tmp_path: Path) -> None:
    """The reply to somebody who has left is thrown away, and the next one is not shifted."""
    async with facing(saying(b"+one\r\n+two\r\n"), tmp_path) as (connection, _):
        first, second = connection.send(PING), connection.send(PING)
        first.cancel()

        assert b"two" == await second


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "unix:///run/a.sock",
            Target("/run/a.sock", "127.0.0.1", 6379, False, None, None, None, 0),
        ),
        (
            "unix:///run/a%20b?db=3&password=x%26y",
            Target("/run/a b", "127.0.0.1", 6379, False, None, None, "x&y", 3),
        ),
        ("redis://", Target(None, "127.0.0.1", 6379, False, None, None, None, 0)),
        ("redis://h:1/2", Target(None, "h", 1, False, None, None, None, 2)),
        ("redis://:p%40ss@h", Target(None, "h", 6379, False, None, None, "p@ss", 0)),
        (
            "rediss://u:p@[::1]:7/0?ssl_ca_certs=/ca.pem",
            Target(None, "::1", 7, True, "/ca.pem", "u", "p", 0),
        ),
    ],
)
def test_urls(url: str, expected: Target) -> None:
    """All the usual forms of a Redis URL are understood."""
    assert expected == Target.parse(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "starts with"),
        ("http://h", "starts with"),
        ("unix://", "starts with"),
        ("redis://h/x", "a number"),
        ("redis://h/-1", "a number"),
        ("redis://h?retry=9", "knows no retry"),
        ("redis://h:99999", "out of range"),
    ],
)
def test_what_is_no_url(url: str, reason: str) -> None:
    """What is not understood is refused, not guessed."""
    with pytest.raises(ValueError, match=reason):
        Target.parse(url)


def test_a_target_hides_its_password() -> None:
    """What goes into logs and errors names the place only."""
    assert "h:1 (tls)" == str(Target.parse("rediss://user:secret@h:1/2"))
    assert "unix:/s" == str(Target.parse("unix:///s?password=secret"))
