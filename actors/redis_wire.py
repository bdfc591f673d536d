"""One connection to a Redis server: commands out, replies in, in the same order.

Commands that are sent within one turn of the event loop leave in one write, and so share one fsync
of the server; each costs one Future and nothing else. A reply is handed on as it came: an error of
the server is a `ReplyError` *value*, for the caller to judge. The connection itself knows one
failure: it is lost, at once and for good, when the peer hangs up, when the bytes are not RESP, or
when nothing at all has arrived for `timeout` seconds although the oldest command has waited that
long. A long reply that keeps coming is not a timeout.

    open ──hang-up │ nonsense │ silence │ drop()──► lost: everything in flight is ambiguous

Nothing here retries, reconnects or pools: redis-py does all three by itself, and a retried append
is an append made twice. What to do about a lost connection is the journal's business.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import hiredis
from hiredis import ReplyError

from actors.address import tune

__all__ = ["Connection", "ConnectionLostError", "ReplyError", "Target", "connect", "pack"]

_MORE: Final = object()


class ConnectionLostError(ConnectionError):
    """The connection ended before the reply: perhaps the server did it, perhaps not."""


class Target(NamedTuple):
    """Where a server is and how to enter. `path` wins over host and port."""

    path: str | None
    host: str
    port: int
    tls: bool
    certificates: str | None
    """File of the authorities to trust, if not the machine's own."""
    user: str | None
    password: str | None
    database: int

    def __str__(self) -> str:
        where = f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
        return f"{where} (tls)" if self.tls else where

    @classmethod
    def parse(cls, url: str) -> "Target":
        """From `unix:///path?db=n`, `redis://user:password@host:port/db` or `rediss://…`.

        Raises ValueError if it is none of these.
        """
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        local = parts.scheme == "unix"
        if parts.scheme not in ("unix", "redis", "rediss") or (local and not parts.path):
            raise ValueError("a Redis URL starts with unix:///path, redis:// or rediss://")
        if unknown := query.keys() - {"db", "username", "password", "ssl_ca_certs"}:
            raise ValueError(f"a Redis URL knows no {', '.join(sorted(unknown))}")
        database = query.get("db") or ("" if local else parts.path.strip("/")) or "0"
        if not database.isascii() or not database.isdigit():
            raise ValueError(f"a Redis database is a number, not {database!r}")
        return cls(
            path=unquote(parts.path) if local else None,
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 6379,
            tls=parts.scheme == "rediss",
            certificates=query.get("ssl_ca_certs"),
            user=unquote(parts.username or "") or query.get("username"),
            password=unquote(parts.password or "") or query.get("password"),
            database=int(database),
        )


def pack(*words: bytes) -> bytes:
    """A command as RESP."""
    lines = [b"*%d\r\n" % len(words)]
    for word in words:
        lines += (b"$%d\r\n" % len(word), word, b"\r\n")
    return b"".join(lines)


async def connect(target: Target, timeout: float, on_lost: Callable[[str], None]) -> "Connection":
    """A connection to `target`; `on_lost` is told once why it ended, before anybody else is.

    Raises OSError (which TimeoutError is) if there is none to be had.
    """
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(loop, timeout, on_lost)

    async with asyncio.timeout(timeout):
        if target.path is not None:
            _, connection = await loop.create_unix_connection(make, target.path)
            return connection
        context = ssl.create_default_context(cafile=target.certificates) if target.tls else None
        _, connection = await loop.create_connection(make, target.host, target.port, ssl=context)
        return connection


class _Waiting(NamedTuple):
    """A command in flight."""

    heard: Callable[[Any], None]
    """Called with the reply, or with a ConnectionLostError."""
    sent_at: float
    size: int


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():
        return  # cancelled by a caller that no longer waits
    if isinstance(reply, ConnectionLostError):
        future.set_exception(reply)
    else:
        future.set_result(reply)


class Connection(asyncio.Protocol):
    """See the essay above."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, on_lost: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._on_lost = on_lost
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._waiting: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = loop.time()
        self.bytes_in_flight = 0
        self.lost: str | None = None
        """Why the connection ended; None while it is open."""

    @property
    def in_flight(self) -> int:
        """How many commands wait for their reply."""
        return len(self._waiting)

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """Send a packed command with this turn's others; the future becomes its reply.

        The future fails with ConnectionLostError if the connection ends before the reply.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self.put(command, partial(_settle, future))
        return future

    def put(self, command: bytes, heard: Callable[[Any], None]) -> None:
        """The same, for who would not wait: `heard` is called with the reply, or with a
        ConnectionLostError, and must not raise."""
        if self.lost is not None:
            self._loop.call_soon(heard, ConnectionLostError(self.lost))
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(command)
        size = len(command)
        self.bytes_in_flight += size
        self._waiting.append(_Waiting(heard, self._loop.time(), size))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._check_silence)

    def drop(self, reason: str) -> None:
        """End the connection now; what is in flight is lost."""
        if self.lost is not None:
            return
        self.lost = reason
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._on_lost(reason)
        waiting, self._waiting = self._waiting, deque()
        self._outgoing.clear()
        self.bytes_in_flight = 0
        for entry in waiting:
            entry.heard(ConnectionLostError(reason))

    def _flush(self) -> None:
        outgoing = self._outgoing
        if not outgoing or self._transport is None:
            return
        self._outgoing = []
        self._transport.writelines(outgoing)

    def _check_silence(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        due = max(self._waiting[0].sent_at, self._heard_at) + self._timeout
        if due <= self._loop.time():
            self.drop(f"no reply within {self._timeout:g} s")
        else:
            self._timer = self._loop.call_at(due, self._check_silence)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none
        tune(transport)

    def data_received(self, data: bytes) -> None:
        if self.lost is not None:
            return
        self._heard_at = self._loop.time()
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _MORE:
                heard, _, size = waiting.popleft()
                self.bytes_in_flight -= size
                heard(reply)
                if self.lost is not None:
                    return
        except hiredis.ProtocolError as error:
            self.drop(f"the peer does not speak RESP: {error}")
        except IndexError:
            self.drop(f"a reply that nobody asked for: {reply!r:.200}")

    def connection_lost(self, error: Exception | None) -> None:
        self.drop(f"the connection broke: {error}" if error else "the server hung up")
