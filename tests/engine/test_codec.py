"""Records prove themselves: whatever happens to the bytes, what is read is what was written."""

from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.codec import (
    START,
    CorruptRecordError,
    Position,
    Record,
    UnknownFormatError,
    check_link,
    decode_record,
    encode_event,
    encode_record,
)
from engine.formats import FORMAT
from engine.messages import (
    Claimed,
    Committed,
    Event,
    Line,
    Part,
    Passed,
    Received,
    Released,
    Reserved,
)
from tests.engine.strategies import messages

SHARD = 3
HERE = Position(2, 5)
EVENTS: list[Event] = [
    Reserved("cart-1", b"\x00\x01\x02\x03\x04\x05\x06\x07", "shop", 9, [Line("apple", [])]),
    Committed("cart-1", [Line("apple", [Part("north", 2)])]),
]
GOLDEN = bytes.fromhex(
    "01000000030000000000000002000000000000000500060a24181e4000deadbeef00000000000000"
    "010000000000000009929801a6636172742d31c4080001020304050607a473686f70099193a56170"
    "706c65909000909302a6636172742d319193a56170706c659195a56e6f7274680200000090830bf1"
    "4d"
)


def written(position: Position, previous: int, *events: Event) -> Record:
    data, _ = encode_record(SHARD, position, 7, previous, START, list(events))
    return decode_record(data, SHARD, position)


def test_format_1_is_for_ever() -> None:
    """This very record, once written, is read for as long as format 1 is read."""
    expected = Record(
        SHARD, HERE, 1_700_000_000_000_000, 0xDEADBEEF, Position(1, 9), EVENTS, 0x830BF14D
    )

    assert 1 == FORMAT
    assert expected == decode_record(GOLDEN, SHARD, HERE)
    assert (GOLDEN, expected.checksum) == encode_record(*expected[:6])


@given(
    events=st.lists(messages(Event), max_size=4),
    stamp=st.integers(0, 2**64 - 1),
    previous=st.integers(0, 2**32 - 1),
)
def test_records_round_trip(events: list[Event], stamp: int, previous: int) -> None:
    """What is written is read, events encoded beforehand or not."""
    data, checksum = encode_record(SHARD, HERE, stamp, previous, START, events)
    raw = [msgspec.Raw(encode_event(event)) for event in events]

    assert Record(SHARD, HERE, stamp, previous, START, events, checksum) == decode_record(
        data, SHARD, HERE
    )
    assert (data, checksum) == encode_record(SHARD, HERE, stamp, previous, START, raw)


def test_every_flipped_bit_is_found() -> None:
    """One bit, anywhere in the record, and it is refused."""
    for bit in range(len(GOLDEN) * 8):
        flipped = bytearray(GOLDEN)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecordError, match="shard 3, record 2-5"):
            decode_record(bytes(flipped), SHARD, HERE)


def test_every_truncation_is_found() -> None:
    """A record that ends early is refused, wherever it ends."""
    for length in range(len(GOLDEN)):
        with pytest.raises(CorruptRecordError):
            decode_record(GOLDEN[:length], SHARD, HERE)


@given(more=st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_found(more: bytes) -> None:
    """Nothing can be appended to a record."""
    with pytest.raises(CorruptRecordError):
        decode_record(GOLDEN + more, SHARD, HERE)


@pytest.mark.parametrize(
    ("shard", "position"),
    [(4, HERE), (SHARD, Position(2, 4)), (SHARD, Position(3, 5)), (SHARD, START)],
)
def test_a_record_in_the_wrong_place_is_found(shard: int, position: Position) -> None:
    """A whole record is refused in another shard's journal, or elsewhere in its own."""
    with pytest.raises(CorruptRecordError, match="holds record 2-5 of shard 3"):
        decode_record(GOLDEN, shard, position)


def test_another_format_is_refused() -> None:
    """A record of a format to come is refused by number, not misread."""
    body = bytes([FORMAT + 1]) + GOLDEN[1:-4]
    with pytest.raises(UnknownFormatError, match="format 2, this engine reads 1"):
        decode_record(body + crc32(body).to_bytes(4), SHARD, HERE)


def test_events_of_unknown_kind_are_refused() -> None:
    """A record that proves itself but holds other events is refused, and it is said which."""
    body = GOLDEN[:49] + msgspec.msgpack.encode([[99, "cart-1"], [3, "cart-1"], [97]])
    with pytest.raises(CorruptRecordError, match=r"events of kind \[97, 99\], which only a newer"):
        decode_record(body + crc32(body).to_bytes(4), SHARD, HERE)


@pytest.mark.parametrize("content", [7, [7], [[]], [["x"]], [[[1]]], [[3]], [{1: 2}]])
def test_what_is_no_events_is_refused(content: object) -> None:
    """A record that proves itself but holds something else than events is refused all the same."""
    body = GOLDEN[:49] + msgspec.msgpack.encode(content)
    with pytest.raises(CorruptRecordError, match="events do not decode: "):
        decode_record(body + crc32(body).to_bytes(4), SHARD, HERE)


def test_a_note_from_later_is_dropped() -> None:
    """A field at the end of an event that this engine does not know is left out."""
    body = GOLDEN[:49] + msgspec.msgpack.encode([[3, "cart-1", "by whom"]])
    [event] = decode_record(body + crc32(body).to_bytes(4), SHARD, HERE).events

    assert Released("cart-1") == event


@pytest.mark.parametrize(
    "event",
    [
        [1, "cart-1", b"", None, 9, [["apple", [["north", 1, 0, 0, 0, 7]]]]],
        [1, "cart-1", b"", None, 9, [["apple", [], [], 7]]],
        [1, "cart-1", b"", None, 9, [["apple", [], [["few", 1, 7]]]]],
        [6, "cart-1", [[0, "north", 1, None, 7]]],
        [30, "shop", [None, [], True, 0, 7]],
    ],
)
def test_what_is_part_of_the_state_is_exact(event: list[object]) -> None:
    """A field that this engine does not know, and would have to remember, is not left out."""
    body = GOLDEN[:49] + msgspec.msgpack.encode([event])
    with pytest.raises(CorruptRecordError, match="at most length"):
        decode_record(body + crc32(body).to_bytes(4), SHARD, HERE)


def test_a_record_without_end_is_refused_unread() -> None:
    """Bytes beyond the largest record are not even checksummed."""
    with pytest.raises(CorruptRecordError, match="too many"):
        decode_record(bytes(limits.RECORD_BYTES_MAX + 1), SHARD, HERE)


def test_records_link() -> None:
    """A record follows the one before in its epoch; a claim follows anything older."""
    first = written(Position(2, 0), 0, Claimed(b"nonce", "host"))
    second = written(Position(2, 1), first.checksum, Passed())
    claim = written(Position(7, 0), 0, Claimed(b"nonce", "host"))

    check_link(None, second)
    check_link(first, second)
    check_link(second, claim)


@pytest.mark.parametrize(
    ("position", "says"),
    [
        (Position(2, 3), "a gap, the record before is 2-1"),
        (Position(2, 1), "a gap, the record before is 2-1"),
        (Position(3, 2), "a gap, the record before is 2-1"),
        (Position(3, 1), "a gap, the record before is 2-1"),
        (Position(2, 0), "a claim after 2-1"),
        (Position(1, 0), "a claim after 2-1"),
    ],
)
def test_what_does_not_follow_is_found(position: Position, says: str) -> None:
    """A missing, repeated or older record breaks the chain, whatever its checksum says."""
    before = written(Position(2, 1), 0, Passed())
    with pytest.raises(CorruptRecordError, match=says):
        check_link(before, written(position, before.checksum, Passed()))


def test_a_record_of_another_history_is_found() -> None:
    """Two records may stand at one position; only what was written after one of them follows it."""
    apples = written(Position(2, 1), 0, Received("apple", "north", 1))
    bricks = written(Position(2, 1), 0, Received("brick", "north", 1))
    after = written(Position(2, 2), apples.checksum, Passed())

    check_link(apples, after)
    with pytest.raises(CorruptRecordError, match="2-1 has"):
        check_link(bricks, after)


def test_positions_compare_in_journal_order() -> None:
    """Epochs come before sequences, and both are numbers."""
    mixed = [Position(1, 10), Position(10, 2), START, Position(1, 2), Position(0, 1)]

    assert ["0-0", "0-1", "1-2", "1-10", "10-2"] == [str(position) for position in sorted(mixed)]
