"""Spans of a host: one line for each traced command of a request."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from actors import spans
from actors.log import Sparing
from actors.spans import traced
from engine import limits
from engine.messages import (
    Answer,
    Commit,
    GetStock,
    LineRequest,
    Outgoing,
    Request,
    Reserve,
    Status,
    Trace,
)
from engine.scope import OPERATOR
from engine.wire import WireError, decode_answer, decode_request, encode_frame
from tests.actors.tenure import SKUS, tenure
from tests.actors.trial import Trial, receive, timeless

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is short of lines because another has written some."""
    monkeypatch.setattr(spans, "_lines", Sparing(spans._log, limits.SPANS_PER_SECOND))


def test_what_is_traced_is_told() -> None:
    """Which command it was, what came of it, when it began and how long it took."""
    request = Request(
        7,
        1_000,
        [GetStock("A"), Reserve("r1", [LineRequest("A", 1)])],
        [Trace(1, TRACE, SPAN, "cart-7"), Trace(9, TRACE, SPAN)],
    )
    answered: list[Outgoing] = []
    moments = iter((5.0, 5.25))
    reply = traced(request, answered.append, lambda: next(moments), lambda: 1_700_000_000.0)
    response = Outgoing(7, [Answer(Status.UNKNOWN_SKU), Answer(Status.INSUFFICIENT_STOCK)])
    with capture_logs() as lines:
        reply(response)

    assert [response] == answered
    line: dict[str, Any] = dict(lines[0])
    assert 16 == len(line.pop("span_id"))
    assert {
        "event": "span",
        "log_level": "info",
        "kind": "host",
        "name": "reserve",
        "trace_id": TRACE,
        "parent_id": SPAN,
        "request_id": "cart-7",
        "reservation_id": "r1",
        "status": "insufficient_stock",
        "start": "2023-11-14T22:13:19.750000+00:00",
        "seconds": 0.25,
    } == line
    assert 1 == len(lines), "a place that the request does not have is nobody's"


@timeless
async def test_a_host_tells_of_what_is_traced(trial: Trial) -> None:
    """Of two requests the one that is traced leaves a line."""
    async with tenure(trial, 0) as host:
        answered: list[Outgoing] = []
        with capture_logs() as lines:
            await host.ask(receive(1, SKUS[0]))
            request = Request(1, 1_000, [receive(1, SKUS[0])], [Trace(0, TRACE, SPAN)])
            host.host.submit(request, OPERATOR, answered.append)
            await host.ask(receive(1, SKUS[0]))

    assert [Status.OK] == [decode_answer(each).status for each in answered[0].answers]
    assert ["receive"] == [each["name"] for each in lines if each["event"] == "span"]


@pytest.mark.parametrize(
    "trace",
    [
        Trace(0, TRACE.upper(), SPAN),
        Trace(0, TRACE, SPAN + "0"),
        Trace(-1, TRACE, SPAN),
        Trace(0, TRACE, SPAN, "a b"),
        Trace(0, TRACE + "\n", SPAN),
        Trace(0, TRACE, SPAN, "x" * 129),
    ],
)
def test_only_ids_come_in(trace: Trace) -> None:
    """A peer that sends anything else into our logs does not speak the protocol."""
    frame = encode_frame(Request(1, 1_000, [Commit("r1")], [trace]))

    with pytest.raises(WireError, match="not a request"):
        decode_request(frame[4:])
