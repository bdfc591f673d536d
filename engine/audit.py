"""The sums: recompute every counter of a shard from its reservations, and compare.

    reserved(location)  = sum of the open reservation lines there
    allocated(location) = sum of the open allocations there
    available           ≥ 0, or a shortfall that is made known

What it finds is a bug or a damaged memory, never an expected condition. A shard may remember
millions of reservations, so the work comes in slices (`auditing`): whoever drives it lets others go
on in between. What on_hand must be, no sum over reservations can say: that is `engine.ledger`.
"""

from typing import Final

from engine import limits
from engine import reservation as holds
from engine.messages import STATE_NAMES, AuditView, State
from engine.slices import Slices, drained, sliced
from engine.state import ShardState
from engine.stock import SkuStock

_OPEN: Final = (State.RESERVED, State.COMMITTED)


class Findings:
    """Disagreements: all of them counted, the first in words."""

    def __init__(self) -> None:
        self.count = 0
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.texts) < limits.AUDIT_FINDINGS_MAX:
            self.texts.append(text)


def audit(state: ShardState, number: int) -> AuditView:
    """Sums and findings of shard `number`; `drift` counts the findings, the first are in words."""
    view = drained(auditing(state, number))
    view.digest = state.digest()
    return view


def auditing(state: ShardState, number: int) -> Slices[AuditView]:
    """The same in slices, and without the digest. The state must not change meanwhile."""
    sums = _Sums()
    findings = Findings()
    yield from sliced(state.reservations.values(), sums.add)
    totals = _Totals(state, sums.promised, findings)
    yield from sliced(state.skus.values(), totals.add)
    _look_at_dedications(state, number, findings)
    for sku, name in sums.promised:
        findings.add(f"{sku} at {name}: promised, but unknown")
    if len(state.shortfalls) != totals.shortfalls:
        findings.add(f"{totals.shortfalls} shortfalls, {len(state.shortfalls)} listed")
    for each in State:
        count, counted = sums.counts[each], state.counts[each]
        if count > counted or (each is State.RESERVED and count < counted):
            # of the others, some may have been left out of a copy, because they are forgotten
            findings.add(f"{count} reservations are {each.name}, {counted} counted")
    return AuditView(
        number,
        0,
        0,
        b"",
        state.skus.size,
        totals.on_hand,
        totals.reserved,
        totals.allocated,
        totals.available,
        sums.shipped,
        {STATE_NAMES[each]: sums.counts[each] for each in State},
        {STATE_NAMES[each]: sums.units[each] for each in State},
        findings.count,
        findings.texts,
    )


def _look_at_dedications(state: ShardState, number: int, findings: Findings) -> None:
    """A SKU is known here or lives elsewhere; a dedicated shard has nothing but its own."""
    known = state.dedications
    for sku, shard in known.dedicated.items():
        if state.skus.get(sku) is not None:
            findings.add(f"{sku}: known here, and dedicated to shard {shard}")
    if 0 < state.shards <= number:  # as its genesis has it: it is a dedicated one
        own = known.settled and state.skus.get(known.bound) is not None
        if state.skus.size > own:
            findings.add(f"dedicated to {known.bound or 'no SKU'}, and there are others")


class _Sums:
    """What the reservations add up to."""

    def __init__(self) -> None:
        self.promised: dict[tuple[str, str], list[int]] = {}
        """(sku, location) → [reserved, allocated]."""
        self.counts = dict.fromkeys(State, 0)
        self.units = dict.fromkeys(State, 0)
        self.shipped = 0

    def add(self, packed: bytes) -> None:
        found = holds.unpack(packed)
        self.counts[found.state] += 1
        for line in found.lines:
            for part in line.parts:
                self.units[found.state] += part.quantity
                self.shipped += part.shipped
                if found.state in _OPEN:
                    sums = self.promised.setdefault((line.sku, part.location), [0, 0])
                    sums[found.state is State.COMMITTED] += holds.outstanding(part)


class _Totals:
    """What the counters add up to; each is compared on the way, and its sum taken out."""

    def __init__(
        self, state: ShardState, promised: dict[tuple[str, str], list[int]], findings: Findings
    ) -> None:
        self._state = state
        self._promised = promised
        self._findings = findings
        self.on_hand = self.reserved = self.allocated = self.available = 0
        self.shortfalls = 0

    def add(self, stock: SkuStock) -> None:
        find = self._findings.add
        for name, place in stock.locations.items():
            self.on_hand += place.on_hand
            self.reserved += place.reserved
            self.allocated += place.allocated
            self.available += place.available
            reserved, allocated = self._promised.pop((stock.sku, name), [0, 0])
            where = f"{stock.sku} at {name}"
            if place.reserved != reserved:
                find(f"{where}: reserved {place.reserved}, lines say {reserved}")
            if place.allocated != allocated:
                find(f"{where}: allocated {place.allocated}, lines say {allocated}")
            if place.on_hand < 0:
                find(f"{where}: on_hand {place.on_hand}")
            short = max(0, -place.available)
            listed = self._state.shortfalls.get((stock.sku, name), 0)
            if not short == place.short == listed:
                find(f"{where}: short of {short}, known {place.short}, listed {listed}")
            self.shortfalls += listed > 0
