"""What a gateway writes down of requests: what failed, was slow or is traced, a line each.

| event | level | when |
|---|---|---|
| `request_failed` | warning | the answer is a 5xx, but for probes, who ask on purpose |
| `request_refused` | info | 401, 403, 421 or 429: somebody who may not, or not so much |
| `request_slow` | warning | it took `--slow-ms` or longer |
| `span` | info | its caller says that it is sampled |

A line has the ids of `gateway.correlation`, the operation, the HTTP status, the problem's code, the
seconds, and the reservation, if it is about one. Never what a caller sent beside these ids: no
body, no query, no header, no key, no address. Other refusals are the day's business and counted
only (`onhand_http_requests_total`). No event has more than `limits.LOG_LINES_PER_SECOND` lines a
second; what is left out is told with the next.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from actors.log import Sparing
from actors.spans import NEVER, span
from engine import limits
from gateway.correlation import Correlation
from gateway.problems import PROBLEM_MEDIA, Problem, Reply

_PROBES: Final = frozenset({"health", "ready"})
_REFUSALS: Final = frozenset({401, 403, 421, 429})
_decode: Final = msgspec.json.Decoder(Problem).decode
_log = structlog.get_logger(__name__)


class Diary:
    """Of one gateway."""

    def __init__(self, slow_seconds: float = NEVER, wall: Callable[[], float] = time.time) -> None:
        self._slow_seconds = slow_seconds
        self._wall = wall
        self._lines = Sparing(_log, limits.LOG_LINES_PER_SECOND)
        self._spans = Sparing(_log, limits.SPANS_PER_SECOND)

    def note(
        self, operation: str, told: Correlation, reply: Reply, seconds: float, reservation: str = ""
    ) -> None:
        """A request has been answered with `reply`, after so long."""
        status = reply.status
        if operation in _PROBES:
            return
        if status < 500 and status not in _REFUSALS and seconds < self._slow_seconds:
            if told.sampled:
                self._span(operation, told, reply, seconds, reservation)
            return
        event = "request_slow"
        if status >= 500:
            event = "request_failed"
        elif status in _REFUSALS:
            event = "request_refused"
        if self._lines.may(event):
            fields = _fields(operation, told, reply, seconds, reservation)
            self._lines.say("info" if event == "request_refused" else "warning", event, fields)
        if told.sampled:
            self._span(operation, told, reply, seconds, reservation)

    def _span(
        self, operation: str, told: Correlation, reply: Reply, seconds: float, reservation: str
    ) -> None:
        if self._spans.may("span"):
            fields = _fields(operation, told, reply, seconds, reservation)
            self._spans.say("info", "span", span("gateway", fields, self._wall(), seconds))


def _fields(
    operation: str, told: Correlation, reply: Reply, seconds: float, reservation: str
) -> dict[str, object]:
    fields: dict[str, object] = {
        "operation": operation,
        "status": reply.status,
        "seconds": round(seconds, 6),
        **told.fields(),
    }
    if reservation:
        fields["reservation_id"] = reservation[: limits.ID_CHARS_MAX]
    if reply.media is PROBLEM_MEDIA:
        fields["code"] = _decode(reply.payload).code
    return fields
