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
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote_to_bytes

import httptools
import structlog
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from actors.address import name_peer, tune
from engine import limits
from gateway import problems
from gateway.correlation import Correlation, correlate, forget_doubles
from gateway.http_calls import deadline_ms
from gateway.http_exchange import Exchange, Headers
from gateway.problems import PROBLEM_MEDIA, RefusedError, Reply, refusal, signed

if TYPE_CHECKING:
    from gateway.http_edge import HttpEdge

REQUEST_SECONDS: Final = 10.0
"""From the first byte of a request to its last; of a stream, between any two."""
IDLE_SECONDS: Final = 75.0
STALLED_SECONDS: Final = 10.0
"""What a peer gets to take an answer."""
LINGER_SECONDS: Final = 2.0
FAREWELL_SECONDS: Final = 2.0
"""An idle peer may have a request under way when we are to end: so long we wait for it."""
ONCE: Final = (
    b"host",
    b"origin",
    b"authorization",
    b"content-type",
    b"content-encoding",
    b"idempotency-key",
)
"""Headers that decide something, and so may stand only once."""
_NO_HOST: Final = b"\0"
"""No header can be this."""
_log = structlog.get_logger(__name__)


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
        self._known_host = _NO_HOST
        """What the last Host header was, and this is a name of it."""
        self._queue: deque[Turn] = deque()
        """What is being answered, and behind it what waits."""
        self._pumping = False
        self._page_runs = False
        self._draining = False
        self._deaf = False
        """Nothing more that comes is read as HTTP."""
        self._ends_at = 0.0
        """We have closed; when the peer must have, too."""
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
        self._quiet_since = monotonic()
        self._draining = self.edge.is_closing
        tune(transport)
        if not self.edge.admit(self):
            self._refuse(problems.TOO_MANY_CONNECTIONS, unread=False)

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

    def eof_received(self) -> bool:
        """The peer sends no more; what it has sent whole is still answered."""
        self._deaf = self._draining = True
        return bool(self._queue) and self._receiving is None and not self._ends_at

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
        self._stalled_since = monotonic()
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since = 0.0
        self.flow.resume_writing()
        self._pump()

    # --- what the edge calls ------------------------------------------------------------------

    def shutdown(self) -> None:
        """Answer what has come, or what comes next, and say with that answer that we close."""
        self._draining = True
        if not self.busy:
            self._loop.call_later(FAREWELL_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        if not self.busy:
            self.transport.close()

    def check(self, now: float) -> None:
        """Give up a peer that does not keep up."""
        if self._ends_at:
            if now > self._ends_at:
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
        if self._deaf:
            return
        self._reading_since = monotonic()
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
        keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        if keep_alive and parser.get_http_version() != "1.1":
            keep_alive = False  # older clients would want to be told
        turn: Turn
        method = parser.get_method().decode("ascii")
        try:
            turn = self._begin(method, keep_alive=keep_alive)
        except RefusedError as error:
            turn = Exchange(self.edge.api, self, keep_alive=keep_alive)
            turn.refused = refusal(error.kind, error.detail, error.headers)
            turn.correlation = correlate(dict(self._headers))
            turn.expects = any(name == b"expect" for name, _ in self._headers)
            turn.is_head = method == "HEAD"
        self._receiving = turn
        self._queue.append(turn)
        if len(self._queue) > 1:
            self.flow.pause_reading()
        if not isinstance(turn, Exchange) or turn.expects or turn.refused is not None:
            self._pump()  # else the body is still to come

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        turn = self._receiving
        if self._deaf:
            return
        if isinstance(turn, Exchange):
            turn.size += len(body)
            if turn.size > limits.BODY_BYTES_MAX:
                self._refuse(problems.BODY_TOO_LARGE)
            elif turn.refused is None:
                turn.chunks.append(body)
        elif turn is not None and not turn.response_complete:
            if self._streams:
                self._reading_since = monotonic()
            turn.body += body
            if len(turn.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            turn.message_event.set()

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        self._unparsed_bytes = 0
        self._reading_since = 0.0
        turn, self._receiving = self._receiving, None
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
            forget_doubles(headers, [name for name, _ in self._headers])
        if self._headers_bytes + len(self._url) > limits.HEADERS_BYTES_MAX:
            raise RefusedError(problems.HEADERS_TOO_LARGE)
        if b"transfer-encoding" in headers or b"upgrade" in headers:
            self._check_framing(headers)
        if not self._url.startswith(b"/"):
            self._split_url(headers)
        if headers.get(b"host") != self._known_host or b"origin" in headers:
            self._check_names(headers)
        raw_path, _, raw_query = self._url.partition(b"?")
        path = raw_path.decode("ascii")
        found = self.edge.api.routes.find(method, path)
        if found is None or found[0].call is None:
            self._streams = found is not None and found[0].streamed
            stays = keep_alive and not self._draining
            return self._page(method, raw_path, raw_query, headers, keep_alive=stays)
        exchange = Exchange(self.edge.api, self, keep_alive=keep_alive)
        exchange.operation, exchange.raw_subject = found
        exchange.raw_query = raw_query
        exchange.headers = headers
        exchange.correlation = correlate(headers)
        exchange.is_head = method == "HEAD"
        exchange.expects = headers.get(b"expect", b"").lower() == b"100-continue"
        length = headers.get(b"content-length")
        if length is not None and len(length) > 4 and int(length) > limits.BODY_BYTES_MAX:
            exchange.refused = refusal(problems.BODY_TOO_LARGE)
            exchange.keep_alive = False
        return exchange

    def _split_url(self, headers: dict[bytes, bytes]) -> None:
        """A target in absolute form, as proxies get it: its authority stands for the Host."""
        scheme, separator, rest = self._url.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise RefusedError(problems.MALFORMED_HTTP, "The target must be a path or a URL")
        headers[b"host"], _, path = rest.partition(b"/")
        self._url = b"/" + path

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
        if host is None and self._parser.get_http_version() == "1.1":
            raise RefusedError(problems.MALFORMED_HTTP, "The header Host is missing")
        self.edge.api.check_names(
            None if host is None else host.decode("latin-1"),
            None if origin is None else origin.decode("latin-1"),
        )
        self._known_host = _NO_HOST if host is None else host

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
            "state": {"peer": self._peer, "correlation": correlate(headers)},
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

    def _refuse(self, kind: problems.Kind, detail: str = "", *, unread: bool = True) -> None:
        """Read no more; answer what came before, then this, and close."""
        self._deaf = True
        self._reading_since = 0.0
        if self.transport.is_closing():
            return
        self.edge.api.counters.malformed += 1
        turn, self._receiving = self._receiving, None
        if isinstance(turn, RequestResponseCycle) and not turn.response_started:
            self._abandon(turn)
            turn = None
        if turn is None:
            turn = Exchange(self.edge.api, self, keep_alive=False)
            self._queue.append(turn)
        if isinstance(turn, Exchange) and not turn.started:
            turn.keep_alive = False
            turn.complete = not unread
            turn.chunks.clear()
            turn.refused = turn.refused or refusal(kind, detail)
            self._pump()
        else:
            self.transport.abort()

    def _abandon(self, cycle: RequestResponseCycle) -> None:
        """The page whose body was coming in, the last in the queue, is not to answer any more."""
        assert self._queue[-1] is cycle
        self._queue.pop()
        if not self._queue:
            self._page_runs = False  # it was the head; its task ends by itself
        cycle.disconnected = True
        cycle.message_event.set()

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
        exchange.since = monotonic()
        self.edge.api.counters.in_flight += 1
        if exchange.refused is not None:
            self.finish(exchange, exchange.refused)
            return
        api = self.edge.api
        try:
            command = exchange.command(self._peer)
            exchange.reservation = getattr(command, "reservation_id", "")
            trace = None if exchange.correlation is None else exchange.correlation.onward()
            api.router.forward(command, deadline_ms(command), exchange.answered, trace)
        except RefusedError as error:
            self.finish(exchange, refusal(error.kind, error.detail, error.headers))
        except Exception:  # a bug must cost its own request, not leave the connection stuck
            _log.exception("call_failed", operation=exchange.operation)
            self.finish(exchange, refusal(problems.INTERNAL))

    def _start_page(self, cycle: RequestResponseCycle) -> None:
        if self._page_runs:
            return
        self._page_runs = True
        task = self._loop.create_task(cycle.run_asgi(cast(Any, self.edge.app)))
        self.edge.tasks.add(task)
        task.add_done_callback(self.edge.tasks.discard)

    def finish(self, exchange: Exchange, reply: Reply) -> None:
        """Send the answer to the request at the head of the queue, and turn to the next."""
        if exchange.finished:
            return
        exchange.finished = True
        now = monotonic()
        counters = self.edge.api.counters
        counters.in_flight -= 1
        told = exchange.correlation or Correlation()
        name = "none"
        if exchange.operation is not None:
            name = exchange.operation.name
            counters.operations[name].observe(reply.status, now - exchange.since)
        self.edge.api.diary.note(name, told, reply, now - exchange.since, exchange.reservation)
        if reply.media is PROBLEM_MEDIA:
            reply = signed(reply, told.request_id, told.trace_id)
        if self.transport.is_closing():
            return
        queue = self._queue
        queue.popleft()
        stays = exchange.keep_alive and exchange.complete and not (self._draining and not queue)
        payload = reply.payload
        head = self.edge.heads.of(reply, keep_alive=stays)
        length = b"%d\r\nx-request-id: %b\r\n\r\n" % (len(payload), told.request_id.encode())
        self.transport.write(head + length + (b"" if exchange.is_head else payload))
        if stays:
            self._go_on(now)
        else:
            self._end(unread=not exchange.complete)

    def _finish_page(self) -> None:
        """uvicorn's cycle has sent the answer of the page at the head of the queue."""
        self._page_runs = False
        if self.transport.is_closing() or self._ends_at:
            return
        cycle = self._queue.popleft()
        assert isinstance(cycle, RequestResponseCycle)
        if cycle.more_body or (self._draining and not self._queue):
            self._end(unread=cycle.more_body)
        else:
            self._go_on(monotonic())

    def end_page(self) -> None:
        """uvicorn's cycle has sent an answer after which it wants to close."""
        cycle = self._queue[0] if self._queue else None
        self._end(unread=isinstance(cycle, RequestResponseCycle) and cycle.more_body)

    def _go_on(self, now: float) -> None:
        self._quiet_since = now
        if self._reading_since:  # what waited for its turn has all its time again
            self._reading_since = now
        if len(self._queue) <= 1:
            self.flow.resume_reading()
        self._pump()

    def _end(self, *, unread: bool) -> None:
        """Close; if something is still to come, end our side first and let it come."""
        self._deaf = True
        self._queue.clear()
        now = monotonic()
        if unread:
            self._ends_at = now + LINGER_SECONDS
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self._ends_at = now + STALLED_SECONDS
            self.transport.close()


class GentleTransport:
    """A page's view of the transport: to close it is to close it gently."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        self._connection.end_page()
