"""What a gateway writes down, and how little of it."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from engine import limits
from engine.messages import Answer, Status
from gateway import problems
from gateway.correlation import Correlation
from gateway.diary import Diary
from gateway.problems import Reply, refusal, refusal_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FINE = Reply(201, b"{}")
SLOW_SECONDS = 0.5


def written(
    reply: Reply, *, seconds: float = 0.001, sampled: bool = False, times: int = 1
) -> list[dict[str, Any]]:
    """What is written of a request that was answered like that."""
    diary = Diary(SLOW_SECONDS, lambda: 1_700_000_000.0)
    with capture_logs() as lines:
        for _ in range(times):
            told = Correlation("cart-7", TRACE, SPAN, sampled=sampled)
            diary.note("reserve", told, reply, seconds, "r1")
    return [dict(each) for each in lines]


@pytest.mark.parametrize(
    "reply",
    [
        FINE,
        refusal_of(Answer(Status.INSUFFICIENT_STOCK)),
        refusal_of(Answer(Status.UNKNOWN_RESERVATION)),
        refusal(problems.NOT_FOUND),
    ],
)
def test_the_days_business_is_not_written_down(reply: Reply) -> None:
    """A sale, a sold-out shelf and a wrong id are counted, and cost no line."""
    assert [] == written(reply)


@pytest.mark.parametrize(
    ("reply", "event", "level", "code"),
    [
        (refusal_of(Answer(Status.MEMORY_FULL)), "request_failed", "warning", "memory_full"),
        (refusal(problems.INTERNAL), "request_failed", "warning", "internal"),
        (refusal(problems.FORBIDDEN), "request_refused", "info", "forbidden"),
        (refusal(problems.UNAUTHENTICATED), "request_refused", "info", "unauthenticated"),
    ],
)
def test_what_is_of_note_is_written_down(reply: Reply, event: str, level: str, code: str) -> None:
    """With every id that leads to it, and nothing that its caller sent beside these."""
    [line] = written(reply)

    assert (event, level, code) == (line.pop("event"), line.pop("log_level"), line.pop("code"))
    assert 16 == len(line.pop("span_id"))
    assert {
        "operation": "reserve",
        "status": reply.status,
        "seconds": 0.001,
        "request_id": "cart-7",
        "trace_id": TRACE,
        "parent_id": SPAN,
        "reservation_id": "r1",
    } == line


def test_what_is_slow_is_written_down() -> None:
    """From the threshold on."""
    assert [] == written(FINE, seconds=SLOW_SECONDS - 0.001)
    assert ["request_slow"] == [each["event"] for each in written(FINE, seconds=SLOW_SECONDS)]


def test_a_sampled_request_leaves_a_span() -> None:
    """Its start and its duration, beside the ids."""
    [line] = written(FINE, seconds=0.25, sampled=True)

    assert ("span", "gateway", "reserve", 201) == (
        line["event"],
        line["kind"],
        line["name"],
        line["status"],
    )
    assert ("2023-11-14T22:13:19.750000+00:00", 0.25) == (line["start"], line["seconds"])
    failed = written(refusal(problems.INTERNAL), sampled=True)
    assert ["request_failed", "span"] == [each["event"] for each in failed]


def test_nobody_can_flood_the_log() -> None:
    """So many lines of an event a second, however many there would be."""
    lines = written(refusal(problems.INTERNAL), times=1_000)
    spans = written(FINE, sampled=True, times=1_000)

    assert limits.LOG_LINES_PER_SECOND == len(lines)
    assert limits.SPANS_PER_SECOND == len(spans)
