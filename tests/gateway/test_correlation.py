"""Request ids and W3C trace context: what is taken over, and what is not."""

import pytest

from engine.messages import Trace
from gateway.correlation import Correlation, correlate, forget_doubles

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def of(traceparent: str) -> Correlation:
    return correlate({b"traceparent": traceparent.encode("latin-1")})


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
        (f"00-{'0' * 31}1-{'0' * 15}1-01", True),
    ],
)
def test_a_valid_context_is_taken_over(traceparent: str, sampled: bool) -> None:
    """The trace goes on under the caller's span; of the flags, one counts."""
    found = of(traceparent)

    assert traceparent.split("-")[1:3] == [found.trace_id, found.parent_id]
    assert sampled == found.sampled
    assert found.span_id != found.parent_id
    assert 16 == len(found.span_id)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"0g-{TRACE}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        "00-\xb2" + "0" * 50,
    ],
)
def test_an_invalid_context_begins_a_trace(traceparent: str) -> None:
    """As if there were none: a trace of our own, without a parent, and not sampled."""
    found = of(traceparent)

    assert ("", False, None) == (found.parent_id, found.sampled, found.onward())
    assert found.trace_id != TRACE
    assert found.trace_id == found.trace_id
    assert 32 == len(found.trace_id)


@pytest.mark.parametrize("name", ["a", "cart-7:retry.2", "x" * 128])
def test_an_id_is_taken_over(name: str) -> None:
    """What is an id anywhere else is one here."""
    assert name == correlate({b"x-request-id": name.encode()}).request_id


@pytest.mark.parametrize("name", [b"", b"x" * 129, b"a b", b'a"', b"a\n", b"\xfc", b"{}"])
def test_another_id_is_minted(name: bytes) -> None:
    """Ids that could break a log line or a header never get that far; each of ours is new."""
    first, second = (correlate({b"x-request-id": name}).request_id for _ in range(2))

    assert len({name.decode("latin-1"), first, second}) == 3
    assert first.replace("-", "").isalnum()


def test_what_stands_twice_says_nothing() -> None:
    """Neither of two is taken over."""
    names = [b"traceparent", b"x-request-id", b"traceparent", b"accept", b"accept"]
    headers = {b"traceparent": b"t", b"x-request-id": b"r", b"accept": b"a"}
    forget_doubles(headers, names)

    assert {b"x-request-id": b"r", b"accept": b"a"} == headers


def test_only_what_is_sampled_travels() -> None:
    """The hosts are told the trace, our span and the caller's id."""
    context = f"00-{TRACE}-{SPAN}-01".encode()
    found = correlate({b"traceparent": context, b"x-request-id": b"cart-7"})

    assert Trace(0, TRACE, found.span_id, "cart-7") == found.onward()
    assert {
        "request_id": "cart-7",
        "trace_id": TRACE,
        "span_id": found.span_id,
        "parent_id": SPAN,
    } == found.fields()
