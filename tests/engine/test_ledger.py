"""The naive sums of movements: what each event does to on_hand, and what none of them does."""

from random import Random

import pytest

from engine import limits
from engine.audit import Findings
from engine.comparison import balancing
from engine.ledger import Ledger
from engine.messages import (
    Adjusted,
    Cancelled,
    Committed,
    Counted,
    Event,
    Expired,
    Extended,
    Line,
    Part,
    Received,
    Released,
    Reserved,
    Restocked,
    Shipped,
    Transferred,
    UnitsMoved,
)
from engine.shard import Shard
from engine.slices import drained
from tests.engine.model import Model
from tests.engine.traffic import Traffic

APPLES = Line("apple", [Part("north", 3), Part("south", 2)])
PEARS = Line("pear", [Part("north", 1)])
RESERVED = Reserved("r", b"", None, 0, [APPLES, PEARS])
STOCK: list[Event] = [Received("apple", "north", 10), Received("pear", "north", 10)]


def entered(*events: Event) -> Ledger:
    ledger = Ledger()
    for event in (*STOCK, *events):
        ledger.take(event)
    return ledger


@pytest.mark.parametrize(
    ("apples", "pears", "events"),
    [
        (10, 10, []),
        (13, 10, [Received("apple", "north", 3)]),
        (8, 10, [Adjusted("apple", "north", -2)]),
        (7, 10, [Adjusted("apple", "north", -2), Counted("apple", "north", 7)]),
        (6, 10, [Transferred("apple", "north", "south", 4)]),
        (10, 10, [RESERVED, Committed("r"), Extended("r", 9)]),
        (10, 9, [RESERVED, Committed("r"), Shipped("r", [UnitsMoved(1, "north", 1)])]),
        (8, 10, [RESERVED, Committed("r"), Shipped("r", [UnitsMoved(0, "north", 2)])]),
        (10, 9, [RESERVED, Committed("r", [PEARS]), Shipped("r", [UnitsMoved(0, "north", 1)])]),
        (10, 10, [RESERVED, Committed("r"), Cancelled("r", [UnitsMoved(0, "north", 2)])]),
        (
            9,
            10,
            [
                RESERVED,
                Committed("r"),
                Shipped("r", [UnitsMoved(0, "north", 2)]),
                Restocked("r", [UnitsMoved(0, "north", 1)]),
            ],
        ),
    ],
)
def test_what_an_event_moves(apples: int, pears: int, events: list[Event]) -> None:
    """Units come, go and change places by movements, shipments and returns, and by nothing else."""
    ledger = entered(*events)

    assert (apples, pears) == (ledger.on_hand["apple", "north"], ledger.on_hand["pear", "north"])
    assert [] == ledger.strange


def test_units_come_back_to_where_the_event_says() -> None:
    """A return may go to another place than the units were shipped from."""
    back = UnitsMoved(0, "north", 1, "south")
    ledger = entered(RESERVED, Shipped("r", [UnitsMoved(0, "north", 1)]), Restocked("r", [back]))

    assert (9, 1) == (ledger.on_hand["apple", "north"], ledger.on_hand["apple", "south"])


@pytest.mark.parametrize("end", [Released("r"), Expired("r")])
def test_nothing_is_shipped_of_what_came_to_nothing(end: Event) -> None:
    """A shipment of a reservation that is over, or never was, is strange, and moves nothing."""
    shipped = Shipped("r", [UnitsMoved(0, "north", 1)])
    for ledger in (entered(RESERVED, end, shipped), entered(shipped)):
        assert 10 == ledger.on_hand["apple", "north"]
        assert ["reservation r: shipped, and never reserved"] == ledger.strange


def test_as_many_strange_things_as_can_be_read() -> None:
    """They are not heaped up without end."""
    ledger = entered(*[Shipped("r", [UnitsMoved(0, "north", 1)])] * 100)

    assert limits.AUDIT_FINDINGS_MAX == len(ledger.strange)


@pytest.mark.parametrize("seed", range(20))
def test_the_ledger_of_a_random_history(seed: int) -> None:
    """From the first event on, and from any moment on, it arrives at what the engine arrives at."""
    random = Random(seed)
    traffic, model, shard = Traffic(random), Model(0, 1), Shard(0, 1)
    whole, later, begins = Ledger(), Ledger(), random.randrange(100)
    for number in range(150):
        if number == begins:
            drained(later.start(shard.state))
        command = traffic.opening()[number] if number < 5 else traffic.command(model)
        now = number * limits.SECOND_US
        model.begin(now)
        model.execute(command)
        shard.begin(now)
        shard.execute(command)
        for event in shard.close():
            whole.take(event)
            if number >= begins:
                later.take(event)
    for ledger in (whole, later):
        findings = Findings()
        drained(balancing(shard.state, ledger, findings))
        assert [] == findings.texts
