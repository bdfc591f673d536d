"""The whole API as it is described, tried out by schemathesis against real shards.

Whatever fits the description is answered as the description says, whatever does not fit is refused,
and nothing at all ends in a server error.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import schemathesis
import uvloop
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.specs.openapi import checks

from gateway.http_table import OPERATIONS
from gateway.openapi import describe
from tests.gateway.http_engine import LocalEngine, Server, serving

SCHEMA = schemathesis.openapi.from_dict(describe(OPERATIONS))


@schemathesis.serializer("application/x-ndjson", "text/csv")
def send_text(context: object, value: object) -> bytes:
    """A file is sent as it was made up."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


# A SKU may be named `movements` or `import`, so GET and PUT are served there as well. To JSON
# Schema 1.0 is an integer, and any text a cursor; what fits may be refused all the same.
LEFT_OUT = [
    checks.unsupported_method,
    checks.allow_header_conformance,
    checks.positive_data_acceptance,
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An engine with some stock, served by a thread of its own."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = Future()
    thread = threading.Thread(target=lambda: uvloop.run(_serve(started)))
    thread.start()
    loop, finish, url = started.result(10)
    yield url
    loop.call_soon_threadsafe(finish.set)
    thread.join(10)
    assert not thread.is_alive()


async def _serve(
    started: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]]",
) -> None:
    engine = LocalEngine()
    finish = asyncio.Event()
    for sku in ("0", "A", "SKU-1"):
        engine.receive(sku, 1_000)
    async with serving(engine) as server:
        await _prepare(server)
        started.set_result((asyncio.get_running_loop(), finish, server.url))
        await finish.wait()
        assert 0 == server.api.counters.in_flight


async def _prepare(server: Server) -> None:
    for name, action in (("0", ""), ("cart-7", "commit")):
        body = {"reservation_id": name, "lines": [{"sku": "A", "quantity": 2}]}
        await server.post("/v1/reservations", body)
        if action:
            await server.post(f"/v1/reservations/{name}/{action}")


@SCHEMA.parametrize()  # type: ignore[untyped-decorator,unused-ignore]
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_api_is_as_described(case: Case[Any], url: str) -> None:
    """Statuses, media types, headers and bodies conform; malformed requests are refused."""
    excluded = LEFT_OUT
    if case.operation.path == "/v1/stock/import":  # any text is a file; its rows are judged alone
        excluded = [*LEFT_OUT, checks.negative_data_rejection]
    case.call_and_validate(base_url=url, excluded_checks=excluded, timeout=10)
