"""Marks: what a buyer knows after each answer, and after none."""

from random import Random

import pytest

from bench.ledger import (
    COMMITTED,
    RELEASED,
    RESERVED,
    RESERVED_BRIEFLY,
    Entry,
    Group,
    Ledger,
    Mark,
)
from engine.messages import Status

CERTAIN_REFUSALS = sorted(
    set(Status) - {Status.OK, Status.REPLAYED, Status.OUTCOME_UNKNOWN, Status.RESERVATION_EXPIRED}
)


@pytest.mark.parametrize(
    ("table", "done", "refused", "unknown"),
    [
        (RESERVED, Mark.HELD, Mark.REFUSED, Mark.SENT),
        (RESERVED_BRIEFLY, Mark.BRIEF, Mark.REFUSED, Mark.SENT),
        (COMMITTED, Mark.COMMITTED, Mark.HELD, Mark.COMMITTING),
        (RELEASED, Mark.RELEASED, Mark.HELD, Mark.RELEASING),
    ],
)
def test_every_status_leads_to_a_mark(
    table: bytes, done: Mark, refused: Mark, unknown: Mark
) -> None:
    """Success, certain refusal, uncertainty and expiry are told apart, for every status."""
    assert done == table[Status.OK] == table[Status.REPLAYED]
    assert unknown == table[Status.OUTCOME_UNKNOWN]
    assert Mark.EXPIRED == table[Status.RESERVATION_EXPIRED]
    assert {refused} == {Mark(table[status]) for status in CERTAIN_REFUSALS}


def test_what_is_never_answered_stays_sent() -> None:
    """A reservation is uncertain from the moment at which it is sent."""
    ledger = Ledger()

    assert 0 == ledger.open((5, 6, 5))
    assert 3 == ledger.open((7,))
    ledger.answer(0, bytes([Status.OK, Status.INSUFFICIENT_STOCK, Status.OK]), RESERVED)

    assert [
        Group(5, Mark.HELD, 2),
        Group(6, Mark.REFUSED, 1),
        Group(7, Mark.SENT, 1),
    ] == sorted(ledger.groups(), key=lambda group: group.sku)


def test_a_sample_names_sku_and_mark() -> None:
    """At most as many as asked for, each once."""
    ledger = Ledger()
    ledger.open(tuple(range(100)))

    sample = ledger.sample(10, Random(1))

    assert 10 == len({entry.number for entry in sample})
    assert all(Entry(entry.number, entry.number, Mark.SENT) == entry for entry in sample)
    assert 100 == len(ledger.sample(1_000, Random(1)))
