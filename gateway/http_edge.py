"""The HTTP side of a gateway: listens, sweeps, drains.

    edge = HttpEdge(Api(...))
    address = await edge.listen("tcp:127.0.0.1:8080")
    ...
    await edge.close()            # answers what has come, accepts nothing more

Connections answer calls themselves (`gateway.http_connection`); everything else goes to a Starlette
application, which holds the pages and whatever routes it is given beside them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from actors.listener import Listener
from engine import limits
from gateway import problems
from gateway.correlation import Correlation
from gateway.http_api import Api
from gateway.http_connection import Connection
from gateway.http_exchange import AnswerHeads
from gateway.http_pages import Page
from gateway.http_routes import Operation
from gateway.problems import RefusedError, Reply, refusal

SWEEP_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 10.0


class HttpEdge:
    """Serves one Api, on any number of addresses."""

    def __init__(
        self,
        api: Api,
        *,
        routes: Sequence[BaseRoute] = (),
        connections_max: int = limits.CONNECTIONS_MAX,
    ) -> None:
        """`routes`: what else Starlette is to serve, beside the API."""
        self.api = api
        self.app = build_app(api, routes)
        self.heads = AnswerHeads()
        self.tasks: set[asyncio.Task[None]] = set()
        """Pages that run."""
        self.uvicorn_log = logging.getLogger("uvicorn.error")
        self.is_closing = False
        """Whoever is admitted now had come before, and is told that we close."""
        self._connections_max = connections_max
        self._connections: set[Connection] = set()
        self._listeners: list[Listener] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event | None = None

    async def listen(self, address: str, *, reuse_port: bool = False) -> str:
        """Serve `address` as well; the address that was bound. Raises OSError, ValueError."""
        if self._sweeper is None:
            self._tick(asyncio.get_running_loop())
        listener = await Listener.open(address, lambda: Connection(self), reuse_port=reuse_port)
        self._listeners.append(listener)
        return listener.address

    async def close(self) -> None:
        """Accept nothing more, answer what has come, then leave nobody connected."""
        self.is_closing = True
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.close()
        self._emptied = asyncio.Event()
        for connection in list(self._connections):
            connection.shutdown()
        if self._connections:
            try:
                await asyncio.wait_for(self._emptied.wait(), DRAIN_SECONDS)
            except TimeoutError:
                for connection in list(self._connections):
                    connection.transport.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.api.readiness.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more. It is to be dismissed in any case."""
        self._connections.add(connection)
        self.api.counters.connections += 1
        if len(self._connections) <= self._connections_max:
            return True
        self.api.counters.connections_refused += 1
        return False

    def dismiss(self, connection: Connection) -> None:
        """`connection` is gone."""
        self._connections.discard(connection)
        self.api.counters.connections -= 1
        if self._emptied is not None and not self._connections:
            self._emptied.set()

    def sweep(self, now: float) -> None:
        """Give up the peers that, at `now` by the monotonic clock, do not keep up."""
        for connection in list(self._connections):
            connection.check(now)

    def busy(self) -> int:
        """Connections on which a request is coming in or being answered."""
        return sum(connection.busy for connection in self._connections)

    def stalled(self) -> int:
        """Connections whose peers do not take their answers."""
        return sum(connection.stalled for connection in self._connections)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.heads.renew(time.time())
        self.sweep(time.monotonic())
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._tick, loop)


def build_app(api: Api, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The pages, and `routes` after them."""

    async def page(request: Request) -> Response:
        return await _answer(api, request)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refuse_route(api, request)

    async def fail(request: Request, error: Exception) -> Response:
        return _response(refusal(problems.INTERNAL), request)

    pages = [
        Route(operation.path, page, methods=[operation.method], name=operation.name)
        for operation in api.routes.operations
        if operation.page is not None
    ]
    app = Starlette(
        routes=[*pages, *routes], exception_handlers={HTTPException: refuse, Exception: fail}
    )
    app.router.redirect_slashes = False
    return app


async def _answer(api: Api, request: Request) -> Response:
    """One page, from admission to answer."""
    since = time.monotonic()  # an event loop's time may be as old as its turn
    raw_path: bytes = request.scope["raw_path"]
    found = api.routes.find(request.method, raw_path.decode("ascii"))
    if found is None or found[0].page is None:
        return _refuse_route(api, request)
    operation, subject = found
    api.counters.in_flight += 1
    try:
        reply = await _serve(api, request, operation, subject)
    except ClientDisconnect:
        return Response(status_code=400)
    except Exception:  # a bug, which is counted here, and answered and logged around us
        api.counters.operations[operation.name].observe(500, time.monotonic() - since)
        raise
    finally:
        api.counters.in_flight -= 1
    seconds = time.monotonic() - since
    api.counters.operations[operation.name].observe(reply.status, seconds)
    told: Correlation = request.scope["state"]["correlation"]
    api.diary.note(operation.name, told, reply, seconds)
    return _response(reply, request)


async def _serve(api: Api, request: Request, operation: Operation, subject: str) -> Reply:
    """The page's answer, or its refusal; if that leaves part of the body unread, it closes."""
    assert operation.page is not None
    page = None
    try:
        admission = api.admit(
            operation,
            subject,
            request.scope["query_string"],
            dict(request.scope["headers"]),
            request.scope["state"]["peer"],
        )
        page = Page(api, request, admission)
        return await operation.page(page)
    except RefusedError as error:
        headers = error.headers
        if operation.method != "GET" and (page is None or not page.consumed):
            headers = (*headers, (b"connection", b"close"))
        return refusal(error.kind, error.detail, headers)


def _refuse_route(api: Api, request: Request) -> Response:
    """404, or 405 with what is allowed."""
    methods = ", ".join(api.routes.methods(request.scope["raw_path"].decode("ascii")))
    if methods:
        headers = ((b"allow", methods.encode()),)
        return _response(refusal(problems.METHOD_NOT_ALLOWED, headers=headers), request)
    return _response(refusal(problems.NOT_FOUND), request)


def _response(reply: Reply, request: Request) -> Response:
    told: Correlation = request.scope["state"]["correlation"]
    if reply.media is problems.PROBLEM_MEDIA:
        reply = problems.signed(reply, told.request_id, told.trace_id)
    response = Response(reply.payload, reply.status)
    response.raw_headers = [
        (b"content-length", b"%d" % len(reply.payload)),
        (b"content-type", reply.media),
        (b"x-request-id", told.request_id.encode()),
        *reply.headers,
    ]
    return response
