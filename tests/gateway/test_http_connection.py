"""Connections: order, bounds, time, and what is no HTTP; over raw sockets."""

import asyncio
import http.client
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from engine import limits
from engine.messages import Answer, Command, Commit, GetStock, Status
from gateway.http_connection import IDLE_SECONDS, LINGER_SECONDS, REQUEST_SECONDS
from tests.gateway.http_engine import (
    DEADLINE_SECONDS,
    Answered,
    LocalEngine,
    Server,
    read_answer,
    serving,
)

HOST = b"Host: localhost\r\n"
BODY = b'{"lines": [{"sku": "A", "quantity": 1}]}'
JSON = b"Content-Type: application/json\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
STOCK = b"GET /v1/stock/A HTTP/1.1\r\n" + HOST + b"\r\n"


def reserve(headers: bytes = b"", body: bytes = BODY) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST /v1/reservations HTTP/1.1\r\n" + HOST + JSON + headers + length + b"\r\n" + body


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    engine = LocalEngine()
    engine.receive("A", 1_000)
    async with serving(engine) as server:
        yield server


async def answers(server: Server, data: bytes) -> list[Answered]:
    """All answers to `data`, until the server closes."""
    async with server.connect() as (reader, writer), asyncio.timeout(DEADLINE_SECONDS):
        writer.write(data)
        everything = asyncio.StreamReader()
        everything.feed_data(await reader.read())
        everything.feed_eof()
    found = []
    while not everything.at_eof():
        found.append(await read_answer(everything))
    return found


def get(path: bytes = b"/v1/stock/A", headers: bytes = HOST) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + headers + b"\r\n"


CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.9\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\n\n", 400),
        (b"GET /health z HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\x00b\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n b\r\n\r\n", 400),
        (b"BREW /healthz HTTP/1.1\r\n\r\n", 400),
        (get(headers=CLOSE), 400),
        (get(headers=HOST + HOST + CLOSE), 400),
        (get(b"*", HOST + CLOSE), 400),
        (get(b"ftp://localhost/healthz", HOST + CLOSE), 400),
        (get(b"http://evil.example/healthz", HOST + CLOSE), 421),
        (get(b"http://localhost", HOST + CLOSE), 404),
        (get(b"/v1/stock/A#B", HOST + CLOSE), 400),
        (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (reserve(b"Content-Type: text/plain\r\n" + CLOSE), 400),
        (reserve(b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n" + CLOSE), 400),
        (reserve(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n" + CLOSE), 400),
        (reserve(b"Transfer-Encoding: chunked\r\n"), 400),
        (reserve(b"Content-Length: 1\r\n"), 400),
        (reserve().replace(b"Content-Length: 40", b"Content-Length: +40"), 400),
        (reserve().replace(b"Content-Length: 40", b"Content-Length: 4e1"), 400),
        (reserve().replace(b"Content-Length: 40", b"Content-Length: -40"), 400),
        (reserve().replace(b"Content-Length: 40", b"Content-Length: " + b"9" * 40), 400),
        (reserve().replace(b"Content-Length: 40", b"Content-Length: 99999999"), 413),
        (reserve().replace(b"Content-Length: 40", b"Transfer-Encoding: identity"), 400),
        (reserve().replace(b"Content-Length: 40", b"Transfer-Encoding: gzip, chunked"), 400),
        (reserve().replace(b"Content-Length: 40", b"Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (reserve(b"Connection: upgrade\r\nUpgrade: h2c\r\n"), 400),
        (get(headers=HOST + b"X: " + b"x" * limits.HEADERS_BYTES_MAX + b"\r\n" + CLOSE), 431),
        (get(headers=HOST + b"X: x\r\n" * limits.HEADERS_BYTES_MAX + CLOSE), 431),
        (get(b"/" + b"x" * limits.HEADERS_BYTES_MAX, HOST + CLOSE), 431),
        (b"GET /" + b"x" * (4 * limits.HEADERS_BYTES_MAX), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (4 * limits.HEADERS_BYTES_MAX), 431),
        (b"\r\n" * limits.HEADERS_BYTES_MAX, 431),
    ],
    ids=lambda value: repr(value[:64]) if isinstance(value, bytes) else str(value),
)
async def test_what_is_no_http_is_refused(server: Server, data: bytes, status: int) -> None:
    """One answer, a problem document; then the connection is closed, and others are served."""
    (answered,) = await answers(server, data)

    assert status == answered.status, answered.payload
    assert status == answered.body["status"]
    assert "close" == answered.headers["connection"]
    assert 200 == (await server.get("/v1/stock/A")).status
    assert 0 == server.api.counters.in_flight


@pytest.mark.parametrize(
    "data",
    [
        reserve(b"Expect: 100-continue\r\n" + CLOSE),
        reserve(CLOSE)
        .replace(b"Content-Length: 40", b"Transfer-Encoding: chunked")
        .replace(BODY, b"28;x=y\r\n" + BODY + b"\r\n0\r\nTrailer: x\r\n\r\n"),
        reserve(b"Content-Encoding: identity\r\nX-Any: 1\r\nX-Any: 2\r\n" + CLOSE),
        b"\r\n\r\n" + reserve(CLOSE),
        reserve(CLOSE).replace(b"HTTP/1.1", b"HTTP/1.0"),
        reserve(CLOSE).replace(HOST, b"hOsT:  LOCALHOST:80 \r\n"),
    ],
)
async def test_unusual_requests_are_served(server: Server, data: bytes) -> None:
    """Chunks, trailers, expectations, old versions."""
    async with server.connect() as (reader, writer):
        writer.write(data)
        everything = (await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)).decode()

    assert "HTTP/1.1 201 Created\r\n" in everything
    assert ("HTTP/1.1 100 Continue\r\n\r\n" in everything) == (b"Expect" in data)


async def test_a_target_may_be_a_url(server: Server) -> None:
    """As proxies send it; it goes before the Host header."""
    (answered,) = await answers(
        server, get(b"http://localhost:1/v1/stock/A?", b"Host: proxy.example\r\n" + CLOSE)
    )

    assert (200, "A") == (answered.status, answered.body["sku"])


async def test_a_peer_may_end_its_side_first(server: Server) -> None:
    """What it has sent whole is answered, before the connection ends."""
    server.engine.held = []
    async with server.connect() as (reader, writer):
        writer.write(STOCK + HEALTH + STOCK[:-1])
        writer.write_eof()
        await _until(lambda: bool(server.engine.held))
        server.engine.held[0]()
        assert "A" == (await read_answer(reader)).body["sku"]
        assert {"status": "ok"} == (await read_answer(reader)).body
        assert b"" == await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)


async def test_garbage_does_not_cost_the_answer_before_it(server: Server) -> None:
    """A request in flight is answered, then what came after it is refused."""
    server.engine.held = []
    async with server.connect() as (reader, writer):
        writer.write(STOCK)
        await _until(lambda: bool(server.engine.held))
        writer.write(b"\x16\x03 garbage\r\n\r\n")
        await _until(lambda: 1 == server.api.counters.malformed)
        server.engine.held[0]()
        assert [200, 400] == [(await read_answer(reader)).status for _ in range(2)]


async def test_a_body_that_waited_for_its_turn_has_all_its_time(server: Server) -> None:
    """Time spent behind another request is not the peer's."""
    server.engine.held = []
    async with server.connect() as (reader, writer):
        writer.write(STOCK + reserve()[:-1])
        await _until(lambda: bool(server.engine.held))
        _sweep(server, 2 * REQUEST_SECONDS)
        held, server.engine.held = server.engine.held, None
        held[0]()
        await read_answer(reader)
        _sweep(server, REQUEST_SECONDS - 1)
        writer.write(reserve()[-1:])

        assert 201 == (await read_answer(reader)).status


async def test_a_bug_in_the_router_is_a_500(server: Server) -> None:
    """The connection goes on."""

    def fail(command: Command) -> Answer | None:
        raise ZeroDivisionError

    server.engine.replaced = fail
    async with server.connect() as (reader, writer):
        writer.write(STOCK + HEALTH)
        first = await read_answer(reader)

        assert (500, "internal") == (first.status, first.body["code"])
        assert 200 == (await read_answer(reader)).status
        assert 0 == server.api.counters.in_flight


async def test_a_request_may_come_byte_by_byte(server: Server) -> None:
    """Where a read ends means nothing."""
    async with server.connect() as (reader, writer):
        for byte in reserve():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        answered = await read_answer(reader)

    assert 201 == answered.status


async def test_an_upgrade_is_ignored(server: Server) -> None:
    """The request is answered; what follows it is not HTTP that we would understand."""
    (answered,) = await answers(
        server, get(headers=HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n") + b"PRI * HTTP/2.0"
    )

    assert (200, "close") == (answered.status, answered.headers["connection"])


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Calls, pages and refusals, mixed, on one connection, in one piece."""
    data = b"".join([STOCK, HEALTH, get(b"/none"), STOCK, reserve(), HEALTH, get(b"/v1/stock/B")])
    found = await answers(server, data * 20 + get(headers=HOST + CLOSE))

    assert [200, 200, 404, 200, 201, 200, 404] * 20 + [200] == [each.status for each in found]
    assert "close" not in found[0].headers.get("connection", "")


async def test_many_pipelined_requests_do_not_nest(server: Server) -> None:
    """As many as a read can bring are answered without recursion."""
    data = STOCK * 2_000 + get(headers=HOST + CLOSE)

    assert 2_001 == len(await answers(server, data))


async def test_one_request_of_a_connection_is_served_at_a_time(server: Server) -> None:
    """What is pipelined waits for the answer before it."""
    server.engine.held = []
    async with server.connect() as (reader, writer):
        writer.write(STOCK + HEALTH + STOCK)
        await _until(lambda: bool(server.engine.held))
        assert [GetStock("A")] == server.engine.commands
        for _ in range(2):
            held, server.engine.held = server.engine.held, []
            held[0]()
            await read_answer(reader)
            if _ == 0:
                await read_answer(reader)
                await _until(lambda: bool(server.engine.held))

    assert 0 == server.api.counters.in_flight


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110  # what is awaited lies inside the server
            await asyncio.sleep(0.001)


async def test_a_peer_that_leaves_costs_nothing(server: Server) -> None:
    """Its answer has nowhere to go, and that is all."""
    server.engine.held = []
    async with server.connect() as (_, writer):
        writer.write(STOCK)
        await _until(lambda: bool(server.engine.held))
    server.engine.held[0]()

    assert 0 == server.api.counters.in_flight
    await _until(lambda: 0 == server.api.counters.connections)
    server.engine.held = None
    assert 200 == (await server.get("/v1/stock/A")).status


async def test_a_refusal_is_not_lost_while_the_body_still_comes(server: Server) -> None:
    """The rest of an endless body is read into the void, for a while."""
    async with server.connect() as (reader, writer):
        head = reserve().replace(b"Content-Length: 40", b"Transfer-Encoding: chunked")
        writer.write(head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(20):
            writer.write(chunk)
            await writer.drain()
        answered = await read_answer(reader)

        assert (413, "close") == (answered.status, answered.headers["connection"])
        assert b"" == await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
        assert 1 == server.api.counters.connections
        _sweep(server, LINGER_SECONDS)
        await _until(lambda: 0 == server.api.counters.connections)


def _sweep(server: Server, later: float) -> None:
    server.edge.sweep(asyncio.get_running_loop().time() + later + 0.1)


@pytest.mark.parametrize(
    "data", [b"GET /healthz HT", reserve()[:-1], reserve()[:60]], ids=["line", "body", "header"]
)
async def test_a_slow_request_is_given_up(server: Server, data: bytes) -> None:
    """A request that has begun and does not end is answered 408 and closed."""
    async with server.connect() as (reader, writer):
        writer.write(data)
        await _until(lambda: server.edge.busy() == 1)
        _sweep(server, 0)
        assert 1 == server.edge.busy()
        _sweep(server, REQUEST_SECONDS)
        answered = await read_answer(reader)

    assert (408, "request_timeout") == (answered.status, answered.body["code"])
    assert "close" == answered.headers["connection"]


@pytest.mark.parametrize(
    ("target", "media", "body"),
    [
        (b"PUT /v1/channels/web", b"application/json", b"{"),
        (b"POST /v1/stock/movements", b"application/json", b'{"movements": ['),
        (b"POST /v1/stock/import?kind=received", b"text/csv", b"sku,location,quantity\nA,x,1\nB"),
    ],
)
async def test_a_slow_page_is_given_up(
    server: Server, target: bytes, media: bytes, body: bytes
) -> None:
    """The same while a page waits for its body; what it does then, nobody hears."""
    fields = b"Idempotency-Key: k\r\nContent-Type: " + media + b"\r\nContent-Length: 999\r\n\r\n"
    async with server.connect() as (reader, writer):
        writer.write(target + b" HTTP/1.1\r\n" + HOST + fields + body)
        await _until(lambda: 1 == server.api.counters.in_flight)
        _sweep(server, REQUEST_SECONDS)
        answered = await read_answer(reader)
        assert b"" == await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)

    assert (408, "request_timeout") == (answered.status, answered.body["code"])
    assert "close" == answered.headers["connection"]
    await _until(lambda: 0 == server.api.counters.in_flight)
    await _until(lambda: not server.edge.tasks)


async def test_a_slow_page_behind_another_is_given_up_in_its_turn(server: Server) -> None:
    """What came before it is answered first."""
    page = b"PUT /v1/channels/web HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 9\r\n\r\n{"
    server.engine.held = []
    async with server.connect() as (reader, writer):
        writer.write(STOCK + page)
        await _until(lambda: bool(server.engine.held))
        _sweep(server, REQUEST_SECONDS)
        server.engine.held[0]()
        statuses = [(await read_answer(reader)).status]
        _sweep(server, REQUEST_SECONDS)
        statuses.append((await read_answer(reader)).status)

    assert [200, 408] == statuses


async def test_a_body_that_breaks_is_answered_by_its_page_as_well(server: Server) -> None:
    """400 for a chunk that is none."""
    (answered,) = await answers(
        server,
        b"POST /v1/stock/import?kind=received HTTP/1.1\r\n" + HOST + b"Content-Type: text/csv\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    )

    assert (400, "malformed_http") == (answered.status, answered.body["code"])


async def test_a_silent_connection_is_kept_and_then_closed(server: Server) -> None:
    """Between requests, a connection may rest."""
    async with server.connect() as (reader, writer):
        writer.write(STOCK)
        await read_answer(reader)
        _sweep(server, IDLE_SECONDS - 1)
        writer.write(STOCK)
        await read_answer(reader)
        _sweep(server, IDLE_SECONDS)
        assert b"" == await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)


async def test_a_call_in_flight_is_not_given_up(server: Server) -> None:
    """How long the engine may take is the router's business."""
    server.engine.held = []
    async with server.connect() as (reader, writer):
        writer.write(STOCK)
        await _until(lambda: bool(server.engine.held))
        _sweep(server, IDLE_SECONDS)
        server.engine.held[0]()
        assert 200 == (await read_answer(reader)).status


async def test_who_does_not_read_is_given_up(server: Server) -> None:
    """Answers that pile up stop the next request, and then the connection."""
    async with server.connect() as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's can
        for _ in range(1_000):
            writer.write(get(b"/openapi.json") * 10)
            if server.edge.stalled():
                break
            await asyncio.sleep(0)
        await _until(server.edge.stalled)
        _sweep(server, IDLE_SECONDS)
        await _until(lambda: 0 == server.api.counters.connections)


async def test_connections_beyond_the_limit_are_refused() -> None:
    """503 for the one too many; those that are there are served."""
    async with serving(connections_max=1) as server, server.connect() as (reader, writer):
        writer.write(HEALTH)
        await read_answer(reader)
        refused = await server.send(b"")
        writer.write(HEALTH)

        assert (503, "too_many_connections") == (refused.status, refused.body["code"])
        assert 200 == (await read_answer(reader)).status
        assert 1 == server.api.counters.connections_refused


async def test_closing_answers_what_has_come() -> None:
    """The request in flight gets its answer, which says that the connection ends."""
    engine = LocalEngine()
    engine.receive("A", 1)
    async with serving(engine) as server, server.connect() as (reader, writer):
        async with server.connect() as (idle, _):
            engine.held = []
            writer.write(STOCK)
            await _until(lambda: bool(engine.held))
            closing = asyncio.create_task(server.edge.close())
            assert b"" == await asyncio.wait_for(idle.read(), DEADLINE_SECONDS)
        engine.held[0]()
        answered = await read_answer(reader)
        await closing

        assert (200, "close") == (answered.status, answered.headers["connection"])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize("request_", [STOCK, HEALTH])
async def test_a_request_that_crosses_the_end_is_answered(request_: bytes) -> None:
    """A peer that was idle when the server began to close is told so with its next answer."""
    engine = LocalEngine()
    engine.receive("A", 1)
    async with serving(engine) as server, server.connect() as (reader, writer):
        writer.write(request_)
        assert "close" not in (await read_answer(reader)).headers.get("connection", "")
        closing = asyncio.create_task(server.edge.close())
        await asyncio.sleep(0)

        writer.write(request_)

        answered = await read_answer(reader)
        assert (200, "close") == (answered.status, answered.headers["connection"])
        assert b"" == await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
        await closing


async def test_who_waits_in_the_backlog_is_answered() -> None:
    """Peers that no process had seen when the server began to close get a full answer as well."""
    engine = LocalEngine()
    engine.receive("A", 100)
    async with serving(engine) as server:
        callers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for caller in callers:
            caller.sendall(reserve())

        await server.edge.close()

    for caller in callers:
        with caller:
            caller.settimeout(DEADLINE_SECONDS)
            answer = http.client.HTTPResponse(caller)
            answer.begin()
            assert (201, "close") == (answer.status, answer.headers["connection"])
            assert b'"status":"reserved"' in answer.read()


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example", b"10.0.0.1", b""])
async def test_a_page_that_rebinds_its_name_is_refused(server: Server, host: bytes) -> None:
    """Without keys, only names of this host are answered to."""
    (answered,) = await answers(server, get(headers=b"Host: " + host + b"\r\n" + CLOSE))

    assert (421, "misdirected") == (answered.status, answered.body["code"])


@pytest.mark.parametrize(
    "host", [b"localhost", b"127.0.0.1", b"[::1]", b"LOCALHOST:8080", b"[::1]:1"]
)
async def test_this_host_is_answered_to(server: Server, host: bytes) -> None:
    """By any of its names, with or without a port."""
    (answered,) = await answers(server, get(headers=b"Host: " + host + b"\r\n" + CLOSE))

    assert 200 == answered.status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"http://localhost:8080", 201),
        (b"http://evil.example", 403),
        (b"null", 403),
        (b"http://localhost.evil.example", 403),
    ],
)
async def test_a_foreign_page_cannot_call(server: Server, origin: bytes, status: int) -> None:
    """A browser says where a page is from; only our own may."""
    (answered,) = await answers(server, reserve(b"Origin: " + origin + b"\r\n" + CLOSE))

    assert status == answered.status


async def test_a_bug_in_showing_an_answer_is_a_500() -> None:
    """The caller is not left waiting, and the connection goes on."""
    engine = LocalEngine()
    engine.replaced = lambda command: (
        Answer(Status.OK, None) if isinstance(command, Commit) else None
    )
    async with serving(engine) as server:
        answered = await server.post("/v1/reservations/r/commit")

    assert (500, "internal") == (answered.status, answered.body["code"])
