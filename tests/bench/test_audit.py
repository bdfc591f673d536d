"""The audit finds every way in which engine and buyers can disagree, and nothing else."""

import pytest

from bench.audit import (
    Expected,
    check_entry,
    check_shards,
    check_stock,
    conclude,
    expect,
    is_certain,
)
from bench.ledger import Entry, Group, Mark
from engine.messages import (
    Answer,
    AuditView,
    Detail,
    LineView,
    ReservationView,
    State,
    Status,
    StockView,
)

UNITS = 100


def stock(reserved: int, allocated: int, on_hand: int = UNITS) -> Answer:
    available = on_hand - reserved - allocated
    view = StockView("a", 1, 1, on_hand, reserved, allocated, 0, available, [], [])
    return Answer(Status.OK, view)


def test_expectations_follow_from_the_marks() -> None:
    """What must be held, what may be, and what is over."""
    groups = [Group(0, mark, 10 + mark) for mark in Mark] + [Group(3, Mark.HELD, 1)]

    assert {
        0: Expected(
            reserved=10 + Mark.HELD,
            allocated=10 + Mark.COMMITTED,
            either=10 + Mark.COMMITTING,
            maybe=10 + Mark.SENT + 10 + Mark.RELEASING,
        ),
        3: Expected(reserved=1),
    } == expect(groups)


@pytest.mark.parametrize(
    ("expected", "reserved", "allocated"),
    [
        (Expected(reserved=3, allocated=4), 3, 4),
        (Expected(reserved=3, allocated=4, maybe=2), 3, 4),
        (Expected(reserved=3, allocated=4, maybe=2), 5, 4),
        (Expected(reserved=3, allocated=4, either=2), 5, 4),
        (Expected(reserved=3, allocated=4, either=2), 3, 6),
        (Expected(reserved=3, allocated=4, either=2, maybe=1), 5, 5),
    ],
)
def test_what_can_be_passes(expected: Expected, reserved: int, allocated: int) -> None:
    """Exactly what was told; with uncertainty, anything between the bounds."""
    assert [] == check_stock(["a"], UNITS, [stock(reserved, allocated)], {0: expected})


@pytest.mark.parametrize(
    ("expected", "reserved", "allocated"),
    [
        (Expected(reserved=3, allocated=4), 2, 4),
        (Expected(reserved=3, allocated=4), 4, 4),
        (Expected(reserved=3, allocated=4), 3, 3),
        (Expected(reserved=3, allocated=4), 3, 5),
        (Expected(reserved=3, allocated=4), 2, 5),
        (Expected(reserved=3, allocated=4, maybe=2), 6, 4),
        (Expected(reserved=3, allocated=4, maybe=2), 3, 5),
        (Expected(reserved=3, allocated=4, either=2), 3, 4),
        (Expected(reserved=3, allocated=4, either=2), 4, 4),
        (Expected(reserved=3, allocated=4, either=2), 5, 5),
    ],
)
def test_what_cannot_be_is_found(expected: Expected, reserved: int, allocated: int) -> None:
    """One unit too few or too many, on either side, is a finding that says the numbers."""
    (finding,) = check_stock(["a"], UNITS, [stock(reserved, allocated)], {0: expected})

    assert finding.startswith("a: ")
    assert "the buyers were told" in finding


def test_overselling_is_found_even_if_buyers_and_engine_agree() -> None:
    """More units promised than were ever received."""
    found = check_stock(["a"], 5, [stock(3, 4, on_hand=5)], {0: Expected(3, 4)})

    assert ["a: oversold: 7 units held or promised, 5 there"] == found


def test_units_that_appear_or_vanish_are_found() -> None:
    """on_hand is what was received, before and after."""
    assert ["a: 99 units on hand; 100 were received"] == check_stock(
        ["a"], UNITS, [stock(0, 0, on_hand=99)], {}
    )


def test_a_sku_nobody_bought_must_hold_nothing() -> None:
    """The engine may not hold units that no buyer knows of."""
    assert ["a: 1 units reserved; the buyers were told 0"] == check_stock(
        ["a"], UNITS, [stock(1, 0)], {}
    )


def test_a_sku_that_cannot_be_read_is_a_finding() -> None:
    """Silence is no agreement."""
    assert ["a: could not be read: not_done"] == check_stock(
        ["a"], UNITS, [Answer(Status.NOT_DONE)], {}
    )


def audited(drift: int, findings: list[str]) -> Answer:
    view = AuditView(0, 1, 1, b"", 1, 0, 0, 0, 0, 0, {}, {}, drift, findings)
    return Answer(Status.OK, view)


def test_the_engines_own_audit_counts() -> None:
    """Its drift is summed up without signs, its findings are ours, and it must answer."""
    drift, findings = check_shards(
        {
            0: audited(0, []),
            1: audited(-2, ["sums differ"]),
            2: audited(3, []),
            3: Answer(Status.SHARD_STOPPED, Detail("bad record")),
        }
    )

    assert 5 == drift
    assert [
        "shard 1: sums differ",
        "shard 2: its sums are off by 3",
        "shard 3 could not be audited: shard_stopped",
    ] == findings


def seen(state: State, sku: str = "a", quantity: int = 1) -> Answer:
    lines = [LineView(sku, quantity, [("bench", quantity)])]
    return Answer(Status.OK, ReservationView("r", 0, state, None, 0, lines))


NOBODY = Answer(Status.UNKNOWN_RESERVATION)


@pytest.mark.parametrize(
    ("mark", "answer"),
    [
        (Mark.HELD, seen(State.RESERVED)),
        (Mark.COMMITTED, seen(State.COMMITTED)),
        (Mark.RELEASED, seen(State.RELEASED)),
        (Mark.BRIEF, seen(State.EXPIRED)),
        (Mark.EXPIRED, seen(State.EXPIRED)),
        (Mark.REFUSED, NOBODY),
    ],
)
def test_a_reservation_that_stands_as_told_passes(mark: Mark, answer: Answer) -> None:
    """One state for every mark that is certain."""
    assert check_entry(Entry(0, 0, mark), "r", "a", answer) is None


@pytest.mark.parametrize(
    ("mark", "answer"),
    [
        (Mark.HELD, seen(State.COMMITTED)),
        (Mark.HELD, NOBODY),
        (Mark.COMMITTED, seen(State.RESERVED)),
        (Mark.COMMITTED, NOBODY),
        (Mark.RELEASED, seen(State.RESERVED)),
        (Mark.BRIEF, seen(State.RESERVED)),
        (Mark.REFUSED, seen(State.RESERVED)),
        (Mark.HELD, seen(State.RESERVED, sku="b")),
        (Mark.HELD, seen(State.RESERVED, quantity=2)),
        (Mark.HELD, Answer(Status.OUTCOME_UNKNOWN)),
    ],
)
def test_a_reservation_that_stands_otherwise_is_found(mark: Mark, answer: Answer) -> None:
    """Lost, revived, in another state, of another SKU or quantity, or not to be had."""
    finding = check_entry(Entry(0, 0, mark), "r", "a", answer)

    assert finding is not None
    assert finding.startswith("r: ")


def test_only_certain_reservations_are_read_back() -> None:
    """Of what was never answered nothing can be wrong."""
    assert {Mark.SENT, Mark.COMMITTING, Mark.RELEASING} == {
        mark for mark in Mark if not is_certain(mark)
    }


def test_the_report_passes_only_without_findings() -> None:
    """Sums are those of all SKUs; findings are counted even where they are not all named."""
    expected = {0: Expected(1, 2, 3, 4), 1: Expected(1, 1)}
    answers = [stock(3, 4), stock(1, 1)]

    passed = conclude([], 0, UNITS, answers, expected, 9)
    failed = conclude(["finding"] * 50, 0, UNITS, answers, expected, 9)

    assert (True, 7, 2, 3) == (
        passed.passed,
        passed.unknown,
        passed.told.reserved,
        passed.told.allocated,
    )
    assert (4, 5, 200) == (passed.held.reserved, passed.held.allocated, passed.held.on_hand)
    assert (False, 50, 20) == (failed.passed, failed.findings_count, len(failed.findings))
