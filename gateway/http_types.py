"""The JSON of the API: one Struct per body that comes in, one per body that goes out.

What comes in is typed, bounded and closed: unknown fields are refused, an optional field that is
null counts as absent. Absent fields stay UNSET, so that a decoded body encodes to just what was
sent (`gateway.http_input` relies on it). What goes out is made from the engine's views by the
functions at the end; times are RFC 3339 in UTC, to the millisecond.

The OpenAPI description is generated from these types, so their docstrings are its descriptions.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from engine import limits
from engine.messages import (
    STATE_NAMES,
    AvailabilityView,
    ChannelView,
    Level,
    MovementView,
    Quantity,
    ReservationView,
    Shortage,
    Signed,
    StockView,
    TtlSeconds,
    Version,
)

NO_NEWLINE: Final = r"(?!\n)"
"""After a `$`, which also matches before a final newline here; other readers need no such guard,
so it is not in what is published."""
Id = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.ID_CHARS_MAX,
        pattern=limits.ID_PATTERN + NO_NEWLINE,
    ),
]
Text = Annotated[
    str,
    Meta(
        max_length=limits.TEXT_CHARS_MAX,
        pattern=r"^[^\x00-\x1f\x7f]*$" + NO_NEWLINE,
    ),
]
Currency = Annotated[
    str,
    Meta(
        pattern="^[A-Z]{3}$" + NO_NEWLINE,
        description="ISO 4217",
    ),
]
Units = Annotated[int, Meta(ge=-limits.COUNTER_MAX, le=limits.COUNTER_MAX)]


class Input(Struct, forbid_unknown_fields=True):
    """Base of what comes in."""


# --- what comes in: reservations -------------------------------------------------------------


class ReserveLine(Input):
    """Units of one SKU; from `location` if it is named, else where the engine picks."""

    sku: Id
    quantity: Quantity
    location: Id | UnsetType | None = UNSET


class ReserveBody(Input):
    """What to hold, and for how long."""

    lines: Annotated[list[ReserveLine], Meta(min_length=1, max_length=limits.LINES_MAX)]
    reservation_id: Id | UnsetType | None = UNSET
    """Names the request: the same again has no second effect. May stand in Idempotency-Key."""
    channel: Id | UnsetType | None = UNSET
    ttl_seconds: TtlSeconds | UnsetType | None = UNSET
    policy: Literal["all", "partial"] | UnsetType | None = UNSET


class CommitLine(Input):
    """Units of one SKU."""

    sku: Id
    quantity: Quantity


class CommitBody(Input):
    """What to take of what was reserved; nothing = all of it."""

    lines: (
        Annotated[list[CommitLine], Meta(min_length=1, max_length=limits.LINES_MAX)]
        | UnsetType
        | None
    ) = UNSET
    if_available: bool | UnsetType | None = UNSET
    """If the reservation has expired, take the units anew if they are still there."""


class ReleaseBody(Input):
    """Nothing needs to be said."""


class ExtendBody(Input):
    """From now on, so many seconds; never shortens."""

    ttl_seconds: TtlSeconds


class UnitsBody(Input):
    """Which units; nothing = all that are in the needed state."""

    lines: (
        Annotated[list[ReserveLine], Meta(min_length=1, max_length=limits.LINES_MAX)]
        | UnsetType
        | None
    ) = UNSET


class MoveLine(Input):
    """Units of one SKU, from one location to another."""

    sku: Id
    quantity: Quantity
    from_location: Id = field(name="from")
    to_location: Id = field(name="to")


class MoveBody(Input):
    """Which units to move."""

    lines: Annotated[list[MoveLine], Meta(min_length=1, max_length=limits.LINES_MAX)]


# --- what comes in: stock --------------------------------------------------------------------


class MovementInput(Input, tag_field="kind"):
    """Base of the movements."""

    sku: Id
    location: Id


class ReceivedMovement(MovementInput, tag="received"):
    """Units that came in."""

    quantity: Quantity
    reason: Text | UnsetType | None = UNSET
    reference: Text | UnsetType | None = UNSET
    unit_cost: Level | UnsetType | None = UNSET
    """In minor units of `currency`."""
    currency: Currency | UnsetType | None = UNSET


class AdjustedMovement(MovementInput, tag="adjusted"):
    """Units found (positive) or lost (negative)."""

    quantity: Signed
    reason: Text | UnsetType | None = UNSET
    reference: Text | UnsetType | None = UNSET


class CountedMovement(MovementInput, tag="counted"):
    """Units that were counted; refused if stock has moved since, where that is asked for."""

    quantity: Level
    reason: Text | UnsetType | None = UNSET
    reference: Text | UnsetType | None = UNSET
    expected_on_hand: Signed | UnsetType | None = UNSET
    physical_version: Version | UnsetType | None = UNSET


class TransferredMovement(MovementInput, tag="transferred"):
    """Available units that went to another location."""

    to_location: Id
    quantity: Quantity
    reason: Text | UnsetType | None = UNSET
    reference: Text | UnsetType | None = UNSET


MovementBody = ReceivedMovement | AdjustedMovement | CountedMovement | TransferredMovement


class MovementsBody(Input):
    """Movements, each of which stands or falls by itself."""

    movements: Annotated[list[MovementBody], Meta(min_length=1, max_length=limits.MOVEMENTS_MAX)]


class SetStockBody(Input):
    """Sets, never adds; what is not named stays."""

    safety_stock: (
        Annotated[dict[Id, Level], Meta(max_length=limits.LOCATIONS_MAX)] | UnsetType | None
    ) = UNSET
    """Units withheld, by location."""
    pools: Annotated[dict[Id, Level], Meta(max_length=limits.POOLS_MAX)] | UnsetType | None = UNSET
    """Units ring-fenced, by pool."""


class ChannelBody(Input):
    """What of the stock a channel may sell. Replaces the policy whole."""

    locations: Annotated[list[Id], Meta(max_length=limits.LOCATIONS_MAX)] | UnsetType | None = UNSET
    """In order of preference; absent = every location of the SKU, oldest first."""
    pools: Annotated[list[Id], Meta(max_length=limits.POOLS_MAX)] | UnsetType | None = UNSET
    """Pools that the channel may draw from, in that order."""
    common_stock: bool | UnsetType | None = UNSET
    """Whether it may draw from what is not ring-fenced once its pools are empty (true)."""
    buffer: Level | UnsetType | None = UNSET
    """Units per SKU withheld from this channel (0)."""


# --- what goes out ---------------------------------------------------------------------------


class Output(Struct, gc=False):
    """Base of what goes out: encoded at once, never part of a cycle."""


class LocationQuantity(Output):
    location: str
    quantity: int


class ReservationLine(Output):
    """`locations` holds the line's units, shipped ones included."""

    sku: str
    quantity: int
    locations: list[LocationQuantity]
    shipped: int
    cancelled: int
    restocked: int


class Reservation(Output):
    """A reservation as it stands. `home` may be sent back as ?home=."""

    reservation_id: str
    home: int
    status: Literal["reserved", "committed", "released", "expired"]
    channel: str | None
    expires_at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    lines: list[ReservationLine]


class ShortfallLine(Output):
    """What was asked for, and what there is."""

    sku: str
    requested: int
    available: int


class LocationStock(Output):
    location: str
    on_hand: int
    reserved: int
    allocated: int
    safety_stock: int
    available: int


class PoolStock(Output):
    pool: str
    quantity: int


class Moment(Output):
    """A record of the journal, and its time."""

    position: str
    time: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Stock(Output):
    """A SKU, summed over its locations and at each. available = on_hand - the three others."""

    sku: str
    version: int
    physical_version: int
    on_hand: int
    reserved: int
    allocated: int
    safety_stock: int
    available: int
    locations: list[LocationStock]
    pools: list[PoolStock]
    as_of: Moment | UnsetType = UNSET
    """Where an earlier moment was asked for: the last record that this rests on."""


class Waterfall(Output):
    """Why a channel may sell what it may sell."""

    available: int
    """In all locations of the SKU."""
    served: int
    """Of that, in the locations that the channel sells from."""
    ring_fenced: int
    """Withheld for the pools of others."""
    own_pools: int
    buffer: int


class Availability(Output):
    sku: str
    channel: str | None
    version: int
    available_to_promise: int
    waterfall: Waterfall


class Channel(Output):
    channel: str
    locations: list[str] | None
    pools: list[str]
    common_stock: bool
    buffer: int


class Movement(Output):
    """How the SKU stands at the location after the movement."""

    sku: str
    location: str
    on_hand: int
    available: int
    version: int
    physical_version: int


class Shortfall(Output):
    """`quantity` units more are promised at the location than are there."""

    sku: str
    location: str
    quantity: int


class Shortfalls(Output):
    shortfalls: list[Shortfall]
    next: str | None
    """Send it back as ?cursor= for what follows; null = that was all."""


class Stocks(Output):
    stock: list[Stock]
    next: str | None
    """As of shortfalls."""


class Reservations(Output):
    reservations: list[Reservation]
    next: str | None
    """As of shortfalls."""


# --- from the engine's views -----------------------------------------------------------------


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> str:
    """Reservations made in one second mostly end in one second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(microseconds: int) -> str:
    """RFC 3339, UTC, milliseconds (cut, not rounded)."""
    seconds, rest = divmod(microseconds, limits.SECOND_US)
    return f"{_second(seconds)}.{rest // 1_000:03d}Z"


def reservation_of(view: ReservationView) -> Reservation:
    lines = [
        ReservationLine(
            line.sku,
            line.quantity,
            [LocationQuantity(location, quantity) for location, quantity in line.locations],
            line.shipped,
            line.cancelled,
            line.restocked,
        )
        for line in view.lines
    ]
    return Reservation(
        view.reservation_id,
        view.home,
        STATE_NAMES[view.state],  # type: ignore[arg-type]  # a test holds the two together
        view.channel,
        timestamp(view.expires_at),
        lines,
    )


def short_lines_of(shortage: Shortage) -> list[ShortfallLine]:
    return [ShortfallLine(each.sku, each.requested, each.available) for each in shortage.lines]


def stock_of(view: StockView) -> Stock:
    locations = [
        LocationStock(
            each.location,
            each.on_hand,
            each.reserved,
            each.allocated,
            each.safety_stock,
            each.available,
        )
        for each in view.locations
    ]
    return Stock(
        view.sku,
        view.version,
        view.physical_version,
        view.on_hand,
        view.reserved,
        view.allocated,
        view.safety_stock,
        view.available,
        locations,
        [PoolStock(pool, quantity) for pool, quantity in view.pools],
    )


def availability_of(view: AvailabilityView) -> Availability:
    waterfall = Waterfall(
        view.available, view.served, view.ring_fenced, view.own_pools, view.buffer
    )
    return Availability(view.sku, view.channel, view.version, view.available_to_promise, waterfall)


def channel_of(view: ChannelView) -> Channel:
    policy = view.policy
    return Channel(view.channel, policy.locations, policy.pools, policy.common_stock, policy.buffer)


def movement_of(view: MovementView) -> Movement:
    return Movement(
        view.sku,
        view.location,
        view.on_hand,
        view.available,
        view.version,
        view.physical_version,
    )


VIEWS: Final[dict[type[Any], Callable[[Any], Struct]]] = {
    ReservationView: reservation_of,
    StockView: stock_of,
    AvailabilityView: availability_of,
    ChannelView: channel_of,
    MovementView: movement_of,
}
"""How each body of a successful answer to one command is shown."""
