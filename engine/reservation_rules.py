"""The rules of reservations: when a reserve, commit, release … is accepted, and what it makes.

Each rule reads, in this order: was it done before, may it be done, and, past that line, an event
that must succeed. `engine.reservation.TRANSITIONS` says which verb a state allows.

Idempotence: a reserve is named by its reservation id, other commands by what they ask for or by a
`key`. The same name with the same content (a fingerprint of the command as sent, never of the plan)
has no second effect and is answered with how things stand; with other content it is refused. A
refusal for lack of stock is not remembered.

A command expires the reservation that it touches, if that is overdue, before it does anything else,
so a commit after the deadline is refused whether or not the sweep has come by.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine import limits
from engine import reservation as holds
from engine.batch import Batch, fingerprint, invalid, is_id
from engine.listing import ByText, Listings
from engine.messages import (
    Answer,
    Buried,
    Cancel,
    Cancelled,
    Commit,
    Committed,
    Expired,
    Extend,
    Extended,
    Find,
    GetReservation,
    Homes,
    Line,
    LineRequest,
    LinesMoved,
    ListReservations,
    MoveLines,
    Part,
    Policy,
    Release,
    Released,
    ReservationPage,
    ReservationView,
    Reserve,
    Reserved,
    Restock,
    Restocked,
    Ship,
    Shipped,
    Shortage,
    ShortLine,
    State,
    Status,
    UnitsMoved,
)
from engine.reservation import Reservation, Units
from engine.stock import SkuStock, Sourcing

_PLAIN_MAX: Final = 10_000
_OK: Final = Status.OK
_MEMORY_FULL: Final = Status.MEMORY_FULL
_RESERVED: Final = State.RESERVED
_UNKNOWN: Final = Answer(Status.UNKNOWN_RESERVATION)
_TOO_WIDE: Final = invalid(
    f"the units would sit at over {limits.PARTS_MAX} places, or move so often"
)
_encode: Final = msgspec.msgpack.Encoder().encode


class ReservationRules:
    """Commands about reservations, decided against the open batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._state = batch.state
        self._listings: Listings[bytes] = Listings(ByText[bytes](self._state.reservations))
        self.plain: set[str] = set()
        """Channels that are known to have no policy; a cache, bounded."""

    def handlers(self) -> dict[type[Any], Callable[[Any], Answer]]:
        """Command → the rule that decides it."""
        return {
            Reserve: self._reserve,
            Commit: self._commit,
            Release: self._release,
            Extend: self._extend,
            Ship: self._ship,
            Cancel: self._cancel,
            Restock: self._restock,
            MoveLines: self._move_lines,
            GetReservation: self._get_reservation,
            ListReservations: self._list_reservations,
            Find: self._find,
        }

    def forget_channel(self, channel: str) -> None:
        """The channel has a policy from now on."""
        self.plain.discard(channel)

    def knows(self, reservation_id: str, scope: str | None) -> bool:
        """Whether the reservation is remembered here and visible in `scope`."""
        found = self._state.reservation(reservation_id)
        if found is None or holds.is_tombstone(found):
            return False
        return scope in (None, found.channel)

    def _reserve(self, command: Reserve) -> Answer:
        state = self._state
        name = command.reservation_id
        channel, ttl_seconds, requests = command.channel, command.ttl_seconds, command.lines
        mark = fingerprint((channel, ttl_seconds, command.policy, requests))  # so in the lane
        if state.reservations.get(name.encode()) is not None:
            found = self._current(name)
            if found is not None:
                return self._reserve_again(name, found, mark)
        elif not is_id(name):
            return invalid("reservation_id is not an id")
        if self._batch.is_full():
            return self._misplaced(requests) or Answer(_MEMORY_FULL)
        line = None
        if len(requests) == 1 and (channel is None or channel in self.plain):
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
        self._batch.events.append(event)
        if deadline < state.grace_until:
            deadline = state.grace_until
        views = [holds.line_view(line) for line in lines]
        return Answer(
            _OK, ReservationView(name, self._batch.number, _RESERVED, channel, deadline, views)
        )

    def _reserve_again(self, name: str, found: Reservation, mark: bytes) -> Answer:
        if holds.is_tombstone(found):
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
        if channel is not None and not self._batch.is_id(channel):
            return invalid("channel is not an id")
        policy = self._state.channels.get(channel) if channel is not None else None
        requests = command.lines
        if policy is None and channel is not None and len(self.plain) < _PLAIN_MAX:
            self.plain.add(channel)
        stocks: dict[str, SkuStock] = {}
        for request in requests:
            stock = self._state.skus.get(request.sku)
            if stock is not None:
                stocks[request.sku] = stock
            elif (misplaced := self._misplaced(requests)) is not None:
                return misplaced
        if policy is not None and policy.locations is not None:
            for request in requests:
                if request.location is not None and request.location not in policy.locations:
                    return Answer(Status.LOCATION_NOT_SERVED)
        sourcing = Sourcing(stocks, policy)
        lines = sourcing.source(requests, command.policy)
        if not lines or (sourcing.short and command.policy is Policy.ALL):
            return Answer(Status.INSUFFICIENT_STOCK, Shortage(sourcing.short))
        if holds.width(lines) > limits.PARTS_MAX:
            return _TOO_WIDE
        return lines

    def _misplaced(self, requests: list[LineRequest]) -> Answer | None:
        """Why the lines cannot be reserved together here, if they cannot."""
        away = {
            request.sku: answer
            for request in requests
            if self._state.skus.get(request.sku) is None
            and (answer := self._batch.elsewhere(request.sku)) is not None
        }
        if not away:
            return None
        home = away.get(min((request.sku for request in requests), key=str.encode))
        if home is not None and (home.status is not Status.INVALID or self._batch.is_dedicated):
            return home
        return Answer(Status.LINES_SPAN_SHARDS)

    def _source_simply(self, request: LineRequest) -> Line | None:
        """The common case: one line of a SKU without pools, one location covers it, none is short.

        None: it is not that case, or there is not enough; `Sourcing` sees to it.
        """
        stock = self._state.skus.get(request.sku)
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
        self._batch.do(Committed(command.reservation_id, kept))
        return self._now(command.reservation_id)

    def _commit_late(self, command: Commit, found: Reservation) -> Answer:
        """The reservation has expired: take its units anew, if they are there."""
        units = holds.select(found.lines, command.lines)
        if units is None:
            return Answer(Status.UNKNOWN_LINE)
        lines = self._source_where_they_were(found, units)
        if isinstance(lines, Answer):
            lines = self._source_anywhere(found, units)
        if isinstance(lines, Answer):
            return lines
        name = command.reservation_id
        self._batch.do(Reserved(name, found.fingerprint, found.channel, self._state.now, lines))
        self._batch.do(Committed(name))
        return self._now(name)

    def _source_where_they_were(
        self, found: Reservation, units: list[Units]
    ) -> list[Line] | Answer:
        requests = [
            LineRequest(found.lines[each.line].sku, each.quantity, each.part.location)
            for each in units
        ]
        parts = self._source(Reserve("", requests, found.channel))
        if isinstance(parts, Answer):
            return parts
        lines: dict[int, Line] = {}
        for each, part in zip(units, parts, strict=True):
            line = lines.setdefault(each.line, Line(part.sku, [], []))
            line.parts += part.parts
            line.draws = holds.add_draws(line.draws, part.draws)
        return list(lines.values())

    def _source_anywhere(self, found: Reservation, units: list[Units]) -> list[Line] | Answer:
        quantities: dict[int, int] = {}
        for each in units:
            quantities[each.line] = quantities.get(each.line, 0) + each.quantity
        requests = [LineRequest(found.lines[line].sku, units) for line, units in quantities.items()]
        return self._source(Reserve("", requests, found.channel))

    def _release(self, command: Release) -> Answer:
        found = self._visible(command)
        name = command.reservation_id
        if found is None:
            if command.bury and self._state.reservation(name) is None:
                return self._bury(name)
            return _UNKNOWN
        refusal = self._refusal(name, found, holds.RELEASE)
        if refusal is not None:
            return refusal
        self._batch.do(Released(name))
        return self._now(name)

    def _bury(self, name: str) -> Answer:
        if not is_id(name):
            return invalid("reservation_id is not an id")
        if self._batch.is_full():
            return Answer(Status.MEMORY_FULL)
        self._batch.do(Buried(name))
        return _UNKNOWN

    def _extend(self, command: Extend) -> Answer:
        found = self._visible(command)
        if found is None:
            return _UNKNOWN
        name = command.reservation_id
        refusal = self._refusal(name, found, holds.EXTEND)
        if refusal is not None:
            return refusal
        deadline = self._state.now + command.ttl_seconds * limits.SECOND_US
        if deadline <= self._state.deadline(found):
            return Answer(Status.REPLAYED, self._view(name, found))
        self._batch.do(Extended(name, deadline))
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
            stock = self._state.skus.get(sku)
            assert stock is not None
            if stock.locations[location].on_hand < quantity:
                return Answer(Status.PHYSICAL_SHORTFALL)
        self._batch.do(Shipped(command.reservation_id, units, command.key, self._mark(command)))
        return self._now(command.reservation_id)

    def _cancel(self, command: Cancel) -> Answer:
        _, units = self._units(command, holds.CANCEL)
        if isinstance(units, Answer):
            return units
        self._batch.do(Cancelled(command.reservation_id, units, command.key, self._mark(command)))
        return self._now(command.reservation_id)

    def _restock(self, command: Restock) -> Answer:
        found, units = self._units(command, holds.RESTOCK)
        if isinstance(units, Answer):
            return units
        coming: dict[str, dict[str, int]] = {}
        for moved in units:
            more = coming.setdefault(found.lines[moved.line].sku, {})
            place = moved.to_location or moved.location
            more[place] = more.get(place, 0) + moved.quantity
        for sku, more in coming.items():
            stock = self._state.skus.get(sku)
            assert stock is not None
            refusal = self._batch.room(stock, more)
            if refusal is not None:
                return refusal
        self._batch.do(Restocked(command.reservation_id, units, command.key, self._mark(command)))
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
                return invalid("a move from a location to itself")
            stock = self._state.skus.get(move.sku)
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
        if max(len(units), holds.width(lines)) > limits.PARTS_MAX:
            return _TOO_WIDE
        self._batch.do(LinesMoved(name, units, command.key, self._mark(command)))
        return self._now(name)

    def _get_reservation(self, command: GetReservation) -> Answer:
        found = self._visible(command)
        if found is None:
            return _UNKNOWN
        return Answer(Status.OK, self._view(command.reservation_id, found))

    def _list_reservations(self, command: ListReservations) -> Answer:
        def show(name: str, _: bytes) -> ReservationView | None:
            found = self._current(name)
            if found is None or not self._is_listed(found, command):
                return None
            return self._view(name, found)

        after, now = command.after or "", self._state.now
        rows, following = self._listings.page(after, command.limit, now, show, _width)
        return Answer(_OK, ReservationPage(rows, following))

    def _is_listed(self, found: Reservation, command: ListReservations) -> bool:
        if holds.is_tombstone(found) or command.scope not in (None, found.channel):
            return False
        return command.state in (None, found.state)

    def _find(self, command: Find) -> Answer:
        known = self.knows(command.reservation_id, command.scope)
        return Answer(Status.OK, Homes([self._batch.number] if known else [], [self._batch.number]))

    def _current(self, name: str) -> Reservation | None:
        """The reservation; if it is overdue it expires first."""
        found = self._state.reservation(name)
        if found is None or found.state is not State.RESERVED:
            return found
        if self._state.deadline(found) > self._state.now:
            return found
        self._batch.do(Expired(name))
        return self._state.reservation(name)

    def _visible(self, command: Any) -> Reservation | None:
        """The reservation that a command is about, if its scope may see it."""
        found = self._current(command.reservation_id)
        if found is None or command.scope not in (None, found.channel):
            return None
        return None if holds.is_tombstone(found) else found

    def _refusal(self, name: str, found: Reservation, verb: str) -> Answer | None:
        """Why `verb` does nothing to the reservation as it stands; None if it may."""
        outcome = holds.outcome(found.state, verb)
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
        before = self._state.key_fingerprint(command.key)
        if before == self._mark(command):
            return Answer(Status.REPLAYED, self._view(name, found))
        if before is not None:
            return Answer(Status.IDEMPOTENCY_MISMATCH)
        return self._batch.may_use_key(command.key)

    @staticmethod
    def _mark(command: Ship | Cancel | Restock | MoveLines) -> bytes:
        if command.key is None:
            return b""
        content = command.moves if isinstance(command, MoveLines) else command.lines
        return fingerprint((type(command).__name__, command.reservation_id, content))

    def _now(self, name: str) -> Answer:
        found = self._state.reservation(name)
        assert found is not None
        return Answer(Status.OK, self._view(name, found))

    def _view(self, name: str, found: Reservation) -> ReservationView:
        return holds.view(name, found, self._batch.number, self._state.deadline(found))


_NOBODY: Final = Reservation(State.RELEASED, 0, 0, b"", None, [])


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


def _width(view: ReservationView) -> int:
    return 1 + sum(1 + len(line.locations) for line in view.lines)
