"""The control connection over real sockets: who gets in, what arrives, who leaves when."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from actors.control import (
    Assign,
    Beat,
    Channel,
    ControlMember,
    ControlServer,
    FromCoordinator,
    Join,
    Kind,
    Move,
    MoveAnswer,
    Restart,
    Stop,
)
from actors.process import Identity
from engine.wire import encode_frame

TOKEN = "t0ken"
BACKLOG_AT_MOST = 4
"""What a socket queues that was asked to queue nothing, and some more."""


class Listener:
    """Keeps what the members say."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.channels: list[Channel] = []
        self._changed = asyncio.Event()

    def joined(self, channel: Channel, join: Join) -> None:
        self.channels.append(channel)
        self._say(join)

    def beaten(self, channel: Channel, beat: Beat) -> None:
        self._say(beat)

    def left(self, channel: Channel) -> None:
        self._say("left")

    def asked(self, channel: Channel, wish: Move | Restart) -> None:
        self._say(wish)
        channel.send(encode_frame(MoveAnswer(wish.request_id, "no")))

    def lost(self, channel: Channel) -> None:
        self._say("lost")

    def _say(self, what: object) -> None:
        self.said.append(what)
        self._changed.set()

    async def until(self, condition: Callable[[list[object]], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition(self.said):
                self._changed.clear()
                await self._changed.wait()


def join_as(name: str, token: str = TOKEN) -> Join:
    return Join(token, Kind.HOST, name, Identity(1, 2, "/bin/x"), "here", "unix:/nowhere")


def member(
    address: str,
    join: Join,
    receive: Callable[[FromCoordinator], None] = lambda message: None,
    gone_seconds: float = 0.3,
) -> ControlMember:
    return ControlMember(address, join, lambda: Beat(serial=7), receive, gone_seconds=gone_seconds)


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix:{tmp_path}/c" if request.param == "unix" else "tcp:127.0.0.1:0"


async def test_words_go_both_ways(address: str) -> None:
    """A member joins, beats, takes an assignment, leaves; each arrives whole and in order."""
    listener = Listener()
    server = ControlServer(TOKEN, listener)
    where = await server.listen(address)
    received: asyncio.Queue[FromCoordinator] = asyncio.Queue()
    one = member(where, join_as("host-1"), received.put_nowait)
    running = asyncio.create_task(one.run())
    await listener.until(lambda said: len(said) >= 2)

    listener.channels[0].send(encode_frame(Assign(3, 5)))
    listener.channels[0].send(encode_frame(Stop()))

    assert Assign(3, 5) == await asyncio.wait_for(received.get(), 5)
    assert Stop() == await asyncio.wait_for(received.get(), 5)
    assert one.say(Move(8, 5, "host-2"))
    assert MoveAnswer(8, "no") == await asyncio.wait_for(received.get(), 5)
    one.leave()
    await listener.until(lambda said: "left" in said)
    assert [join_as("host-1"), Beat(serial=7)] == listener.said[:2]
    await server.close()
    await asyncio.wait_for(running, 5)


async def test_a_stranger_is_turned_away(address: str) -> None:
    """Without the token nothing reaches the coordinator, and the process ends by itself."""
    listener = Listener()
    server = ControlServer(TOKEN, listener)
    where = await server.listen(address)

    await asyncio.wait_for(member(where, join_as("host-1", "guess")).run(), 5)

    assert [] == listener.said
    await server.close()


async def test_the_end_of_a_member_is_known_at_once(address: str) -> None:
    """A connection that ends is reported without waiting for silence."""
    listener = Listener()
    server = ControlServer(TOKEN, listener)
    where = await server.listen(address)
    running = asyncio.create_task(member(where, join_as("host-1")).run())
    await listener.until(lambda said: len(said) >= 2)

    running.cancel()
    listener.channels[0].abort()

    await listener.until(lambda said: "lost" in said)
    await server.close()


async def test_a_member_comes_back_to_a_coordinator_that_does(address: str) -> None:
    """A coordinator that is away for a moment finds its members joining again."""
    first, second = Listener(), Listener()
    server = ControlServer(TOKEN, first)
    where = await server.listen(address)
    running = asyncio.create_task(member(where, join_as("host-1"), gone_seconds=5).run())
    await first.until(lambda said: len(said) >= 2)
    await server.close()

    successor = ControlServer(TOKEN, second)
    await successor.listen(where)

    await second.until(lambda said: join_as("host-1") in said)
    running.cancel()
    await successor.close()


async def test_a_member_leaves_when_nobody_is_there(address: str) -> None:
    """Without a coordinator a process does not stay."""
    gone = address if address.startswith("unix") else "tcp:127.0.0.1:1"

    await asyncio.wait_for(member(gone, join_as("host-1")).run(), 5)


async def test_a_member_leaves_when_nobody_takes_its_call() -> None:
    """A coordinator behind a cut refuses no connection, and makes none; one whose backlog is full
    neither."""
    with socket.socket() as deaf, ExitStack() as queued:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        for _ in range(BACKLOG_AT_MOST):
            caller = queued.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))

        await asyncio.wait_for(member(f"tcp:127.0.0.1:{port}", join_as("host-1")).run(), 5)


async def test_noise_ends_the_connection(tmp_path: Path) -> None:
    """Bytes that are no message are not answered, and do not disturb the members."""
    listener = Listener()
    server = ControlServer(TOKEN, listener)
    await server.listen(f"unix:{tmp_path}/c")
    reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/c")

    writer.write(b"\x00\x00\x00\x03\xff\xff\xff")

    assert b"" == await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    await server.close()
