"""No command makes more than the journal holds: the largest events are written and read back."""

from engine import limits
from engine.codec import START, Position, decode_record, encode_event, encode_record
from engine.messages import (
    ChannelPolicy,
    Command,
    Commit,
    LineMove,
    LineRequest,
    MoveLines,
    Receive,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
)
from tests.engine.shop import Shop


def wide(number: int) -> str:
    """An id as long as ids may be."""
    return f"{number:x>{limits.ID_CHARS_MAX}}"


CART = wide(0)
PLACES = [wide(number) for number in range(limits.LOCATIONS_MAX)]
POOLS = [wide(number) for number in range(limits.POOLS_MAX)]


def journaled(shop: Shop, command: Command) -> None:
    """Whether accepted or refused, what the command did fits a record."""
    before = len(shop.shard.events)
    shop.ask(command)
    events = shop.shard.events[before:]

    assert [] == [event for event in events if len(encode_event(event)) > limits.EVENT_BYTES_MAX]
    record, _ = encode_record(0, Position(1, 1), 0, 0, START, events)
    assert events == decode_record(record, 0, Position(1, 1)).events


def test_lines_moved_to_and_fro() -> None:
    """Many moves of many lines within one command."""
    shop = Shop(**{PLACES[0]: 100, PLACES[1]: 100})
    shop.ok(Reserve(CART, [LineRequest("apple", 1, PLACES[0])] * limits.LINES_MAX))
    to_and_fro = [
        LineMove("apple", PLACES[turn % 2], PLACES[1 - turn % 2], limits.LINES_MAX)
        for turn in range(limits.LINES_MAX)
    ]

    journaled(shop, MoveLines(CART, to_and_fro))


def test_lines_scattered_over_locations() -> None:
    """Moves that leave every line in many places, then all of it shipped and restocked at once."""
    shop = Shop(**dict.fromkeys(PLACES, 10_000))
    shop.ok(Reserve(CART, [LineRequest("apple", 90, PLACES[0])] * limits.LINES_MAX))
    scattering = [LineMove("apple", PLACES[0], place, 1) for place in PLACES[1:91]]
    for _ in range(limits.LINES_MAX):
        journaled(shop, MoveLines(CART, scattering))

    for command in (Commit(CART), Ship(CART), Restock(CART)):
        journaled(shop, command)


def test_lines_drawn_from_many_pools() -> None:
    """A reserve of many lines, each of which empties every pool of its SKU."""
    shop = Shop()
    for number in range(limits.LINES_MAX):
        shop.ok(Receive(str(number), "north", 1_000))
        shop.ok(SetStock(str(number), {}, dict.fromkeys(POOLS, 1)))
    shop.ok(SetChannel(0, "shop", ChannelPolicy(pools=POOLS)))
    lines = [LineRequest(str(number), limits.POOLS_MAX) for number in range(limits.LINES_MAX)]

    journaled(shop, Reserve(CART, lines, "shop"))


def test_lines_taken_from_everywhere() -> None:
    """A reserve of many lines, each of which needs every location of its SKU."""
    shop = Shop()
    for number in range(limits.LINES_MAX):
        for place in PLACES:
            shop.ok(Receive(str(number), place, 1))
    lines = [LineRequest(str(number), len(PLACES)) for number in range(limits.LINES_MAX)]

    journaled(shop, Reserve(CART, lines))


def test_the_widest_policy_and_stock() -> None:
    """A policy and a stock of as many names as there may be."""
    shop = Shop(**dict.fromkeys(PLACES, 1))

    journaled(shop, SetChannel(0, CART, ChannelPolicy(PLACES, POOLS)))
    journaled(shop, SetStock("apple", dict.fromkeys(PLACES, 2), dict.fromkeys(POOLS, 1)))
