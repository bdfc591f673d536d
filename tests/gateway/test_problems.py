"""The table of refusals: complete, stable, and what a program needs to react."""

import msgspec
import pytest

from engine.messages import (
    Answer,
    Detail,
    LineView,
    ReservationView,
    Shortage,
    ShortLine,
    State,
    Status,
)
from gateway import problems
from gateway.problems import EDGE_KINDS, TABLE, Problem, refusal, refusal_of


def test_every_status_is_in_the_table() -> None:
    """No answer of the engine lacks an HTTP status."""
    assert set(Status) == set(TABLE)


@pytest.mark.parametrize(
    ("status", "http", "retryable"),
    [
        (Status.INSUFFICIENT_STOCK, 409, False),
        (Status.IDEMPOTENCY_MISMATCH, 422, False),
        (Status.UNKNOWN_RESERVATION, 404, False),
        (Status.RESERVATION_EXPIRED, 410, False),
        (Status.RESERVATION_RELEASED, 409, False),
        (Status.ILLEGAL_TRANSITION, 409, False),
        (Status.PHYSICAL_SHORTFALL, 409, False),
        (Status.UNKNOWN_SKU, 404, False),
        (Status.LINES_SPAN_SHARDS, 422, False),
        (Status.AMBIGUOUS_RESERVATION, 409, False),
        (Status.INVALID, 400, False),
        (Status.FORBIDDEN, 403, False),
        (Status.UNAUTHENTICATED, 401, False),
        (Status.TOO_MANY_REQUESTS, 429, True),
        (Status.NOT_DONE, 503, True),
        (Status.OUTCOME_UNKNOWN, 503, True),
        (Status.OVERLOADED, 503, True),
        (Status.MEMORY_FULL, 503, True),
        (Status.MOVED, 503, True),
        (Status.SHARD_STOPPED, 503, False),
    ],
)
def test_a_status_is_always_refused_the_same_way(
    status: Status, http: int, *, retryable: bool
) -> None:
    """The HTTP status, the code and the advice on retrying are part of the API."""
    reply = refusal_of(Answer(status))
    document = msgspec.json.decode(reply.payload, type=Problem)

    assert (http, b"application/problem+json") == (reply.status, reply.media)
    assert status.name.lower() == document.code
    assert f"urn:onhand:problem:{status.name.lower()}" == document.type
    assert (http, retryable) == (document.status, document.retryable)
    assert retryable == (b"retry-after" in dict(reply.headers))


def test_codes_are_unique_and_have_advice() -> None:
    """A code means one thing, and every refusal says what to do."""
    kinds = [*TABLE.values(), *EDGE_KINDS]

    assert len(kinds) == len({kind.code for kind in kinds})
    assert all(kind.title and kind.advice.endswith(".") for kind in kinds)


def test_a_shortage_names_its_lines() -> None:
    """A caller learns what there is of each SKU."""
    answer = Answer(Status.INSUFFICIENT_STOCK, Shortage([ShortLine("A", 3, 1)]))

    assert [{"sku": "A", "requested": 3, "available": 1}] == msgspec.json.decode(
        refusal_of(answer).payload
    )["lines"]


def test_an_ended_reservation_is_shown() -> None:
    """A caller who repeats a reserve learns how it ended."""
    view = ReservationView("r", 0, State.EXPIRED, None, 0, [LineView("A", 1, [("berlin", 1)])])
    document = msgspec.json.decode(refusal_of(Answer(Status.RESERVATION_EXPIRED, view)).payload)

    assert "expired" == document["reservation"]["status"]
    assert "1970-01-01T00:00:00.000Z" == document["reservation"]["expires_at"]


def test_the_engine_says_in_words_what_was_wrong() -> None:
    """A detail of the engine stands in place of the general advice."""
    document = msgspec.json.decode(refusal_of(Answer(Status.INVALID, Detail("no id"))).payload)

    assert "no id" == document["detail"]


def test_who_is_not_known_is_told_how_to_be() -> None:
    """A 401 names the scheme."""
    headers = dict(refusal(problems.UNAUTHENTICATED).headers)

    assert {b"www-authenticate": b'Bearer realm="onhand"'} == headers
