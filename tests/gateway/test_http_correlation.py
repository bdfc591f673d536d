"""Ids over HTTP: every answer says whose it is, and so does every problem."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.messages import Answer, Reserve, Status, Trace
from tests.gateway.http_engine import Server, serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
BODY = {"reservation_id": "r1", "lines": [{"sku": "A", "quantity": 1}]}
CALL, PAGE, NOWHERE = "/v1/stock/unheard-of", "/v1/stock/shortfalls?limit=0", "/v1/nowhere"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.mark.parametrize(
    ("path", "status"), [(CALL, 404), (PAGE, 400), (NOWHERE, 404), ("/healthz", 200)]
)
async def test_every_answer_has_an_id(server: Server, path: str, status: int) -> None:
    """Calls, pages and what is neither: the caller's id, and in a problem document the trace."""
    answered = await server.get(path, x_request_id="cart-7", traceparent=SAMPLED)
    without = await server.get(path)

    assert (status, "cart-7") == (answered.status, answered.headers["x-request-id"])
    assert without.headers["x-request-id"] not in ("", "cart-7")
    if status != 200:
        assert ("urn:onhand:request:cart-7", TRACE) == (
            answered.body["instance"],
            answered.body["trace_id"],
        )
        minted = without.headers["x-request-id"]
        assert f"urn:onhand:request:{minted}" == without.body["instance"]
        assert 32 == len(without.body["trace_id"])


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/stock/A HTTP/1.1\r\n\r\n",
        b"GET /v1/stock/A HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_request_has_an_id_as_well(server: Server, data: bytes) -> None:
    """Whoever sent it can name it when asking what was wrong."""
    answered = await server.send(data)

    assert 400 == answered.status or 421 == answered.status
    name = answered.headers["x-request-id"]
    assert f"urn:onhand:request:{name}" == answered.body["instance"]


async def test_headers_that_stand_twice_say_nothing(server: Server) -> None:
    """Neither id is taken over, neither trace."""
    head = f"GET {CALL} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    twice = f"X-Request-Id: a\r\nTraceparent: {SAMPLED}\r\n" * 2
    answered = await server.send(f"{head}{twice}\r\n".encode())

    assert 404 == answered.status
    assert "a" != answered.headers["x-request-id"]
    assert TRACE != answered.body["trace_id"]


async def test_what_is_sampled_travels(server: Server) -> None:
    """The engine is told of it, under the span of the gateway, which its log has as well."""
    with capture_logs() as lines:
        await server.post("/v1/reservations", BODY, traceparent=SAMPLED, x_request_id="cart-7")
        await server.post("/v1/reservations", BODY, traceparent=SAMPLED[:-1] + "0")
        await server.post("/v1/reservations", BODY)

    [told, *others] = server.engine.traces
    [line] = [each for each in lines if each["event"] == "span"]
    assert Trace(0, TRACE, line["span_id"], "cart-7") == told
    assert [None, None] == others
    assert ("reserve", "r1", 409, SPAN) == (
        line["name"],
        line["reservation_id"],
        line["status"],
        line["parent_id"],
    )


async def test_a_failure_is_found_in_the_log(server: Server) -> None:
    """By the id that the answer names; and nothing of what was asked stands there."""

    def full(command: Any) -> Answer | None:
        return Answer(Status.MEMORY_FULL) if isinstance(command, Reserve) else None

    server.engine.replaced = full
    with capture_logs() as lines:
        answered = await server.post("/v1/reservations", BODY)

    [line] = [each for each in lines if each["event"] == "request_failed"]
    assert answered.headers["x-request-id"] == line["request_id"]
    assert ("memory_full", "r1", answered.body["trace_id"]) == (
        line["code"],
        line["reservation_id"],
        line["trace_id"],
    )
