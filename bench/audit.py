"""The audit at the end of a run: what buyers were told against what the engine holds.

Three questions, asked once nothing is under way any more:

1. Does the engine agree with itself? Every shard sums its reservations up anew.
2. Does it agree with the buyers? From the marks of all reservations follows, SKU by SKU, how many
   units must be reserved and allocated: exactly, where every request was answered; between two
   bounds where some were not. Units held or promised never exceed the units that were received.
3. Does a random sample of the reservations, read back by id, stand as its buyer was told?

Any disagreement is a finding, in words, and fails the run, however fast it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.ledger import Entry, Group, Mark
from engine.messages import (
    STATE_NAMES,
    Answer,
    AuditView,
    ReservationView,
    State,
    Status,
    StockView,
)

FINDINGS_MAX: Final = 20


class Totals(msgspec.Struct):
    """Units over all SKUs of the run."""

    on_hand: int
    reserved: int
    allocated: int


class AuditReport(msgspec.Struct):
    """Passed if and only if there are no findings."""

    passed: bool
    findings: list[str]
    """The first few."""
    findings_count: int
    drift: int
    """Of the engine's own sums."""
    told: Totals
    """What the buyers were told; of what they were not told the least possible."""
    unknown: int
    """Reservations of which some answer is missing."""
    held: Totals
    """What the engine holds."""
    sample: int
    """Reservations that were read back."""


@dataclass
class Expected:
    """Of one SKU. `either` units are reserved or allocated, `maybe` units reserved or not."""

    reserved: int = 0
    allocated: int = 0
    either: int = 0
    maybe: int = 0

    def count(self, mark: Mark, units: int) -> None:
        """That many reservations of one unit bear this mark."""
        if mark is Mark.HELD:
            self.reserved += units
        elif mark is Mark.COMMITTED:
            self.allocated += units
        elif mark is Mark.COMMITTING:
            self.either += units
        elif mark in (Mark.SENT, Mark.RELEASING):
            self.maybe += units

    def disagreement(self, sku: str, stock: StockView) -> str | None:
        """What of `stock` cannot be, if anything."""
        for name, found, least, slack in (
            ("reserved", stock.reserved, self.reserved, self.either + self.maybe),
            ("allocated", stock.allocated, self.allocated, self.either),
            (
                "reserved and allocated together",
                stock.reserved + stock.allocated,
                self.reserved + self.allocated + self.either,
                self.maybe,
            ),
        ):
            if not least <= found <= least + slack:
                told = f"{least}" if slack == 0 else f"{least} to {least + slack}"
                return f"{sku}: {found} units {name}; the buyers were told {told}"
        return None


def expect(groups: Iterable[Group]) -> dict[int, Expected]:
    """What the engine must hold, by SKU."""
    expected: dict[int, Expected] = {}
    for sku, mark, count in ((group.sku, group.mark, group.count) for group in groups):
        expected.setdefault(sku, Expected()).count(mark, count)
    return expected


def check_shards(views: Mapping[int, Answer]) -> tuple[int, list[str]]:
    """The engine's own audit: its drift, and what is wrong."""
    drift, findings = 0, []
    for shard, answer in views.items():
        view = answer.body
        if not isinstance(view, AuditView):
            findings.append(f"shard {shard} could not be audited: {answer.status.name.lower()}")
            continue
        drift += abs(view.drift)
        findings += [f"shard {shard}: {finding}" for finding in view.findings]
        if view.drift and not view.findings:
            findings.append(f"shard {shard}: its sums are off by {view.drift}")
    return drift, findings


def check_stock(
    names: Sequence[str], units: int, answers: Sequence[Answer], expected: Mapping[int, Expected]
) -> list[str]:
    """The stock of every SKU against what the buyers were told, and against what was received."""
    findings = []
    for number, (name, answer) in enumerate(zip(names, answers, strict=True)):
        stock = answer.body
        if not isinstance(stock, StockView):
            findings.append(f"{name}: could not be read: {answer.status.name.lower()}")
            continue
        if stock.on_hand != units:
            findings.append(f"{name}: {stock.on_hand} units on hand; {units} were received")
        if stock.reserved + stock.allocated > units:
            sold = stock.reserved + stock.allocated
            findings.append(f"{name}: oversold: {sold} units held or promised, {units} there")
        disagreement = expected.get(number, Expected()).disagreement(name, stock)
        if disagreement:
            findings.append(disagreement)
    return findings


_STATES: Final = {
    Mark.HELD: State.RESERVED,
    Mark.BRIEF: State.EXPIRED,
    Mark.EXPIRED: State.EXPIRED,
    Mark.COMMITTED: State.COMMITTED,
    Mark.RELEASED: State.RELEASED,
}


def is_certain(mark: Mark) -> bool:
    """Whether the buyer knows how the reservation stands."""
    return mark in _STATES or mark is Mark.REFUSED


def check_entry(entry: Entry, reservation_id: str, name: str, answer: Answer) -> str | None:
    """What is wrong with one reservation of the sample, if anything."""
    if entry.mark is Mark.REFUSED:
        if answer.status is Status.UNKNOWN_RESERVATION:
            return None
        return f"{reservation_id}: was refused; the engine says {answer.status.name.lower()}"
    view, told = answer.body, _STATES[entry.mark]
    if not isinstance(view, ReservationView):
        status = answer.status.name.lower()
        return f"{reservation_id}: the buyer was told {STATE_NAMES[told]}; the engine says {status}"
    if view.state is not told:
        states = STATE_NAMES[told], STATE_NAMES[view.state]
        return f"{reservation_id}: the buyer was told {states[0]}; it is {states[1]}"
    lines = [(line.sku, line.quantity) for line in view.lines]
    if lines != [(name, 1)]:
        return f"{reservation_id}: one unit of {name} was reserved; the engine has {lines}"
    return None


def conclude(
    findings: Sequence[str],
    drift: int,
    units: int,
    answers: Sequence[Answer],
    expected: Mapping[int, Expected],
    sample: int,
) -> AuditReport:
    """The report."""
    stocks = [answer.body for answer in answers if isinstance(answer.body, StockView)]
    return AuditReport(
        passed=not findings,
        findings=list(findings[:FINDINGS_MAX]),
        findings_count=len(findings),
        drift=drift,
        told=Totals(
            units * len(answers),
            sum(each.reserved for each in expected.values()),
            sum(each.allocated for each in expected.values()),
        ),
        unknown=sum(each.either + each.maybe for each in expected.values()),
        held=Totals(
            sum(stock.on_hand for stock in stocks),
            sum(stock.reserved for stock in stocks),
            sum(stock.allocated for stock in stocks),
        ),
        sample=sample,
    )
