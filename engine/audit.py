"""The auditor: recompute every sum of a shard from its reservations, and compare.

    reserved(location)  = sum of the open reservation lines there
    allocated(location) = sum of the open allocations there
    available           ≥ 0, or a shortfall that is made known

It reads the whole state at once, so it costs a batch of that length; it is asked for by operators
and at the end of benchmarks, and what it finds is a bug or a damaged memory, never an expected
condition.
"""

from typing import Final

from engine import reservation as holds
from engine.messages import STATE_NAMES, AuditView, State
from engine.state import ShardState

_FINDINGS_MAX: Final = 20


def audit(state: ShardState, number: int) -> AuditView:
    """Sums and findings of shard `number`; `drift` counts the findings, the first are in words."""
    promised, counts, units, shipped = _promised(state)
    findings = list(_compare(state, promised))
    for each in State:
        if counts[each] != state.counts[each]:
            findings.append(
                f"{counts[each]} reservations are {each.name}, {state.counts[each]} counted"
            )
    places = [place for stock in state.skus.values() for place in stock.locations.values()]
    return AuditView(
        number,
        0,
        0,
        state.digest(),
        state.skus.size,
        sum(place.on_hand for place in places),
        sum(place.reserved for place in places),
        sum(place.allocated for place in places),
        sum(place.available for place in places),
        shipped,
        {STATE_NAMES[each]: counts[each] for each in State},
        {STATE_NAMES[each]: units[each] for each in State},
        len(findings),
        findings[:_FINDINGS_MAX],
    )


def _promised(
    state: ShardState,
) -> tuple[dict[tuple[str, str], list[int]], dict[State, int], dict[State, int], int]:
    """(sku, location) → [reserved, allocated]; reservations and units by state; units shipped."""
    promised: dict[tuple[str, str], list[int]] = {}
    counts = dict.fromkeys(State, 0)
    units = dict.fromkeys(State, 0)
    shipped = 0
    for packed in state.reservations.values():
        found = holds.unpack(packed)
        counts[found.state] += 1
        for line in found.lines:
            for part in line.parts:
                units[found.state] += part.quantity
                shipped += part.shipped
                if found.state in (State.RESERVED, State.COMMITTED):
                    sums = promised.setdefault((line.sku, part.location), [0, 0])
                    sums[found.state is State.COMMITTED] += holds.outstanding(part)
    return promised, counts, units, shipped


def _compare(state: ShardState, promised: dict[tuple[str, str], list[int]]) -> list[str]:
    findings = []
    for stock in state.skus.values():
        for name, place in stock.locations.items():
            reserved, allocated = promised.pop((stock.sku, name), [0, 0])
            where = f"{stock.sku} at {name}"
            if place.reserved != reserved:
                findings.append(f"{where}: reserved {place.reserved}, lines say {reserved}")
            if place.allocated != allocated:
                findings.append(f"{where}: allocated {place.allocated}, lines say {allocated}")
            if place.on_hand < 0:
                findings.append(f"{where}: on_hand {place.on_hand}")
            short = max(0, -place.available)
            if short != place.short or short != state.shortfalls.get((stock.sku, name), 0):
                findings.append(f"{where}: short of {short}, known {place.short}")
    findings += [f"{sku} at {name}: promised, but unknown" for sku, name in promised]
    return findings
