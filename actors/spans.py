"""Spans: how long a process was at a command that its caller traces, as lines of its log.

    {"event": "span", "kind": "host", "name": "reserve", "trace_id": …, "span_id": …,
     "parent_id": …, "request_id": …, "reservation_id": …, "status": "ok",
     "start": "2026-03-01T12:00:00.000123+00:00", "seconds": 0.001204}

That is all of what an exporter needs: a collector that follows the log files maps these fields one
to one onto those of OpenTelemetry, and no process here waits for one. A request that is not traced
costs the look at one field; a frame of many commands names those that are.

The time is that from a frame's receipt to the answer of the whole frame, journal included: the
commands of a gateway's frame are of one shard and share its batch.
"""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import Final

import structlog

from actors.log import Sparing
from engine import limits
from engine.messages import Outgoing, Request, Status
from engine.wire import decode_answer

NEVER: Final = inf
"""As a threshold, in seconds."""
_log = structlog.get_logger(__name__)
_lines: Final = Sparing(_log, limits.SPANS_PER_SECOND)


def span(kind: str, fields: dict[str, object], ended: float, seconds: float) -> dict[str, object]:
    """The fields of a span that has ended at `ended`, in seconds since 1970."""
    start = datetime.fromtimestamp(ended - seconds, UTC).isoformat(timespec="microseconds")
    name = fields.pop("operation")
    return {"kind": kind, "name": name, "start": start, **fields}


def traced(
    request: Request,
    reply: Callable[[Outgoing], None],
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Callable[[Outgoing], None]:
    """`reply`, and a span for each traced command of `request` when it is called."""
    began = clock()

    def answered(response: Outgoing) -> None:
        reply(response)
        seconds = round(clock() - began, 6)
        for fields in _spans(request, response):
            if _lines.may("span"):
                fields["seconds"] = seconds
                _lines.say("info", "span", span("host", fields, wall(), seconds))

    return answered


def _spans(request: Request, response: Outgoing) -> list[dict[str, object]]:
    found = []
    for each in request.traces or ():
        if each.index >= min(len(request.commands), len(response.answers)):
            continue  # a caller's mistake
        command = request.commands[each.index]
        fields: dict[str, object] = {
            "operation": type(command).__name__.lower(),
            "trace_id": each.trace_id,
            "span_id": secrets.token_hex(8),
            "parent_id": each.span_id,
            "request_id": each.request_id,
            "status": Status(decode_answer(response.answers[each.index]).status).name.lower(),
        }
        if (name := getattr(command, "reservation_id", None)) is not None:
            fields["reservation_id"] = name
        found.append(fields)
    return found
