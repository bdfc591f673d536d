"""The past of a shard: its journal replayed record by record, and what that did to one SKU.

`Replay` carries a state forward over records that prove themselves and link, from the beginning or
from a snapshot; it runs the very `apply` that lived. So the stock as of a record is what GetStock
would have answered in the batch after it, had that batch done nothing else. Nothing is evaluated
anew: a reservation whose deadline lay before that moment, but whose expiry was journaled after it,
was held, because at that moment it was.

`Movements` watch one SKU meanwhile. Every event that changes a number of it is one entry: what
happened, by whom and why, and the counters of every location that it touched before and after. So
the entries of a SKU chain: what one leaves at a location, the next one there finds. They are not
stored anywhere; the journal has all of it but the numbers, and replay has those.

    received adjusted counted transferred      whose key asked, reason, reference
    reserved committed released expired        the reservation and its channel
    shipped cancelled restocked moved          the same
    set                                        safety stock or pools were set

A commit that takes fewer units is one entry, which frees the rest as well. A late commit is two:
it reserves anew, then commits. Notices of shortfalls are no entries: they move no
unit, though they raise the SKU's version.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from engine import reservation as holds
from engine.chain import BEGINNING, Link, follow
from engine.codec import Position, Record, decode_record
from engine.messages import (
    Adjusted,
    Cancelled,
    Committed,
    Counted,
    Counters,
    Event,
    Expired,
    LedgerEntry,
    Line,
    LinesMoved,
    PlaceChange,
    PoolChange,
    Received,
    Released,
    Reserved,
    Restocked,
    Shipped,
    StockSet,
    Transferred,
)
from engine.reservation import Reservation
from engine.shard import Shard
from engine.state import ShardState
from engine.stock import SkuStock

_NOTHING: Final = Counters(0, 0, 0, 0)


class Replay:
    """A shard as it was after one record, and after the next."""

    def __init__(self, shard: Shard, link: Link = BEGINNING) -> None:
        """`shard`: as of the record that `link` is of; new, if it is of none."""
        self.shard = shard
        self.link = link

    @property
    def position(self) -> Position:
        """Of the last record that was applied."""
        return self.link.position

    @property
    def time(self) -> int:
        """The latest stamp so far: a claim may bear one that is later than its successor's."""
        return self.shard.state.now

    def prove(self, position: Position, data: bytes) -> tuple[Record, Link]:
        """The record that comes next, proven, but not yet applied. Raises CorruptRecordError."""
        number = self.shard.number
        _, link = follow(self.link, data, number, position)
        return decode_record(data, number, position), link

    def apply(self, record: Record, link: Link) -> None:
        """Go on to `record`, as `prove` gave it."""
        self.shard.replay(record.stamp, record.events)
        self.link = link


class _Effect(NamedTuple):
    """What an event is going to do to the SKU."""

    quantity: int
    locations: list[str]
    channel: str | None = None


class Movements:
    """The entries of one SKU, made while a replay goes on."""

    def __init__(self, sku: str, scope: str | None) -> None:
        """`scope`: the channel that looks on, or None for an operator. What belongs to others is
        left out: their reservations, and who moved stock and why."""
        self._sku = sku
        self._scope = scope

    def apply(self, replay: Replay, record: Record, link: Link) -> list[LedgerEntry]:
        """Go on to `record`; what it did to the SKU, in order."""
        state, entries = replay.shard.state, []
        replay.shard.replay(record.stamp, [])  # time goes on first; the events follow one by one
        for number, event in enumerate(record.events):
            effect = _effect(state, event, self._sku)
            if effect is None:
                state.apply(event)
                continue
            before = state.skus.get(self._sku)
            places = {name: _counters(before, name) for name in effect.locations}
            pools = dict(before.pools) if before is not None else {}
            state.apply(event)
            after = state.skus.get(self._sku)
            assert after is not None, "whatever has an effect on a SKU makes it known"
            entry = LedgerEntry(
                *record.position,
                number,
                state.now,
                _EFFECTS[type(event)][0],
                effect.quantity,
                after.version,
                [PlaceChange(name, was, _counters(after, name)) for name, was in places.items()],
                list(_pool_changes(pools, after.pools)),
                getattr(event, "reservation_id", None),
                effect.channel,
                getattr(event, "by", ""),
                getattr(event, "reason", ""),
                getattr(event, "reference", ""),
            )
            entries.append(self._seen(entry))
        state.changed_shortfalls.clear()
        replay.link = link
        return entries

    def _seen(self, entry: LedgerEntry) -> LedgerEntry:
        if self._scope is None or self._scope == entry.channel:
            return entry
        return msgspec.structs.replace(
            entry, reservation_id=None, channel=None, by="", reason="", reference=""
        )


def _counters(stock: SkuStock | None, location: str) -> Counters:
    place = stock and stock.locations.get(location)
    if not place:
        return _NOTHING
    return Counters(place.on_hand, place.reserved, place.allocated, place.available)


def _pool_changes(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[PoolChange]:
    for pool, units in after.items():
        was = before.get(pool, 0)
        if was != units:
            yield PoolChange(pool, was, units)


# --- what an event is about ------------------------------------------------------------------


def _effect(state: ShardState, event: Event, sku: str) -> _Effect | None:
    """What `event` is going to do to `sku`; None = nothing."""
    kind = _EFFECTS.get(type(event))
    return kind and kind[1](state, event, sku)


def _of_movement(
    state: ShardState, event: Received | Adjusted | Counted | Transferred, sku: str
) -> _Effect | None:
    if event.sku != sku:
        return None
    places = [event.location]
    if isinstance(event, Transferred):
        places.append(event.to_location)
    return _Effect(event.quantity, places)


def _of_setting(state: ShardState, event: StockSet, sku: str) -> _Effect | None:
    return _Effect(0, list(event.safety_stock)) if event.sku == sku else None


def _of_reserved(state: ShardState, event: Reserved, sku: str) -> _Effect | None:
    places, units = _places(event.lines, sku)
    return _Effect(units, places, event.channel) if places else None


def _of_held(state: ShardState, event: Committed | Released | Expired, sku: str) -> _Effect | None:
    found = _reservation(state, event.reservation_id, sku)
    if found is None:
        return None
    places, units = _places(found.lines, sku)
    if isinstance(event, Committed) and event.lines is not None:
        units = _places(event.lines, sku)[1]
    return _Effect(units, places, found.channel)


def _of_units(
    state: ShardState, event: Shipped | Cancelled | Restocked | LinesMoved, sku: str
) -> _Effect | None:
    found = _reservation(state, event.reservation_id, sku)
    if found is None:
        return None
    places, quantity = dict[str, None](), 0
    for units in event.units:
        if found.lines[units.line].sku != sku:
            continue
        quantity += units.quantity
        if not isinstance(event, Restocked) or units.to_location is None:
            places[units.location] = None
        if units.to_location is not None:
            places[units.to_location] = None
    return _Effect(quantity, list(places), found.channel) if places else None


def _reservation(state: ShardState, reservation_id: str, sku: str) -> Reservation | None:
    """The reservation, if it has a line of `sku`."""
    packed = state.reservations.get(reservation_id.encode())
    if packed is None or sku.encode() not in packed:
        return None
    found = holds.unpack(packed)
    return found if any(line.sku == sku for line in found.lines) else None


def _places(lines: list[Line], sku: str) -> tuple[list[str], int]:
    """Where the units of `sku` are, and how many there are."""
    parts = [part for line in lines if line.sku == sku for part in line.parts]
    return list(dict.fromkeys(part.location for part in parts)), sum(p.quantity for p in parts)


_EFFECTS: Final[dict[type[Any], tuple[str, Callable[[ShardState, Any, str], _Effect | None]]]] = {
    Received: ("received", _of_movement),
    Adjusted: ("adjusted", _of_movement),
    Counted: ("counted", _of_movement),
    Transferred: ("transferred", _of_movement),
    Reserved: ("reserved", _of_reserved),
    Committed: ("committed", _of_held),
    Released: ("released", _of_held),
    Expired: ("expired", _of_held),
    Shipped: ("shipped", _of_units),
    Cancelled: ("cancelled", _of_units),
    Restocked: ("restocked", _of_units),
    LinesMoved: ("moved", _of_units),
    StockSet: ("set", _of_setting),
}
"""Event → its kind, and what it does."""
KINDS: Final = tuple(kind for kind, _ in _EFFECTS.values())
