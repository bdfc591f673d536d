"""Which units a reserve takes: locations, pools, buffers; what it says when there are too few."""

import pytest

from engine.messages import (
    Adjust,
    AvailabilityView,
    Cancel,
    ChannelPolicy,
    Command,
    Commit,
    Count,
    GetAvailability,
    GetChannel,
    LineMove,
    LineRequest,
    MoveLines,
    Policy,
    Receive,
    Release,
    Reserve,
    SetChannel,
    SetStock,
    Ship,
    Status,
)
from tests.engine.shop import Shop, line, reserve

A, B, C = "a-north", "b-south", "c-west"


def stocked(*quantities: int) -> Shop:
    return Shop(**dict(zip((A, B, C), quantities, strict=False)))


def selling(shop: Shop, policy: ChannelPolicy, channel: str = "shop") -> Shop:
    shop.ok(SetChannel(0, channel, policy))
    return shop


@pytest.mark.parametrize(
    ("stock", "wanted", "expected"),
    [
        ((5, 5, 5), 5, [(A, 5)]),
        ((4, 5, 6), 5, [(B, 5)]),
        ((2, 3, 4), 4, [(C, 4)]),
        ((2, 3, 4), 7, [(C, 4), (B, 3)]),
        ((2, 4, 4), 6, [(B, 4), (C, 2)]),
        ((1, 2, 1), 4, [(B, 2), (A, 1), (C, 1)]),
        ((0, 0, 1), 1, [(C, 1)]),
    ],
)
def test_one_location_if_it_covers_else_the_fewest(
    stock: tuple[int, ...], wanted: int, expected: list[tuple[str, int]]
) -> None:
    """The first location that covers the line; if none does, the fullest ones."""
    shop = stocked(*stock)
    shop.ok(reserve("cart", line("apple", wanted)))

    assert [expected] == shop.places("cart")


def test_the_channel_has_its_own_order() -> None:
    """The channel's list is the order of preference, and the limit of what it sells from."""
    shop = selling(stocked(5, 5, 5), ChannelPolicy([C, A]))
    shop.ok(Reserve("first", [line("apple", 5)], "shop"))
    shop.ok(Reserve("second", [line("apple", 5)], "shop"))

    assert [[(C, 5)]] == shop.places("first")
    assert [[(A, 5)]] == shop.places("second")
    assert [("apple", 1, 0)] == shop.short(Reserve("third", [line("apple", 1)], "shop"))


def test_a_named_location_is_meant() -> None:
    """A line that names a location gets its units there or not at all."""
    shop = stocked(5, 2)
    shop.ok(reserve("cart", line("apple", 2, B)))

    assert [[(B, 2)]] == shop.places("cart")
    assert [("apple", 1, 0)] == shop.short(reserve("other", line("apple", 1, B)))
    assert [("apple", 1, 0)] == shop.short(reserve("other", line("apple", 1, "nowhere")))


def test_named_locations_come_first() -> None:
    """A line without a preference leaves to others what they insist on."""
    shop = stocked(2, 2)
    shop.ok(reserve("cart", line("apple", 2), line("apple", 2, A)))

    assert [[(B, 2)], [(A, 2)]] == shop.places("cart")


def test_a_location_that_is_not_served_is_refused() -> None:
    """Naming a location outside the channel's list is an error, not a shortage."""
    shop = selling(stocked(5, 5), ChannelPolicy([A]))

    for policy in Policy:
        wanted = Reserve("cart", [line("apple", 1, B)], "shop", policy=policy)
        assert Status.LOCATION_NOT_SERVED == shop.status(wanted)


def test_all_or_nothing_takes_nothing() -> None:
    """One short line refuses the whole request, and every short line is told."""
    shop = stocked(2)
    shop.ok(Receive("brick", A, 9))
    wanted = reserve("cart", line("apple", 3), line("brick", 1), line("chimera", 1))

    assert [("apple", 3, 2), ("chimera", 1, 0)] == shop.short(wanted)
    assert (2, 0, 0, 2) == shop.sums()
    assert (9, 0, 0, 9) == shop.sums("brick")


def test_lines_of_one_sku_are_summed() -> None:
    """Two lines cannot both be promised the same unit."""
    shop = stocked(3)

    assert [("apple", 2, 3)] == shop.short(reserve("cart", line("apple", 2), line("apple", 2)))
    shop.ok(reserve("cart", line("apple", 2), line("apple", 1)))


def test_partial_takes_what_there_is() -> None:
    """Lines get what they can; lines with nothing are left out."""
    shop = stocked(2, 1)
    lines = [line("apple", 5), line("chimera", 1)]
    shop.ok(Reserve("cart", lines, policy=Policy.PARTIAL))

    assert [[(A, 2), (B, 1)]] == shop.places("cart")
    assert [("apple", 1, 0)] == shop.short(
        Reserve("other", [line("apple", 1)], policy=Policy.PARTIAL)
    )


def test_safety_stock_is_not_sold() -> None:
    """What is withheld at a location is not available there."""
    shop = stocked(5)
    shop.ok(SetStock("apple", {A: 2}))

    assert [("apple", 4, 3)] == shop.short(reserve("cart", line("apple", 4)))
    shop.ok(reserve("cart", line("apple", 3)))


def test_a_short_location_is_covered_by_the_others() -> None:
    """What one location lacks is withheld from the total, and no location is oversold."""
    shop = stocked(3, 5)
    shop.ok(reserve("first", line("apple", 3, A)))
    shop.ok(Count("apple", A, 1))

    assert -2 == shop.at(A).available
    assert 3 == shop.promise()
    assert [("apple", 4, 3)] == shop.short(reserve("second", line("apple", 4)))


def test_pools_are_kept_from_others() -> None:
    """Ring-fenced units are sold by the pool's channels only; the SKU's available shows them."""
    shop = selling(stocked(10), ChannelPolicy(pools=["vip"]), "club")
    shop.ok(SetStock("apple", {}, {"vip": 4}))

    assert (10, 6, 10) == (shop.stock().available, shop.promise(), shop.promise("club"))
    assert [("apple", 7, 6)] == shop.short(reserve("cart", line("apple", 7)))
    shop.ok(Reserve("member", [line("apple", 7)], "club"))
    assert {"vip": 0} == shop.pools()
    assert 3 == shop.promise()


@pytest.mark.parametrize(
    "undo",
    [
        [Release("cart")],
        [Commit("cart"), Cancel("cart")],
        [Commit("cart", lines=[line("apple", 1)]), Cancel("cart")],
    ],
)
def test_what_comes_back_returns_to_its_pool(undo: list[Command]) -> None:
    """Released, cancelled and left-over units are ring-fenced again."""
    shop = selling(stocked(10), ChannelPolicy(pools=["vip"]), "club")
    shop.ok(SetStock("apple", {}, {"vip": 4}))
    shop.ok(Reserve("cart", [line("apple", 6)], "club"))
    for command in undo:
        shop.ok(command)

    assert {"vip": 4} == shop.pools()


def test_expired_units_return_to_their_pool() -> None:
    """The sweep gives back to the pool what it had lent."""
    shop = selling(stocked(10), ChannelPolicy(pools=["vip"]), "club")
    shop.ok(SetStock("apple", {}, {"vip": 4}))
    shop.ok(Reserve("cart", [line("apple", 6)], "club"))
    shop.wait(600)

    assert {"vip": 4} == shop.pools()


@pytest.mark.parametrize(("kept", "left"), [(6, 0), (5, 0), (4, 0), (3, 1), (1, 3)])
def test_fewer_units_are_as_if_fewer_had_been_asked_for(kept: int, left: int) -> None:
    """Common units are given back first, by a partial commit and by a cancellation alike."""
    ways: list[list[Command]] = [[Commit("cart", lines=[line("apple", kept)])], [Commit("cart")]]
    if kept < 6:
        ways[1].append(Cancel("cart", lines=[line("apple", 6 - kept)]))
    for commands in ways:
        shop = selling(stocked(10), ChannelPolicy(pools=["vip"]), "club")
        shop.ok(SetStock("apple", {}, {"vip": 4}))
        shop.ok(Reserve("cart", [line("apple", 6)], "club"))
        for command in commands:
            shop.ok(command)
        assert {"vip": left} == shop.pools()


def test_shipping_uses_up_the_pool() -> None:
    """What has been shipped of a pool's units does not come back to it."""
    shop = selling(stocked(10), ChannelPolicy(pools=["vip"]), "club")
    shop.ok(SetStock("apple", {}, {"vip": 4}))
    shop.ok(Reserve("cart", [line("apple", 6)], "club"))
    shop.ok(Commit("cart"))
    shop.ok(Ship("cart", lines=[line("apple", 3)]))
    shop.ok(Cancel("cart"))

    assert {"vip": 1} == shop.pools()


def test_pools_are_drawn_in_the_channels_order() -> None:
    """The first pool is emptied before the second, and both before the common stock."""
    shop = selling(stocked(10), ChannelPolicy(pools=["gold", "blue"]), "club")
    shop.ok(SetStock("apple", {}, {"blue": 2, "gold": 2}))
    shop.ok(Reserve("first", [line("apple", 3)], "club"))

    assert {"blue": 1, "gold": 0} == shop.pools()


def test_a_channel_without_common_stock_has_its_pools_only() -> None:
    """When its pools are empty it has sold out."""
    policy = ChannelPolicy(pools=["vip"], common_stock=False)
    shop = selling(stocked(10), policy, "club")
    shop.ok(SetStock("apple", {}, {"vip": 4}))

    assert 4 == shop.promise("club")
    shop.ok(Reserve("cart", [line("apple", 4)], "club"))
    assert [("apple", 1, 0)] == shop.short(Reserve("more", [line("apple", 1)], "club"))


def test_a_buffer_is_kept_from_its_channel() -> None:
    """A marketplace with a buffer stops selling while others go on."""
    shop = selling(stocked(5), ChannelPolicy(buffer=2))

    assert (3, 5) == (shop.promise("shop"), shop.promise("trade"))
    assert [("apple", 4, 3)] == shop.short(Reserve("cart", [line("apple", 4)], "shop"))
    shop.ok(Reserve("cart", [line("apple", 3)], "shop"))
    assert [("apple", 1, 0)] == shop.short(Reserve("more", [line("apple", 1, A)], "shop"))
    shop.ok(Reserve("other", [line("apple", 2)], "trade"))


def test_the_waterfall_explains_the_promise() -> None:
    """Availability shows each step from what there is to what the channel may sell."""
    policy = ChannelPolicy([A, B], ["own"], buffer=1)
    shop = selling(stocked(5, 2, 4), policy)
    shop.ok(SetStock("apple", {}, {"own": 2, "other": 3}))
    version = shop.stock().version

    expected = AvailabilityView("apple", "shop", version, 11, 7, 3, 2, 1, 6)
    assert expected == shop.ok(GetAvailability("apple", "shop"))


@pytest.mark.parametrize("quantity", range(1, 12))
@pytest.mark.parametrize(
    "policy",
    [
        ChannelPolicy(),
        ChannelPolicy([C, A]),
        ChannelPolicy([A, B], ["own"], buffer=1),
        ChannelPolicy(None, ["own"], common_stock=False),
        ChannelPolicy([]),
    ],
)
def test_what_is_shown_is_what_is_sold(policy: ChannelPolicy, quantity: int) -> None:
    """A reserve is accepted if and only if it asks for no more than available to promise."""
    shop = selling(stocked(5, 2, 4), policy)
    shop.ok(SetStock("apple", {}, {"own": 2, "other": 3}))
    accepted = quantity <= shop.promise("shop")

    wanted = Reserve("cart", [line("apple", quantity)], "shop")
    assert (Status.OK if accepted else Status.INSUFFICIENT_STOCK) == shop.status(wanted)


def test_a_policy_is_read_back() -> None:
    """A channel's policy is what was last set; a channel without one is unknown."""
    shop = Shop()
    assert Status.UNKNOWN_CHANNEL == shop.status(GetChannel(0, "shop"))
    policy = ChannelPolicy([A], ["vip"], False, 3)
    selling(selling(shop, ChannelPolicy()), policy)

    answer = shop.ask(GetChannel(0, "shop"))
    assert policy == getattr(answer.body, "policy", None)


@pytest.mark.parametrize(
    "command",
    [
        Reserve("a cart", [LineRequest("apple", 1)]),
        Reserve("cart", [LineRequest("apple", 1)], "a shop"),
        SetChannel(0, "a shop", ChannelPolicy()),
        SetChannel(0, "shop", ChannelPolicy(["a place"])),
        SetChannel(0, "shop", ChannelPolicy(pools=["a pool"])),
    ],
)
def test_what_is_no_id_is_not_remembered(command: Command) -> None:
    """A name that is not an id is refused where it would be kept."""
    shop = stocked(5)

    assert Status.INVALID == shop.status(command)
    assert (5, 0, 0, 5) == shop.sums()


def test_moved_lines_keep_their_draws() -> None:
    """Where a line's units sit has nothing to do with the pool that they came from."""
    shop = selling(stocked(4, 4), ChannelPolicy(pools=["vip"]), "club")
    shop.ok(SetStock("apple", {}, {"vip": 3}))
    shop.ok(Reserve("cart", [line("apple", 4)], "club"))
    shop.ok(MoveLines("cart", [LineMove("apple", A, B, 4)]))
    shop.ok(Adjust("apple", A, -4))
    shop.ok(Release("cart"))

    assert {"vip": 3} == shop.pools()


def test_the_first_lines_draw_first() -> None:
    """A commit of the first units keeps what asking for no more would have drawn."""
    shop = selling(stocked(4, 4), ChannelPolicy(pools=["vip"]), "club")
    shop.ok(SetStock("apple", {}, {"vip": 1}))
    shop.ok(Reserve("cart", [line("apple", 1), line("apple", 1, A)], "club"))
    shop.ok(Commit("cart", lines=[line("apple", 1)]))

    assert {"vip": 0} == shop.pools()
