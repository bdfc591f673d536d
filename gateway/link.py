"""A pipelined connection to one address of the binary protocol, kept up while it is wanted.

    down ──dial, Hello both ways──► up ──EOF, bad frame, reset()──► down ──backoff──► …
                                     └──Goodbye──► down, and the answers to come still come

What it guarantees: every frame that was sent has its callback called exactly once, with the
response, or with None as soon as the connection is lost; the caller then decides what that means.
Nothing is sent twice, nothing is kept for later: `send` is for a link that is up, and `on_change`
says when that begins and ends. No Future exists per frame: a callback in a dict is all there is.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
import structlog

from actors.address import dial, tune
from engine import limits
from engine.messages import (
    GOODBYE,
    MAGIC,
    PROTOCOL_VERSION,
    UNKNOWN_HOME,
    Answer,
    Command,
    Hello,
    Message,
    Response,
    Trace,
)
from engine.wire import FrameReader, WireError, decode_hello, decode_response, encode_frame

RETRY_SECONDS_MIN: Final = 0.01
RETRY_SECONDS_MAX: Final = 0.5

Done = Callable[[Response | None], None]

_log = structlog.get_logger(__name__)


class _Request(Message):
    """engine.messages.Request, of commands that may be encoded already."""

    request_id: int
    deadline_ms: int
    commands: Sequence[Command | msgspec.Raw]


class _TracedRequest(Message):
    """The same, where some of them are traced. Nobody else pays for it, not even a byte."""

    request_id: int
    deadline_ms: int
    commands: Sequence[Command | msgspec.Raw]
    traces: list[Trace]


class _RoutedRequest(Message):
    """The same, and which shard it is for."""

    request_id: int
    deadline_ms: int
    commands: Sequence[Command | msgspec.Raw]
    traces: list[Trace] | None
    shard: int


class Link:
    """Dials until it is closed. A key that opens nothing is shown again: it may be made known there
    at any time, and `refusal` says meanwhile how things stand."""

    def __init__(self, address: str, key: str | None, on_change: Callable[["Link"], None]) -> None:
        self.address = address
        self.hello: Hello | None = None
        """What the other side said of itself, last time."""
        self.refusal: Answer | None = None
        """Why the other side refused us, last time."""
        self._key = key
        self._on_change = on_change
        self._connection: _Connection | None = None
        self._leaving: set[_Connection] = set()
        """Those that take no more, and have answers to come."""
        self._task: asyncio.Task[None] | None = None
        self._request_id = 0

    @property
    def up(self) -> bool:
        return self._connection is not None

    @property
    def in_flight(self) -> int:
        """How many frames wait for their response."""
        return sum(len(connection.in_flight) for connection in self._all())

    def start(self) -> None:
        """Begin to dial."""
        assert self._task is None
        self._task = asyncio.get_running_loop().create_task(self._keep_up())

    def send(
        self,
        commands: Sequence[Command | msgspec.Raw],
        deadline_ms: int,
        done: Done,
        traces: list[Trace] | None = None,
        shard: int = UNKNOWN_HOME,
    ) -> int:
        """Send one frame; its request id. Only while the link is up. `shard`: which it is for,
        if that is certain."""
        assert self._connection is not None
        self._request_id = request_id = self._request_id + 1
        request: Message
        if shard != UNKNOWN_HOME:
            request = _RoutedRequest(request_id, deadline_ms, commands, traces, shard)
        elif traces is not None:
            request = _TracedRequest(request_id, deadline_ms, commands, traces)
        else:
            request = _Request(request_id, deadline_ms, commands)
        frame = encode_frame(request)
        self._connection.send(request_id, frame, done)
        return request_id

    async def ask(
        self, commands: Sequence[Command], deadline: float, deadline_ms: int | None = None
    ) -> Response | None:
        """send(), for who would rather wait: until `deadline`, of the event loop. None if the
        connection was lost, or that came first. `deadline_ms`: what the other side has, if less."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response | None] = loop.create_future()

        def done(response: Response | None) -> None:
            if not future.done():
                future.set_result(response)

        if deadline_ms is None:
            deadline_ms = max(1, int((deadline - loop.time()) * 1_000))
        request_id = self.send(commands, min(deadline_ms, limits.DEADLINE_MS_MAX), done)
        timer = loop.call_at(deadline, done, None)
        try:
            return await future
        finally:
            timer.cancel()
            self.forget(request_id)

    def forget(self, request_id: int) -> None:
        """The caller has given up: whatever answer still comes is dropped."""
        for connection in self._all():
            if request_id in connection.in_flight:
                connection.in_flight[request_id] = _drop

    def reset(self) -> None:
        """Give up this connection, and dial again."""
        for connection in self._all():
            connection.abort()

    def stop(self) -> None:
        """Give up this connection, and dial no more."""
        if self._task is not None:
            self._task.cancel()
        self.reset()

    async def close(self) -> None:
        """stop(), and wait until it is done."""
        self.stop()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _all(self) -> "list[_Connection]":
        return [*self._leaving, *([] if self._connection is None else [self._connection])]

    async def _keep_up(self) -> None:
        delay = RETRY_SECONDS_MIN
        while True:
            connection = await self._connect()
            if connection is None:
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_SECONDS_MAX)
                continue
            delay = RETRY_SECONDS_MIN
            await connection.over.wait()

    async def _connect(self) -> "_Connection | None":
        """A connection whose handshake is done, or None."""
        connection = _Connection(self)
        try:
            async with asyncio.timeout(limits.HANDSHAKE_SECONDS_MAX):
                await dial(self.address, lambda: connection)
                await connection.settled.wait()
        except OSError as error:  # a timeout is one
            _log.debug("dial_failed", address=self.address, error=str(error))
        finally:
            if not connection.settled.is_set():
                connection.abort()
        return None if connection.lost.is_set() else connection

    # --- what the connection reports ---------------------------------------------------------

    def greeting(self) -> bytes:
        return encode_frame(Hello(MAGIC, PROTOCOL_VERSION, key=self._key))

    def greeted(self, connection: "_Connection", hello: Hello) -> None:
        self.hello = hello
        self.refusal = None
        self._connection = connection
        self._on_change(self)

    def refused(self, answer: Answer) -> None:
        self.refusal = answer
        _log.warning("refused", address=self.address, status=answer.status.name, body=answer.body)
        self._on_change(self)

    def over(self, connection: "_Connection") -> None:
        """It takes no more."""
        if connection.in_flight:
            self._leaving.add(connection)
        if self._connection is connection:
            self._connection = None
            self._on_change(self)

    def lost(self, connection: "_Connection") -> None:
        self._leaving.discard(connection)


class _Connection(asyncio.Protocol):
    """One life of a link."""

    _transport: asyncio.Transport | None = None
    _loop: asyncio.AbstractEventLoop

    def __init__(self, link: Link) -> None:
        self._link = link
        self._reader = FrameReader()
        self._greeted = False
        self._out: list[bytes] = []
        self.in_flight: dict[int, Done] = {}
        self.settled = asyncio.Event()
        """The handshake is over, one way or the other."""
        self.lost = asyncio.Event()
        self.over = asyncio.Event()
        """Nothing more can be sent: it is lost, or the other side has said goodbye."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its bases
        self._loop = asyncio.get_running_loop()
        tune(transport)
        if self.lost.is_set():
            self._transport.abort()
        else:
            self._transport.write(self._link.greeting())

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                if self.lost.is_set():
                    return
                if self._greeted:
                    self._hear(decode_response(payload))
                else:
                    self._greet(payload)
        except WireError as error:
            _log.error("bad_frame", address=self._link.address, error=str(error))
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def send(self, request_id: int, frame: bytes, done: Done) -> None:
        self.in_flight[request_id] = done
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def _greet(self, payload: bytes) -> None:
        try:
            hello = decode_hello(payload)
        except WireError:
            self._refused(decode_response(payload))
            return
        self._greeted = True
        self.settled.set()
        self._link.greeted(self, hello)

    def _refused(self, response: Response) -> None:
        if response.answers:
            self._link.refused(response.answers[0])
        self.abort()

    def _hear(self, response: Response) -> None:
        done = self.in_flight.pop(response.request_id, None)
        if done is not None:
            done(response)
        elif response == GOODBYE:
            self._be_over()
        else:  # about the connection itself, which is going to be closed
            _log.error("complaint", address=self._link.address, answers=response.answers[:1])
        if self.over.is_set() and not self.in_flight and self._transport is not None:
            self._transport.close()

    def _be_over(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self._link.over(self)

    def _flush(self) -> None:
        if self._transport is not None and not self.lost.is_set():
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._out.clear()

    def _end(self) -> None:
        """Tell everyone who waits."""
        if self.lost.is_set():
            return
        self.lost.set()
        self.settled.set()
        in_flight, self.in_flight = self.in_flight, {}
        self._be_over()
        self._link.lost(self)
        for done in in_flight.values():
            done(None)


def _drop(_: Response | None) -> None:
    """An answer that nobody waits for."""
