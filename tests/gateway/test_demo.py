"""The flash sale against real shards: it agrees to the unit, or says what does not."""

import pytest

from bench.options import Target
from engine.messages import Answer, Command, Commit, Reserve, Status
from gateway.demo import DemoError, Sale, SaleReport, hold
from gateway.place import Place
from tests.bench.shelf import Shelf, serve

BINARY_ONLY = 9
"""Connections: the tenth would be the first over HTTP."""


async def hold_sale(shelf: Shelf, units: int = 50, buyers: int = 200) -> SaleReport:
    async with serve(shelf) as target:
        return await hold(place_of(target), units, buyers, BINARY_ONLY, ignore)


def place_of(target: Target) -> Place:
    return Place(target.url, target.binary)


def ignore(sale: Sale) -> None:
    """Nobody is watching."""


async def test_a_sale_sells_what_there_is() -> None:
    """Units sold, buyers refused, books that agree."""
    report = await hold_sale(Shelf(4))

    assert [] == report.findings
    assert report.passed
    assert (50, 150, 0) == (report.sold, report.refused, report.unknown)
    assert (50, 0, 50, 0) == (
        report.stock.on_hand,
        report.stock.reserved,
        report.stock.allocated,
        report.drift,
    )
    assert 0 < report.p50_ms <= report.p99_ms


async def test_more_units_than_buyers_leaves_some() -> None:
    """Then everybody gets one."""
    report = await hold_sale(Shelf(2), units=100, buyers=40)

    assert report.passed
    assert (40, 0, 60) == (report.sold, report.refused, report.stock.available)


async def test_a_cut_connection_sells_nothing_twice() -> None:
    """Buyers who do not know send the same request again, and hear how it stands."""
    shelf = Shelf(2)
    seen = 0

    def cut_off(command: Command, answer: Answer) -> Answer:
        nonlocal seen
        seen += 1
        if seen in (60, 150):
            shelf.disconnect()
        return answer

    shelf.lie = cut_off

    report = await hold_sale(shelf)

    assert [] == report.findings
    assert 50 == report.sold


@pytest.mark.parametrize("kind", [Reserve, Commit])
async def test_a_false_answer_is_found(kind: type[Command]) -> None:
    """Done, but refused to the buyer: the sale fails, and says in which number."""
    shelf, seen = Shelf(2), 0

    def lie_once(command: Command, answer: Answer) -> Answer:
        nonlocal seen
        seen += isinstance(command, kind)
        false = isinstance(command, kind) and seen == 10
        return Answer(Status.INSUFFICIENT_STOCK) if false else answer

    shelf.lie = lie_once

    report = await hold_sale(shelf)

    assert not report.passed
    assert "buyers who bought: 49 instead of 50" in report.findings


async def test_nobody_there_is_one_clear_line() -> None:
    """A sale without an engine is refused."""
    place = Place("http://127.0.0.1:1", "tcp:127.0.0.1:1")

    with pytest.raises(DemoError, match=r"no engine answers at tcp:127\.0\.0\.1:1"):
        await hold(place, 1, 1, 1, ignore, connect_seconds=0.1)
