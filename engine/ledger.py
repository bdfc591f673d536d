"""The ledger: what is on hand, summed up from the movements alone.

    on_hand = received ± adjusted ± transferred - shipped + restocked      (counted: set)

per SKU and location, from an empty shelf or from the numbers of a snapshot. It is written to be
obviously right and shares nothing with `engine.state`, whose every counter it can therefore be held
against: it knows no versions, no pools, no promises and no time, and refuses nothing.

Shipments and returns name a line of a reservation by its number, so the ledger remembers of each
reservation which SKUs its lines are about, from the event that made or replaced them, until the
reservation has come to nothing.
"""

from engine import limits
from engine import reservation as holds
from engine.maps import BucketMap
from engine.messages import (
    Adjusted,
    Committed,
    Counted,
    Event,
    Expired,
    Line,
    Received,
    Released,
    Reserved,
    Restocked,
    Shipped,
    Transferred,
)
from engine.slices import Slices, sliced
from engine.state import ShardState
from engine.stock import SkuStock

Place = tuple[str, str]
"""SKU and location."""


class Ledger:
    """Sums of movements."""

    def __init__(self) -> None:
        self.on_hand: dict[Place, int] = {}
        self.strange: list[str] = []
        """Shipments and returns of what was never reserved; the first few."""
        self._lines: BucketMap[tuple[str, ...]] = BucketMap()
        """Reservation → the SKU of each of its lines."""
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def start(self, state: ShardState) -> Slices[None]:
        """Take over the numbers of a snapshot."""
        yield from sliced(state.skus.values(), self._start_sku)
        yield from sliced(state.reservations.items(), self._start_reservation)

    def _start_sku(self, stock: SkuStock) -> None:
        for location, place in stock.locations.items():
            self.on_hand[stock.sku, location] = place.on_hand

    def _start_reservation(self, entry: tuple[bytes, bytes]) -> None:
        name, packed = entry
        self._note(name, holds.unpack(packed).lines)

    def take(self, event: Event) -> None:
        """Enter one event, in journal order."""
        if isinstance(event, Reserved):
            self._note(event.reservation_id.encode(), event.lines)
        elif isinstance(event, Committed):
            if event.lines is not None:
                self._note(event.reservation_id.encode(), event.lines)
        elif isinstance(event, Released | Expired):
            if self._lines.get(name := event.reservation_id.encode()) is not None:
                self._lines.remove(name)
        elif isinstance(event, Received | Adjusted):
            self._add(event.sku, event.location, event.quantity)
        elif isinstance(event, Counted):
            self.on_hand[event.sku, event.location] = event.quantity
        elif isinstance(event, Transferred):
            self._add(event.sku, event.location, -event.quantity)
            self._add(event.sku, event.to_location, event.quantity)
        elif isinstance(event, Shipped | Restocked):
            self._take_units(event)

    def _take_units(self, event: Shipped | Restocked) -> None:
        skus = self._lines.get(event.reservation_id.encode()) or ()
        for units in event.units:
            if units.line >= len(skus):
                kind = type(event).__name__.lower()
                self._find(f"reservation {event.reservation_id}: {kind}, and never reserved")
            elif isinstance(event, Shipped):
                self._add(skus[units.line], units.location, -units.quantity)
            else:
                self._add(skus[units.line], units.to_location or units.location, units.quantity)

    def _find(self, text: str) -> None:
        if len(self.strange) < limits.AUDIT_FINDINGS_MAX:
            self.strange.append(text)

    def _add(self, sku: str, location: str, quantity: int) -> None:
        self.on_hand[sku, location] = self.on_hand.get((sku, location), 0) + quantity

    def _note(self, reservation_id: bytes, lines: list[Line]) -> None:
        """Most reservations are about few SKUs, again and again: each list is kept once."""
        skus = tuple(line.sku for line in lines)
        if len(self._known) >= limits.BUCKET_ENTRIES_MAX:
            self._known.clear()
        self._lines.put(reservation_id, self._known.setdefault(skus, skus))
