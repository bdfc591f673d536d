"""The counters of one SKU, and where units can be taken from.

    available = on_hand - reserved - allocated - safety_stock          per location

`available` goes below zero only through a physical shortfall or a raised safety stock. Locations
keep the order in which movements named them; that is the order of preference of a channel which
states none.

`Sourcing` picks the locations for the lines of one request: lines that name a location first, then
the others in the order sent, each against what the earlier ones left. A line without a location is
taken from the first that covers it, else from as few as possible: the fullest first. Pools are
drawn from in the order sent. It reads; only `engine.state` writes these counters.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from engine.channel import Waterfall, pour
from engine.counters import (
    ALLOCATED,
    COPIED,
    MORE,
    ON_HAND,
    PHYSICAL_VERSION,
    PLACE,
    POOLS,
    RESERVED,
    ROW,
    SAFETY_STOCK,
    VERSION,
    Counters,
)
from engine.messages import (
    ChannelPolicy,
    Draw,
    Line,
    LineRequest,
    LocationView,
    MovementView,
    Part,
    Policy,
    ShortLine,
    StockView,
)

_NO_POOLS: Final[Mapping[str, int]] = {}


class Counter:
    """One number of a row, as an attribute."""

    __slots__ = ("_offset",)

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __get__(self, row: "_Row", _: type["_Row"]) -> int:
        return row.counters.numbers[row.row * ROW + self._offset]

    def __set__(self, row: "_Row", value: int) -> None:
        row.counters.numbers[row.row * ROW + self._offset] = value


class _Row:
    """A window on a row: made when somebody looks, and kept by nobody."""

    __slots__ = ("counters", "row")

    def __init__(self, counters: Counters, row: int) -> None:
        self.counters = counters
        self.row = row


class LocationStock(_Row):
    """Units of one SKU at one location."""

    __slots__ = ()

    on_hand = Counter(ON_HAND)
    reserved = Counter(RESERVED)
    allocated = Counter(ALLOCATED)
    safety_stock = Counter(SAFETY_STOCK)

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved - self.allocated - self.safety_stock

    @property
    def short(self) -> int:
        """The shortfall that was last made known by an event."""
        return self.counters.shorts.get(self.row, 0)

    @short.setter
    def short(self, value: int) -> None:
        if value:
            self.counters.shorts[self.row] = value
        else:
            self.counters.shorts.pop(self.row, None)


class SkuStock(_Row):
    """One SKU: a virtual actor inside its shard."""

    __slots__ = ()

    version = Counter(VERSION)
    physical_version = Counter(PHYSICAL_VERSION)
    copied = Counter(COPIED)
    """The snapshot that has a copy of this SKU."""
    word = Counter(PLACE)

    @property
    def sku(self) -> str:
        return self.counters.names[self.row]

    @property
    def locations(self) -> dict[str, LocationStock]:
        """Its locations as they are now, oldest first."""
        counters, row = self.counters, self.row
        first = {counters.place(row): LocationStock(counters, row)}
        if self.word & MORE:
            for each in counters.more[row]:
                first[counters.place(each)] = LocationStock(counters, each)
        return first

    def place(self, location: str) -> LocationStock:
        """The stock at a location that is known."""
        counters, row = self.counters, self.row
        if counters.place(row) == location:
            return LocationStock(counters, row)
        return self.locations[location]

    def add_place(self, location: str) -> LocationStock:
        """A location that is not known yet."""
        counters, row = self.counters, self.row
        more = counters.add("", location)
        counters.more.setdefault(row, []).append(more)
        counters.flag(row, MORE)
        return LocationStock(counters, more)

    @property
    def pools(self) -> Mapping[str, int]:
        """Units that each pool still ring-fences."""
        return self.counters.pools[self.row] if self.word & POOLS else _NO_POOLS

    def set_pool(self, pool: str, units: int) -> None:
        self.counters.pools.setdefault(self.row, {})[pool] = units
        self.counters.flag(self.row, POOLS)

    @property
    def available(self) -> int:
        return sum(place.available for place in self.locations.values())

    def served(self, policy: ChannelPolicy | None) -> Iterator[tuple[str, LocationStock]]:
        """The locations that a channel sells from, in its order."""
        if policy is None or policy.locations is None:
            yield from self.locations.items()
            return
        for name in policy.locations:
            place = self.locations.get(name)
            if place is not None:
                yield name, place

    def waterfall(self, policy: ChannelPolicy | None) -> Waterfall:
        served = sum(max(0, place.available) for _, place in self.served(policy))
        return pour(self.available, served, self.pools, policy)

    def view(self) -> StockView:
        places = [
            LocationView(name, p.on_hand, p.reserved, p.allocated, p.safety_stock, p.available)
            for name, p in self.locations.items()
        ]
        return StockView(
            self.sku,
            self.version,
            self.physical_version,
            sum(p.on_hand for p in places),
            sum(p.reserved for p in places),
            sum(p.allocated for p in places),
            sum(p.safety_stock for p in places),
            sum(p.available for p in places),
            places,
            sorted(self.pools.items()),
        )

    def movement_view(self, location: str) -> MovementView:
        place = self.place(location)
        return MovementView(
            self.sku,
            location,
            place.on_hand,
            place.available,
            self.version,
            self.physical_version,
        )


class Sourcing:
    """Picks locations and pools for the lines of one request by one channel."""

    __slots__ = ("_budgets", "_free", "_policy", "_pools", "_stocks", "short")

    def __init__(self, stocks: dict[str, SkuStock], policy: ChannelPolicy | None) -> None:
        """`stocks`: the SKUs of the request that are known."""
        self._stocks = stocks
        self._policy = policy
        self._free: dict[str, dict[str, int]] = {
            sku: {name: max(0, place.available) for name, place in stock.served(policy)}
            for sku, stock in stocks.items()
        }
        self._budgets = {
            sku: stock.waterfall(policy).available_to_promise for sku, stock in stocks.items()
        }
        self._pools = {sku: dict(stock.pools) for sku, stock in stocks.items()}
        self.short: list[ShortLine] = []
        """Lines that could not be had whole."""

    def source(self, requests: list[LineRequest], policy: Policy) -> list[Line]:
        """The lines as they can be had, in the order of the request; those with nothing left out.

        Complete if `short` stays empty. With Policy.PARTIAL a line takes what there is.
        """
        at_start = [self._could_get(request) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: requests[i].location is None)
        picked: dict[int, Line] = {}
        missed: dict[int, ShortLine] = {}
        for index in order:
            request = requests[index]
            line, units = self._pick(request, policy)
            if units < request.quantity:
                missed[index] = ShortLine(request.sku, request.quantity, at_start[index])
            if line is not None:
                picked[index] = line
        self.short += [missed[index] for index in sorted(missed)]
        lines = [picked[index] for index in sorted(picked)]
        for line in lines:
            line.draws = self._draw(line.sku, sum(part.quantity for part in line.parts))
        return lines

    def _could_get(self, request: LineRequest) -> int:
        """What the channel could get for this line if it were alone."""
        if request.sku not in self._stocks:
            return 0
        if request.location is None:
            return self._budgets[request.sku]
        return min(self._free[request.sku].get(request.location, 0), self._budgets[request.sku])

    def _pick(self, request: LineRequest, policy: Policy) -> tuple[Line | None, int]:
        if request.sku not in self._stocks:
            return None, 0
        free = self._free[request.sku]
        if request.location is not None:
            free = {request.location: free.get(request.location, 0)}
        most = min(self._budgets[request.sku], sum(free.values()), request.quantity)
        if not most or (most < request.quantity and policy is Policy.ALL):
            return None, most
        parts = [Part(name, units) for name, units in _fewest(free, most)]
        self._budgets[request.sku] -= most
        for part in parts:
            self._free[request.sku][part.location] -= part.quantity
        return Line(request.sku, parts), most

    def _draw(self, sku: str, quantity: int) -> list[Draw]:
        """What of `quantity` units comes out of the channel's own pools."""
        draws: list[Draw] = []
        if self._policy is None:
            return draws
        pools = self._pools[sku]
        for pool in self._policy.pools:
            taken = min(pools.get(pool, 0), quantity)
            if taken:
                pools[pool] -= taken
                quantity -= taken
                draws.append(Draw(pool, taken))
        return draws


def _fewest(free: dict[str, int], quantity: int) -> Iterator[tuple[str, int]]:
    """`quantity` units out of `free`, which holds them: the first location that covers them all,
    else the fullest ones."""
    for name, units in free.items():
        if units >= quantity:
            yield name, quantity
            return
    for name, units in sorted(free.items(), key=lambda item: -item[1]):
        taken = min(units, quantity)
        if not taken:
            return
        yield name, taken
        quantity -= taken
