"""The bounds hold together: the largest of one thing fits into the smallest room for it."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.codec import START, Position, decode_record, encode_record
from engine.messages import Event, LineRequest, Received, Request, Reserve, SetStock
from engine.wire import encode_frame

WIDEST = "x" * limits.ID_CHARS_MAX


@pytest.mark.parametrize("name", ["a", "A-1", "0", "a.b:c_d-e", WIDEST])
def test_ids(name: str) -> None:
    """Letters, digits and four signs, up to the limit, are an id."""
    assert re.fullmatch(limits.ID_PATTERN, name)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", "a\x00", "{a}", WIDEST + "x"])
def test_what_is_no_id(name: str) -> None:
    """Nothing that a URL, a Redis key or a log line would misread is an id."""
    assert not re.fullmatch(limits.ID_PATTERN, name)


@given(name=st.text(max_size=3))
def test_ids_are_ascii(name: str) -> None:
    """Whatever matches is printable ASCII, so order by bytes and by characters agree."""
    if re.fullmatch(limits.ID_PATTERN, name):
        assert name.isascii()
        assert name.isprintable()


def test_the_largest_command_fits_a_frame() -> None:
    """A request of one command, every field at its limit, is a frame."""
    lines = [LineRequest(WIDEST, limits.QUANTITY_MAX, WIDEST)] * limits.LINES_MAX
    levels = {f"{number:0>{limits.ID_CHARS_MAX}}": 2**31 - 1 for number in range(256)}
    pools = dict(list(levels.items())[: limits.POOLS_MAX])
    for command in (Reserve(WIDEST, lines, WIDEST), SetStock(WIDEST, levels, pools)):
        frame = encode_frame(Request(limits.COUNTER_MAX, limits.DEADLINE_MS_MAX, [command]))
        assert len(frame) <= limits.FRAME_BYTES_MAX


def test_a_full_batch_is_a_record() -> None:
    """A batch that closed at its limit, its last event the largest, is written and read."""
    small: Event = Received(WIDEST, WIDEST, 1, "r" * limits.TEXT_CHARS_MAX)
    size = len(msgspec.msgpack.encode(small))
    events = [small] * (limits.BATCH_BYTES_MAX // size + limits.EVENT_BYTES_MAX // size)
    record, _ = encode_record(0, Position(1, 1), 0, 0, START, events)

    assert events == decode_record(record, 0, Position(1, 1)).events


def test_windows_nest() -> None:
    """A key outlives the finished reservation it acted on; returns outlive both."""
    assert limits.TTL_SECONDS_MAX * limits.SECOND_US <= limits.KEYS_WINDOW_US
    assert limits.FINISHED_WINDOW_US <= limits.KEYS_WINDOW_US <= limits.RETURNS_WINDOW_US


def test_what_json_can_hold() -> None:
    """Sums stay exact in readers that have only doubles."""
    assert float(limits.COUNTER_MAX) == limits.COUNTER_MAX
    promised = limits.LOCATIONS_MAX * limits.QUANTITY_MAX
    assert promised <= limits.COUNTER_MAX
    assert limits.POOLS_MAX * (limits.QUANTITY_MAX + promised) <= limits.COUNTER_MAX
