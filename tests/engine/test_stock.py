"""Stock: what each movement does to the levels, and what it refuses to do."""

import msgspec
import pytest

from engine import limits
from engine.batch import fingerprint
from engine.messages import (
    Adjust,
    Adjusted,
    Audit,
    AuditView,
    Cancel,
    ChannelPolicy,
    Command,
    Commit,
    Count,
    Counted,
    GetAvailability,
    GetStock,
    LineMove,
    ListShortfalls,
    MoveLines,
    Movement,
    MovementView,
    Receive,
    Received,
    Release,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    Shortfall,
    ShortfallChanged,
    ShortfallPage,
    Status,
    StockSet,
    Transfer,
    Transferred,
)
from tests.engine.shop import Shop, line, reserve


def committed(quantity: int = 3, **on_hand: int) -> Shop:
    shop = Shop(**on_hand)
    shop.ok(reserve("cart", line("apple", quantity)))
    shop.ok(Commit("cart"))
    return shop


def shortfalls(shop: Shop) -> list[Shortfall]:
    body = shop.ok(ListShortfalls(0))
    assert isinstance(body, ShortfallPage)
    return body.shortfalls


def test_units_pass_from_state_to_state() -> None:
    """Reserve, commit and ship move units from available through reserved and allocated out."""
    shop = Shop(north=5)
    assert (5, 0, 0, 5) == shop.sums()
    shop.ok(reserve("cart", line("apple", 3)))
    assert (5, 3, 0, 2) == shop.sums()
    shop.ok(Commit("cart"))
    assert (5, 0, 3, 2) == shop.sums()
    shop.ok(Ship("cart", lines=[line("apple", 1)]))
    assert (4, 0, 2, 2) == shop.sums()
    shop.ok(Cancel("cart", lines=[line("apple", 1)]))
    assert (4, 0, 1, 3) == shop.sums()
    shop.ok(Restock("cart"))
    assert (5, 0, 1, 4) == shop.sums()


def test_a_release_gives_everything_back() -> None:
    """What was held is available again, to the unit."""
    shop = Shop(north=5)
    shop.ok(reserve("cart", line("apple", 3)))
    shop.ok(Release("cart"))

    assert (5, 0, 0, 5) == shop.sums()


def test_a_commit_of_fewer_units_gives_back_the_rest() -> None:
    """Units that the order does not name are released by the same event."""
    shop = Shop(north=5)
    shop.ok(reserve("cart", line("apple", 3)))
    shop.ok(Commit("cart", lines=[line("apple", 1)]))

    assert (5, 0, 1, 4) == shop.sums()
    assert [[("north", 1)]] == shop.places("cart")


@pytest.mark.parametrize(
    "command",
    [
        Commit("cart", lines=[line("apple", 4)]),
        Commit("cart", lines=[line("apple", 2), line("apple", 2)]),
        Commit("cart", lines=[line("brick", 1)]),
        Commit("cart", lines=[line("apple", 1, "south")]),
    ],
)
def test_a_commit_of_more_than_was_reserved_is_refused(command: Command) -> None:
    """A line that the reservation has not, or not so many of, changes nothing."""
    shop = Shop(north=5, south=5)
    shop.ok(reserve("cart", line("apple", 3)))

    assert Status.UNKNOWN_LINE == shop.status(command)
    assert (10, 3, 0, 7) == shop.sums()


def test_nobody_sells_the_last_unit_twice() -> None:
    """Of two carts that want the last apple, one is refused."""
    shop = Shop(north=1)
    shop.ok(reserve("first", line("apple", 1)))

    assert [("apple", 1, 0)] == shop.short(reserve("second", line("apple", 1)))
    shop.ok(Release("first"))
    shop.ok(reserve("second", line("apple", 1)))


def test_nothing_is_shipped_that_is_not_there() -> None:
    """Shipping more than on_hand is refused whole, and leaves the units allocated."""
    shop = committed(3, north=3)
    shop.ok(Count("apple", "north", 2))

    assert Status.PHYSICAL_SHORTFALL == shop.status(Ship("cart"))
    assert (2, 0, 3, -1) == shop.sums()
    shop.ok(Ship("cart", lines=[line("apple", 2)]))
    assert (0, 0, 1, -1) == shop.sums()


def test_nothing_comes_back_twice() -> None:
    """Refund, cancel and return together restock each shipped unit once."""
    shop = committed(3, north=3)
    shop.ok(Ship("cart", lines=[line("apple", 2)]))
    shop.ok(Restock("cart", lines=[line("apple", 2)]))

    assert Status.UNKNOWN_LINE == shop.status(Restock("cart", lines=[line("apple", 1)]))
    assert Status.REPLAYED == shop.status(Restock("cart"))
    assert (3, 0, 1, 2) == shop.sums()


def test_returns_may_go_elsewhere() -> None:
    """A line of a restock says where the units go; that location exists from then on."""
    shop = committed(2, north=2)
    shop.ok(Ship("cart"))
    shop.ok(Restock("cart", lines=[line("apple", 1, "outlet"), line("apple", 1)]))

    assert (1, 1) == (shop.at("outlet").on_hand, shop.at("north").on_hand)
    assert 2 == shop.reservation("cart").lines[0].restocked


def test_a_key_makes_a_repetition_harmless() -> None:
    """The second request with the key does nothing; without one it would ship again."""
    shop = committed(3, north=5)
    ship = Ship("cart", lines=[line("apple", 1)], key="parcel-1")
    shop.ok(ship)

    assert Status.REPLAYED == shop.status(ship)
    assert 4 == shop.stock().on_hand
    other = Ship("cart", lines=[line("apple", 2)], key="parcel-1")
    assert Status.IDEMPOTENCY_MISMATCH == shop.status(other)
    shop.ok(Ship("cart", lines=[line("apple", 1)], key="parcel-2"))


def test_a_line_moves_without_a_free_moment() -> None:
    """Held and allocated units change places by one event, if there is room."""
    shop = Shop(north=3, south=2)
    shop.ok(reserve("cart", line("apple", 3)))
    shop.ok(MoveLines("cart", [LineMove("apple", "north", "south", 1)]))
    shop.ok(Commit("cart"))
    shop.ok(MoveLines("cart", [LineMove("apple", "north", "south", 1)]))

    assert [[("north", 1), ("south", 2)]] == shop.places("cart")
    assert (5, 0, 3, 2) == shop.sums()
    more = MoveLines("cart", [LineMove("apple", "north", "south", 1)])
    assert [("apple", 1, 0)] == shop.short(more)


def test_moves_are_all_or_nothing() -> None:
    """If the last of several moves cannot be made, none is."""
    shop = Shop(north=3, south=2)
    shop.ok(reserve("cart", line("apple", 3)))
    moves = [LineMove("apple", "north", "south", 1), LineMove("apple", "north", "west", 1)]

    assert Status.INSUFFICIENT_STOCK == shop.status(MoveLines("cart", moves))
    assert [[("north", 3)]] == shop.places("cart")


def test_movements_move_on_hand() -> None:
    """Received, adjusted, counted and transferred units add up to on_hand."""
    shop = Shop(north=5)
    shop.ok(Adjust("apple", "north", -2))
    shop.ok(Transfer("apple", "north", "south", 1))
    shop.ok(Count("apple", "south", 4))

    assert (2, 4) == (shop.at("north").on_hand, shop.at("south").on_hand)
    kinds = [type(event) for event in shop.shard.events]
    assert [Received, Adjusted, Transferred, Counted] == kinds


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (Adjust("apple", "north", 0), Status.INVALID),
        (Adjust("apple", "north", -6), Status.PHYSICAL_SHORTFALL),
        (Adjust("apple", "north", limits.QUANTITY_MAX), Status.QUANTITY_OVERFLOW),
        (Receive("apple", "north", limits.QUANTITY_MAX), Status.QUANTITY_OVERFLOW),
        (Receive("a b", "north", 1), Status.INVALID),
        (Receive("apple", "no where", 1), Status.INVALID),
        (Receive("apple", "north", 1, key="a key"), Status.INVALID),
        (Transfer("apple", "north", "south", 6), Status.INSUFFICIENT_STOCK),
        (Transfer("apple", "north", "north", 1), Status.INVALID),
        (Transfer("apple", "nowhere", "north", 1), Status.UNKNOWN_LOCATION),
        (Transfer("chimera", "north", "south", 1), Status.UNKNOWN_SKU),
        (Count("apple", "north", 7, expected_on_hand=4), Status.STALE_COUNT),
        (Count("apple", "north", 7, physical_version=9), Status.STALE_COUNT),
        (GetStock("chimera"), Status.UNKNOWN_SKU),
        (GetAvailability("chimera"), Status.UNKNOWN_SKU),
        (SetStock("chimera", {}, {"vip": 1}), Status.UNKNOWN_SKU),
        (SetStock("apple", {"nowhere": 1}), Status.UNKNOWN_LOCATION),
        (SetStock("apple", {}, {"a pool": 1}), Status.INVALID),
    ],
)
def test_what_is_refused_changes_nothing(command: Command, expected: Status) -> None:
    """A refusal is an answer: no event, no new location, no change of any level."""
    shop = Shop(north=5)
    before, events = shop.stock(), list(shop.shard.events)

    assert expected == shop.status(command)
    assert (before, events) == (shop.stock(), shop.shard.events)


def test_a_transfer_needs_what_is_available() -> None:
    """Units that are promised stay where they are promised."""
    shop = Shop(north=5)
    shop.ok(reserve("cart", line("apple", 3)))

    assert [("apple", 3, 2)] == shop.short(Transfer("apple", "north", "south", 3))
    shop.ok(Transfer("apple", "north", "south", 2))
    assert 0 == shop.at("north").available


def test_a_count_is_judged_by_what_the_counter_saw() -> None:
    """A count is taken if nothing physical moved since; sales in between do not matter."""
    shop = Shop(north=5)
    seen = shop.stock().physical_version
    shop.ok(reserve("cart", line("apple", 1)))
    shop.ok(Count("apple", "north", 4, expected_on_hand=5, physical_version=seen))

    assert Status.STALE_COUNT == shop.status(Count("apple", "north", 5, physical_version=seen))
    assert seen + 1 == shop.stock().physical_version
    shop.ok(Count("apple", "north", 4))
    assert seen + 1 == shop.stock().physical_version


def test_a_movement_with_a_key_is_made_once() -> None:
    """The repetition is told how things stand now; another movement under the key is refused."""
    shop = Shop()
    receive = Receive("apple", "north", 5, key="delivery-1")
    shop.ok(receive)
    shop.ok(Adjust("apple", "north", -1))

    answer = shop.ask(receive)
    assert Status.REPLAYED == answer.status
    assert MovementView("apple", "north", 4, 4, 2, 2) == answer.body
    for other in (
        Receive("apple", "north", 6, key="delivery-1"),
        Receive("apple", "south", 5, key="delivery-1"),
        Adjust("apple", "north", 5, key="delivery-1"),
    ):
        assert Status.IDEMPOTENCY_MISMATCH == shop.status(other)


@pytest.mark.parametrize(
    "command",
    [
        Receive("apple", "north", 5, "bought", "po-1", 120, "EUR", key="k"),
        Adjust("apple", "north", 2, "found", key="k"),
        Count("apple", "north", 4, key="k"),
        Transfer("apple", "north", "south", 1, key="k"),
    ],
)
def test_a_key_is_not_bound_to_whoever_used_it(command: Movement) -> None:
    """Who repeats a movement with another key of the API is answered as a replay; and what is
    remembered is what engines remembered that did not know who asked."""
    shop = Shop(north=5)
    first, second = (msgspec.structs.replace(command, by=by) for by in ("0a1b2c", "3d4e5f"))
    fields = list(msgspec.to_builtins(first, builtin_types=(bytes,)))
    assert "0a1b2c" == fields.pop()

    shop.ok(first)

    assert Status.REPLAYED == shop.status(second)
    expected = fingerprint((type(command).__name__, fields))
    assert expected == shop.shard.state.key_fingerprint("k")


def test_events_say_whose_key_asked() -> None:
    """Movements, stock settings and policies are journaled with who did them."""
    shop = Shop(north=5)
    commands: list[Command] = [
        Receive("apple", "north", 5, by="0a1b2c"),
        Adjust("apple", "north", 2, by="0a1b2c"),
        Count("apple", "north", 4, by="0a1b2c"),
        Transfer("apple", "north", "south", 1, by="0a1b2c"),
        SetStock("apple", {"north": 1}, by="0a1b2c"),
        SetChannel(0, "web", ChannelPolicy(buffer=1), by="0a1b2c"),
    ]

    for command in commands:
        shop.ok(command)
    shop.wait(0)

    expected = ["", *(["0a1b2c"] * len(commands))]
    assert expected == [getattr(event, "by", None) for event in shop.events]


def test_a_key_is_remembered_for_its_window() -> None:
    """The key of a movement holds for the whole window, and then is free."""
    shop = Shop()
    receive = Receive("apple", "north", 5, key="delivery-1")
    shop.ok(receive)

    shop.wait_us(limits.KEYS_WINDOW_US - 1)
    assert Status.REPLAYED == shop.status(receive)
    shop.wait_us(1)
    shop.ok(receive)
    assert 10 == shop.stock().on_hand


def test_a_refused_movement_leaves_its_key_free() -> None:
    """Only what was done is remembered."""
    shop = Shop(north=1)
    transfer = Transfer("apple", "north", "south", 2, key="truck-1")

    assert Status.INSUFFICIENT_STOCK == shop.status(transfer)
    shop.ok(Receive("apple", "north", 1))
    shop.ok(transfer)


@pytest.mark.parametrize("mark", [b"few", b"8 bytes.", b"        "])
def test_the_edge_may_name_the_content(mark: bytes) -> None:
    """A fingerprint that the edge made of the whole request stands for this movement's own."""
    shop = Shop()
    shop.ok(Receive("apple", "north", 5, key="k", fingerprint=mark))

    again = Receive("apple", "north", 5, key="k", fingerprint=mark)
    other = Receive("apple", "north", 5, key="k", fingerprint=b"another.")
    assert Status.REPLAYED == shop.status(again)
    assert Status.IDEMPOTENCY_MISMATCH == shop.status(other)


@pytest.mark.parametrize(
    "command",
    [
        Count("apple", "north", 1),
        Adjust("apple", "north", -4),
        SetStock("apple", {"north": 4}),
    ],
)
def test_a_shortfall_is_accepted_and_listed(command: Command) -> None:
    """Counting less than is promised is a fact, not an error: an event, and a list to work off."""
    shop = Shop(north=5)
    shop.ok(reserve("cart", line("apple", 3)))
    shop.ok(command)
    short = -shop.at("north").available

    assert short == 2
    assert ShortfallChanged("apple", "north", 2) == shop.shard.events[-1]
    assert [Shortfall("apple", "north", 2)] == shortfalls(shop)
    shop.ok(Release("cart"))
    assert ShortfallChanged("apple", "north", 0) == shop.shard.events[-1]
    assert [] == shortfalls(shop)


def test_shortfalls_come_in_pages() -> None:
    """The list is ordered by SKU and location, and continues after what was last seen."""
    shop = Shop()
    for sku in ("brick", "apple"):
        for place in ("south", "north"):
            shop.ok(Receive(sku, place, 1))
            shop.ok(SetStock(sku, {place: 3}))

    body = shop.ok(ListShortfalls(0, ("apple", "north"), 2))
    expected = [Shortfall("apple", "south", 2), Shortfall("brick", "north", 2)]
    assert ShortfallPage(expected) == body


def test_a_count_of_zero_makes_a_location() -> None:
    """A location exists once a movement names it, even with nothing there."""
    shop = Shop()
    shop.ok(Count("apple", "north", 0))

    assert ["north"] == [view.location for view in shop.stock().locations]


def test_setting_stock_sets() -> None:
    """Safety stock and pools are what was last said, and what was not named stays."""
    shop = Shop(north=9, south=9)
    shop.ok(SetStock("apple", {"north": 1}, {"vip": 2}))
    shop.ok(SetStock("apple", {"south": 3}, {"trade": 4}))
    shop.ok(SetStock("apple", {"north": 2}))
    events = list(shop.shard.events)

    assert (2, 3) == (shop.at("north").safety_stock, shop.at("south").safety_stock)
    assert {"vip": 2, "trade": 4} == shop.pools()
    assert isinstance(events[-1], StockSet)
    shop.ok(SetStock("apple", {"north": 2}, {"vip": 2}))
    assert events == shop.shard.events


def test_versions_count_what_changed() -> None:
    """The version rises with every change of the SKU; the physical one with those of on_hand."""
    shop = Shop(north=5)
    seen = [(shop.stock().version, shop.stock().physical_version)]
    for command in (
        reserve("cart", line("apple", 2)),
        Commit("cart"),
        Ship("cart", lines=[line("apple", 1)]),
        Cancel("cart"),
        Restock("cart"),
        SetStock("apple", {}, {"vip": 1}),
    ):
        shop.ok(command)
        seen.append((shop.stock().version, shop.stock().physical_version))

    assert [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)] == seen


def test_the_audit_adds_up() -> None:
    """The sums of the shard are recomputed from its reservations, and agree."""
    shop = committed(3, north=5, south=5)
    shop.ok(reserve("other", line("apple", 2)))
    shop.ok(Ship("cart", lines=[line("apple", 1)]))

    body = shop.ok(Audit(0))
    assert isinstance(body, AuditView)
    assert (9, 2, 2, 5, 1) == (
        *(body.on_hand, body.reserved, body.allocated, body.available, body.shipped),
    )
    assert (0, []) == (body.drift, body.findings)
