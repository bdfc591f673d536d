"""Listeners: whoever has come is served, also those who came in the last moment."""

import asyncio
import socket
from pathlib import Path
from typing import cast

import pytest

from actors.address import TcpAddress, UnixAddress, parse_address
from actors.listener import Listener

CALLERS = 200
DEADLINE_SECONDS = 10.0


class Echo(asyncio.Protocol):
    """Says back what it hears."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


@pytest.fixture(params=["tcp:127.0.0.1:0", "unix:{}/socket"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(tmp_path)


def call(address: str, words: bytes) -> socket.socket:
    """Connect and speak, before any event loop has a turn: the kernel alone says yes."""
    where = parse_address(address)
    family = socket.AF_UNIX if isinstance(where, UnixAddress) else socket.AF_INET
    caller = socket.socket(family, socket.SOCK_STREAM)
    caller.settimeout(DEADLINE_SECONDS)
    try:
        caller.connect(where.path if isinstance(where, UnixAddress) else tuple(where))
        caller.sendall(words)
    except OSError:
        caller.close()
        raise
    return caller


async def heard(caller: socket.socket) -> bytes:
    with caller:
        caller.setblocking(False)
        return await asyncio.wait_for(
            asyncio.get_running_loop().sock_recv(caller, 64), DEADLINE_SECONDS
        )


async def test_who_waits_in_the_backlog_is_served(address: str) -> None:
    """All who were connected when it closed are answered, and nobody can connect after that."""
    listener = await Listener.open(address, Echo)
    callers = [call(listener.address, b"%d" % number) for number in range(CALLERS)]

    await listener.close()

    assert [b"%d" % number for number in range(CALLERS)] == [await heard(each) for each in callers]
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        call(listener.address, b"late")


async def test_who_has_gone_again_is_no_obstacle(address: str) -> None:
    """Of those who wait some have hung up, in order or not; the others are served."""
    listener = await Listener.open(address, Echo)
    gone, reset, caller = (call(listener.address, b"hello") for _ in range(3))
    gone.close()
    if isinstance(parse_address(address), TcpAddress):
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    reset.close()

    await listener.close()

    assert b"hello" == await heard(caller)


async def test_who_shares_the_port_goes_on() -> None:
    """One of two closes: what was its own it serves to the end, the rest is the other's."""
    staying = await Listener.open("tcp:127.0.0.1:0", Echo, reuse_port=True)
    leaving = await Listener.open(staying.address, Echo, reuse_port=True)
    callers = [call(staying.address, b"before") for _ in range(CALLERS)]

    await leaving.close()
    callers += [call(staying.address, b"after") for _ in range(CALLERS)]

    assert CALLERS * [b"before"] + CALLERS * [b"after"] == [await heard(each) for each in callers]
    await staying.close()


async def test_a_socket_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """Whoever has bound the path after us keeps it."""
    address = f"unix:{tmp_path}/socket"
    first = await Listener.open(address, Echo)
    second = await Listener.open(address, Echo)

    await first.close()

    assert b"hello" == await heard(call(address, b"hello"))
    await second.close()
    assert not (tmp_path / "socket").exists()
