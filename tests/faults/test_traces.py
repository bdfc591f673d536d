"""A request of a shop through all processes: one trace, told by the logs of each."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.engine_process import EngineProcess, eventually, running

pytestmark = [pytest.mark.ray, pytest.mark.redis]

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def post(
    engine: EngineProcess, path: str, body: Any, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the answer."""
    host, port = engine.http.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [
        *(f"POST {path} HTTP/1.1", f"Host: {host}", "Connection: close"),
        *("Content-Type: application/json", f"Content-Length: {len(data)}", *lines),
    ]
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        answer, _, payload = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    first, *rest = answer.decode().split("\r\n")
    found = dict(line.lower().split(": ", 1) for line in rest)
    return int(first.split()[1]), found, json.loads(payload)


async def test_one_trace_through_all_processes(tmp_path: Path) -> None:
    """The gateway's span hangs on the caller's, the host's on the gateway's; the problem document
    names both ids; what is not sampled leaves no line."""
    context = f"00-{TRACE}-{SPAN}"
    body = {"reservation_id": "r1", "lines": [{"sku": "A", "quantity": 1}]}
    async with running(tmp_path, "--shards", "2", "--hosts", "1") as engine:
        status, headers, problem = await post(
            engine, "/v1/reservations", body, traceparent=f"{context}-01", x_request_id="cart-7"
        )
        assert (409, "cart-7") == (status, headers["x-request-id"])
        assert "urn:onhand:request:cart-7" == problem["instance"]
        assert TRACE == problem["trace_id"]
        status, headers, problem = await post(
            engine, "/v1/reservations", body, traceparent=f"{context}-00", x_request_id="no id"
        )
        assert f"urn:onhand:request:{headers['x-request-id']}" == problem["instance"]

        async def told() -> list[dict[str, Any]]:
            logged = [*engine.log("gateway-1"), *engine.log("host-1")]
            spans = [line for line in logged if line["event"] == "span"]
            return spans if len(spans) >= 2 else []

        gateway, host = await eventually(told)
        _, headers, answer = await post(
            engine,
            "/v1/stock/movements",
            {"movements": [{"kind": "received", "sku": "A", "location": "x", "quantity": 1}]},
            idempotency_key='"k"',
            x_request_id="page-1",
        )
        assert ("page-1", "ok") == (headers["x-request-id"], answer["results"][0]["status"])
    assert [TRACE] * 2 == [each["trace_id"] for each in (gateway, host)]
    assert ["cart-7"] * 2 == [each["request_id"] for each in (gateway, host)]
    assert ["r1"] * 2 == [each["reservation_id"] for each in (gateway, host)]
    assert [SPAN, gateway["span_id"]] == [gateway["parent_id"], host["parent_id"]]
    assert [("gateway", "reserve"), ("host", "reserve")] == [
        (each["kind"], each["name"]) for each in (gateway, host)
    ]
    assert 0 < host["seconds"] <= gateway["seconds"]
