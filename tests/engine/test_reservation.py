"""A reservation from reserve to its end: every state, every verb, every deadline."""

import pytest

from engine import limits
from engine import reservation as holds
from engine.messages import (
    STATE_NAMES,
    Cancel,
    Command,
    Commit,
    Expired,
    Extend,
    GetReservation,
    LineMove,
    MoveLines,
    Policy,
    Receive,
    Release,
    Reserve,
    Restock,
    Ship,
    State,
    Status,
)
from engine.placement import shard_of
from engine.reservation import TRANSITIONS
from engine.shard import Shard
from tests.engine.shop import Shop, line, reserve

REPLAYED, ILLEGAL = Status.REPLAYED, Status.ILLEGAL_TRANSITION
EXPIRED, OK = Status.RESERVATION_EXPIRED, Status.OK
RELEASED, UNKNOWN = Status.RESERVATION_RELEASED, Status.UNKNOWN_RESERVATION
RESERVE = reserve("cart", line("apple", 2))
VERBS: dict[str, Command] = {
    holds.COMMIT: Commit("cart"),
    holds.RELEASE: Release("cart"),
    holds.EXTEND: Extend("cart", 900),
    holds.MOVE: MoveLines("cart", [LineMove("apple", "north", "south", 1)]),
    holds.SHIP: Ship("cart"),
    holds.CANCEL: Cancel("cart"),
    holds.RESTOCK: Restock("cart", lines=[line("apple", 1)]),
}
TABLE = {
    State.RESERVED: "OK OK OK OK ILLEGAL ILLEGAL ILLEGAL",
    State.COMMITTED: "REPLAYED ILLEGAL ILLEGAL OK OK OK OK",
    State.RELEASED: "ILLEGAL REPLAYED ILLEGAL ILLEGAL ILLEGAL ILLEGAL ILLEGAL",
    State.EXPIRED: "EXPIRED EXPIRED EXPIRED EXPIRED EXPIRED EXPIRED EXPIRED",
}
ANSWERS = {"OK": OK, "REPLAYED": REPLAYED, "ILLEGAL": ILLEGAL, "EXPIRED": EXPIRED}
PAIRS = [
    (state, verb, ANSWERS[answer])
    for state, answers in TABLE.items()
    for verb, answer in zip(VERBS, answers.split(), strict=True)
]


def brought_to(state: State) -> Shop:
    shop = Shop(north=5, south=5)
    shop.ok(RESERVE)
    if state == State.COMMITTED:
        shop.ok(Commit("cart"))
        shop.ok(Receive("apple", "north", 2))
    elif state == State.RELEASED:
        shop.ok(Release("cart"))
    elif state == State.EXPIRED:
        shop.wait(600)
    assert state == shop.reservation("cart").state
    return shop


@pytest.mark.parametrize(("state", "verb", "expected"), PAIRS)
def test_every_verb_in_every_state(state: State, verb: str, expected: Status) -> None:
    """The answer to each verb in each state is the one that is written here."""
    shop = brought_to(state)
    if (state, verb) == (State.COMMITTED, holds.RESTOCK):
        shop.ok(Ship("cart", lines=[line("apple", 1)]))

    assert expected == shop.status(VERBS[verb])


@pytest.mark.parametrize(("state", "verb", "expected"), PAIRS)
def test_the_table_says_what_is_done(state: State, verb: str, expected: Status) -> None:
    """`TRANSITIONS` holds the state that follows, or the status of the refusal."""
    entry = TRANSITIONS[state, verb]

    assert (entry if isinstance(entry, Status) else OK) == expected


def test_the_table_is_whole() -> None:
    """Every state has an entry for every verb, and nothing else does."""
    verbs = {*VERBS, holds.EXPIRE}

    assert {(state, verb) for state in State for verb in verbs} == set(TRANSITIONS)
    assert set(State) == set(STATE_NAMES)


@pytest.mark.parametrize("state", State)
def test_only_what_is_reserved_expires(state: State) -> None:
    """Expiry ends a reservation that is held, and no other."""
    shop = brought_to(state)

    shop.wait(3_599 if state in (State.RELEASED, State.EXPIRED) else 3_600)

    expected = State.EXPIRED if state == State.RESERVED else state
    assert expected == shop.reservation("cart").state


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.RESERVED, REPLAYED),
        (State.COMMITTED, REPLAYED),
        (State.RELEASED, RELEASED),
        (State.EXPIRED, EXPIRED),
    ],
)
def test_a_reserve_again_finds_how_things_stand(state: State, expected: Status) -> None:
    """The same request has no second effect and is told what became of the first."""
    shop = brought_to(state)
    before = shop.stock()

    assert expected == shop.status(RESERVE)
    assert before == shop.stock()
    assert state == shop.reservation("cart").state


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    "other",
    [
        reserve("cart", line("apple", 3)),
        reserve("cart", line("apple", 2, "north")),
        reserve("cart", line("apple", 1), line("apple", 1)),
        Reserve("cart", [line("apple", 2)], "shop"),
        Reserve("cart", [line("apple", 2)], ttl_seconds=601),
        Reserve("cart", [line("apple", 2)], policy=Policy.PARTIAL),
    ],
)
def test_another_request_under_the_same_id_is_refused(state: State, other: Reserve) -> None:
    """Whatever became of the first request, a different one does not pass for it."""
    shop = brought_to(state)

    assert Status.IDEMPOTENCY_MISMATCH == shop.status(other)


def test_a_refusal_for_lack_of_stock_is_not_remembered() -> None:
    """The shopper may try again, with the same id, once there is stock."""
    shop = Shop(north=1)

    assert [("apple", 2, 1)] == shop.short(RESERVE)
    assert UNKNOWN == shop.status(GetReservation("cart"))
    shop.ok(Receive("apple", "north", 1))
    shop.ok(RESERVE)


@pytest.mark.parametrize(("early_us", "expected"), [(1, OK), (0, EXPIRED), (-1, EXPIRED)])
def test_a_commit_around_the_deadline(early_us: int, expected: Status) -> None:
    """One microsecond before the deadline commits; at it and after it is too late."""
    shop = Shop(north=5)
    shop.ok(RESERVE)
    shop.wait_us(600 * limits.SECOND_US - early_us)

    assert expected == shop.status(Commit("cart"))


def test_expiry_is_an_event() -> None:
    """What is overdue is expired by an event that is journaled, and its units are free."""
    shop = Shop(north=5)
    shop.ok(RESERVE)

    assert [Expired("cart")] == shop.wait(600)
    assert (5, 0, 0, 5) == shop.sums()


def test_a_sweep_is_bounded_and_no_commit_slips_past_it() -> None:
    """One batch expires a bounded number; what it has not reached is expired when touched."""
    shop = Shop(north=limits.SWEEP_PER_BATCH_MAX + 10)
    names = [f"cart-{number}" for number in range(limits.SWEEP_PER_BATCH_MAX + 10)]
    for name in names:
        shop.ok(reserve(name, line("apple", 1)))

    swept = shop.wait(600)
    left = set(names) - {event.reservation_id for event in swept if isinstance(event, Expired)}

    assert limits.SWEEP_PER_BATCH_MAX == len(swept)
    assert 10 == len(left)
    assert {EXPIRED} == {shop.status(Commit(name)) for name in left}
    assert [] == shop.wait(1)
    assert shop.stock().on_hand == shop.stock().available


def test_extending_never_shortens() -> None:
    """A longer deadline is taken, a shorter one changes nothing."""
    shop = Shop(north=5)
    shop.ok(RESERVE)
    before = shop.reservation("cart").expires_at

    assert REPLAYED == shop.status(Extend("cart", 10))
    assert before == shop.reservation("cart").expires_at
    shop.ok(Extend("cart", 900))
    assert before + 300 * limits.SECOND_US == shop.reservation("cart").expires_at
    assert [] == shop.wait(600)
    assert [Expired("cart")] == shop.wait(300)


def test_what_is_overdue_expires_earliest_first() -> None:
    """A hold that was extended waits for its turn among the others of its batch."""
    shop = Shop(north=5)
    shop.ok(RESERVE)
    shop.ok(Reserve("later", [line("apple", 1)], None, 601))
    shop.ok(Extend("cart", 602))

    assert [Expired("later"), Expired("cart")] == shop.wait(700)


def test_a_finished_reservation_is_remembered_for_its_window() -> None:
    """A released id stays known for the whole window, and then is free again."""
    shop = Shop(north=5)
    shop.ok(RESERVE)
    shop.ok(Release("cart"))

    shop.wait_us(limits.FINISHED_WINDOW_US - 1)
    assert RELEASED == shop.status(RESERVE)
    shop.wait_us(1)
    assert UNKNOWN == shop.status(GetReservation("cart"))
    shop.ok(RESERVE)


def test_a_promised_reservation_is_never_forgotten() -> None:
    """While units are allocated the reservation is known, however long that takes."""
    shop = Shop(north=5)
    shop.ok(RESERVE)
    shop.ok(Commit("cart"))
    shop.wait_us(2 * limits.RETURNS_WINDOW_US)

    shop.ok(Ship("cart"))


def test_a_shipped_reservation_is_remembered_for_returns() -> None:
    """What was shipped can come back for the returns window, and no longer."""
    shop = Shop(north=5)
    shop.ok(RESERVE)
    shop.ok(Commit("cart"))
    shop.ok(Ship("cart"))

    shop.wait_us(limits.RETURNS_WINDOW_US - 1)
    shop.ok(Restock("cart", lines=[line("apple", 1)]))
    shop.wait_us(1)
    assert UNKNOWN == shop.status(Restock("cart"))


def test_a_wholly_cancelled_reservation_is_soon_forgotten() -> None:
    """Nothing can come back of what never left."""
    shop = Shop(north=5)
    shop.ok(RESERVE)
    shop.ok(Commit("cart"))
    shop.ok(Cancel("cart"))

    shop.wait_us(limits.FINISHED_WINDOW_US)
    assert UNKNOWN == shop.status(GetReservation("cart"))


def test_an_unknown_id_that_is_released_can_be_buried() -> None:
    """The release is answered as unknown, and a reserve that comes late holds nothing."""
    shop = Shop(north=5)

    assert UNKNOWN == shop.status(Release("cart", bury=True))
    assert RELEASED == shop.status(RESERVE)
    assert (5, 0, 0, 5) == shop.sums()
    shop.wait_us(limits.FINISHED_WINDOW_US)
    shop.ok(RESERVE)


def test_without_a_burial_nothing_is_left() -> None:
    """Who does not vouch for the home leaves no trace there."""
    shop = Shop(north=5)

    assert UNKNOWN == shop.status(Release("cart"))
    shop.ok(RESERVE)


@pytest.mark.parametrize("verb", VERBS)
def test_what_lies_outside_the_scope_does_not_exist(verb: str) -> None:
    """Another channel's key finds nothing, buries nothing and changes nothing."""
    shop = Shop(north=5)
    shop.ok(Reserve("cart", [line("apple", 2)], "shop"))
    command = VERBS[verb]
    fields = {name: getattr(command, name) for name in command.__struct_fields__}
    outside = type(command)(**(fields | {"scope": "trade"}))
    before = shop.reservation("cart")

    assert UNKNOWN == shop.status(outside)
    assert UNKNOWN == shop.status(Release("cart", scope="trade", bury=True))
    assert UNKNOWN == shop.status(GetReservation("cart", scope="trade"))
    assert before == shop.reservation("cart")


def test_a_late_commit_takes_the_same_places() -> None:
    """After expiry, if asked to, a commit takes the units anew where they were."""
    shop = Shop(north=2, south=5)
    shop.ok(reserve("cart", line("apple", 2, "south")))
    shop.wait(600)

    shop.ok(Commit("cart", if_available=True))
    assert [[("south", 2)]] == shop.places("cart")
    assert (7, 0, 2, 5) == shop.sums()


def test_a_late_commit_looks_elsewhere() -> None:
    """If the places have been sold meanwhile, others serve."""
    shop = Shop(north=2, south=2)
    shop.ok(RESERVE)
    shop.wait(600)
    shop.ok(reserve("other", line("apple", 1, "north")))

    shop.ok(Commit("cart", if_available=True))
    assert [[("south", 2)]] == shop.places("cart")


def test_a_late_commit_is_all_or_nothing() -> None:
    """If the units are gone it is refused, and says what there is."""
    shop = Shop(north=2)
    shop.ok(RESERVE)
    shop.wait(600)
    shop.ok(reserve("other", line("apple", 1)))

    assert [("apple", 2, 1)] == shop.short(Commit("cart", if_available=True))
    assert State.EXPIRED == shop.reservation("cart").state


def test_a_late_commit_keeps_its_lines() -> None:
    """Lines of one SKU stay the lines they were, at the same places or at others."""
    shop = Shop(north=4, south=4)
    shop.ok(reserve("cart", line("apple", 1), line("apple", 2)))
    shop.wait(600)
    shop.ok(Commit("cart", if_available=True))

    assert [[("north", 1)], [("north", 2)]] == shop.places("cart")


def test_when_memory_is_full_new_work_is_refused() -> None:
    """Nothing is forgotten early: what is known goes on, what would be new has to wait."""
    shop = Shop(north=9)
    shop.shard = Shard(0, 1, remembered_max=2)
    shop.shard.begin(shop.now)
    shop.ok(Receive("apple", "north", 9))
    shop.ok(reserve("first", line("apple", 1)))
    shop.ok(reserve("second", line("apple", 1)))

    third = reserve("third", line("apple", 1))
    assert Status.MEMORY_FULL == shop.status(third)
    assert Status.MEMORY_FULL == shop.status(Receive("apple", "north", 1, key="k"))
    assert REPLAYED == shop.status(reserve("first", line("apple", 1)))
    shop.ok(Commit("first"))
    shop.ok(Release("second"))
    assert Status.MEMORY_FULL == shop.status(third)
    shop.wait_us(limits.FINISHED_WINDOW_US)
    shop.ok(Receive("apple", "north", 1))
    shop.wait(1)
    shop.ok(third)


def test_lines_of_other_shards_are_refused() -> None:
    """A reservation lives in one shard; lines of another have to be asked for there."""
    shop = Shop()
    skus = [str(number) for number in range(20)]
    ours = [sku for sku in skus if shard_of(sku, 2) == 0]
    theirs = [sku for sku in skus if shard_of(sku, 2) == 1]
    shop.shard = Shard(0, 2)
    shop.shard.begin(shop.now)
    shop.ok(Receive(ours[0], "north", 5))

    assert Status.LINES_SPAN_SHARDS == shop.status(
        reserve("cart", line(ours[0], 1), line(theirs[0], 1))
    )
    shop.ok(reserve("cart", line(ours[0], 1)))
