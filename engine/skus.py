"""The SKUs of a shard, by name: an open-addressed table of row numbers.

A dict of a million names costs its lookups several trips to far memory, and stops the world when
it grows. Here a lookup reads one slot, one name and one row. The table doubles when it is half
full, and moves over while it is used: a few slots for every SKU that is added, both tables asked
meanwhile. SKUs are never removed.
"""

from array import array
from collections.abc import Iterator
from typing import Final

from engine import limits
from engine.counters import Counters
from engine.stock import SkuStock

_SLOTS_MIN: Final = 16
_MOVED_PER_ADD: Final = 16
"""Slots of the table before that are moved with each SKU that is added; twice would be enough."""


class Skus:
    """name → SkuStock."""

    __slots__ = ("_before", "_moved", "counters", "size", "slots")

    def __init__(self) -> None:
        self.counters = Counters()
        self.slots = array("I", bytes(4 * _SLOTS_MIN))
        """Row numbers; a SKU's is in the slot that its hash says, or the next free one after it."""
        self._before: array[int] | None = None
        """The table half as large, until all of it has moved."""
        self._moved = 0
        self.size = 0

    @property
    def mask(self) -> int:
        """What of a hash says the slot."""
        return len(self.slots) - 1

    def row(self, sku: str) -> int:
        """The SKU's row, 0 if it is not known."""
        row = self._find(self.slots, sku)
        if not row and self._before is not None:
            row = self._find(self._before, sku)
        return row

    def get(self, sku: str) -> SkuStock | None:
        row = self.row(sku)
        return SkuStock(self.counters, row) if row else None

    def add(self, sku: str, location: str) -> SkuStock:
        """A SKU that is not known yet, and its first location."""
        row = self.counters.add(sku, location)
        self.size += 1
        self._put(row)
        if self._before is not None:
            self._move(self._before)
        elif 2 * self.size > len(self.slots):
            self._before, self._moved = self.slots, 0
            self.slots = array("I", bytes(2 * 4 * len(self.slots)))
        return SkuStock(self.counters, row)

    def values(self) -> Iterator[SkuStock]:
        """Those that are known now, oldest first."""
        return self._values(len(self.counters.names))

    def _values(self, rows: int) -> Iterator[SkuStock]:
        counters = self.counters
        for row in range(1, rows):
            if counters.names[row]:
                yield SkuStock(counters, row)

    def keys_of(self, number: int) -> list[str]:
        """Every `limits.BUCKETS`th name, from that number on."""
        return [name for name in self.counters.names[number :: limits.BUCKETS] if name]

    def _find(self, slots: "array[int]", sku: str) -> int:
        names, mask = self.counters.names, len(slots) - 1
        slot = hash(sku) & mask
        while (row := slots[slot]) and names[row] != sku:
            slot = (slot + 1) & mask
        return row

    def _put(self, row: int) -> None:
        slots = self.slots
        mask = len(slots) - 1
        slot = hash(self.counters.names[row]) & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = row

    def _move(self, before: "array[int]") -> None:
        start = self._moved
        self._moved = end = start + _MOVED_PER_ADD
        for row in before[start:end]:
            if row:
                self._put(row)
        if end >= len(before):
            self._before = None
