"""A shard decides: commands in, events and answers out, one batch at a time.

    begin(now) ── execute(command) … ── close() → the events of the batch
         │              │
         │              └─ decide (reads) → event → state.apply(event) → answer
         └─ expire what is overdue, a bounded number

A shard has one writer and no locks. Every command is decided against the state that the commands
before it in the batch have left; the caller sends no answer before the batch is journaled, and if
it cannot be journaled drops the shard and recovers it. A refusal is an answer like any other and
never ends a batch.

Idempotence: a reserve is named by its reservation id, other commands by what they ask for or by a
`key`. The same name with the same content (a fingerprint of the command as sent, never of the plan)
has no second effect and is answered with how things stand; with other content it is refused. A
refusal for lack of stock is not remembered.

A command expires the reservation that it touches, if that is overdue, before it does anything else,
so a commit after the deadline is refused whether or not the sweep has come by.
"""

import heapq
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import msgspec

from engine import channel as channels
from engine import limits
from engine import reservation as holds
from engine.audit import audit
from engine.messages import (
    Adjust,
    Adjusted,
    Answer,
    Audit,
    Body,
    Buried,
    Cancel,
    Cancelled,
    ChannelSet,
    ChannelView,
    Command,
    Commit,
    Committed,
    Count,
    Counted,
    Detail,
    Event,
    Expired,
    Extend,
    Extended,
    Find,
    GetAvailability,
    GetChannel,
    GetReservation,
    GetStock,
    Homes,
    Line,
    LineRequest,
    LinesMoved,
    ListShortfalls,
    MoveLines,
    Movement,
    Part,
    Policy,
    Receive,
    Received,
    Release,
    Released,
    ReservationView,
    Reserve,
    Reserved,
    Restock,
    Restocked,
    SetChannel,
    SetStock,
    Ship,
    Shipped,
    Shortage,
    Shortfall,
    ShortfallChanged,
    ShortfallPage,
    ShortLine,
    State,
    Status,
    StockSet,
    Transfer,
    Transferred,
    UnitsMoved,
)
from engine.placement import shard_of
from engine.reservation import TRANSITIONS, Reservation, Units
from engine.state import ShardState
from engine.stock import SkuStock, Sourcing

_ID: Final = re.compile(limits.ID_PATTERN[1:-1]).fullmatch
_encode: Final = msgspec.msgpack.Encoder().encode
_NAMES_MAX: Final = 10_000
_OK: Final = Status.OK
_MEMORY_FULL: Final = Status.MEMORY_FULL
_RESERVED: Final = State.RESERVED
_UNKNOWN: Final = Answer(Status.UNKNOWN_RESERVATION)


def fingerprint(content: object) -> bytes:
    """8 bytes of a request's content as it was sent."""
    return blake2b(_encode(content), digest_size=8).digest()


class Shard:
    """One shard: its state, and the rules by which commands become events."""

    def __init__(
        self, number: int, shards: int, remembered_max: int = limits.REMEMBERED_MAX
    ) -> None:
        self.number = number
        self.shards = shards
        self.state = ShardState()
        self.events: list[Event] = []
        """Of the open batch."""
        self._remembered_max = remembered_max
        self._soon: list[tuple[int, str]] = []
        """Deadlines of this second and the next, a heap."""
        self._plain: set[str] = set()
        """Channels that are known to have no policy; a cache, bounded."""
        self._names: set[str] = set()
        """Strings that have been seen to be ids; a cache, bounded."""
        self._handlers: dict[type[Any], Callable[[Any], Answer]] = {
            Reserve: self._reserve,
            Commit: self._commit,
            Release: self._release,
            Extend: self._extend,
            Ship: self._ship,
            Cancel: self._cancel,
            Restock: self._restock,
            MoveLines: self._move_lines,
            GetReservation: self._get_reservation,
            Find: self._find,
            Receive: self._receive,
            Adjust: self._adjust,
            Count: self._count,
            Transfer: self._transfer,
            GetStock: self._get_stock,
            SetStock: self._set_stock,
            GetAvailability: self._get_availability,
            SetChannel: self._set_channel,
            GetChannel: self._get_channel,
            ListShortfalls: self._list_shortfalls,
            Audit: self._audit,
        }

    # --- a batch ---

    def begin(self, now: int) -> None:
        """Open a batch at `now` (µs, never less than before) and expire what is overdue."""
        self.events = []
        state = self.state
        state.now = max(state.now, now)
        if self.due(state.now):
            self._sweep()

    def execute(self, command: Command) -> Answer:
        """Decide and apply one command."""
        return self._handlers[type(command)](command)

    def close(self) -> list[Event]:
        """End the batch: its events, to be journaled with the stamp that it began with."""
        if self.events:
            self.state.forget(limits.FORGET_PER_BATCH_MAX)
        return self.events

    def replay(self, stamp: int, events: list[Event]) -> None:
        """Apply the events of one journaled record."""
        self.state.now = max(self.state.now, stamp)
        for event in events:
            self.state.apply(event)
        self.state.changed_shortfalls.clear()
        self.state.forget(limits.FORGET_PER_BATCH_MAX)

    def digest(self) -> bytes:
        """16 bytes over the whole state; see `engine.state`."""
        return self.state.digest()

    def knows(self, reservation_id: str, scope: str | None) -> bool:
        """Whether the reservation is remembered here and visible in `scope`; for `Find`."""
        found = self.state.reservation(reservation_id)
        return found is not None and scope in (None, found.channel)

    def due(self, now: int) -> bool:
        """Whether a batch that begins at `now` (µs) may find something to expire."""
        soon = self._soon
        if soon and soon[0][0] <= now:
            return True
        return self.state.deadlines.due(now + limits.SECOND_US)

    def _do(self, event: Event) -> None:
        self.state.apply(event)
        self.events.append(event)
        if self.state.changed_shortfalls:
            self._make_shortfalls_known()

    def _sweep(self) -> None:
        """Expire what is overdue, earliest first, up to the bound of a batch."""
        state, soon = self.state, self._soon
        for name in state.deadlines.take(state.now + limits.SECOND_US, limits.SWEEP_PER_BATCH_MAX):
            self._await_deadline(name)
        most = limits.SWEEP_PER_BATCH_MAX
        while soon and soon[0][0] <= state.now and most:
            _, name = heapq.heappop(soon)
            packed = state.reservations.get(name)
            if packed is None or not holds.is_reserved(packed):
                continue
            if state.deadline(holds.unpack(packed)) <= state.now:
                self._do(Expired(name))
                most -= 1
            else:
                self._await_deadline(name)

    def _await_deadline(self, name: str) -> None:
        """Put a reservation where its deadline will find it, if it still has one."""
        state = self.state
        packed = state.reservations.get(name)
        if packed is None or not holds.is_reserved(packed):
            return
        deadline = state.deadline(holds.unpack(packed))
        if deadline // limits.SECOND_US <= state.now // limits.SECOND_US + 1:
            heapq.heappush(self._soon, (deadline, name))
        else:
            state.deadlines.add(deadline, name)

    def _make_shortfalls_known(self) -> None:
        changed, self.state.changed_shortfalls = self.state.changed_shortfalls, []
        for stock, name in changed:
            place = stock.locations[name]
            short = max(0, -place.available)
            if short != place.short:
                self._do(ShortfallChanged(stock.sku, name, short))

    # --- reserve ---

    def _reserve(self, command: Reserve) -> Answer:
        state = self.state
        name = command.reservation_id
        channel, ttl_seconds, requests = command.channel, command.ttl_seconds, command.lines
        mark = fingerprint((channel, ttl_seconds, command.policy, requests))
        if state.reservations.get(name) is not None:
            found = self._current(name)
            if found is not None:
                return self._reserve_again(name, found, mark)
        elif _ID(name) is None:
            return _invalid("reservation_id is not an id")
        if state.reservations.size + state.keys.size >= self._remembered_max:
            return Answer(_MEMORY_FULL)
        line = None
        if len(requests) == 1 and (channel is None or channel in self._plain):
            line = self._source_simply(requests[0])
        if line is not None:
            lines = [line]
        else:
            sourced = self._source(command)
            if isinstance(sourced, Answer):
                return sourced
            lines = sourced
        deadline = state.now + ttl_seconds * limits.SECOND_US
        event = Reserved(name, mark, channel, deadline, lines)
        state.reserved(event)
        self.events.append(event)
        if deadline < state.grace_until:
            deadline = state.grace_until
        views = [holds.line_view(line) for line in lines]
        return Answer(_OK, ReservationView(name, self.number, _RESERVED, channel, deadline, views))

    def _reserve_again(self, name: str, found: Reservation, mark: bytes) -> Answer:
        if found.state is State.RELEASED and not found.lines:
            return Answer(Status.RESERVATION_RELEASED)
        if found.fingerprint != mark:
            return Answer(Status.IDEMPOTENCY_MISMATCH)
        if found.state is State.EXPIRED:
            return Answer(Status.RESERVATION_EXPIRED, self._view(name, found))
        if found.state is State.RELEASED:
            return Answer(Status.RESERVATION_RELEASED, self._view(name, found))
        return Answer(Status.REPLAYED, self._view(name, found))

    def _source(self, command: Reserve) -> list[Line] | Answer:
        """The lines of a new reservation, or why there are none."""
        channel = command.channel
        if channel is not None and not self._is_id(channel):
            return _invalid("channel is not an id")
        policy = self.state.channels.get(channel) if channel is not None else None
        requests = command.lines
        if policy is None and channel is not None and len(self._plain) < _NAMES_MAX:
            self._plain.add(channel)
        stocks: dict[str, SkuStock] = {}
        for request in requests:
            stock = self.state.skus.get(request.sku)
            if stock is not None:
                stocks[request.sku] = stock
            elif shard_of(request.sku, self.shards) != self.number:
                return Answer(Status.LINES_SPAN_SHARDS)
        if policy is not None and policy.locations is not None:
            for request in requests:
                if request.location is not None and request.location not in policy.locations:
                    return Answer(Status.LOCATION_NOT_SERVED)
        sourcing = Sourcing(stocks, policy)
        lines = sourcing.source(requests, command.policy)
        if not lines or (sourcing.short and command.policy is Policy.ALL):
            return Answer(Status.INSUFFICIENT_STOCK, Shortage(sourcing.short))
        if sum(len(line.parts) for line in lines) > limits.PARTS_MAX:
            return _invalid(f"the lines would be taken from over {limits.PARTS_MAX} places")
        return lines

    def _source_simply(self, request: LineRequest) -> Line | None:
        """The common case: one line of a SKU without pools, one location covers it, none is short.

        None: it is not that case, or there is not enough; `Sourcing` sees to it.
        """
        stock = self.state.skus.get(request.sku)
        if stock is None or stock.pools:
            return None
        quantity, location = request.quantity, request.location
        chosen = None
        for name, place in stock.locations.items():
            free = place.on_hand - place.reserved - place.allocated - place.safety_stock
            if free < 0:
                return None
            if free >= quantity and chosen is None and (location is None or location == name):
                chosen = name
        return None if chosen is None else Line(request.sku, [Part(chosen, quantity)])

    # --- what happens to a reservation ---

    def _commit(self, command: Commit) -> Answer:
        found = self._visible(command)
        if found is None:
            return _UNKNOWN
        if found.state is State.EXPIRED and command.if_available:
            return self._commit_late(command, found)
        refusal = self._refusal(command.reservation_id, found, holds.COMMIT)
        if refusal is not None:
            return refusal
        kept = None
        if command.lines is not None:
            units = holds.select(found.lines, command.lines)
            if units is None:
                return Answer(Status.UNKNOWN_LINE)
            kept = holds.keep(found.lines, units)
        self._do(Committed(command.reservation_id, kept))
        return self._now(command.reservation_id)

    def _commit_late(self, command: Commit, found: Reservation) -> Answer:
        """The reservation has expired: take its units anew, if they are there."""
        units = holds.select(found.lines, command.lines)
        if units is None:
            return Answer(Status.UNKNOWN_LINE)
        wanted = [LineRequest(found.lines[u.line].sku, u.quantity, u.part.location) for u in units]
        lines = self._source_anew(found, wanted)
        if isinstance(lines, Answer):
            lines = self._source_anew(found, [LineRequest(w.sku, w.quantity) for w in wanted])
        if isinstance(lines, Answer):
            return lines
        name = command.reservation_id
        self._do(Reserved(name, found.fingerprint, found.channel, self.state.now, lines))
        self._do(Committed(name))
        return self._now(name)

    def _source_anew(self, found: Reservation, wanted: list[LineRequest]) -> list[Line] | Answer:
        lines = self._source(Reserve("", wanted, found.channel))
        return _joined(lines) if isinstance(lines, list) else lines

    def _release(self, command: Release) -> Answer:
        found = self._visible(command)
        name = command.reservation_id
        if found is None:
            if command.bury and self.state.reservation(name) is None:
                return self._bury(name)
            return _UNKNOWN
        refusal = self._refusal(name, found, holds.RELEASE)
        if refusal is not None:
            return refusal
        self._do(Released(name))
        return self._now(name)

    def _bury(self, name: str) -> Answer:
        if _ID(name) is None:
            return _invalid("reservation_id is not an id")
        if self.state.remembered >= self._remembered_max:
            return Answer(Status.MEMORY_FULL)
        self._do(Buried(name))
        return _UNKNOWN

    def _extend(self, command: Extend) -> Answer:
        found = self._visible(command)
        if found is None:
            return _UNKNOWN
        name = command.reservation_id
        refusal = self._refusal(name, found, holds.EXTEND)
        if refusal is not None:
            return refusal
        deadline = self.state.now + command.ttl_seconds * limits.SECOND_US
        if deadline <= self.state.deadline(found):
            return Answer(Status.REPLAYED, self._view(name, found))
        self._do(Extended(name, deadline))
        return self._now(name)

    def _ship(self, command: Ship) -> Answer:
        found, units = self._units(command, holds.SHIP)
        if isinstance(units, Answer):
            return units
        leaving: dict[tuple[str, str], int] = {}
        for moved in units:
            where = (found.lines[moved.line].sku, moved.location)
            leaving[where] = leaving.get(where, 0) + moved.quantity
        for (sku, location), quantity in leaving.items():
            stock = self.state.skus.get(sku)
            assert stock is not None
            if stock.locations[location].on_hand < quantity:
                return Answer(Status.PHYSICAL_SHORTFALL)
        self._do(Shipped(command.reservation_id, units, command.key, self._mark(command)))
        return self._now(command.reservation_id)

    def _cancel(self, command: Cancel) -> Answer:
        _, units = self._units(command, holds.CANCEL)
        if isinstance(units, Answer):
            return units
        self._do(Cancelled(command.reservation_id, units, command.key, self._mark(command)))
        return self._now(command.reservation_id)

    def _restock(self, command: Restock) -> Answer:
        found, units = self._units(command, holds.RESTOCK)
        if isinstance(units, Answer):
            return units
        for moved in units:
            stock = self.state.skus.get(found.lines[moved.line].sku)
            assert stock is not None
            refusal = self._room(stock, moved.to_location or moved.location, moved.quantity)
            if refusal is not None:
                return refusal
        self._do(Restocked(command.reservation_id, units, command.key, self._mark(command)))
        return self._now(command.reservation_id)

    def _units(
        self, command: Ship | Cancel | Restock, verb: str
    ) -> tuple[Reservation, list[UnitsMoved] | Answer]:
        """What a ship, cancel or restock moves, or the answer if that is already certain."""
        found = self._visible(command)
        if found is None:
            return _NOBODY, _UNKNOWN
        name = command.reservation_id
        done = self._done_before(command, name, found) or self._refusal(name, found, verb)
        if done is not None:
            return found, done
        if verb == holds.RESTOCK:
            units = _returning(found.lines, command.lines)
        else:
            chosen = holds.select(found.lines, command.lines)
            units = None if chosen is None else [_moved(each) for each in chosen]
        if units is None:
            return found, Answer(Status.UNKNOWN_LINE)
        if not units:
            return found, Answer(Status.REPLAYED, self._view(name, found))
        return found, units

    def _move_lines(self, command: MoveLines) -> Answer:
        found = self._visible(command)
        if found is None:
            return _UNKNOWN
        name = command.reservation_id
        done = self._done_before(command, name, found) or self._refusal(name, found, holds.MOVE)
        if done is not None:
            return done
        lines = msgspec.msgpack.decode(_encode(found.lines), type=list[Line])
        units: list[UnitsMoved] = []
        taken: dict[tuple[str, str], int] = {}
        for move in command.moves:
            if move.from_location == move.to_location:
                return _invalid("a move from a location to itself")
            stock = self.state.skus.get(move.sku)
            place = stock and stock.locations.get(move.to_location)
            free = place.available - taken.get((move.sku, move.to_location), 0) if place else 0
            if free < move.quantity:
                short = ShortLine(move.sku, move.quantity, max(0, free))
                return Answer(Status.INSUFFICIENT_STOCK, Shortage([short]))
            want = LineRequest(move.sku, move.quantity, move.from_location)
            chosen = holds.select(lines, [want])
            if chosen is None:
                return Answer(Status.UNKNOWN_LINE)
            for where, sign in ((move.to_location, 1), (move.from_location, -1)):
                spot = (move.sku, where)
                taken[spot] = taken.get(spot, 0) + sign * move.quantity
            for each in chosen:
                step = UnitsMoved(each.line, each.part.location, each.quantity, move.to_location)
                holds.move(lines[each.line], step)
                units.append(step)
        self._do(LinesMoved(name, units, command.key, self._mark(command)))
        return self._now(name)

    def _get_reservation(self, command: GetReservation) -> Answer:
        found = self._visible(command)
        if found is None:
            return _UNKNOWN
        return Answer(Status.OK, self._view(command.reservation_id, found))

    def _find(self, command: Find) -> Answer:
        known = self.knows(command.reservation_id, command.scope)
        return Answer(Status.OK, Homes([self.number] if known else [], [self.number]))

    # --- stock ---

    def _receive(self, command: Receive) -> Answer:
        return self._movement(
            command,
            command.quantity,
            lambda mark: Received(
                command.sku,
                command.location,
                command.quantity,
                command.reason,
                command.reference,
                command.unit_cost,
                command.currency,
                command.key,
                mark,
            ),
        )

    def _adjust(self, command: Adjust) -> Answer:
        if not command.quantity:
            return _invalid("an adjustment by 0")
        return self._movement(
            command,
            command.quantity,
            lambda mark: Adjusted(
                command.sku,
                command.location,
                command.quantity,
                command.reason,
                command.reference,
                command.key,
                mark,
            ),
        )

    def _count(self, command: Count) -> Answer:
        stock = self.state.skus.get(command.sku)
        place = stock and stock.locations.get(command.location)
        on_hand = place.on_hand if place else 0
        physical_version = stock.physical_version if stock else 0
        stale = command.expected_on_hand not in (None, on_hand)
        stale = stale or command.physical_version not in (None, physical_version)
        return self._movement(
            command,
            command.quantity - on_hand,
            lambda mark: Counted(
                command.sku,
                command.location,
                command.quantity,
                command.reason,
                command.reference,
                command.key,
                mark,
            ),
            Answer(Status.STALE_COUNT) if stale else None,
        )

    def _transfer(self, command: Transfer) -> Answer:
        if command.location == command.to_location:
            return _invalid("a transfer from a location to itself")
        stock = self.state.skus.get(command.sku)
        place = stock and stock.locations.get(command.location)
        refusal = None
        if stock is None:
            refusal = Answer(Status.UNKNOWN_SKU)
        elif place is None:
            refusal = Answer(Status.UNKNOWN_LOCATION)
        elif place.available < command.quantity:
            short = ShortLine(command.sku, command.quantity, max(0, place.available))
            refusal = Answer(Status.INSUFFICIENT_STOCK, Shortage([short]))
        else:
            refusal = self._room(stock, command.to_location, command.quantity)
        return self._movement(
            command,
            -command.quantity,
            lambda mark: Transferred(
                command.sku,
                command.location,
                command.to_location,
                command.quantity,
                command.reason,
                command.reference,
                command.key,
                mark,
            ),
            refusal,
        )

    def _movement(
        self,
        command: Movement,
        change: int,
        event: Callable[[bytes], Event],
        refusal: Answer | None = None,
    ) -> Answer:
        """One movement that adds `change` units at its location, unless `refusal` or a rule says
        otherwise; a repetition of an earlier one is answered before that."""
        mark = command.fingerprint
        if command.key is not None:
            mark = mark or fingerprint((type(command).__name__, command))
            before = self.state.key_fingerprint(command.key)
            if before is not None and before != mark:
                return Answer(Status.IDEMPOTENCY_MISMATCH)
            if before is not None:
                return self._moved_now(command, Status.REPLAYED)
            if not self._is_id(command.key):
                return _invalid("key is not an id")
            if self.state.remembered >= self._remembered_max:
                return Answer(Status.MEMORY_FULL)
        refusal = refusal or self._may_move(command, change)
        if refusal is not None:
            return refusal
        self._do(event(mark))
        return self._moved_now(command, Status.OK)

    def _may_move(self, command: Movement, change: int) -> Answer | None:
        stock = self.state.skus.get(command.sku)
        if stock is None:
            if not self._is_id(command.sku):
                return _invalid("sku is not an id")
            if shard_of(command.sku, self.shards) != self.number:
                return _invalid(f"the SKU is not of shard {self.number}")
            stock = SkuStock(command.sku)
        place = stock.locations.get(command.location)
        if (place.on_hand if place else 0) + change < 0:
            return Answer(Status.PHYSICAL_SHORTFALL)
        return self._room(stock, command.location, max(0, change))

    def _room(self, stock: SkuStock, location: str, quantity: int) -> Answer | None:
        """Why `quantity` units cannot be put at `location`, if they cannot."""
        place = stock.locations.get(location)
        if place is None:
            if not self._is_id(location):
                return _invalid("location is not an id")
            if len(stock.locations) >= limits.LOCATIONS_MAX:
                return _invalid(f"the SKU has {limits.LOCATIONS_MAX} locations already")
        if (place.on_hand if place else 0) + quantity > limits.QUANTITY_MAX:
            return Answer(Status.QUANTITY_OVERFLOW)
        return None

    def _moved_now(self, command: Movement, status: Status) -> Answer:
        stock = self.state.skus.get(command.sku)
        if stock is None or command.location not in stock.locations:
            return Answer(status)
        return Answer(status, stock.movement_view(command.location))

    def _get_stock(self, command: GetStock) -> Answer:
        stock = self.state.skus.get(command.sku)
        if stock is None:
            return Answer(Status.UNKNOWN_SKU)
        return Answer(Status.OK, stock.view())

    def _set_stock(self, command: SetStock) -> Answer:
        stock = self.state.skus.get(command.sku)
        if stock is None:
            return Answer(Status.UNKNOWN_SKU)
        if any(name not in stock.locations for name in command.safety_stock):
            return Answer(Status.UNKNOWN_LOCATION)
        if not all(map(self._is_id, command.pools)):
            return _invalid("the name of a pool is not an id")
        if len(stock.pools.keys() | command.pools.keys()) > limits.POOLS_MAX:
            return _invalid(f"a SKU has at most {limits.POOLS_MAX} pools")
        places = stock.locations
        same = all(places[name].safety_stock == n for name, n in command.safety_stock.items())
        same = same and all(stock.pools.get(name) == n for name, n in command.pools.items())
        if not same:
            self._do(StockSet(command.sku, command.safety_stock, command.pools))
        return Answer(Status.OK, stock.view())

    def _get_availability(self, command: GetAvailability) -> Answer:
        stock = self.state.skus.get(command.sku)
        if stock is None:
            return Answer(Status.UNKNOWN_SKU)
        name = command.channel
        policy = self.state.channels.get(name) if name is not None else None
        waterfall = stock.waterfall(policy)
        return Answer(Status.OK, channels.view(command.sku, name, stock.version, waterfall))

    # --- channels, shortfalls, audit ---

    def _set_channel(self, command: SetChannel) -> Answer:
        policy = command.policy
        names = [command.channel, *(policy.locations or []), *policy.pools]
        if not all(map(self._is_id, names)):
            return _invalid("the name of a channel, location or pool is not an id")
        known = self.state.channels
        if command.channel not in known and len(known) >= limits.CHANNELS_MAX:
            return _invalid(f"there are {limits.CHANNELS_MAX} channels already")
        if known.get(command.channel) != policy:
            self._plain.discard(command.channel)
            self._do(ChannelSet(command.channel, policy))
        return Answer(Status.OK, ChannelView(command.channel, policy))

    def _get_channel(self, command: GetChannel) -> Answer:
        policy = self.state.channels.get(command.channel)
        if policy is None:
            return Answer(Status.UNKNOWN_CHANNEL)
        return Answer(Status.OK, ChannelView(command.channel, policy))

    def _list_shortfalls(self, command: ListShortfalls) -> Answer:
        after = command.after or ("", "")
        spots = sorted(spot for spot in self.state.shortfalls if spot > after)
        page = [Shortfall(*spot, self.state.shortfalls[spot]) for spot in spots[: command.limit]]
        return Answer(Status.OK, ShortfallPage(page))

    def _audit(self, command: Audit) -> Answer:
        return Answer(Status.OK, audit(self.state, self.number))

    # --- parts of the above ---

    def _current(self, name: str) -> Reservation | None:
        """The reservation; if it is overdue it expires first."""
        found = self.state.reservation(name)
        if found is None or found.state is not State.RESERVED:
            return found
        if self.state.deadline(found) > self.state.now:
            return found
        self._do(Expired(name))
        return self.state.reservation(name)

    def _visible(self, command: Any) -> Reservation | None:
        """The reservation that a command is about, if its scope may see it."""
        found = self._current(command.reservation_id)
        if found is None or command.scope not in (None, found.channel):
            return None
        return found

    def _refusal(self, name: str, found: Reservation, verb: str) -> Answer | None:
        """Why `verb` does nothing to the reservation as it stands; None if it may."""
        outcome = TRANSITIONS[found.state, verb]
        if isinstance(outcome, State):
            return None
        if outcome is Status.REPLAYED:
            return Answer(outcome, self._view(name, found))
        return Answer(outcome)

    def _done_before(
        self, command: Ship | Cancel | Restock | MoveLines, name: str, found: Reservation
    ) -> Answer | None:
        """The answer, if the command's key was used before or cannot be remembered."""
        if command.key is None:
            return None
        before = self.state.key_fingerprint(command.key)
        if before == self._mark(command):
            return Answer(Status.REPLAYED, self._view(name, found))
        if before is not None:
            return Answer(Status.IDEMPOTENCY_MISMATCH)
        if not self._is_id(command.key):
            return _invalid("key is not an id")
        if self.state.remembered >= self._remembered_max:
            return Answer(Status.MEMORY_FULL)
        return None

    @staticmethod
    def _mark(command: Ship | Cancel | Restock | MoveLines) -> bytes:
        if command.key is None:
            return b""
        content = command.moves if isinstance(command, MoveLines) else command.lines
        return fingerprint((type(command).__name__, command.reservation_id, content))

    def _now(self, name: str) -> Answer:
        found = self.state.reservation(name)
        assert found is not None
        return Answer(Status.OK, self._view(name, found))

    def _view(self, name: str, found: Reservation) -> Body:
        return holds.view(name, found, self.number, self.state.deadline(found))

    def _is_id(self, name: str) -> bool:
        if name in self._names:
            return True
        if _ID(name) is None:
            return False
        if len(self._names) >= _NAMES_MAX:
            self._names.clear()
        self._names.add(name)
        return True


_NOBODY: Final = Reservation(State.RELEASED, 0, 0, b"", None, [])


def _invalid(message: str) -> Answer:
    return Answer(Status.INVALID, Detail(message))


def _moved(units: Units) -> UnitsMoved:
    return UnitsMoved(units.line, units.part.location, units.quantity)


def _returning(lines: list[Line], wanted: list[LineRequest] | None) -> list[UnitsMoved] | None:
    """The shipped units that come back, each to the location that its line names, if any."""
    if wanted is None:
        chosen = holds.select(lines, None, shipped=True)
        return [_moved(units) for units in chosen or []]
    copy = msgspec.msgpack.decode(_encode(lines), type=list[Line])
    result = []
    for want in wanted:
        chosen = holds.select(copy, [want], shipped=True, at=False)
        if chosen is None:
            return None
        for units in chosen:
            units.part.restocked += units.quantity
            back = want.location or units.part.location
            result.append(UnitsMoved(units.line, units.part.location, units.quantity, back))
    return result


def _joined(lines: list[Line]) -> list[Line]:
    """Lines of the same SKU as one: a late commit asks for each part by itself."""
    joined: dict[str, Line] = {}
    for line in lines:
        into = joined.setdefault(line.sku, Line(line.sku, [], []))
        into.parts += line.parts
        into.draws += line.draws
    return list(joined.values())
