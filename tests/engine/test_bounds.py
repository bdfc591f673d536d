"""No command makes more than the journal holds: the largest events are written and read back."""

import pytest

from engine import limits
from engine.codec import START, Position, decode_record, encode_event, encode_record
from engine.messages import (
    Adjust,
    ChannelPolicy,
    Command,
    Commit,
    Count,
    LineMove,
    LineRequest,
    MoveLines,
    Receive,
    Release,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    Status,
)
from engine.state import ShardState, pack_sku
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


def test_a_full_pool_takes_back_what_it_gave() -> None:
    """Set to the most there may be while units were drawn from it, it has more when they return;
    that is journaled, restored and shown like any other, and whoever sells sees the sums."""
    most = limits.QUANTITY_MAX
    shop = Shop(north=most, south=most)
    shop.ok(SetChannel(0, "shop", ChannelPolicy(pools=["vip"])))
    for number in range(2):
        shop.ok(SetStock("apple", {}, {"vip": most}))
        shop.ok(Reserve(f"{number}", [LineRequest("apple", most)], "shop"))
    shop.ok(SetStock("apple", {}, {"vip": most}))
    for number in range(2):
        journaled(shop, Release(f"{number}", 0))

    assert {"vip": 3 * most} == shop.pools()
    assert 2 * most == shop.promise("shop")
    assert 0 == shop.promise()
    apple = shop.shard.state.skus.get("apple")
    assert apple is not None
    restored = ShardState()
    restored.put_sku(pack_sku(apple))
    assert pack_sku(apple) in [pack_sku(each) for each in restored.skus.values()]


def test_what_is_restocked_together_must_fit_together() -> None:
    """Two lines that come back to one place are one amount there."""
    shop = Shop(attic=limits.QUANTITY_MAX)
    shop.ok(Reserve(CART, [LineRequest("apple", 1, "attic"), LineRequest("apple", 1, "attic")]))
    shop.ok(Commit(CART))
    shop.ok(Ship(CART))
    shop.ok(Receive("apple", "attic", 1))

    back = Restock(CART, lines=[LineRequest("apple", 2, "attic")])
    assert Status.QUANTITY_OVERFLOW == shop.status(back)
    shop.ok(Restock(CART, lines=[LineRequest("apple", 1, "attic")]))


def test_new_places_count_together() -> None:
    """Units that come back to two new places need room for both."""
    shop = Shop(**dict.fromkeys(PLACES[:-1], 1))
    shop.ok(Reserve(CART, [LineRequest("apple", 1, PLACES[0]), LineRequest("apple", 1, PLACES[1])]))
    shop.ok(Commit(CART))
    shop.ok(Ship(CART))

    two = Restock(CART, lines=[LineRequest("apple", 1, "new-1"), LineRequest("apple", 1, "new-2")])
    assert Status.INVALID == shop.status(two)
    shop.ok(Restock(CART, lines=[LineRequest("apple", 1, "new-1")]))
    assert limits.LOCATIONS_MAX == len(shop.stock().locations)


def test_a_full_place_can_still_be_emptied() -> None:
    """Nothing that takes units away is refused because there are as many as there may be."""
    shop = Shop(north=limits.QUANTITY_MAX)

    shop.ok(Adjust("apple", "north", -1))
    shop.ok(Count("apple", "north", 5))


@pytest.mark.parametrize("policy", [ChannelPolicy(["A", "A"]), ChannelPolicy(None, ["p", "p"])])
def test_a_policy_names_nothing_twice(policy: ChannelPolicy) -> None:
    """A location that counted twice would promise its units twice."""
    assert Status.INVALID == Shop(A=1).status(SetChannel(0, "shop", policy))
