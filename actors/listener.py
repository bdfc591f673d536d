"""A socket on which somebody listens, closed so that nobody who had come is turned away.

    listener = await Listener.open("tcp:0.0.0.0:8080", Connection, reuse_port=True)
    ...
    await listener.close()        # who waited in the backlog has a Connection by then

What it guarantees: every connection that the kernel had established when `close` began gets a
protocol of its own, which can answer what came with it. The kernel completes handshakes by itself,
so at any moment there may be peers who are connected, have sent a request, and whom no process has
seen yet; to close the socket resets them. Where others listen on the same port they would have been
served, had they come a moment later. So the last thing that is done with the socket is to accept
whoever waits there, in the same breath in which it is closed.

Who is out of reach is the peer whose handshake is half done at that moment, which between machines
takes a round trip. The kernel hands such a one, and the backlog too, to the others on the port, if
it is told to: `net.ipv4.tcp_migrate_req`, see docs/operating.md.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final

import structlog

from actors.address import BACKLOG, UnixAddress, address_of, bind, parse_address

WAITING_MAX: Final = 2 * BACKLOG
"""Who is accepted at the end: a full backlog, and as many again who come meanwhile."""
_log = structlog.get_logger(__name__)

Factory = Callable[[], asyncio.Protocol]


class Listener:
    """Made by open()."""

    def __init__(
        self, bound: socket.socket, server: asyncio.Server, factory: Factory, inode: int | None
    ) -> None:
        """`inode`: of a unix socket."""
        self.address = str(address_of(bound))
        """That was bound."""
        self._bound = bound
        self._server = server
        self._factory = factory
        self._inode = inode

    @classmethod
    async def open(cls, address: str, factory: Factory, *, reuse_port: bool = False) -> "Listener":
        """Give each who connects to `address` a protocol. Raises OSError, ValueError."""
        loop = asyncio.get_running_loop()
        bound = await bind(parse_address(address), reuse_port=reuse_port)
        where = address_of(bound)
        if isinstance(where, UnixAddress):
            inode = os.stat(where.path).st_ino
            server = await loop.create_unix_server(factory, sock=bound, backlog=BACKLOG)
            return cls(bound, server, factory, inode)
        server = await loop.create_server(factory, sock=bound, backlog=BACKLOG)
        return cls(bound, server, factory, None)

    async def close(self) -> None:
        """Accept no more than who has come already."""
        where = address_of(self._bound)
        waiting = self._accept_waiting()
        self._server.close()
        if isinstance(where, UnixAddress):
            _unlink(where.path, self._inode)
        await asyncio.gather(*map(self._serve, waiting))

    def _accept_waiting(self) -> list[socket.socket]:
        """Those who are connected and were not seen yet."""
        found: list[socket.socket] = []
        while len(found) < WAITING_MAX:
            try:
                accepted, _ = self._bound.accept()
            except BlockingIOError:
                break
            except ConnectionAbortedError:  # that one has gone again
                continue
            except OSError as error:  # no more files, say
                _log.error("backlog_not_taken", address=self.address, error=str(error))
                break
            accepted.setblocking(False)
            found.append(accepted)
        return found

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._factory, accepted)
        except OSError as error:  # gone again
            _log.debug("peer_lost", address=self.address, error=str(error))
            accepted.close()


def _unlink(path: str, inode: int | None) -> None:
    """Remove the socket that we bound, unless somebody else's stands there by now."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        return
