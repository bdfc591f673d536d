"""One HTTP/1.1 connection: calls are answered here, pages by Starlette, in the order they came.

    bytes ─► llhttp ─► Exchange ─► command ─► router        (a call: no task, no future)
                   └─► uvicorn's cycle ─► Starlette ─► page (a task each)

What it guarantees: one request of a connection is answered at a time, in order; what is pipelined
behind it waits, and nothing more is read. Headers, bodies and time are bounded while they come, not
once they are complete. Nothing that a peer sends ends in a 5xx, and no refusal is lost to a reset:
after answering a request that was not read to its end, the connection ends its side and reads the
rest into the void for a moment.

Of uvicorn, only what turns an ASGI application into bytes is used: a server of our own in its place
answers a call in a third of the time. Timeouts are not timers: one sweep per second (`HttpEdge`)
looks at all connections, because a timer that is set and cancelled costs as much as parsing a
request does.
"""

import asyncio
from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote_to_bytes

import httptools
import structlog
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from actors.address import name_peer, tune
from engine import limits
from engine.messages import Answer, Command
from gateway import problems
from gateway.http_calls import Call, show
from gateway.http_input import is_json
from gateway.http_routes import Operation
from gateway.problems import RefusedError, Reply, refusal

if TYPE_CHECKING:
    from gateway.http_edge import HttpEdge

REQUEST_SECONDS: Final = 10.0
"""From the first byte of a request to its last; of a stream, between any two."""
IDLE_SECONDS: Final = 75.0
STALLED_SECONDS: Final = 10.0
"""What a peer gets to take an answer."""
LINGER_SECONDS: Final = 2.0
ONCE: Final = (
    b"host",
    b"origin",
    b"authorization",
    b"content-type",
    b"content-encoding",
    b"idempotency-key",
)
"""Headers that decide something, and so may stand only once."""
SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)

Headers = list[tuple[bytes, bytes]]
_log = structlog.get_logger(__name__)


class Exchange(Call):
    """A request that this connection answers itself: a call, or one that is refused at once."""

    __slots__ = (
        "chunks",
        "complete",
        "connection",
        "expects",
        "headers",
        "is_head",
        "keep_alive",
        "operation",
        "raw_query",
        "raw_subject",
        "refused",
        "since",
        "size",
        "started",
    )

    headers: dict[bytes, bytes]
    raw_query: bytes
    raw_subject: str

    def __init__(self, connection: "Connection", *, keep_alive: bool) -> None:
        self.api = connection.edge.api
        self.connection = connection
        self.keep_alive = keep_alive
        self.operation: Operation | None = None
        self.refused: Reply | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.complete = self.started = self.expects = self.is_head = False
        self.since = 0.0

    @property
    def ready(self) -> bool:
        """Whether it can be answered."""
        if self.complete:
            return True
        return self.refused is not None and (
            self.expects or not self.keep_alive or self.size > limits.BODY_BYTES_MAX
        )

    def command(self, peer: str) -> Command:
        """What it stands for. Raises RefusedError if that cannot be read or is not allowed."""
        operation, headers = self.operation, self.headers
        assert operation is not None
        assert operation.call is not None
        scope, self.subject, self.query, self.key = self.api.admit(
            operation, self.raw_subject, self.raw_query, headers, peer
        )
        chunks = self.chunks
        self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self.body and operation.body is not None:
            media = headers.get(b"content-type", b"")
            if media != b"application/json" and not is_json(media):
                raise RefusedError(problems.UNSUPPORTED_MEDIA_TYPE)
        return self.api.narrow(operation.call(self), scope)

    def answered(self, answer: Answer) -> None:
        """The router's reply."""
        connection = self.connection
        assert self.operation is not None
        self.api.counters.in_flight -= 1
        try:
            reply = show(answer, self.operation.success)
        except Exception:  # what cannot be shown must not leave the peer waiting
            _log.exception("answer_not_shown", operation=self.operation.name)
            reply = refusal(problems.INTERNAL)
        connection.finish(self, reply)


Turn = Exchange | RequestResponseCycle


class Connection(asyncio.Protocol):
    """See above. All methods run on the event loop."""

    transport: asyncio.Transport
    flow: FlowControl

    def __init__(self, edge: "HttpEdge") -> None:
        self.edge = edge
        self._parser: Any = httptools.HttpRequestParser(self)
        # What comes after a request that closes is dropped, not an error.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._loop = asyncio.get_running_loop()
        self._peer = ""
        self._known_host: bytes | None = None
        self._queue: deque[Turn] = deque()
        """What is being answered, and behind it what waits."""
        self._pumping = False
        self._page_runs = False
        self._draining = False
        self._deaf = False
        """Nothing more that comes is read as HTTP."""
        self._lingers_since = 0.0
        self._stalled_since = 0.0
        self._quiet_since = 0.0
        """When the last request was answered."""
        # Of the request that is coming in:
        self._reading_since = 0.0
        self._url = b""
        self._headers: Headers = []
        self._headers_bytes = 0
        self._unparsed_bytes = 0
        """Since a piece of a request was last complete."""
        self._receiving: Turn | None = None
        self._streams = False

    # --- what the event loop calls -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flow = FlowControl(self.transport)
        self._peer = name_peer(transport)
        self._quiet_since = self._loop.time()
        tune(transport)
        if not self.edge.admit(self):
            self._refuse(problems.TOO_MANY_CONNECTIONS)

    def connection_lost(self, error: Exception | None) -> None:
        self._deaf = True
        self.edge.dismiss(self)
        for turn in self._queue:
            if isinstance(turn, RequestResponseCycle):
                turn.disconnected = True
                turn.message_event.set()
        self._queue.clear()
        self.flow.resume_writing()
        self._parser = None  # it knows us, and we should go at once

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unparsed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # the request is answered as if it had not asked
        except httptools.HttpParserCallbackError:
            _log.exception("request_not_read")
            self._refuse(problems.INTERNAL)
        except httptools.HttpParserError as error:
            self._refuse(problems.MALFORMED_HTTP, str(error))
        if self._unparsed_bytes > limits.HEADERS_BYTES_MAX and not self._deaf:
            self._refuse(problems.HEADERS_TOO_LARGE)

    def pause_writing(self) -> None:
        self._stalled_since = self._loop.time()
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since = 0.0
        self.flow.resume_writing()
        self._pump()

    # --- what the edge calls ------------------------------------------------------------------

    def shutdown(self) -> None:
        """Answer what has come, then close."""
        self._draining = True
        if not self._queue and not self._reading_since:
            self.transport.close()

    def check(self, now: float) -> None:
        """Give up a peer that does not keep up."""
        if self._lingers_since:
            if now - self._lingers_since > LINGER_SECONDS:
                self.transport.abort()
        elif self._stalled_since:
            if now - self._stalled_since > STALLED_SECONDS:
                self.transport.abort()
        elif self._reading_since and not self.flow.read_paused:
            if now - self._reading_since > REQUEST_SECONDS:
                self._refuse(problems.REQUEST_TIMEOUT)
        elif not self._queue and now - self._quiet_since > IDLE_SECONDS:
            self.transport.close()

    @property
    def busy(self) -> bool:
        """Whether a request is coming in or being answered."""
        return bool(self._queue or self._reading_since)

    @property
    def stalled(self) -> bool:
        """Whether the peer does not take its answers."""
        return bool(self._stalled_since)

    # --- what the parser calls ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reading_since = self._loop.time()
        self._url = b""
        self._headers = []
        self._headers_bytes = 0
        self._receiving = None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_bytes += len(name) + len(value)
        if self._receiving is None:  # else a trailer, which says nothing here
            self._headers.append((name.lower(), value.rstrip()))
        elif self._headers_bytes > limits.HEADERS_BYTES_MAX:
            self._refuse(problems.HEADERS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        self._unparsed_bytes = 0
        parser = self._parser
        keep_alive = parser.should_keep_alive() and parser.get_http_version() == "1.1"
        if parser.should_upgrade():
            keep_alive = False
        turn: Turn
        try:
            turn = self._begin(parser.get_method().decode("ascii"), keep_alive=keep_alive)
        except RefusedError as error:
            turn = Exchange(self, keep_alive=keep_alive)
            turn.refused = refusal(error.kind, error.detail, error.headers)
            turn.expects = any(name == b"expect" for name, _ in self._headers)
        self._receiving = turn
        self._queue.append(turn)
        if len(self._queue) > 1:
            self.flow.pause_reading()
        if not isinstance(turn, Exchange) or turn.expects or turn.refused is not None:
            self._pump()  # else the body is still to come

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        turn = self._receiving
        if isinstance(turn, Exchange):
            turn.size += len(body)
            if turn.size > limits.BODY_BYTES_MAX:
                if turn.refused is None:
                    turn.refused = refusal(problems.BODY_TOO_LARGE)
                turn.chunks.clear()
                self._deaf = True
                self._pump()
            elif turn.refused is None:
                turn.chunks.append(body)
        elif turn is not None and not turn.response_complete:
            if self._streams:
                self._reading_since = self._loop.time()
            turn.body += body
            if len(turn.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            turn.message_event.set()

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        self._reading_since = 0.0
        turn = self._receiving
        if isinstance(turn, Exchange):
            turn.complete = True
            self._pump()
        elif turn is not None:
            turn.more_body = False
            turn.message_event.set()

    # --- a request comes in ------------------------------------------------------------------

    def _begin(self, method: str, *, keep_alive: bool) -> Turn:
        """The turn that this request takes. Raises RefusedError if it is not even HTTP."""
        headers = dict(self._headers)
        if len(headers) != len(self._headers):
            self._check_once()
        if self._headers_bytes + len(self._url) > limits.HEADERS_BYTES_MAX:
            raise RefusedError(problems.HEADERS_TOO_LARGE)
        self._check_framing(headers)
        self._check_names(headers)
        raw_path, _, raw_query = self._url.partition(b"?")
        path = raw_path.decode("ascii")
        if not path.startswith("/"):
            raise RefusedError(problems.MALFORMED_HTTP, "The target must be a path")
        found = self.edge.api.routes.find(method, path)
        if found is None or found[0].call is None:
            self._streams = found is not None and found[0].streamed
            return self._page(method, raw_path, raw_query, headers, keep_alive=keep_alive)
        exchange = Exchange(self, keep_alive=keep_alive)
        exchange.operation, exchange.raw_subject = found
        exchange.raw_query = raw_query
        exchange.headers = headers
        exchange.is_head = method == "HEAD"
        exchange.expects = headers.get(b"expect", b"").lower() == b"100-continue"
        length = headers.get(b"content-length")
        if length is not None and len(length) > 4 and int(length) > limits.BODY_BYTES_MAX:
            exchange.refused = refusal(problems.BODY_TOO_LARGE)
            exchange.keep_alive = False
        return exchange

    def _check_once(self) -> None:
        names = [name for name, _ in self._headers]
        for name in ONCE:
            if names.count(name) > 1:
                raise RefusedError(problems.MALFORMED_HTTP, f"{name.decode()} stands twice")

    def _check_framing(self, headers: dict[bytes, bytes]) -> None:
        """llhttp refuses most of what is ambiguous; this is the rest."""
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise RefusedError(problems.MALFORMED_HTTP, "Transfer-Encoding may only be chunked")
        has_body = coding is not None or headers.get(b"content-length", b"0") != b"0"
        if has_body and self._parser.should_upgrade():
            raise RefusedError(problems.MALFORMED_HTTP, "An upgrade may not have a body")

    def _check_names(self, headers: dict[bytes, bytes]) -> None:
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host is None:
            if self._parser.get_http_version() == "1.1":
                raise RefusedError(problems.MALFORMED_HTTP, "The header Host is missing")
        elif host == self._known_host and origin is None:
            return
        self.edge.api.check_names(
            None if host is None else host.decode("latin-1"),
            None if origin is None else origin.decode("latin-1"),
        )
        self._known_host = host

    def _page(
        self,
        method: str,
        raw_path: bytes,
        raw_query: bytes,
        headers: dict[bytes, bytes],
        *,
        keep_alive: bool,
    ) -> RequestResponseCycle:
        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote_to_bytes(raw_path).decode(errors="replace"),
            "raw_path": raw_path,
            "query_string": raw_query,
            "root_path": "",
            "headers": self._headers,
            "client": None,
            "server": None,
            "state": {"peer": self._peer},
        }
        return RequestResponseCycle(
            scope=scope,
            transport=cast(asyncio.Transport, GentleTransport(self)),
            flow=self.flow,
            logger=self.edge.uvicorn_log,
            access_logger=self.edge.uvicorn_log,
            access_log=False,
            default_headers=[*self.edge.heads.common],
            message_event=asyncio.Event(),
            expect_100_continue=headers.get(b"expect", b"").lower() == b"100-continue",
            keep_alive=keep_alive,
            on_response=self._finish_page,
        )

    def _refuse(self, kind: problems.Kind, detail: str = "") -> None:
        """Read no more; answer what came before, then this, and close."""
        self._deaf = True
        self._reading_since = 0.0
        if self.transport.is_closing():
            return
        self.edge.api.counters.malformed += 1
        turn = self._receiving
        if turn is None or turn not in self._queue:
            turn = Exchange(self, keep_alive=False)
            self._queue.append(turn)
        if isinstance(turn, Exchange) and not turn.started:
            turn.keep_alive = False
            turn.complete = False
            turn.refused = turn.refused or refusal(kind, detail)
            self._pump()
        else:
            self.transport.abort()

    # --- an answer goes out ------------------------------------------------------------------

    def _pump(self) -> None:
        """Answer what stands at the head of the queue, as far as that can be done now."""
        if self._pumping:
            return
        self._pumping = True
        queue = self._queue
        while queue and not self.flow.write_paused:
            turn = queue[0]
            if not isinstance(turn, Exchange):
                self._start_page(turn)
                break
            if turn.started:
                break
            if not turn.ready:
                if turn.expects:
                    turn.expects = False
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
            turn.started = True
            self._start(turn)
        self._pumping = False

    def _start(self, exchange: Exchange) -> None:
        exchange.since = self._loop.time()
        if exchange.refused is not None:
            self.finish(exchange, exchange.refused)
            return
        api = self.edge.api
        try:
            command = exchange.command(self._peer)
        except RefusedError as error:
            self.finish(exchange, refusal(error.kind, error.detail, error.headers))
            return
        api.counters.in_flight += 1
        api.router.forward(command, limits.DEADLINE_MS_DEFAULT, exchange.answered)

    def _start_page(self, cycle: RequestResponseCycle) -> None:
        if self._page_runs:
            return
        self._page_runs = True
        task = self._loop.create_task(cycle.run_asgi(cast(Any, self.edge.app)))
        self.edge.tasks.add(task)
        task.add_done_callback(self.edge.tasks.discard)

    def finish(self, exchange: Exchange, reply: Reply) -> None:
        """Send the answer to the request at the head of the queue, and turn to the next."""
        now = self._loop.time()
        if exchange.operation is not None:
            counters = self.edge.api.counters.operations[exchange.operation.name]
            counters.observe(reply.status, now - exchange.since)
        if self.transport.is_closing():
            return
        self._queue.popleft()
        stays = exchange.keep_alive and exchange.complete
        stays = stays and not (self._draining and not self._queue)
        payload = reply.payload
        head = self.edge.heads.of(reply, keep_alive=stays)
        length = b"%d\r\n\r\n" % len(payload)
        self.transport.write(head + length + (b"" if exchange.is_head else payload))
        if stays:
            self._go_on(now)
        else:
            self._close(unread=not exchange.complete)

    def _finish_page(self) -> None:
        cycle = self._queue.popleft()
        self._page_runs = False
        assert isinstance(cycle, RequestResponseCycle)
        if self.transport.is_closing() or self._lingers_since:
            return
        if cycle.more_body or (self._draining and not self._queue):
            self._close(unread=cycle.more_body)
        else:
            self._go_on(self._loop.time())

    def _go_on(self, now: float) -> None:
        self._quiet_since = now
        if len(self._queue) <= 1:
            self.flow.resume_reading()
        self._pump()

    def _close(self, *, unread: bool) -> None:
        """Close; if something is still to come, end our side first and let it come."""
        self._deaf = True
        self._queue.clear()
        if unread and not self._lingers_since:
            self._lingers_since = self._loop.time()
            self.flow.resume_reading()
            self.transport.write_eof()
        elif not unread:
            self.transport.close()

    def close_page(self) -> None:
        """What uvicorn's cycle means by closing the transport."""
        cycle = self._queue[0] if self._queue else None
        unread = isinstance(cycle, RequestResponseCycle) and cycle.more_body
        if unread:
            self._deaf = True
            self._lingers_since = self._loop.time()
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()


class GentleTransport:
    """A page's view of the transport: to close it is to close it gently."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        self._connection.close_page()


class AnswerHeads:
    """The first bytes of answers, up to the length; the usual ones are made once a second."""

    def __init__(self) -> None:
        self.common: Headers = []
        """What all answers carry, pages too."""
        self._made: dict[tuple[int, bool], bytes] = {}

    def renew(self, now: float) -> None:
        """It is `now`, in seconds since 1970."""
        self.common = [(b"date", formatdate(now, usegmt=True).encode()), *SECURITY_HEADERS]
        self._made.clear()

    def of(self, reply: Reply, *, keep_alive: bool) -> bytes:
        """What comes before the number of the payload's bytes."""
        if reply.headers or reply.media != b"application/json":
            return self._make(reply, keep_alive=keep_alive)
        head = self._made.get((reply.status, keep_alive))
        if head is None:
            head = self._made[reply.status, keep_alive] = self._make(reply, keep_alive=keep_alive)
        return head

    def _make(self, reply: Reply, *, keep_alive: bool) -> bytes:
        headers = [*self.common, (b"content-type", reply.media), *reply.headers]
        if not keep_alive:
            headers.append((b"connection", b"close"))
        phrase = HTTPStatus(reply.status).phrase.encode()
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"HTTP/1.1 %d %b\r\n%bcontent-length: " % (reply.status, phrase, b"".join(lines))
