"""The half of the naive model that knows SKUs: sums, pools, channels and movements.

`tests.engine.model` states the rules of both halves and adds the reservations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from engine import limits
from engine.messages import (
    Adjust,
    Answer,
    AvailabilityView,
    ChannelPolicy,
    ChannelView,
    Command,
    Count,
    GetAvailability,
    GetChannel,
    GetStock,
    ListShortfalls,
    ListStock,
    LocationView,
    Movement,
    MovementView,
    Receive,
    SetChannel,
    SetStock,
    Shortage,
    Shortfall,
    ShortfallPage,
    ShortLine,
    State,
    Status,
    StockPage,
    StockView,
    Transfer,
)
from tests.engine.model_dedication import DedicationModel
from tests.engine.model_refusal import RefusalError, check_ids


@dataclass
class Part:
    """The units of a line at one location."""

    location: str
    quantity: int
    shipped: int = 0
    cancelled: int = 0
    restocked: int = 0

    @property
    def open(self) -> int:
        return self.quantity - self.shipped - self.cancelled


@dataclass
class Line:
    """A line as it stands; `draws` names the pool of each unit that came out of one."""

    sku: str
    parts: list[Part]
    draws: list[str] = field(default_factory=list)

    @property
    def open(self) -> int:
        return sum(part.open for part in self.parts)


@dataclass
class Reservation:
    """What is remembered under one id; `request` is what was asked for, as sent."""

    request: bytes | None
    channel: str | None
    expires_at: int
    lines: list[Line]
    state: State = State.RESERVED
    finished_at: int | None = None


@dataclass
class Sku:
    """What cannot be summed: the order of locations, what was set, and the versions."""

    locations: list[str] = field(default_factory=list)
    safety_stock: dict[str, int] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    version: int = 0
    physical_version: int = 0


def content(command: Command, *, without: Sequence[str]) -> bytes:
    """What the command asks for, apart from the fields that do not count."""
    fields = {name: getattr(command, name) for name in command.__struct_fields__}
    return msgspec.msgpack.encode([type(command).__name__, fields | dict.fromkeys(without)])


class StockModel(DedicationModel):
    """The SKUs, channels and keys of one shard; its reservations are only summed here."""

    def __init__(self, number: int, shards: int) -> None:
        super().__init__(number, shards)
        self.now = self.grace_until = 0
        self.finished_window_us = limits.FINISHED_WINDOW_US
        self.returns_window_us = limits.RETURNS_WINDOW_US
        self.keys_window_us = limits.KEYS_WINDOW_US
        self.skus: dict[str, Sku] = {}
        self.ledger: list[tuple[str, str, int]] = []
        self.reservations: dict[str, Reservation] = {}
        self.keys: dict[str, tuple[bytes, int]] = {}
        self.noticed: list[Shortfall] = []

    def has_stock(self, sku: str) -> bool:
        return sku in self.skus

    # --- sums --------------------------------------------------------------------------------

    def on_hand(self, sku: str, location: str) -> int:
        return sum(units for name, place, units in self.ledger if (name, place) == (sku, location))

    def promised(self, sku: str, location: str, state: State) -> int:
        return sum(
            part.open
            for reservation in self.reservations.values()
            for line in reservation.lines
            for part in line.parts
            if (reservation.state, line.sku, part.location) == (state, sku, location)
        )

    def available(self, sku: str, location: str) -> int:
        return self.location_view(sku, location).available

    def location_view(self, sku: str, location: str) -> LocationView:
        on_hand = self.on_hand(sku, location)
        reserved = self.promised(sku, location, State.RESERVED)
        allocated = self.promised(sku, location, State.COMMITTED)
        safety = self.skus.get(sku, Sku()).safety_stock.get(location, 0)
        available = on_hand - reserved - allocated - safety
        return LocationView(location, on_hand, reserved, allocated, safety, available)

    def stock_view(self, sku: str) -> StockView:
        stock = self.skus[sku]
        views = [self.location_view(sku, location) for location in stock.locations]
        return StockView(
            sku,
            stock.version,
            stock.physical_version,
            sum(view.on_hand for view in views),
            sum(view.reserved for view in views),
            sum(view.allocated for view in views),
            sum(view.safety_stock for view in views),
            sum(view.available for view in views),
            views,
            sorted(stock.pools.items()),
        )

    def free(self, sku: str, channel: str | None) -> dict[str, int]:
        """Units free per location that the channel serves, in its order."""
        known = self.skus[sku].locations if sku in self.skus else []
        served = self.policy(channel).locations
        order = known if served is None else [place for place in served if place in known]
        return {place: max(0, self.available(sku, place)) for place in order}

    def availability_view(self, sku: str, channel: str | None) -> AvailabilityView:
        stock, policy = self.skus.get(sku, Sku()), self.policy(channel)
        available = sum(self.available(sku, place) for place in stock.locations)
        served = sum(self.free(sku, channel).values())
        own = sum(units for pool, units in stock.pools.items() if pool in policy.pools)
        fenced = sum(stock.pools.values()) - own
        allowed = available - fenced if policy.common_stock else min(own, available - fenced)
        promise = max(0, min(served, allowed) - policy.buffer)
        return AvailabilityView(
            sku, channel, stock.version, available, served, fenced, own, policy.buffer, promise
        )

    def promise(self, sku: str, channel: str | None) -> int:
        return self.availability_view(sku, channel).available_to_promise

    def policy(self, channel: str | None) -> ChannelPolicy:
        return self.channels.get(channel, ChannelPolicy()) if channel else ChannelPolicy()

    def shortfalls(self) -> list[Shortfall]:
        places = [(sku, place) for sku, stock in self.skus.items() for place in stock.locations]
        return [
            Shortfall(sku, place, -self.available(sku, place))
            for sku, place in sorted(places)
            if self.available(sku, place) < 0
        ]

    # --- changes -----------------------------------------------------------------------------

    def bump(self, skus: set[str], *, physical: bool = False) -> None:
        for sku in skus:
            self.skus[sku].version += 1
            self.skus[sku].physical_version += physical

    def notice(self) -> None:
        """One event for each location whose shortfall is not what it was last said to be."""
        said = {(short.sku, short.location): short for short in self.noticed}
        self.noticed = self.shortfalls()
        now = {(short.sku, short.location): short for short in self.noticed}
        for sku, location in said | now:
            if said.get((sku, location)) != now.get((sku, location)):
                self.bump({sku})

    def touch(self, reservation: Reservation) -> None:
        self.bump({line.sku for line in reservation.lines})

    def locate(self, sku: str, location: str) -> None:
        stock = self.skus.setdefault(sku, Sku())
        if location not in stock.locations:
            stock.locations.append(location)

    def give_back(self, line: Line, units: int) -> None:
        """`units` that are still open will not be: common ones first."""
        for _ in range(max(0, units - (line.open - len(line.draws)))):
            self.skus[line.sku].pools[line.draws.pop()] += 1

    def draw(self, line: Line, channel: str | None) -> None:
        pools = self.skus[line.sku].pools
        for pool in self.policy(channel).pools:
            while pools.get(pool, 0) and len(line.draws) < line.open:
                pools[pool] -= 1
                line.draws.append(pool)

    def end(self, reservation: Reservation, state: State) -> None:
        for line in reservation.lines:
            self.give_back(line, line.open)
        reservation.state, reservation.finished_at = state, self.now
        self.touch(reservation)

    def post(self, units: dict[tuple[str, str], int]) -> None:
        """Enter changes of on_hand into the ledger, all or none, as one event."""
        for (sku, location), change in units.items():
            on_hand = self.on_hand(sku, location) + change
            if on_hand < 0:
                raise RefusalError(Status.PHYSICAL_SHORTFALL)
            if on_hand > limits.QUANTITY_MAX:
                raise RefusalError(Status.QUANTITY_OVERFLOW)
        for (sku, location), change in units.items():
            self.locate(sku, location)
            self.ledger.append((sku, location, change))
        for name in {sku for sku, _ in units}:
            moved = any(change for (sku, _), change in units.items() if sku == name)
            self.bump({name}, physical=moved)

    def used(self, key: str | None, fingerprint: bytes) -> bool:
        """Whether the key already did this very thing."""
        if key not in self.keys:
            return False
        if self.keys[key][0] != fingerprint:
            raise RefusalError(Status.IDEMPOTENCY_MISMATCH)
        return True

    def remember(self, key: str | None, fingerprint: bytes) -> None:
        if key is not None:
            self.keys[key] = (fingerprint, self.now)

    # --- commands ----------------------------------------------------------------------------

    def movement(self, command: Movement) -> Answer:
        self.check_form(command)
        self.check_lives(command.sku)
        fingerprint = command.fingerprint or content(command, without=["key", "fingerprint", "by"])
        if self.used(command.key, fingerprint):
            return Answer(Status.REPLAYED, self.movement_view(command))
        here = (command.sku, command.location)
        if isinstance(command, Receive | Adjust):
            self.post({here: command.quantity})
        elif isinstance(command, Count):
            self.check_count(command)
            self.post({here: command.quantity - self.on_hand(*here)})
        else:
            self.check_place(*here)
            self.check_room(*here, command.quantity)
            there = (command.sku, command.to_location)
            self.post({here: -command.quantity, there: command.quantity})
        self.remember(command.key, fingerprint)
        self.notice()
        return Answer(Status.OK, self.movement_view(command))

    def check_form(self, command: Movement) -> None:
        check_ids(command.sku, command.location, command.key)
        if isinstance(command, Adjust) and command.quantity == 0:
            raise RefusalError(Status.INVALID)
        if isinstance(command, Transfer):
            check_ids(command.to_location)
            if command.location == command.to_location:
                raise RefusalError(Status.INVALID)

    def check_count(self, command: Count) -> None:
        physical = self.skus.get(command.sku, Sku()).physical_version
        on_hand = self.on_hand(command.sku, command.location)
        if command.expected_on_hand not in (None, on_hand):
            raise RefusalError(Status.STALE_COUNT)
        if command.physical_version not in (None, physical):
            raise RefusalError(Status.STALE_COUNT)

    def check_place(self, sku: str, *locations: str) -> None:
        self.check_lives(sku)
        if sku not in self.skus:
            raise RefusalError(Status.UNKNOWN_SKU)
        if not set(locations) <= set(self.skus[sku].locations):
            raise RefusalError(Status.UNKNOWN_LOCATION)

    def check_room(self, sku: str, location: str, units: int) -> None:
        available = max(0, self.available(sku, location))
        if available < units:
            line = ShortLine(sku, units, available)
            raise RefusalError(Status.INSUFFICIENT_STOCK, Shortage([line]))

    def movement_view(self, command: Movement) -> MovementView:
        stock, view = self.skus[command.sku], self.location_view(command.sku, command.location)
        return MovementView(
            command.sku,
            command.location,
            view.on_hand,
            view.available,
            stock.version,
            stock.physical_version,
        )

    def set_stock(self, command: SetStock) -> Answer:
        self.check_place(command.sku, *command.safety_stock)
        check_ids(*command.pools)
        before = self.stock_view(command.sku)
        self.skus[command.sku].safety_stock |= command.safety_stock
        self.skus[command.sku].pools |= command.pools
        if before != self.stock_view(command.sku):
            self.bump({command.sku})
        self.notice()
        return Answer(Status.OK, self.stock_view(command.sku))

    def get_stock(self, command: GetStock) -> Answer:
        self.check_place(command.sku)
        return Answer(Status.OK, self.stock_view(command.sku))

    def get_availability(self, command: GetAvailability) -> Answer:
        self.check_place(command.sku)
        return Answer(Status.OK, self.availability_view(command.sku, command.channel))

    def set_channel(self, command: SetChannel) -> Answer:
        policy = command.policy
        check_ids(command.channel, *policy.pools, *(policy.locations or []))
        if command.unless_known and command.channel in self.channels:
            return Answer(Status.OK, ChannelView(command.channel, self.channels[command.channel]))
        self.channels[command.channel] = policy
        return Answer(Status.OK, ChannelView(command.channel, policy))

    def get_channel(self, command: GetChannel) -> Answer:
        if command.channel not in self.channels:
            raise RefusalError(Status.UNKNOWN_CHANNEL)
        return Answer(Status.OK, ChannelView(command.channel, self.channels[command.channel]))

    def list_shortfalls(self, command: ListShortfalls) -> Answer:
        after = command.after or ("", "")
        later = [short for short in self.shortfalls() if (short.sku, short.location) > after]
        return Answer(Status.OK, ShortfallPage(later[: command.limit]))

    def list_stock(self, command: ListStock) -> Answer:
        later = sorted(sku for sku in self.skus if sku > (command.after or ""))
        rows = [self.stock_view(sku) for sku in later[: command.limit]]
        return Answer(Status.OK, StockPage(rows, place_after(later, command.limit)))


def place_after(names: list[str], limit: int) -> str | None:
    """Where a page of so many of `names` ends: the last of them, unless there was room for more."""
    return names[limit - 1] if len(names) >= limit else None
