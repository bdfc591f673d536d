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

from collections.abc import Iterator

from engine.channel import Waterfall, pour
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


class LocationStock:
    """Units of one SKU at one location."""

    __slots__ = ("allocated", "on_hand", "reserved", "safety_stock", "short")

    def __init__(self) -> None:
        self.on_hand = 0
        self.reserved = 0
        self.allocated = 0
        self.safety_stock = 0
        self.short = 0
        """The shortfall that was last made known by an event."""

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved - self.allocated - self.safety_stock


class SkuStock:
    """One SKU: a virtual actor inside its shard."""

    __slots__ = ("copied", "locations", "physical_version", "pools", "sku", "version")

    def __init__(self, sku: str) -> None:
        self.sku = sku
        self.version = 0
        self.physical_version = 0
        self.locations: dict[str, LocationStock] = {}
        self.pools: dict[str, int] = {}
        """Units that each pool still ring-fences. What comes back is added to what was set
        meanwhile, so this may be more than anybody may set, but no more than that and all units
        that are promised: to cut it off would lose them for the pool, and no counter is near its
        end."""
        self.copied = 0
        """The snapshot that has a copy of this SKU."""

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
        place = self.locations[location]
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
