"""All that a shard knows, and `apply`: the only thing that changes it.

The living shard and its recovery run the same `apply` over the same events, so what is recovered is
what was lived; `digest` proves it. `apply` trusts the event (deciding is `engine.shard`'s) but
checks its own effect: a counter that would go below zero is a bug, and stops the shard by an
InvariantError rather than sell what is not there.

Time comes with the events: `now` is the stamp of the record they are in. What is remembered for a
window only (finished reservations, keys of movements) is forgotten by that time too: whoever looks
a thing up treats it as gone from the moment its window ends, and `forget` frees the memory later,
a bounded number at a time.

A deadline that falls before `grace_until`, which every new ownership sets, counts as that: while
nobody answered, nobody could commit.
"""

import struct
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Annotated, Any, Final

import msgspec

from engine import limits
from engine import reservation as holds
from engine.dedications import Dedications, unpack_dedications
from engine.maps import BucketMap, TimeBuckets
from engine.messages import (
    Adjusted,
    Bound,
    Buried,
    Cancelled,
    ChannelPolicy,
    ChannelSet,
    Claimed,
    Committed,
    Counted,
    Dedicated,
    Draw,
    Event,
    Exact,
    Expired,
    Extended,
    Genesis,
    HandedOff,
    Line,
    LinesMoved,
    Opened,
    Passed,
    Received,
    Released,
    Reserved,
    Restocked,
    Settled,
    Shipped,
    ShortfallChanged,
    SnapshotBegun,
    SnapshotTaken,
    State,
    StockSet,
    Transferred,
    Unbound,
)
from engine.reservation import Reservation
from engine.skus import Skus
from engine.slices import Slices, drained
from engine.stock import LocationStock, SkuStock

_RESERVED: Final = State.RESERVED
_KEY: Final = struct.Struct(">Q8s")
"""A remembered key: when it was used, and the fingerprint of the request."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_sku: Final = msgspec.msgpack.Decoder(
    tuple[
        str,
        int,
        int,
        Annotated[list[tuple[str, int, int, int, int, int]], msgspec.Meta(min_length=1)],
        list[tuple[str, int]],
    ]
).decode


class InvariantError(Exception):
    """An event would break a rule of the stock machine: a bug. The shard must stop."""


class Settings(Exact):
    """What was settled at genesis and at the last opening, and the channels."""

    cluster_id: str
    shards: int
    hash: str
    grace_until: int
    finished_window_us: int
    returns_window_us: int
    keys_window_us: int
    channels: dict[str, ChannelPolicy]


class ShardState:
    """The memory of one shard."""

    def __init__(self) -> None:
        self.now = 0
        self.skus = Skus()
        self.channels: dict[str, ChannelPolicy] = {}
        self.reservations: BucketMap[bytes] = BucketMap()
        self.keys: BucketMap[bytes] = BucketMap()
        self.deadlines = TimeBuckets()
        self.windows_end = TimeBuckets()
        """Finished reservations by the end of their window."""
        self.keys_end = TimeBuckets()
        self.shortfalls: dict[tuple[str, str], int] = {}
        self.changed_shortfalls: list[tuple[SkuStock, str]] = []
        """Locations whose shortfall is not what was last made known."""
        self.counts = [0] * (max(State) + 1)
        """Reservations in memory, by state. A list: hashing a member of an enumeration is slow."""
        self.cluster_id = ""
        self.shards = 0
        self.hash = ""
        self.dedications = Dedications()
        self.grace_until = 0
        self.finished_window_us = limits.FINISHED_WINDOW_US
        self.returns_window_us = limits.RETURNS_WINDOW_US
        self.keys_window_us = limits.KEYS_WINDOW_US
        self.copying = 0
        """The number of the newest copy for a snapshot, finished or not; see `engine.snapshot`."""
        self.copies: list[bytes] = []
        """SKUs that changed before that snapshot came to them, as they were."""
        self._apply: dict[type[Any], Callable[[Any], None]] = {
            Reserved: self.reserved,
            Committed: self._committed,
            Released: self._released,
            Expired: self._expired,
            Extended: self._extended,
            Shipped: self._shipped,
            Cancelled: self._cancelled,
            Restocked: self._restocked,
            LinesMoved: self._lines_moved,
            Buried: self._buried,
            Received: self._received,
            Adjusted: self._adjusted,
            Counted: self._counted,
            Transferred: self._transferred,
            StockSet: self._stock_set,
            ShortfallChanged: self._shortfall_changed,
            ChannelSet: self._channel_set,
            Genesis: self._genesis,
            Claimed: self._nothing,
            Opened: self._opened,
            SnapshotTaken: self._nothing,
            Passed: self._nothing,
            HandedOff: self._nothing,
            SnapshotBegun: self._nothing,
            Bound: self._dedication,
            Unbound: self._dedication,
            Settled: self._dedication,
            Dedicated: self._dedication,
        }

    def apply(self, event: Event) -> None:
        """Change the state by one event of the record stamped `now`."""
        self._apply[type(event)](event)

    def seal(self) -> None:
        """Nothing is applied any more: the state is free as soon as nobody holds it, and not only
        when the collector comes by, which for a large one is too late."""
        self._apply.clear()

    # --- reading ---

    def reservation(self, reservation_id: str) -> Reservation | None:
        """The reservation, unless it is unknown or its window has ended."""
        packed = self.reservations.get(reservation_id.encode())
        if packed is None:
            return None
        found = holds.unpack(packed)
        if found.finished_at and self.window_end(found) <= self.now:
            return None
        return found

    def deadline(self, reservation: Reservation) -> int:
        """When the reservation expires, grace included."""
        if reservation.state is State.RESERVED and reservation.expires_at < self.grace_until:
            return self.grace_until
        return reservation.expires_at

    def window_end(self, reservation: Reservation) -> int:
        """Until when a finished reservation is remembered."""
        if reservation.state is State.COMMITTED and holds.was_shipped(reservation):
            return reservation.finished_at + self.returns_window_us
        return reservation.finished_at + self.finished_window_us

    @property
    def window_from_now(self) -> int:
        """Until when is remembered what finishes now."""
        return self.now + self.finished_window_us

    def key_fingerprint(self, key: str) -> bytes | None:
        """The fingerprint of the request that used `key`, unless its window has ended."""
        packed = self.keys.get(key.encode())
        if packed is None:
            return None
        used_at, fingerprint = _KEY.unpack(packed)
        if used_at + self.keys_window_us <= self.now:
            return None
        return bytes(fingerprint)

    @property
    def remembered(self) -> int:
        """Entries in memory that are bounded by `limits.REMEMBERED_MAX`."""
        return self.reservations.size + self.keys.size

    def digest(self) -> bytes:
        """16 bytes that two states share only if they would answer alike; any order of entries."""
        return drained(self.digesting())

    def digesting(self) -> Slices[bytes]:
        """The same in slices. The state must not change meanwhile."""
        total = hash_entry(b"head", b"", _encode(self.settings()))
        for number, summand in enumerate(self._summands(), 1):
            total += summand
            if number % limits.AUDIT_SLICE_ENTRIES == 0:
                yield limits.AUDIT_SLICE_ENTRIES
        return digest_of(total)

    def _summands(self) -> Iterator[int]:
        """Of the digest, entry by entry."""
        if (dedications := self.dedications.pack()) is not None:
            yield hash_entry(b"dedications", b"", dedications)
        for name, packed in self.reservations.items():
            if not self.is_forgotten(packed, self.now):
                yield hash_entry(b"reservation", name, packed)
        for name, packed in self.keys.items():
            if not self.is_key_forgotten(packed, self.now):
                yield hash_entry(b"key", name, packed)
        for stock in self.skus.values():
            yield hash_entry(b"sku", b"", pack_sku(stock))

    def settings(self) -> Settings:
        """What of the state is neither SKU nor reservation nor key."""
        return Settings(
            self.cluster_id,
            self.shards,
            self.hash,
            self.grace_until,
            self.finished_window_us,
            self.returns_window_us,
            self.keys_window_us,
            dict(sorted(self.channels.items())),
        )

    def restore_settings(self, settings: Settings) -> None:
        self.cluster_id = settings.cluster_id
        self.shards = settings.shards
        self.hash = settings.hash
        self.grace_until = settings.grace_until
        self.finished_window_us = settings.finished_window_us
        self.returns_window_us = settings.returns_window_us
        self.keys_window_us = settings.keys_window_us
        self.channels = settings.channels

    def is_forgotten(self, packed: bytes, now: int) -> bool:
        """Whether the window of the packed reservation has ended by `now`."""
        if holds.is_reserved(packed):
            return False
        found = holds.unpack(packed)
        return bool(found.finished_at) and self.window_end(found) <= now

    def is_key_forgotten(self, packed: bytes, now: int) -> bool:
        used_at: int = _KEY.unpack(packed)[0]
        return used_at + self.keys_window_us <= now

    # --- restoring from a snapshot ---

    def put_dedications(self, packed: bytes) -> None:
        self.dedications = unpack_dedications(packed)

    def put_sku(self, packed: bytes) -> None:
        sku, version, physical_version, places, pools = _decode_sku(packed)
        stock = self.skus.add(sku, places[0][0])
        stock.version, stock.physical_version = version, physical_version
        for name, *counters in places:
            place = self._place(stock, name)
            place.on_hand, place.reserved, place.allocated, place.safety_stock, short = counters
            if short:
                place.short = self.shortfalls[sku, name] = short
        for pool, units in pools:
            stock.set_pool(pool, units)

    def put_reservation(self, name: bytes, packed: bytes) -> None:
        found = holds.unpack(packed)
        self.counts[found.state] += 1
        self.reservations.put(name, packed)
        if found.state is State.RESERVED:
            self.deadlines.add(found.expires_at, name)
        elif found.finished_at:
            self.windows_end.add(self.window_end(found), name)

    def put_key(self, name: bytes, packed: bytes) -> None:
        self.keys.put(name, packed)
        self.keys_end.add(_KEY.unpack(packed)[0] + self.keys_window_us, name)

    # --- forgetting ---

    def forget(self, most: int) -> None:
        """Free the memory of up to `most` entries whose window has ended."""
        for name in self.windows_end.take(self.now, most):
            packed = self.reservations.get(name)
            found = packed and holds.unpack(packed)
            if not found or not found.finished_at:
                continue
            end = self.window_end(found)
            if end > self.now:
                self.windows_end.add(max(end, self.now + limits.SECOND_US), name)
                continue
            self.counts[found.state] -= 1
            self.reservations.remove(name)
        for key in self.keys_end.take(self.now, most):
            packed = self.keys.get(key)
            if packed is None:
                continue
            end = _KEY.unpack(packed)[0] + self.keys_window_us
            if end > self.now:
                self.keys_end.add(max(end, self.now + limits.SECOND_US), key)
            else:
                self.keys.remove(key)

    # --- reservations ---

    def reserved(self, event: Reserved) -> None:
        """`apply` of the event that matters most, open to be called without the detour."""
        name, deadline, lines = event.reservation_id.encode(), event.expires_at, event.lines
        for line in lines:
            stock = self.skus.get(line.sku)
            if stock is None or stock.copied != self.copying:
                stock = self.touch(line.sku)
            for part in line.parts:
                place = stock.place(part.location)
                place.reserved += part.quantity
                if place.on_hand < place.reserved + place.allocated + place.safety_stock:
                    raise InvariantError(f"reserved more of {line.sku} than {part.location} has")
            for draw in line.draws:
                self._drain(stock, draw)
            stock.version += 1
        if len(lines) > 1:
            self._bump_once(lines)
        held = Reservation(_RESERVED, deadline, 0, event.fingerprint, event.channel, lines)
        before = self.reservations.put(name, holds.pack(held))
        if before is not None:
            self.counts[holds.unpack(before).state] -= 1
        self.counts[_RESERVED] += 1
        self.deadlines.add(deadline, name)

    def _committed(self, event: Committed) -> None:
        found = self._held(event.reservation_id)
        if event.lines is not None:
            self._return(found.lines, event.lines)
        lines = found.lines if event.lines is None else event.lines
        for line in lines:
            stock = self.touch(line.sku)
            for part in line.parts:
                place = stock.place(part.location)
                place.reserved -= part.quantity
                place.allocated += part.quantity
                if place.reserved < 0:
                    raise InvariantError(f"reserved of {line.sku} at {part.location} below 0")
        self._bump(found.lines)
        found.lines = lines
        self._turn(event.reservation_id, found, State.COMMITTED)

    def _released(self, event: Released) -> None:
        self._let_go(event.reservation_id, State.RELEASED)

    def _expired(self, event: Expired) -> None:
        self._let_go(event.reservation_id, State.EXPIRED)

    def _let_go(self, reservation_id: str, state: State) -> None:
        found = self._held(reservation_id)
        self._return(found.lines, [])
        self._bump(found.lines)
        self._turn(reservation_id, found, state)

    def _extended(self, event: Extended) -> None:
        found = self._held(event.reservation_id)
        found.expires_at = event.expires_at
        name = event.reservation_id.encode()
        self.reservations.put(name, holds.pack(found))
        self.deadlines.add(event.expires_at, name)

    def _shipped(self, event: Shipped) -> None:
        found = self._known(event.reservation_id)
        for units in event.units:
            line = found.lines[units.line]
            stock = self.touch(line.sku)
            place = stock.place(units.location)
            place.on_hand -= units.quantity
            place.allocated -= units.quantity
            if place.on_hand < 0 or place.allocated < 0:
                raise InvariantError(
                    f"shipped more of {line.sku} at {units.location} than is there"
                )
            holds.consume(line, units.quantity)
            self._spread(line, units.location, units.quantity, "shipped")
            self._look(stock, units.location, place)
        self._bump([found.lines[units.line] for units in event.units], physical=True)
        self._settle(event.reservation_id, found)
        self._use_key(event.key, event.fingerprint)

    def _cancelled(self, event: Cancelled) -> None:
        found = self._known(event.reservation_id)
        for units in event.units:
            line = found.lines[units.line]
            stock = self.touch(line.sku)
            place = stock.place(units.location)
            place.allocated -= units.quantity
            if place.allocated < 0:
                raise InvariantError(f"allocated of {line.sku} at {units.location} below 0")
            for draw in holds.give_back(line, units.quantity):
                stock.set_pool(draw.pool, stock.pools.get(draw.pool, 0) + draw.quantity)
            self._spread(line, units.location, units.quantity, "cancelled")
            self._look(stock, units.location, place)
        self._bump([found.lines[units.line] for units in event.units])
        self._settle(event.reservation_id, found)
        self._use_key(event.key, event.fingerprint)

    def _restocked(self, event: Restocked) -> None:
        found = self._known(event.reservation_id)
        for units in event.units:
            line = found.lines[units.line]
            stock = self.touch(line.sku)
            location = units.to_location or units.location
            place = self._place(stock, location)
            place.on_hand += units.quantity
            self._spread(line, units.location, units.quantity, "restocked")
            self._look(stock, location, place)
        self._bump([found.lines[units.line] for units in event.units], physical=True)
        self.reservations.put(event.reservation_id.encode(), holds.pack(found))
        self._use_key(event.key, event.fingerprint)

    def _lines_moved(self, event: LinesMoved) -> None:
        found = self._known(event.reservation_id)
        held = found.state is State.RESERVED
        for units in event.units:
            line = found.lines[units.line]
            stock = self.touch(line.sku)
            assert units.to_location is not None
            for name, quantity in (
                (units.location, -units.quantity),
                (units.to_location, units.quantity),
            ):
                place = stock.place(name)
                if held:
                    place.reserved += quantity
                else:
                    place.allocated += quantity
                if place.reserved < 0 or place.allocated < 0:
                    raise InvariantError(f"moved more of {line.sku} at {name} than is promised")
                self._look(stock, name, place)
            holds.move(line, units)
        self._bump([found.lines[units.line] for units in event.units])
        self.reservations.put(event.reservation_id.encode(), holds.pack(found))
        self._use_key(event.key, event.fingerprint)

    def _buried(self, event: Buried) -> None:
        grave = Reservation(State.RELEASED, 0, self.now, b"", None, [])
        name = event.reservation_id.encode()
        old = self.reservations.get(name)
        if old is not None:
            self.counts[holds.unpack(old).state] -= 1
        self.counts[State.RELEASED] += 1
        self.reservations.put(name, holds.pack(grave))
        self.windows_end.add(self.window_end(grave), name)

    # --- stock ---

    def _received(self, event: Received) -> None:
        self._put_on_hand(event, event.quantity)

    def _adjusted(self, event: Adjusted) -> None:
        self._put_on_hand(event, event.quantity)

    def _counted(self, event: Counted) -> None:
        place = self._place(self.touch(event.sku, event.location), event.location)
        self._put_on_hand(event, event.quantity - place.on_hand)

    def _transferred(self, event: Transferred) -> None:
        stock = self.touch(event.sku)
        place = self._place(stock, event.to_location)
        place.on_hand += event.quantity
        self._look(stock, event.to_location, place)
        self._put_on_hand(event, -event.quantity)

    def _put_on_hand(
        self, event: Received | Adjusted | Counted | Transferred, quantity: int
    ) -> None:
        stock = self.touch(event.sku, event.location)
        place = self._place(stock, event.location)
        place.on_hand += quantity
        if place.on_hand < 0:
            raise InvariantError(f"on_hand of {event.sku} at {event.location} below 0")
        stock.version += 1
        stock.physical_version += quantity != 0
        self._look(stock, event.location, place)
        self._use_key(event.key, event.fingerprint)

    def _stock_set(self, event: StockSet) -> None:
        stock = self.touch(event.sku)
        for name, quantity in event.safety_stock.items():
            place = stock.place(name)
            place.safety_stock = quantity
            self._look(stock, name, place)
        for pool, units in event.pools.items():
            stock.set_pool(pool, units)
        stock.version += 1

    def _shortfall_changed(self, event: ShortfallChanged) -> None:
        stock = self.touch(event.sku)
        stock.place(event.location).short = event.quantity
        if event.quantity:
            self.shortfalls[event.sku, event.location] = event.quantity
        else:
            self.shortfalls.pop((event.sku, event.location), None)
        stock.version += 1

    def _channel_set(self, event: ChannelSet) -> None:
        self.channels[event.channel] = event.policy

    def _dedication(self, event: Bound | Unbound | Settled | Dedicated) -> None:
        known = self.skus.get(event.sku) is not None
        if not self.dedications.apply(event) or known:
            raise InvariantError(f"{event.sku}: {type(event).__name__} does not follow")

    # --- ownership ---

    def _genesis(self, event: Genesis) -> None:
        self.cluster_id = event.cluster_id
        self.shards = event.shards
        self.hash = event.hash

    def _opened(self, event: Opened) -> None:
        self.grace_until = max(self.grace_until, event.grace_until)
        self.finished_window_us = event.finished_window_us
        self.returns_window_us = event.returns_window_us
        self.keys_window_us = event.keys_window_us

    def _nothing(self, event: Event) -> None:
        """Claims, passes, pointers and handoffs leave the state as it is."""

    # --- parts of the above ---

    def _known(self, reservation_id: str) -> Reservation:
        packed = self.reservations.get(reservation_id.encode())
        if packed is None:
            raise InvariantError(f"an event about {reservation_id}, which is not known")
        return holds.unpack(packed)

    def _held(self, reservation_id: str) -> Reservation:
        found = self._known(reservation_id)
        if found.state is not State.RESERVED:
            raise InvariantError(f"{reservation_id} is {found.state.name}, not reserved")
        return found

    def touch(self, sku: str, location: str | None = None) -> SkuStock:
        """The SKU, about to be changed; made, with that location, if it is new."""
        stock = self.skus.get(sku)
        if stock is None:
            if location is None:
                raise InvariantError(f"an event about {sku}, which is not known")
            stock = self.skus.add(sku, location)
            stock.copied = self.copying
        elif stock.copied != self.copying:
            self.copies.append(pack_sku(stock))
            stock.copied = self.copying
        return stock

    @staticmethod
    def _place(stock: SkuStock, location: str) -> LocationStock:
        return stock.locations.get(location) or stock.add_place(location)

    def _bump(self, lines: list[Line], *, physical: bool = False) -> None:
        """One event, one version, for each SKU that it touched."""
        for sku in {line.sku for line in lines}:
            stock = self.touch(sku)
            stock.version += 1
            stock.physical_version += physical

    def _bump_once(self, lines: list[Line]) -> None:
        """Each line has bumped its SKU; an event counts once."""
        for sku in {line.sku for line in lines}:
            self.touch(sku).version -= sum(line.sku == sku for line in lines) - 1

    @staticmethod
    def _drain(stock: SkuStock, draw: Draw) -> None:
        left = stock.pools.get(draw.pool, 0) - draw.quantity
        if left < 0:
            raise InvariantError(f"pool {draw.pool} of {stock.sku} below 0")
        stock.set_pool(draw.pool, left)

    def _return(self, lines: list[Line], kept: list[Line]) -> None:
        """Free the held units of `lines`, all but `kept`."""
        for sign, some in ((1, lines), (-1, kept)):
            for line in some:
                stock = self.touch(line.sku)
                for part in line.parts:
                    place = stock.place(part.location)
                    place.reserved -= sign * part.quantity
                    if place.reserved < 0:
                        raise InvariantError(f"reserved of {line.sku} at {part.location} below 0")
                    if place.short:
                        self._look(stock, part.location, place)
                for draw in line.draws:
                    units = stock.pools.get(draw.pool, 0) + sign * draw.quantity
                    stock.set_pool(draw.pool, units)

    @staticmethod
    def _spread(line: Line, location: str, quantity: int, counter: str) -> None:
        """Count `quantity` units at `location` as shipped, cancelled or restocked."""
        room = holds.returnable if counter == "restocked" else holds.outstanding
        for part in line.parts:
            if part.location == location and quantity:
                taken = min(room(part), quantity)
                setattr(part, counter, getattr(part, counter) + taken)
                quantity -= taken
        if quantity:
            raise InvariantError(f"{counter} more of {line.sku} at {location} than the line has")

    def _settle(self, reservation_id: str, found: Reservation) -> None:
        """Remember what became of a committed reservation, and whether that was all."""
        name = reservation_id.encode()
        if not found.finished_at and holds.is_finished(found):
            found.finished_at = self.now
            self.windows_end.add(self.window_end(found), name)
        self.reservations.put(name, holds.pack(found))

    def _turn(self, reservation_id: str, found: Reservation, state: State) -> None:
        name = reservation_id.encode()
        self.counts[found.state] -= 1
        self.counts[state] += 1
        found.state = state
        if state is not State.COMMITTED:
            found.finished_at = self.now
            self.windows_end.add(self.window_end(found), name)
        self.reservations.put(name, holds.pack(found))

    def _use_key(self, key: str | None, fingerprint: bytes) -> None:
        if key is not None:
            name = key.encode()
            self.keys.put(name, _KEY.pack(self.now, fingerprint))
            self.keys_end.add(self.now + self.keys_window_us, name)

    def _look(self, stock: SkuStock, location: str, place: LocationStock) -> None:
        """Note a location whose shortfall is not what was last made known."""
        if max(0, -place.available) != place.short:
            self.changed_shortfalls.append((stock, location))


def pack_sku(stock: SkuStock) -> bytes:
    """The SKU as snapshots and digests hold it: array of sku, versions, locations, pools."""
    places = [
        (name, p.on_hand, p.reserved, p.allocated, p.safety_stock, p.short)
        for name, p in stock.locations.items()
    ]
    pools = sorted(stock.pools.items())
    return _encode((stock.sku, stock.version, stock.physical_version, places, pools))


def hash_entry(kind: bytes, name: bytes, packed: bytes) -> int:
    """One summand of the digest."""
    content = name + b"\0" + packed
    return int.from_bytes(blake2b(content, digest_size=16, person=kind).digest())


def digest_of(total: int) -> bytes:
    return (total % 2**128).to_bytes(16)
