"""Addresses of sockets: `unix:/path` or `tcp:host:port`, as text everywhere else.

A host name is resolved once, to its first address; an IPv6 address stands in brackets. Port 0
binds any free port, and what is then written down is the address that was bound.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

BACKLOG: Final = 1_024
_VANISHED: Final = (
    ("TCP_KEEPIDLE", 15),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 6),
    ("TCP_USER_TIMEOUT", 30_000),
)
_PROTOCOL = TypeVar("_PROTOCOL", bound=asyncio.Protocol)


class TcpAddress(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return (
            f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"
        )


class UnixAddress(NamedTuple):
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Raises ValueError, saying what is expected, if `text` is no address."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return UnixAddress(rest)
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and host and port.isascii() and port.isdigit() and int(port) < 1 << 16:
        return TcpAddress(host.removeprefix("[").removesuffix("]"), int(port))
    raise ValueError(f"{text!r} is no address: expected unix:/path or tcp:host:port")


def name_peer(transport: asyncio.BaseTransport) -> str:
    """The address of the other end, as far as the system knows it."""
    peer = transport.get_extra_info("peername")
    return str(TcpAddress(*peer[:2])) if isinstance(peer, tuple) else "unix:"


async def bind(address: Address, *, reuse_port: bool = False) -> socket.socket:
    """A socket bound to `address`, not yet listening. Raises OSError."""
    if isinstance(address, UnixAddress):
        return _bind_unix(address.path)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


def hold(address: TcpAddress) -> socket.socket:
    """A port for this user's processes alone: nobody else is given it from now on, and whoever
    binds it with `reuse_port` may. Nothing comes to the socket returned, which does not listen;
    closed, it gives the port back. Raises OSError if somebody has the port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger
        held.bind(address)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # who asks for it by number
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        held.close()
        raise
    return held


def _bind_unix(path: str) -> socket.socket:
    """Only this user may connect. What a killed predecessor left at `path` is replaced."""
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
        os.unlink(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        bound.close()
        raise
    return bound


def address_of(bound: socket.socket) -> Address:
    """The address that `bound` is bound to."""
    name = bound.getsockname()
    return TcpAddress(*name[:2]) if isinstance(name, tuple) else UnixAddress(name)


def tune(transport: asyncio.BaseTransport) -> None:
    """No delay for small frames; a peer that has vanished is noticed within a minute, whether it
    owes us an answer, or an acknowledgement of what was sent (the system's own patience for that is
    a quarter of an hour, and its pauses grow: a partition would be felt long after its end)."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _VANISHED:
        if hasattr(socket, name):  # not every system has them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def dial(text: str, factory: Callable[[], _PROTOCOL]) -> _PROTOCOL:
    """A connection to the address `text`. Raises OSError, or ValueError if it is no address."""
    loop = asyncio.get_running_loop()
    address = parse_address(text)
    if isinstance(address, UnixAddress):
        _, protocol = await loop.create_unix_connection(factory, address.path)
    else:
        _, protocol = await loop.create_connection(factory, *address)
    return protocol
