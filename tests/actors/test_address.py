"""Addresses, and the ports that are kept for whoever comes."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from actors.address import TcpAddress, UnixAddress, bind, hold, parse_address

HERE = "127.0.0.1"


@pytest.fixture
def held() -> Iterator[socket.socket]:
    with hold(TcpAddress(HERE, 0)) as held:
        yield held


def port_of(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])


def take(port: int, *options: int) -> socket.socket:
    """What a stranger does."""
    stranger = socket.socket()
    for option in options:
        stranger.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        stranger.bind((HERE, port))
    except OSError:
        stranger.close()
        raise
    return stranger


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,)])
@pytest.mark.parametrize("somebody_listens", [False, True])
async def test_a_stranger_does_not_get_a_held_port(
    held: socket.socket, options: tuple[int, ...], somebody_listens: bool
) -> None:
    with await bind(TcpAddress(HERE, port_of(held)), reuse_port=True) as ours:
        if somebody_listens:
            ours.listen()
        with pytest.raises(OSError, match="in use"):
            take(port_of(held), *options)
    with pytest.raises(OSError, match="in use"):
        hold(TcpAddress(HERE, port_of(held)))


def test_no_stranger_is_given_a_held_port(held: socket.socket) -> None:
    """Of the thousands that ask the system for any port, as Ray's processes do."""
    with contextlib.ExitStack() as stack:
        given = {port_of(stack.enter_context(take(0))) for _ in range(500)}
    assert port_of(held) not in given


async def test_everybody_connects_to_who_listens(held: socket.socket) -> None:
    """Nobody to the socket that holds the port."""
    where = (HERE, port_of(held))
    with await bind(TcpAddress(*where), reuse_port=True) as ours:
        ours.listen()
        for _ in range(50):
            with socket.create_connection(where, timeout=5):
                ours.setblocking(True)
                ours.settimeout(5)
                ours.accept()[0].close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)


def test_a_port_is_given_back() -> None:
    with hold(TcpAddress(HERE, 0)) as held:
        port = port_of(held)
    take(port, socket.SO_REUSEADDR).close()


def test_addresses_read_as_they_are_written() -> None:
    for text in ("unix:/run/x", "tcp:127.0.0.1:80", "tcp:[::1]:80"):
        assert text == str(parse_address(text))
    assert UnixAddress("/run/x") == parse_address("unix:/run/x")
    for text in ("", "unix:", "tcp:80", "tcp:h:99999", "tcp:h:x", "udp:h:1"):
        with pytest.raises(ValueError, match="is no address"):
            parse_address(text)
