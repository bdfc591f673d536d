"""What a key may do: its verbs, its channel, and nothing beside them."""

from typing import get_args

import msgspec
import pytest

from engine.messages import (
    Adjust,
    Audit,
    Cancel,
    ChannelPolicy,
    Command,
    Commit,
    Count,
    Extend,
    Find,
    GetAvailability,
    GetChannel,
    GetMap,
    GetReservation,
    GetStatistics,
    GetStock,
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
    Transfer,
)
from engine.scope import (
    ADMIN,
    ALL_VERBS,
    CHANNEL_VERBS,
    ENGINE,
    FULFIL,
    OPERATOR,
    READ,
    SELL,
    SIGNED,
    STOCK,
    VERBS,
    Scope,
    narrow,
    passes,
)

SignedCommand = Receive | Adjust | Count | Transfer | SetStock | SetChannel
SHOP = Scope("shop", CHANNEL_VERBS)
LINES = [LineRequest("apple", 1)]
MOVES = [LineMove("apple", "north", "south", 1)]


def test_every_command_has_a_verb() -> None:
    """No command can be given without some verb, and the table names nothing else."""
    assert set(get_args(Command)) == set(VERBS)
    assert {SELL, FULFIL, STOCK, READ, ADMIN} == set(ALL_VERBS)


def test_a_channel_cannot_hold_what_concerns_all() -> None:
    """Stock and administration are the operator's."""
    assert {STOCK, ADMIN} == ALL_VERBS - CHANNEL_VERBS


@pytest.mark.parametrize(
    ("command", "verb"),
    [
        (Reserve("cart", LINES), SELL),
        (Ship("cart"), FULFIL),
        (Receive("apple", "north", 1), STOCK),
        (GetStock("apple"), READ),
        (SetChannel(0, "shop", ChannelPolicy()), ADMIN),
        (Audit(0), ADMIN),
    ],
)
def test_a_verb_is_needed(command: Command, verb: str) -> None:
    """With its verb alone a command passes; with all others it does not."""
    assert command == narrow(command, Scope(None, frozenset({verb})))
    assert Status.FORBIDDEN == narrow(command, Scope(None, ALL_VERBS - {verb}))


@pytest.mark.parametrize("verb", sorted(ALL_VERBS))
def test_whoever_comes_straight_finds_the_way(verb: str) -> None:
    """Any verb will do to ask who owns what; who may sell or fulfil finds homes."""
    scope = Scope(None, frozenset({verb}))

    assert GetMap() == narrow(GetMap(), scope)
    expected = Find("cart") if verb in {SELL, FULFIL} else Status.FORBIDDEN
    assert expected == narrow(Find("cart"), scope)


def test_a_channel_learns_no_more_of_the_engine_than_it_needs() -> None:
    """Where hosts are, but not how they are."""
    assert GetMap() == narrow(GetMap(), SHOP)
    assert Status.FORBIDDEN == narrow(GetStatistics(), SHOP)


@pytest.mark.parametrize("command", [Reserve("cart", LINES, "shop"), Audit(0), Commit("cart")])
def test_an_operator_may_everything(command: Command) -> None:
    """An operator's command passes as it is."""
    assert command is narrow(command, OPERATOR)


@pytest.mark.parametrize("channel", [None, "shop"])
def test_a_channel_sells_as_itself(channel: str | None) -> None:
    """A reserve by a channel's key is that channel's, whether it says so or not."""
    expected = Reserve("cart", LINES, "shop", scope="shop")

    assert expected == narrow(Reserve("cart", LINES, channel), SHOP)


@pytest.mark.parametrize(
    "command", [Reserve("cart", LINES, "trade"), GetAvailability("apple", "trade")]
)
def test_a_channel_cannot_speak_for_another(command: Command) -> None:
    """Naming another channel is forbidden, not corrected."""
    assert Status.FORBIDDEN == narrow(command, SHOP)


def test_a_channel_sees_its_own_availability() -> None:
    """Availability for nobody is availability for the caller."""
    assert GetAvailability("apple", "shop") == narrow(GetAvailability("apple"), SHOP)


def test_other_channels_do_not_exist() -> None:
    """A channel reads its own policy; others are unknown to it."""
    assert GetChannel(0, "shop") == narrow(GetChannel(0, "shop"), SHOP)
    assert Status.UNKNOWN_CHANNEL == narrow(GetChannel(0, "trade"), SHOP)


@pytest.mark.parametrize(
    "command",
    [
        Commit("cart"),
        Release("cart"),
        Extend("cart", 5),
        Ship("cart"),
        Cancel("cart"),
        Restock("cart"),
        MoveLines("cart", MOVES),
        GetReservation("cart"),
        Find("cart"),
    ],
)
def test_a_channel_looks_within_its_scope(command: Command) -> None:
    """Whatever names a reservation is bound to the caller's channel, even if it claims another."""
    claimed = msgspec.structs.replace(command, scope="trade")

    for given in (command, claimed):
        narrowed = narrow(given, SHOP)
        assert not isinstance(narrowed, Status)
        assert "shop" == getattr(narrowed, "scope", None)


def test_an_operator_among_channels_keeps_the_scope_it_gave() -> None:
    """A key without a channel is an operator's, with fewer verbs."""
    scope = Scope(None, frozenset({SELL}))

    assert Commit("cart") == narrow(Commit("cart"), scope)
    assert Status.FORBIDDEN == narrow(Ship("cart"), scope)


@pytest.mark.parametrize(
    "command",
    [
        Receive("apple", "north", 1),
        Adjust("apple", "north", 1),
        Count("apple", "north", 1),
        Transfer("apple", "north", "south", 1),
        SetStock("apple", {"north": 1}),
        SetChannel(0, "shop", ChannelPolicy()),
    ],
)
def test_whose_key_asked_is_what_the_edge_saw(command: SignedCommand) -> None:
    """Who did it is written over whatever the caller claims; no key is nobody."""
    claimed = msgspec.structs.replace(command, by="somebody else")

    for by in ("0a1b2c", ""):
        scope = Scope(None, ALL_VERBS, by)
        expected = msgspec.structs.replace(command, by=by)
        assert [expected] * 2 == [narrow(each, scope) for each in (command, claimed)]
        assert not passes([command], scope)


def test_what_is_signed_can_say_so() -> None:
    """Every command that has a place for who did it is signed, and no other."""
    assert {each for each in VERBS if "by" in each.__struct_fields__} == SIGNED


def test_the_engines_own_processes_hand_on_what_others_signed() -> None:
    """A host takes a gateway's word for who asked."""
    signed = Receive("apple", "north", 1, by="0a1b2c")

    assert signed is narrow(signed, ENGINE)
    assert passes([signed], ENGINE)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (OPERATOR, True),
        (Scope(None, ALL_VERBS, "0a1b2c"), True),
        (Scope(None, frozenset({SELL})), False),
        (SHOP, False),
    ],
)
def test_what_passes_as_it_is(scope: Scope, expected: bool) -> None:
    """Sales by whoever may do everything are not looked at one by one."""
    commands: list[Command] = [Reserve("cart", LINES), Commit("cart")]

    assert expected == passes(commands, scope)
    if expected:
        assert commands == [narrow(each, scope) for each in commands]
