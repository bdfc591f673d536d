"""The simulated Redis behind a real unix socket, for whoever cannot do without one.

Each piece of bytes is one turn of the server: executed, synced, and only then answered.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.simulation.redis_server import Session, SimulatedServer


@asynccontextmanager
async def serving(server: SimulatedServer, path: Path) -> AsyncIterator[str]:
    """Serve until the end of the block. The URL for a journal."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_unix_server(lambda: _Peer(server), path)
    try:
        yield f"unix://{path}"
    finally:
        listener.close()
        await listener.wait_closed()


class _Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: SimulatedServer) -> None:
        self._server = server
        self._session: Session = server.session()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None, "nothing is received before the connection is made"
        replies = self._session.feed(data)
        self._server.sync()
        self._transport.write(replies)
        if self._session.closed:
            self._transport.close()
