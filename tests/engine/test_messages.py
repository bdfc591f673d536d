"""The vocabulary as others hold it: tags that never change their meaning, fields that survive."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import messages as vocabulary
from engine.messages import (
    Adjusted,
    Answer,
    Body,
    ChannelPolicy,
    ChannelSet,
    Command,
    Counted,
    Event,
    Hello,
    Message,
    Movement,
    Received,
    Request,
    Reserve,
    Reserved,
    Response,
    State,
    Status,
    StockSet,
    Transferred,
)
from tests.engine.strategies import messages

COMMANDS = {
    1: "Reserve",
    2: "Commit",
    3: "Release",
    4: "Extend",
    5: "Ship",
    6: "Cancel",
    7: "Restock",
    8: "MoveLines",
    9: "GetReservation",
    10: "Find",
    20: "Receive",
    21: "Adjust",
    22: "Count",
    23: "Transfer",
    24: "GetStock",
    25: "SetStock",
    26: "GetAvailability",
    30: "SetChannel",
    31: "GetChannel",
    40: "ListShortfalls",
    41: "Audit",
    42: "GetStatistics",
    43: "GetStockAsOf",
    44: "ListMovements",
    45: "GetMap",
    46: "ListStock",
    47: "ListReservations",
    48: "Bind",
    49: "Unbind",
    50: "Settle",
    51: "GetBinding",
    52: "Dedicate",
    53: "ListChannels",
}
EVENTS = {
    1: "Reserved",
    2: "Committed",
    3: "Released",
    4: "Expired",
    5: "Extended",
    6: "Shipped",
    7: "Cancelled",
    8: "Restocked",
    9: "LinesMoved",
    10: "Buried",
    20: "Received",
    21: "Adjusted",
    22: "Counted",
    23: "Transferred",
    25: "StockSet",
    26: "ShortfallChanged",
    30: "ChannelSet",
    50: "Genesis",
    51: "Claimed",
    52: "Opened",
    53: "SnapshotTaken",
    54: "Passed",
    55: "HandedOff",
    56: "SnapshotBegun",
    57: "Bound",
    58: "Unbound",
    59: "Settled",
    60: "Dedicated",
}
BODIES = {
    1: "ReservationView",
    2: "Shortage",
    3: "StockView",
    4: "AvailabilityView",
    5: "MovementView",
    6: "ChannelView",
    7: "Homes",
    8: "MovedTo",
    9: "ShortfallPage",
    10: "AuditView",
    11: "Detail",
    12: "Statistics",
    13: "StockAsOf",
    14: "LedgerPage",
    15: "MapView",
    16: "StockPage",
    17: "ReservationPage",
    18: "DedicatedTo",
    19: "Binding",
    20: "ChannelPage",
}
STATUSES = {
    0: "OK",
    1: "REPLAYED",
    10: "INSUFFICIENT_STOCK",
    11: "IDEMPOTENCY_MISMATCH",
    12: "UNKNOWN_RESERVATION",
    13: "RESERVATION_EXPIRED",
    14: "RESERVATION_RELEASED",
    15: "ILLEGAL_TRANSITION",
    16: "PHYSICAL_SHORTFALL",
    17: "UNKNOWN_SKU",
    18: "UNKNOWN_LOCATION",
    19: "STALE_COUNT",
    20: "LINES_SPAN_SHARDS",
    21: "UNKNOWN_LINE",
    22: "AMBIGUOUS_RESERVATION",
    23: "UNKNOWN_CHANNEL",
    24: "LOCATION_NOT_SERVED",
    25: "QUANTITY_OVERFLOW",
    26: "HISTORY_NOT_KEPT",
    27: "NOT_YET",
    28: "UNKNOWN_RECORD",
    29: "DEDICATED",
    30: "INVALID",
    31: "FORBIDDEN",
    32: "UNAUTHENTICATED",
    33: "TOO_MANY_REQUESTS",
    34: "SKU_KNOWN",
    35: "SHARD_TAKEN",
    40: "NOT_DONE",
    41: "OUTCOME_UNKNOWN",
    42: "OVERLOADED",
    43: "MEMORY_FULL",
    44: "MOVED",
    45: "SHARD_STOPPED",
    46: "HISTORY_DAMAGED",
}
ROOTS: list[Any] = [Hello, Request, Response, Answer]


def tags(union: Any) -> dict[int, str]:
    return {kind.__struct_config__.tag: kind.__name__ for kind in get_args(union)}


@pytest.mark.parametrize(
    ("frozen", "union"), [(COMMANDS, Command), (EVENTS, Event), (BODIES, Body)]
)
def test_tags_keep_their_meaning(frozen: dict[int, str], union: Any) -> None:
    """Every tag ever given still means the same type, and no type has two."""
    assert frozen == {tag: name for tag, name in tags(union).items() if tag in frozen}
    assert len(get_args(union)) == len(tags(union))


def test_every_type_with_a_tag_is_frozen_here() -> None:
    """A new command, event or body is added to the tables of this file when it is born."""
    assert (COMMANDS, EVENTS, BODIES) == (tags(Command), tags(Event), tags(Body))


def test_statuses_keep_their_numbers() -> None:
    """A status that a client has learnt means the same for ever."""
    assert STATUSES == {status.value: status.name for status in Status}


def test_states_keep_their_numbers() -> None:
    """The numbers stand in journals and snapshots."""
    expected = {1: "RESERVED", 2: "COMMITTED", 3: "RELEASED", 4: "EXPIRED"}

    assert expected == {state.value: state.name for state in State}
    assert set(State) == set(vocabulary.STATE_NAMES)


@pytest.mark.parametrize("kind", [*get_args(Command), *get_args(Event), *get_args(Body), *ROOTS])
@settings(max_examples=15)
@given(data=st.data())
def test_messages_survive_the_wire(kind: type[Message], data: st.DataObject) -> None:
    """Every message is read back as it was written, whatever its fields hold."""
    message = data.draw(messages(kind))

    assert message == msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)


@settings(max_examples=30)
@pytest.mark.parametrize("union", [Command, Event, Body])
@given(data=st.data())
def test_a_union_is_told_by_its_tag(union: Any, data: st.DataObject) -> None:
    """Who reads any command, event or body gets the very type that was written."""
    message = data.draw(messages(union))
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=union)

    assert (type(message), message) == (type(read), read)


def test_an_older_writer_is_read() -> None:
    """Fields that were added later, at the end, take their defaults."""
    older = msgspec.msgpack.encode([1, "cart", b"mark", None, 5, []])

    assert Reserved("cart", b"mark", None, 5, []) == msgspec.msgpack.decode(older, type=Event)


@pytest.mark.parametrize("kind", [*get_args(Movement)])
def test_movements_carry_key_and_fingerprint_and_who_last(kind: type[Message]) -> None:
    """What names a movement's request stands where every kind of movement has it."""
    assert ("key", "fingerprint", "by") == kind.__struct_fields__[-3:]


@pytest.mark.parametrize(
    ("older", "expected"),
    [
        (
            [20, "apple", "north", 5, "bought", "po-1", 120, "EUR", "k", b"8 bytes."],
            Received("apple", "north", 5, "bought", "po-1", 120, "EUR", "k", b"8 bytes."),
        ),
        ([21, "apple", "north", -1, "", "", None, b""], Adjusted("apple", "north", -1)),
        ([22, "apple", "north", 4, "", "", None, b""], Counted("apple", "north", 4)),
        (
            [23, "apple", "north", "south", 4, "", "", None, b""],
            Transferred("apple", "north", "south", 4),
        ),
        ([25, "apple", {"north": 1}, {}], StockSet("apple", {"north": 1}, {})),
        ([30, "web", [None, [], True, 2]], ChannelSet("web", ChannelPolicy(buffer=2))),
    ],
)
def test_events_of_writers_that_did_not_say_who(older: list[object], expected: Event) -> None:
    """What was journaled before events said whose key asked is nobody's."""
    assert expected == msgspec.msgpack.decode(msgspec.msgpack.encode(older), type=Event)
    assert "" == getattr(expected, "by", None)


@pytest.mark.parametrize(
    "wrong",
    [
        [1, "", [["apple", 1]]],
        [1, "x" * 129, [["apple", 1]]],
        [1, "cart", []],
        [1, "cart", [["apple", 1]] * 101],
        [1, "cart", [["apple", 0]]],
        [1, "cart", [["apple", 2**31]]],
        [1, "cart", [["apple", 1.5]]],
        [1, "cart", [["apple", "1"]]],
        [1, "cart", [["apple", 1]], None, 0],
        [1, "cart", [["apple", 1]], None, 86_401],
        [1, "cart", [["apple", 1]], None, 600, 2],
        [99, "cart", [["apple", 1]]],
        ["1", "cart", [["apple", 1]]],
        {"reservation_id": "cart"},
    ],
)
def test_what_is_out_of_bounds_does_not_decode(wrong: object) -> None:
    """A command comes typed and bounded, or not at all."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=Command)


def test_a_reserve_within_bounds_decodes() -> None:
    """The shortest reserve takes the documented defaults."""
    short = msgspec.msgpack.encode([1, "cart", [["apple", 1]]])
    expected = Reserve("cart", [vocabulary.LineRequest("apple", 1)], None, 600)

    assert expected == msgspec.msgpack.decode(short, type=Command)
