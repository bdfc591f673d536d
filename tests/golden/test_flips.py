"""Nothing that is damaged is served as something else: refused, with the place, or identical."""

import pytest

from tests.golden.damage import RESEALED
from tests.golden.flips import BROKE, DIFFERENT, IDENTICAL, REFUSED, Table, Where, run
from tests.golden.subjects import REWRITTEN

EVERY = 151
"""One bit of so many; `python -m tests.golden.flips` takes them all."""
UNKNOWABLE = {
    Where("record, no mark", "dropped", "all from a record on"),
    Where("record, no mark", f"bit, {RESEALED}", "the last record"),
    Where("record, no mark", REWRITTEN, "all from a record on"),
}
"""A journal that ends earlier, or that somebody wrote anew with every checksum right, is a journal;
only who remembers a record of it knows better."""


@pytest.fixture(scope="module")
def table() -> Table:
    return run(EVERY)


def test_nothing_is_silently_different(table: Table) -> None:
    """Whatever the damage: no other state is served, except where nobody can know."""
    assert UNKNOWABLE == table.where(DIFFERENT), "\n".join(table.lines())


def test_every_refusal_says_where(table: Table) -> None:
    """No error is a surprise, and each names its place."""
    assert set() == table.where(BROKE), "\n".join(table.lines())


def test_single_bits_never_pass_a_checksum(table: Table) -> None:
    """A bit, two, a burst or a cut is refused wherever it is, unless another copy is there."""
    for where in table.where(IDENTICAL):
        if RESEALED not in where.damage:
            assert where.kind == "mark" or (where.kind, where.damage) == ("chunk", "dropped")


def test_all_of_it_was_tried(table: Table) -> None:
    """Every kind in every way."""
    kinds = {"record", "record, no mark", "chunk", "mark", "archived segment", "archived snapshot"}

    assert kinds == {where.kind for where in table.counts}
    for kind in kinds:
        damages = {where.damage for where in table.counts if where.kind == kind}
        assert {"bit", f"bit, {RESEALED}", "two bits", "burst", "cut off"} <= damages
        assert 3 == sum(each == kind for each, _ in table.by_group())
        assert any(counts[REFUSED] for where, counts in table.counts.items() if where.kind == kind)
