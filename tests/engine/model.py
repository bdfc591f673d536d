"""A naive model of one shard's stock machine: obviously right, and slow.

Reserved and allocated units are never stored but summed over all reservations, on_hand over the
whole ledger; a line's draws are one pool name per unit. Nothing is packed, indexed or swept in
slices, so this page is the definition that the fast engine is compared with, step by step. Where
the rules leave a choice, this is the choice.

Time. Overdue is `now >= expires_at`; every overdue reservation expires when a batch begins, the
earliest first, by name where deadlines are equal. Forgotten is `now >= finished + window`. A
reservation is finished when it is released, expired or has no allocated unit left; it stays for the
returns window if any unit was shipped, else for the finished window. Restocking does not prolong. A
deadline before the end of the grace, the longest since the shard was first opened, counts as that
while the reservation is held.

Order of checks. For a reservation: is it known within the scope; was the key used, and for this
very request; does its state allow the command; are there such units; is there room; is it there.
For a movement: is it well formed; was the key used; is the SKU, then the location, known; is there
enough; does it overflow. For a reserve: a known id first of all; then ids, shards, locations that
the channel does not serve, and stock. Refusals remember nothing, keys included. Keys of movements
and of reservations share one space per shard.

Sourcing. `free` is available per location that the channel serves, in the channel's order, negative
counted as none. Available to promise is the smaller of all `free` and of what pools allow, less the
buffer, never below 0. Pools allow all that is available (negative counted) less what is ring-fenced
for others, and no more than the own pools if the channel may not draw from common stock. Lines that
name a location are sourced first; each line takes what it can get of what the lines before it left:
a single location that covers it, the first such in order; else the fullest locations first. A line
that cannot get all that it asks for is short, and under the policy ALL takes nothing; what the
report calls available is what it would have got as the only line, were it without end. Pools are
drawn from in the order of the lines as sent, the channel's pools in their order.

Units. Commit, ship and cancel take from a line's parts in order. A line that keeps fewer units
gives back common units before drawn ones, the last drawn first; shipping consumes drawn ones first,
the first drawn first. A part's and a line's quantity counts shipped and cancelled units; a moved
unit leaves its part, an empty part goes, a new part comes last. Lines and parts of which a commit
takes nothing go. Moves of one command are judged and made one after the other. A late commit takes
the same locations if each still serves and has enough and the channel may still sell as many, else
it is sourced anew without named locations; it is a reserve that is due at once, and a commit.
"Everything" of nothing, and an extension to no later, is a replay.

Versions. A SKU's version counts the events that change its numbers, and the notices that a location
is in another shortfall than before, given after each command and after each expiry; not extensions.
The physical version counts those of them in which some on_hand became another.

Stock. On_hand never falls below 0: what would take it there is a physical shortfall. A location is
in shortfall by as much as its available is negative. Locations and pools once named are listed for
ever. Setting stock to what it is, is no event. An id released before it was known is from then on a
released reservation without lines or channel, whatever is then reserved under it.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import NamedTuple

from engine import limits
from engine.messages import (
    Adjust,
    Answer,
    Bind,
    Cancel,
    Command,
    Commit,
    Count,
    Dedicate,
    Extend,
    GetAvailability,
    GetBinding,
    GetChannel,
    GetReservation,
    GetStock,
    LineMove,
    LineRequest,
    LineView,
    ListChannels,
    ListReservations,
    ListShortfalls,
    ListStock,
    MoveLines,
    Policy,
    Receive,
    Release,
    ReservationCommand,
    ReservationPage,
    ReservationView,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Settle,
    Ship,
    Shortage,
    ShortLine,
    State,
    Status,
    Transfer,
    Unbind,
)
from tests.engine.model_refusal import RefusalError, check_ids
from tests.engine.model_stock import (
    Line,
    Part,
    Reservation,
    StockModel,
    content,
    place_after,
)


class Taken(NamedTuple):
    """Units of a part that a command names; restocked to, or moved to, `destination`."""

    line: Line
    part: Part
    quantity: int
    destination: str | None


def pick(
    lines: list[Line],
    wanted: list[LineRequest] | None,
    free: Callable[[Part], int],
    located: bool = True,
) -> list[Taken]:
    """The units named, in order of lines and parts; without names, all that are free."""
    left = {id(part): free(part) for line in lines for part in line.parts}
    taken = []
    everything = [(line, part) for line in lines for part in line.parts]
    if wanted is None:
        return [Taken(line, part, free(part), None) for line, part in everything if free(part)]
    for want in wanted:
        missing = want.quantity
        for line, part in everything:
            there = not located or want.location in (None, part.location)
            units = min(missing, left[id(part)]) if line.sku == want.sku and there else 0
            if units:
                left[id(part)] -= units
                missing -= units
                taken.append(Taken(line, part, units, want.location))
        if missing:
            raise RefusalError(Status.UNKNOWN_LINE)
    return taken


def total(changes: Iterable[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = {}
    for sku, location, units in changes:
        sums[sku, location] = sums.get((sku, location), 0) + units
    return sums


class Model(StockModel):
    """One shard. `begin` a batch at a time, then `execute` commands."""

    # --- time --------------------------------------------------------------------------------

    def begin(self, now: int) -> None:
        self.now = now
        for name in self.overdue():
            self.end(self.reservations[name], State.EXPIRED)
            self.notice()
        self.forget()

    def overdue(self) -> list[str]:
        held = [
            (self.deadline(reservation), name)
            for name, reservation in self.reservations.items()
            if reservation.state == State.RESERVED
        ]
        return [name for deadline, name in sorted(held) if self.now >= deadline]

    def forget(self) -> None:
        now = self.now
        self.reservations = {
            name: reservation
            for name, reservation in self.reservations.items()
            if reservation.finished_at is None
            or now < reservation.finished_at + self.window(reservation)
        }
        self.keys = {
            key: (fingerprint, at)
            for key, (fingerprint, at) in self.keys.items()
            if now < at + self.keys_window_us
        }

    def deadline(self, reservation: Reservation) -> int:
        return max(reservation.expires_at, self.grace_until)

    def window(self, reservation: Reservation) -> int:
        shipped = any(part.shipped for line in reservation.lines for part in line.parts)
        return self.returns_window_us if shipped else self.finished_window_us

    def opened(self, grace_until: int) -> None:
        self.grace_until = max(self.grace_until, grace_until)

    def view(self, name: str) -> ReservationView:
        reservation = self.reservations[name]
        lines = [
            LineView(
                line.sku,
                sum(part.quantity for part in line.parts),
                [(part.location, part.quantity) for part in line.parts],
                sum(part.shipped for part in line.parts),
                sum(part.cancelled for part in line.parts),
                sum(part.restocked for part in line.parts),
            )
            for line in reservation.lines
        ]
        held = reservation.state == State.RESERVED
        at = self.deadline(reservation) if held else reservation.expires_at
        return ReservationView(name, self.number, reservation.state, reservation.channel, at, lines)

    def list_reservations(self, command: ListReservations) -> Answer:
        later = [
            name
            for name, one in sorted(self.reservations.items())
            if name > (command.after or "")
            and one.request is not None
            and command.scope in (None, one.channel)
            and command.state in (None, one.state)
        ]
        rows = [self.view(name) for name in later[: command.limit]]
        return Answer(Status.OK, ReservationPage(rows, place_after(later, command.limit)))

    # --- reserve -----------------------------------------------------------------------------

    def source(
        self, channel: str | None, wanted: list[LineRequest], policy: Policy
    ) -> tuple[list[Line], list[ShortLine]]:
        """What each line gets, and which get less than they ask for."""
        free = {want.sku: self.free(want.sku, channel) for want in wanted}
        budget = {want.sku: self.promise(want.sku, channel) for want in wanted}
        parts: dict[int, list[Part]] = {}
        short: dict[int, ShortLine] = {}
        for index, want in sorted(enumerate(wanted), key=lambda item: item[1].location is None):
            places = free[want.sku]
            if want.location is not None:
                places = {want.location: places.get(want.location, 0)}
            units = min(want.quantity, budget[want.sku], sum(places.values()))
            if units < want.quantity:
                short[index] = ShortLine(want.sku, want.quantity, self.alone(channel, want))
                units = units if policy == Policy.PARTIAL else 0
            parts[index] = self.spread(units, places)
            budget[want.sku] -= units
            for part in parts[index]:
                free[want.sku][part.location] -= part.quantity
        lines = [Line(want.sku, parts[index]) for index, want in enumerate(wanted) if parts[index]]
        return lines, [short[index] for index in sorted(short)]

    def alone(self, channel: str | None, want: LineRequest) -> int:
        """What the line would get as the only one, were it without end."""
        free, promise = self.free(want.sku, channel), self.promise(want.sku, channel)
        return min(promise, promise if want.location is None else free.get(want.location, 0))

    def spread(self, units: int, places: dict[str, int]) -> list[Part]:
        covering = [place for place, free in places.items() if free >= units > 0]
        fullest = sorted(places, key=lambda place: -places[place])
        parts = []
        for place in covering[:1] or fullest:
            if taken := min(units, places[place]):
                parts.append(Part(place, taken))
                units -= taken
        return parts

    def reserve(self, command: Reserve) -> Answer:
        name, channel = command.reservation_id, command.channel
        request = content(command, without=["reservation_id", "scope"])
        if name in self.reservations:
            return self.reserve_again(name, request)
        check_ids(name, channel)
        self.check_live_together([want.sku for want in command.lines])
        served = self.policy(channel).locations
        named = {want.location for want in command.lines} - {None}
        if served is not None and not named <= set(served):
            raise RefusalError(Status.LOCATION_NOT_SERVED)
        lines, short = self.source(channel, command.lines, command.policy)
        if not lines or (short and command.policy == Policy.ALL):
            raise RefusalError(Status.INSUFFICIENT_STOCK, Shortage(short))
        expires_at = self.now + command.ttl_seconds * limits.SECOND_US
        self.reservations[name] = Reservation(request, channel, expires_at, lines)
        for line in lines:
            self.draw(line, channel)
        self.touch(self.reservations[name])
        return Answer(Status.OK, self.view(name))

    def reserve_again(self, name: str, request: bytes) -> Answer:
        known = self.reservations[name]
        if known.request not in (None, request):
            raise RefusalError(Status.IDEMPOTENCY_MISMATCH)
        if known.state == State.EXPIRED:
            raise RefusalError(Status.RESERVATION_EXPIRED, self.view(name))
        if known.state == State.RELEASED:
            raise RefusalError(Status.RESERVATION_RELEASED, self.view(name))
        return Answer(Status.REPLAYED, self.view(name))

    # --- an existing reservation -------------------------------------------------------------

    def about_reservation(self, command: ReservationCommand) -> Answer:
        name = command.reservation_id
        known = self.reservations.get(name)
        if known is not None and known.request is None:
            raise RefusalError(Status.UNKNOWN_RESERVATION)
        if known is None or command.scope not in (None, known.channel):
            if known is None and isinstance(command, Release) and command.bury:
                self.reservations[name] = Reservation(None, None, 0, [], State.RELEASED, self.now)
            raise RefusalError(Status.UNKNOWN_RESERVATION)
        if isinstance(command, GetReservation):
            return Answer(Status.OK, self.view(name))
        key = getattr(command, "key", None)
        fingerprint = content(command, without=["key", "home", "scope"])
        if self.used(key, fingerprint):
            return Answer(Status.REPLAYED, self.view(name))
        check_ids(key)
        status = self.change(known, command)
        if status == Status.OK:
            self.remember(key, fingerprint)
        if known.state == State.COMMITTED and known.finished_at is None:
            known.finished_at = None if any(line.open for line in known.lines) else self.now
        self.notice()
        return Answer(status, self.view(name))

    def change(self, known: Reservation, command: ReservationCommand) -> Status:
        """Do as the command says; REPLAYED if nothing was left to do."""
        match command:
            case Commit():
                return self.commit(known, command)
            case Release():
                return self.release(known)
            case Extend():
                return self.extend(known, command)
            case Ship():
                return self.ship(known, command)
            case Cancel():
                return self.cancel(known, command)
            case Restock():
                return self.restock(known, command)
            case _:
                assert isinstance(command, MoveLines)
                return self.move(known, command)

    def need(self, known: Reservation, *states: State) -> None:
        if known.state == State.EXPIRED and State.EXPIRED not in states:
            raise RefusalError(Status.RESERVATION_EXPIRED)
        if known.state not in states:
            raise RefusalError(Status.ILLEGAL_TRANSITION)

    def commit(self, known: Reservation, command: Commit) -> Status:
        if known.state == State.COMMITTED:
            return Status.REPLAYED
        late = [State.EXPIRED] if command.if_available else []
        self.need(known, State.RESERVED, *late)
        taken = pick(known.lines, command.lines, lambda part: part.quantity)
        kept = [self.keep(line, taken) for line in known.lines]
        if known.state == State.EXPIRED:
            known.lines = self.take_anew(known.channel, [line for line in kept if line.parts])
            known.expires_at = self.now
            self.touch(known)
            self.touch(known)
        else:
            for line, less in zip(known.lines, kept, strict=True):
                self.give_back(line, line.open - less.open)
            self.touch(known)
            known.lines = [line for line in kept if line.parts]
        known.state, known.finished_at = State.COMMITTED, None
        return Status.OK

    def keep(self, line: Line, taken: list[Taken]) -> Line:
        """The line as it will be; it shares its draws with the line as it is."""
        parts = []
        for part in line.parts:
            if units := sum(take.quantity for take in taken if take.part is part):
                parts.append(Part(part.location, units))
        return Line(line.sku, parts, line.draws)

    def take_anew(self, channel: str | None, lines: list[Line]) -> list[Line]:
        if not self.fits(channel, lines):
            wanted = [LineRequest(line.sku, line.open) for line in lines]
            lines, short = self.source(channel, wanted, Policy.ALL)
            if short:
                raise RefusalError(Status.INSUFFICIENT_STOCK, Shortage(short))
        for line in lines:
            self.draw(line, channel)
        return lines

    def fits(self, channel: str | None, lines: list[Line]) -> bool:
        """Whether the channel could take these very units at these very locations now."""
        for sku in {line.sku for line in lines}:
            free = self.free(sku, channel)
            parts = [part for line in lines if line.sku == sku for part in line.parts]
            for part in parts:
                free[part.location] = free.get(part.location, 0) - part.quantity
            units = sum(part.quantity for part in parts)
            if min(free.values()) < 0 or units > self.promise(sku, channel):
                return False
        return True

    def release(self, known: Reservation) -> Status:
        if known.state == State.RELEASED:
            return Status.REPLAYED
        self.need(known, State.RESERVED)
        self.end(known, State.RELEASED)
        return Status.OK

    def extend(self, known: Reservation, command: Extend) -> Status:
        self.need(known, State.RESERVED)
        deadline = self.now + command.ttl_seconds * limits.SECOND_US
        if deadline <= self.deadline(known):
            return Status.REPLAYED
        known.expires_at = deadline
        return Status.OK

    def ship(self, known: Reservation, command: Ship) -> Status:
        self.need(known, State.COMMITTED)
        taken = pick(known.lines, command.lines, lambda part: part.open)
        self.post(total((take.line.sku, take.part.location, -take.quantity) for take in taken))
        for take in taken:
            del take.line.draws[: take.quantity]
            take.part.shipped += take.quantity
        return Status.OK if taken else Status.REPLAYED

    def cancel(self, known: Reservation, command: Cancel) -> Status:
        self.need(known, State.COMMITTED)
        taken = pick(known.lines, command.lines, lambda part: part.open)
        for take in taken:
            self.give_back(take.line, take.quantity)
            take.part.cancelled += take.quantity
        self.bump({take.line.sku for take in taken})
        return Status.OK if taken else Status.REPLAYED

    def restock(self, known: Reservation, command: Restock) -> Status:
        self.need(known, State.COMMITTED)
        taken = pick(known.lines, command.lines, lambda part: part.shipped - part.restocked, False)
        back = [(take, take.destination or take.part.location) for take in taken]
        check_ids(*[place for _, place in back])
        self.post(total((take.line.sku, place, take.quantity) for take, place in back))
        for take in taken:
            take.part.restocked += take.quantity
        return Status.OK if taken else Status.REPLAYED

    def move(self, known: Reservation, command: MoveLines) -> Status:
        self.need(known, State.RESERVED, State.COMMITTED)
        before = deepcopy(known.lines)
        try:
            for move in command.moves:
                self.move_one(known, move)
        except RefusalError:
            known.lines = before
            raise
        self.bump({move.sku for move in command.moves})
        return Status.OK

    def move_one(self, known: Reservation, move: LineMove) -> None:
        if move.from_location == move.to_location:
            raise RefusalError(Status.INVALID)
        self.check_room(move.sku, move.to_location, move.quantity)
        named = [LineRequest(move.sku, move.quantity, move.from_location)]
        taken = pick(known.lines, named, lambda part: part.open)
        for take in taken:
            take.part.quantity -= take.quantity
            there = [part for part in take.line.parts if part.location == move.to_location]
            if not there:
                there = [Part(move.to_location, 0)]
                take.line.parts += there
            there[0].quantity += take.quantity
        for line in known.lines:
            line.parts = [part for part in line.parts if part.quantity]

    # --- every command -----------------------------------------------------------------------

    def execute(self, command: Command) -> Answer:
        try:
            return self.decide(command)
        except RefusalError as refusal:
            return refusal.answer

    def decide(self, command: Command) -> Answer:
        match command:
            case Reserve():
                return self.reserve(command)
            case Receive() | Adjust() | Count() | Transfer():
                return self.movement(command)
            case SetStock():
                return self.set_stock(command)
            case GetStock():
                return self.get_stock(command)
            case GetAvailability():
                return self.get_availability(command)
            case SetChannel():
                return self.set_channel(command)
            case GetChannel():
                return self.get_channel(command)
            case ListShortfalls():
                return self.list_shortfalls(command)
            case ListStock():
                return self.list_stock(command)
            case ListReservations():
                return self.list_reservations(command)
            case Bind() | Unbind() | Settle() | GetBinding() | Dedicate() | ListChannels():
                return self.decide_dedication(command)
            case _:
                assert isinstance(command, ReservationCommand)
                return self.about_reservation(command)
