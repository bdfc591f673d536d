"""The server side of the binary protocol, for hosts and gateways alike.

    accepted ──Hello, key accepted──► serving ──bad frame, slow reader──► closing ──► gone
                                        └──close()──► Goodbye: the peer goes, with all its answers
        └──wrong Hello, unknown key, too slow, too many──► refused: one answer, then closed

What it guarantees: the handler sees typed commands that the caller's key may give, and nothing
else; every request is answered once, its answers in the order of its commands; nothing that a peer
sends or fails to read makes this process grow without bound, and nothing that a handler raises
stops it. A key that is revoked, or expires, ends the connections that came in by it within
SWEEP_SECONDS of the moment when `authenticate` knows. Order between requests is the handler's
business: answers leave as they come.

Why it looks the way it does: this is the hottest path there is. No Task, Future or closure exists
per request; a connection's bound `reply` is made once. Answers of one turn of the event loop leave
together, one write per connection, because a system call costs more than a request. One timer per
server, not per connection, looks for peers that do not keep up.

Flow control: a connection that has IN_FLIGHT_PER_CONNECTION_MAX in flight, or that does not take
its answers, is not read from until it has caught up; if it never does, it is closed. Large frames
weigh more than small ones, so that the bound holds for bytes as well.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, cast

import msgspec
import structlog

from actors.address import name_peer, tune
from actors.listener import Listener
from engine import limits
from engine.messages import (
    GOODBYE,
    MAGIC,
    PROTOCOL_VERSION,
    Answer,
    AnyAnswer,
    Command,
    Detail,
    Hello,
    Message,
    Outgoing,
    Request,
    Status,
)
from engine.scope import Scope, narrow, passes
from engine.wire import (
    FrameReader,
    WireError,
    decode_hello,
    decode_request,
    encode_answer,
    encode_frame,
    encode_outgoing,
)

LENGTH_BYTES: Final = 4
"""What a frame begins with, and a handshake's own length does not count."""
BYTES_PER_WEIGHT: Final = 256
"""A frame weighs one for each command and one for each so many bytes."""
RESUME_WEIGHT: Final = limits.IN_FLIGHT_PER_CONNECTION_MAX // 2
SWEEP_SECONDS: Final = 1.0
WRITE_HIGH_BYTES: Final = 1 << 20
"""Answers not taken, beyond which no more requests are read."""
GOODBYE_SECONDS: Final = 1.0
"""What close() gives those who were told goodbye to leave, while all is done as before…"""
ANSWER_SECONDS: Final = 5.0
"""…then the handler to answer what is in flight, while what comes is not done…"""
CLOSE_SECONDS: Final = 2.0
"""…and then the peers to take the last answers."""

Reply = Callable[[Outgoing], None]
Authenticate = Callable[[str | None, str], Scope | None]
"""The API key, or None, and the peer's address → what the caller may do; None = nothing."""

_GOODBYE: Final = encode_frame(GOODBYE)
_NOT_DONE: Final = Answer(Status.NOT_DONE)
_log = structlog.get_logger(__name__)


class Handler(Protocol):
    """What stands behind a server."""

    def submit(self, request: Request, scope: Scope, reply: Reply) -> None:
        """Never blocks; calls `reply` exactly once, now or later, on the event loop."""


class ServerStatistics(NamedTuple):
    """Since the server was made, but for `connections`, `in_flight`: now."""

    connections: int
    in_flight: int
    accepted: int
    refused: int
    frames: int
    commands: int
    bytes_received: int
    bytes_sent: int
    protocol_errors: int
    handler_errors: int
    stalled: int


class BinaryServer:
    """Listens on any number of addresses; all of its connections share one handler."""

    def __init__(
        self,
        name: str,
        shards: int,
        handler: Handler,
        authenticate: Authenticate,
        *,
        dedicated: int = 0,
        connections_max: int = limits.CONNECTIONS_MAX,
        handshake_seconds: float = limits.HANDSHAKE_SECONDS_MAX,
        stalled_seconds: float = limits.STALLED_SECONDS_MAX,
    ) -> None:
        self.handler = handler
        self.authenticate = authenticate
        hello = Hello(MAGIC, PROTOCOL_VERSION, None, name, shards, dedicated)
        self.hello = encode_frame(hello)
        self.handshake_seconds = handshake_seconds
        self.stalled_seconds = stalled_seconds
        self._connections_max = connections_max
        self._sweep_seconds = min(SWEEP_SECONDS, handshake_seconds, stalled_seconds)
        self.connections: dict[Connection, None] = {}
        self._listeners: list[Listener] = []
        self._unflushed: list[Connection] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None
        self.accepted = self.refused = self.frames = self.commands = 0
        self.bytes_received = self.bytes_sent = 0
        self.protocol_errors = self.handler_errors = self.stalled = 0

    async def listen(self, address: str, *, reuse_port: bool = False) -> str:
        """Serve `address` as well; the address that was bound. Raises OSError, ValueError."""
        listener = await Listener.open(address, lambda: Connection(self), reuse_port=reuse_port)
        self._listeners.append(listener)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._sweep_seconds, self._sweep, loop)
        return listener.address

    async def close(self) -> None:
        """Accept no more, and have everybody leave, with an answer to all that they have sent; in
        the end nobody is left, whether they have understood or not."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self.connections):
            connection.part()
        self.flush()
        if await self._empties(GOODBYE_SECONDS):
            return
        for connection in list(self.connections):
            connection.drain()
        if not await self._empties(ANSWER_SECONDS):
            for connection in list(self.connections):
                connection.close()
            if not await self._empties(CLOSE_SECONDS):
                for connection in list(self.connections):
                    connection.abort()

    async def _empties(self, seconds: float) -> bool:
        """Whether the last connection is gone by then."""
        if self.connections:
            self._emptied = asyncio.Event()
            try:
                await asyncio.wait_for(self._emptied.wait(), seconds)
            except TimeoutError:
                return False
        return True

    def statistics(self) -> ServerStatistics:
        """The counters as they stand."""
        return ServerStatistics(
            connections=len(self.connections),
            in_flight=sum(len(connection.in_flight) for connection in self.connections),
            accepted=self.accepted,
            refused=self.refused,
            frames=self.frames,
            commands=self.commands,
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            protocol_errors=self.protocol_errors,
            handler_errors=self.handler_errors,
            stalled=self.stalled,
        )

    def admit(self, connection: "Connection") -> bool:
        """Whether there is room for one more."""
        if len(self.connections) >= self._connections_max:
            self.refused += 1
            return False
        self.connections[connection] = None
        self.accepted += 1
        return True

    def dismiss(self, connection: "Connection") -> None:
        """`connection` is gone."""
        self.connections.pop(connection, None)
        if self._emptied is not None and not self.connections:
            self._emptied.set()

    def flush_soon(self, connection: "Connection") -> None:
        """Write what `connection` has to say at the end of this turn of the event loop."""
        if not self._unflushed:
            connection.loop.call_soon(self.flush)
        self._unflushed.append(connection)

    def flush(self) -> None:
        """Write all answers that were collected."""
        unflushed, self._unflushed = self._unflushed, []
        for connection in unflushed:
            connection.flush()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in [each for each in self.connections if each.is_stalled(now)]:
            self.stalled += 1
            connection.abort()
        self._check_keys()
        self._sweeper = loop.call_later(self._sweep_seconds, self._sweep, loop)

    def _check_keys(self) -> None:
        """Each connection may do what its key may do by now, if that is anything."""
        scopes: dict[str, Scope | None] = {}
        for connection in [each for each in self.connections if each.key is not None]:
            key = connection.key
            assert key is not None
            if key not in scopes:
                scopes[key] = self.authenticate(key, connection.peer)
            connection.restrict(scopes[key])


class Connection(asyncio.Protocol):
    """One peer: from its handshake on, requests in and answers out."""

    __slots__ = (
        "_ahead",
        "_backlog",
        "_closing",
        "_draining",
        "_held",
        "_moved_at",
        "_out",
        "_out_bytes",
        "_parting",
        "_reader",
        "_reply",
        "_resuming",
        "_server",
        "_slow",
        "_transport",
        "in_flight",
        "key",
        "loop",
        "scope",
    )

    _transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop

    def __init__(self, server: BinaryServer) -> None:
        self._server = server
        self._reader = FrameReader()
        self._reply = self.reply
        self.scope: Scope | None = None  # None = no handshake yet
        self.key: str | None = None  # that the peer has shown, if it needed one
        self.in_flight: dict[int, int] = {}  # request id → weight
        self._ahead = 0  # the sum of those weights
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._closing = False
        self._parting = False  # the peer is told to leave, as soon as it can be told anything
        self._draining = False  # nothing more is done; we close with the last answer
        self._slow = False  # the peer does not take its answers
        self._held = False  # we do not read
        self._resuming = False  # but shall, in the next turn of the event loop
        self._backlog: list[bytes] = []  # what was read before the pause, and not yet taken
        self._moved_at = 0.0  # when bytes last came in, or the peer became slow

    # --- what the event loop calls -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its bases
        self.loop = asyncio.get_running_loop()
        self._moved_at = self.loop.time()
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        tune(transport)
        if not self._server.admit(self):
            self._refuse(Status.OVERLOADED, "too many connections")

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._out.clear()
        self._server.dismiss(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        server = self._server
        server.bytes_received += len(data)
        try:
            payloads = self._reader.feed(data)
            if self.scope is None:
                payloads = self._greet(payloads)
            else:
                self._moved_at = self.loop.time()
            if self._held:
                self._backlog += payloads
            elif self.scope is not None:
                self._take_all(payloads, self.scope)
        except WireError as error:
            server.protocol_errors += 1
            self._refuse(Status.INVALID, str(error))

    def pause_writing(self) -> None:
        self._slow = True
        self._moved_at = self.loop.time()
        self._hold()

    def resume_writing(self) -> None:
        self._slow = False
        self._moved_at = self.loop.time()
        self._let_go()

    # --- requests ----------------------------------------------------------------------------

    def _greet(self, payloads: list[bytes]) -> list[bytes]:
        """Answer the handshake, if it has come; the payloads after it."""
        length = len(payloads[0]) if payloads else self._reader.pending - LENGTH_BYTES
        if length > limits.HELLO_BYTES_MAX:
            raise WireError("not a handshake: too long")
        if not payloads:
            return []
        hello = decode_hello(payloads[0])
        self.key = hello.key
        self.restrict(self._server.authenticate(hello.key, self.peer))
        if self.scope is None:
            return []
        self._write(self._server.hello)
        if self._parting:
            self._write(_GOODBYE)
        return payloads[1:]

    @property
    def peer(self) -> str:
        """Where the other side is."""
        return name_peer(self._transport)

    def restrict(self, scope: Scope | None) -> None:
        """From now on the peer may do this; None = nothing, and it has to leave."""
        if self._closing:
            return
        self.scope = scope
        if scope is None:
            self._server.refused += 1
            self._refuse(Status.UNAUTHENTICATED, "this key opens nothing here")

    def _take_all(self, payloads: list[bytes], scope: Scope) -> None:
        """Take these, up to where the peer must wait; the others stay here until it need not."""
        for index, payload in enumerate(payloads):
            if self._held:
                self._backlog = payloads[index:] + self._backlog
                return
            if self._closing:
                return
            self._take(payload, scope)

    def _catch_up(self) -> None:
        """Take what came before the pause, then read on."""
        assert self.scope is not None
        backlog, self._backlog = self._backlog, []
        self._held = False
        try:
            self._take_all(backlog, self.scope)
        except WireError as error:
            self._server.protocol_errors += 1
            self._refuse(Status.INVALID, str(error))
        if not self._held and not self._closing:
            self._moved_at = self.loop.time()
            self._transport.resume_reading()

    def _take(self, payload: bytes, scope: Scope) -> None:
        server = self._server
        try:
            request = decode_request(payload)
        except WireError as error:
            server.protocol_errors += 1
            self._refuse(Status.INVALID, str(error), _request_id_of(payload))
            return
        request_id, commands = request.request_id, len(request.commands)
        if request_id in self.in_flight:
            raise WireError(f"request {request_id} is in flight already")
        server.frames += 1
        server.commands += commands
        self.in_flight[request_id] = weight = commands + len(payload) // BYTES_PER_WEIGHT
        self._ahead += weight
        if self._draining:
            self.reply(Outgoing(request_id, [_NOT_DONE] * commands))
            return
        if self._ahead > limits.IN_FLIGHT_PER_CONNECTION_MAX:
            self._hold()
        try:
            if passes(request.commands, scope):
                server.handler.submit(request, scope, self._reply)
            else:
                self._submit_narrowed(request, scope)
        except Exception:  # a handler's mistake must cost its own request, not the server
            server.handler_errors += 1
            _log.exception("handler_failed", request_id=request_id, commands=commands)
            if request_id in self.in_flight:
                self.reply(Outgoing(request_id, [Answer(Status.OUTCOME_UNKNOWN)] * commands))

    def _submit_narrowed(self, request: Request, scope: Scope) -> None:
        """The handler gets what `scope` may do; the rest is refused here, in its place."""
        outcomes = [narrow(command, scope) for command in request.commands]
        allowed = [each for each in outcomes if not isinstance(each, Status)]
        if len(allowed) == len(outcomes):
            self._server.handler.submit(_with(request, allowed), scope, self._reply)
        elif allowed:
            merge = _Merge(outcomes, self._reply)
            self._server.handler.submit(_with(request, allowed), scope, merge.reply)
        else:
            self.reply(_refusals(request.request_id, outcomes))

    # --- answers -----------------------------------------------------------------------------

    def reply(self, response: Outgoing) -> None:
        """Reply `response` at the end of this turn of the event loop."""
        weight = self.in_flight.pop(response.request_id, None)
        if weight is None:
            self._server.handler_errors += 1
            _log.error("answered_twice", request_id=response.request_id)
            return
        self._ahead -= weight
        if self._closing:
            return
        frame = encode_outgoing(response)
        if len(frame) > limits.FRAME_BYTES_MAX:
            frame = encode_outgoing(_cut(response))
        self._write(frame)
        if self._held:
            self._let_go()
        if self._draining and not self.in_flight:
            self.loop.call_soon(self._end_drained)

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._server.flush_soon(self)
        self._out.append(frame)
        self._out_bytes += len(frame)
        if self._out_bytes > WRITE_HIGH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was collected; close on a peer that has left too much unread."""
        if not self._out:
            return
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        self._out_bytes = 0
        self._server.bytes_sent += len(data)
        self._transport.write(data)
        if self._slow and self._transport.get_write_buffer_size() > limits.WRITE_BUFFER_BYTES_MAX:
            self._server.stalled += 1
            self.abort()

    # --- flow and the end --------------------------------------------------------------------

    def _hold(self) -> None:
        if not self._held and not self._closing:
            self._held = True
            self._transport.pause_reading()

    def _let_go(self) -> None:
        """Go on, soon: who calls may be in the middle of a request."""
        if self._held and not self._slow and self._ahead <= RESUME_WEIGHT and not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        if not self._slow and not self._closing:
            self._catch_up()

    def is_stalled(self, now: float) -> bool:
        """Whether the peer has kept us waiting for too long."""
        if self.scope is None and not self._closing:
            return now - self._moved_at > self._server.handshake_seconds
        waiting = self._slow or self._closing or (self._reader.pending > 0 and not self._held)
        return waiting and now - self._moved_at > self._server.stalled_seconds

    def _refuse(self, status: Status, why: str, request_id: int = 0) -> None:
        """Say why, and close."""
        if self._closing:
            return
        answer = Answer(status, Detail(why[: limits.TEXT_CHARS_MAX]))
        self._out.append(encode_outgoing(Outgoing(request_id, [answer])))
        self.close()

    def part(self) -> None:
        """Say goodbye; the peer leaves when it has heard that, and has its answers."""
        self._parting = True
        if self.scope is not None and not self._closing:
            self._write(_GOODBYE)

    def drain(self) -> None:
        """Take no more; close once all that was taken has its answer.

        What comes meanwhile is not done, and answered so: bytes that nobody reads would have the
        connection reset, and the last answers lost.
        """
        self._draining = True
        self._end_drained()

    def _end_drained(self) -> None:
        if not self.in_flight and not self._backlog:
            self.close()

    def close(self) -> None:
        """Close once the peer has taken what was written; read no more."""
        if not self._closing:
            self.flush()
            self._closing = True
            self._moved_at = self.loop.time()
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._out.clear()
        self._transport.abort()


class _Merge:
    """Puts the handler's answers between the refusals of commands that it never saw."""

    __slots__ = ("_outcomes", "_reply")

    def __init__(self, outcomes: list[Command | Status], reply: Reply) -> None:
        self._outcomes = outcomes
        self._reply = reply

    def reply(self, response: Outgoing) -> None:
        answers = iter(response.answers)
        merged = [
            Answer(each) if isinstance(each, Status) else next(answers) for each in self._outcomes
        ]
        self._reply(Outgoing(response.request_id, merged, response.heads))


class _OnlyId(Message):
    """The beginning of any request, whatever follows."""

    request_id: int


_only_id: Final = msgspec.msgpack.Decoder(_OnlyId)


def _request_id_of(payload: bytes) -> int:
    """The id that a malformed request begins with, so that its sender can tell which; or 0."""
    try:
        request_id = _only_id.decode(payload).request_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0
    return request_id if 0 <= request_id <= limits.COUNTER_MAX else 0


def _with(request: Request, commands: list[Command]) -> Request:
    """It, with all of its commands narrowed, or some of them left out; then nobody knows whose the
    traces are."""
    traces = request.traces if len(commands) == len(request.commands) else None
    return Request(request.request_id, request.deadline_ms, commands, traces, request.shard)


def _refusals(request_id: int, outcomes: list[Command | Status]) -> Outgoing:
    return Outgoing(request_id, [Answer(each) for each in outcomes if isinstance(each, Status)])


def _cut(response: Outgoing) -> Outgoing:
    """`response` with as many answers as a frame holds; of the others the outcome stays unknown.

    They may be asked for again, in smaller frames: what was done is then answered as a replay.
    """
    answers: list[AnyAnswer] = []
    room = limits.FRAME_BYTES_MAX - 64 * (len(response.heads) + 1)
    for index, answer in enumerate(response.answers):
        remaining = len(response.answers) - index
        room -= len(answer if isinstance(answer, bytes) else encode_answer(answer))
        if room < remaining * 8:
            answers += [Answer(Status.OUTCOME_UNKNOWN)] * remaining
            break
        answers.append(answer)
    return Outgoing(response.request_id, answers, response.heads)
