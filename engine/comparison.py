"""Two states of one shard that ought to be one, and what they disagree about, entry by entry.

One is what memory holds, the other what the journal says, replayed from somewhere else. Whether
they are equal, their digests say; this says where they are not, in words that name the SKU, the
location or the reservation, and both values. `balancing` holds memory's on_hand against the sums of
the movements themselves (`engine.ledger`), which `apply` has no part in.

Neither state may change meanwhile.
"""

from typing import Any, Final

from engine import reservation as holds
from engine.audit import Findings
from engine.ledger import Ledger
from engine.messages import State
from engine.slices import Slices, sliced
from engine.state import ShardState, pack_sku
from engine.stock import SkuStock

_COUNTERS: Final = ("on_hand", "reserved", "allocated", "safety_stock", "short")
_TEXT_CHARS_MAX: Final = 120
"""Of a value in words."""


def balancing(memory: ShardState, ledger: Ledger, findings: Findings) -> Slices[None]:
    """Every on_hand against the sum of its movements."""
    for each in ledger.strange:
        findings.add(each)
    left = set(ledger.on_hand)

    def look(stock: SkuStock) -> None:
        for name, place in stock.locations.items():
            left.discard((stock.sku, name))
            units = ledger.on_hand.get((stock.sku, name), 0)
            if units != place.on_hand:
                findings.add(
                    f"{stock.sku} at {name}: on_hand {place.on_hand}, its movements say {units}"
                )

    yield from sliced(memory.skus.values(), look)
    for sku, name in sorted(left):
        if units := ledger.on_hand[sku, name]:
            findings.add(f"{sku} at {name}: unknown, its movements say {units} on_hand")


def comparing(memory: ShardState, journal: ShardState, findings: Findings) -> Slices[None]:
    """Every setting, SKU, reservation and key of both."""
    ours, theirs = memory.settings(), journal.settings()
    for name in ours.__struct_fields__:
        _compare_values(name, getattr(ours, name), getattr(theirs, name), findings)
    known, said = memory.dedications, journal.dedications
    for name in known.__struct_fields__:
        _compare_values(name, getattr(known, name), getattr(said, name), findings)
    for mine, other, where in (
        (memory, journal, "in memory"),
        (journal, memory, "in the journal"),
    ):
        look = _Look(mine, other, where, findings)
        yield from sliced(mine.skus.values(), look.at_sku)
        yield from sliced(mine.reservations.items(), look.at_reservation)
        yield from sliced(mine.keys.items(), look.at_key)


class _Look:
    """From one of the two states at the other; what both have is compared from memory's side."""

    def __init__(self, mine: ShardState, other: ShardState, where: str, findings: Findings) -> None:
        self._mine = mine
        self._other = other
        self._only = f"only {where}"
        self._is_memory = where == "in memory"
        self._findings = findings

    def at_sku(self, stock: SkuStock) -> None:
        found = self._other.skus.get(stock.sku)
        if found is None:
            self._findings.add(f"{stock.sku}: {self._only}")
        elif self._is_memory and pack_sku(stock) != pack_sku(found):
            _compare_stock(stock, found, self._findings)

    def at_reservation(self, entry: tuple[bytes, bytes]) -> None:
        name, packed = entry
        if self._mine.is_forgotten(packed, self._mine.now):
            return
        found = self._other.reservations.get(name)
        if found is None or self._other.is_forgotten(found, self._other.now):
            self._findings.add(f"reservation {name.decode()}: {self._only}")
        elif self._is_memory and packed != found:
            _compare_reservation(name.decode(), packed, found, self._findings)

    def at_key(self, entry: tuple[bytes, bytes]) -> None:
        key, packed = entry
        if self._mine.is_key_forgotten(packed, self._mine.now):
            return
        found = self._other.keys.get(key)
        if found is None or self._other.is_key_forgotten(found, self._other.now):
            self._findings.add(f"key {key.decode()}: {self._only}")
        elif self._is_memory and packed != found:
            self._findings.add(f"key {key.decode()}: another request in memory than in the journal")


def _compare_values(what: str, ours: object, theirs: object, findings: Findings) -> None:
    if ours != theirs:
        findings.add(f"{what}: {_text(ours)} in memory, {_text(theirs)} by the journal")


def _text(value: object) -> str:
    text = value.name.lower() if isinstance(value, State) else str(value)
    return text if len(text) <= _TEXT_CHARS_MAX else f"{text[:_TEXT_CHARS_MAX]}…"


def _compare_stock(ours: SkuStock, theirs: SkuStock, findings: Findings) -> None:
    sku, before = ours.sku, findings.count
    for name in ("version", "physical_version", "pools"):
        _compare_values(f"{sku}: {name}", getattr(ours, name), getattr(theirs, name), findings)
    for name in sorted(ours.locations.keys() | theirs.locations.keys()):
        place, other = ours.locations.get(name), theirs.locations.get(name)
        if place is None or other is None:
            where = "in memory" if other is None else "in the journal"
            findings.add(f"{sku} at {name}: only {where}")
            continue
        for counter in _COUNTERS:
            what = f"{sku} at {name}: {counter}"
            _compare_values(what, getattr(place, counter), getattr(other, counter), findings)
    if findings.count == before:
        _compare_values(f"{sku}: locations", [*ours.locations], [*theirs.locations], findings)


def _compare_reservation(name: str, packed: bytes, other: bytes, findings: Findings) -> None:
    ours: Any = holds.unpack(packed)
    theirs: Any = holds.unpack(other)
    for field in ours.__struct_fields__:
        what = f"reservation {name}: {field}"
        _compare_values(what, getattr(ours, field), getattr(theirs, field), findings)
