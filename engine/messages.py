"""The vocabulary: every command, event, answer and status of Onhand.

Commands are in the imperative, events in the past tense. Field order is wire order: each type is
a MessagePack array whose first element is the type's number. A number is never given twice, a
field is only ever added at the end, with a default, so that an older writer is read by a newer
reader.

    command ──decide──► event(s) + answer        (reads; a refusal is an answer, not an exception)
    event   ──apply───► state                    (the only thing that changes it)

A command arrives typed and bounded in size, but its strings are not yet known to be ids: the shard
checks each the first time that it would be remembered (`engine.shard`). Times are integer
microseconds since 1970, quantities integer units.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Final

from msgspec import Meta, Struct, field

from engine import limits

Id = Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARS_MAX)]
Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
Quantity = Annotated[int, Meta(ge=1, le=limits.QUANTITY_MAX)]
Level = Annotated[int, Meta(ge=0, le=limits.QUANTITY_MAX)]
Signed = Annotated[int, Meta(ge=-limits.QUANTITY_MAX, le=limits.QUANTITY_MAX)]
TtlSeconds = Annotated[int, Meta(ge=1, le=limits.TTL_SECONDS_MAX)]
Version = Annotated[int, Meta(ge=0, le=limits.COUNTER_MAX)]
Home = Annotated[int, Meta(ge=-1, lt=limits.SHARDS_MAX)]
ListLimit = Annotated[int, Meta(ge=1, le=limits.LIST_ROWS_MAX)]

UNKNOWN_HOME: Final = -1


class Status(IntEnum):
    """What came of a command. One table in the gateway maps each to HTTP."""

    OK = 0
    REPLAYED = 1
    """Done by an earlier request of the same name; the answer shows how things stand now."""

    INSUFFICIENT_STOCK = 10
    IDEMPOTENCY_MISMATCH = 11
    UNKNOWN_RESERVATION = 12
    RESERVATION_EXPIRED = 13
    RESERVATION_RELEASED = 14
    ILLEGAL_TRANSITION = 15
    PHYSICAL_SHORTFALL = 16
    UNKNOWN_SKU = 17
    UNKNOWN_LOCATION = 18
    STALE_COUNT = 19
    LINES_SPAN_SHARDS = 20
    UNKNOWN_LINE = 21
    """The reservation has no such line, or not that many units of it in the needed state."""
    AMBIGUOUS_RESERVATION = 22
    UNKNOWN_CHANNEL = 23
    LOCATION_NOT_SERVED = 24
    """The line names a location that its channel does not sell from."""
    QUANTITY_OVERFLOW = 25
    HISTORY_NOT_KEPT = 26
    """The moment lies before what is kept of the journal."""
    NOT_YET = 27
    """The moment lies in the future, or after the last acknowledged record."""
    UNKNOWN_RECORD = 28
    """The journal has no record at this position."""
    DEDICATED = 29
    """The SKU lives in a shard of its own; the body says in which. Nothing was done."""

    INVALID = 30
    FORBIDDEN = 31
    UNAUTHENTICATED = 32
    TOO_MANY_REQUESTS = 33
    SKU_KNOWN = 34
    """Stock of the SKU was known before it could be dedicated: it stays where it is."""
    SHARD_TAKEN = 35
    """The dedicated shard is another SKU's."""

    NOT_DONE = 40
    """Certainly not applied; the same request may be sent again."""
    OUTCOME_UNKNOWN = 41
    """Perhaps applied; the same request with the same name finds out, and never applies twice."""
    OVERLOADED = 42
    MEMORY_FULL = 43
    MOVED = 44
    """This host does not own the shard; the body says who did last, as far as it knows."""
    SHARD_STOPPED = 45
    """The shard's journal failed its checks; it refuses to serve rather than guess."""
    HISTORY_DAMAGED = 46
    """What is kept of that time does not prove itself."""


NOT_APPLIED: Final = frozenset(
    {
        Status.NOT_DONE,
        Status.MOVED,
        Status.OVERLOADED,
        Status.MEMORY_FULL,
        Status.SHARD_STOPPED,
        Status.FORBIDDEN,
        Status.UNAUTHENTICATED,
        Status.TOO_MANY_REQUESTS,
    }
)
"""What is said of one sending; of an earlier one, whose outcome is unknown, it proves nothing."""


class State(IntEnum):
    """Where a reservation stands. `engine.reservation.TRANSITIONS` is the table of moves."""

    RESERVED = 1
    COMMITTED = 2
    RELEASED = 3
    EXPIRED = 4


STATE_NAMES: Final = {
    State.RESERVED: "reserved",
    State.COMMITTED: "committed",
    State.RELEASED: "released",
    State.EXPIRED: "expired",
}


class Policy(IntEnum):
    """What a reserve takes when there is not enough of everything."""

    ALL = 0
    PARTIAL = 1


class Message(Struct, array_like=True, gc=False):
    """Base of all that is written to the wire, the journal or a snapshot.

    A field at the end that the reader does not know is left out.
    """


class Exact(Message, forbid_unknown_fields=True):
    """Base of what is a part of the state: a field that the reader does not know is an error."""


# --- parts of commands -----------------------------------------------------------------------


class LineRequest(Message):
    """`quantity` units of `sku`; from `location` if it is named, else where the engine picks."""

    sku: Id
    quantity: Quantity
    location: Id | None = None


class LineMove(Message):
    """Move `quantity` units of a held or allocated line from one location to another."""

    sku: Id
    from_location: Id
    to_location: Id
    quantity: Quantity


class ChannelPolicy(Exact):
    """What of the stock a channel may sell.

    locations: in order of preference; None = every location of the SKU, oldest first.
    pools: ring-fenced pools that the channel may draw from, in that order.
    common_stock: whether it may draw from what is not ring-fenced once its pools are empty.
    buffer: units per SKU withheld from this channel.
    """

    locations: Annotated[list[Id], Meta(max_length=limits.LOCATIONS_MAX)] | None = None
    pools: Annotated[list[Id], Meta(max_length=limits.POOLS_MAX)] = field(default_factory=list)
    common_stock: bool = True
    buffer: Level = 0


RequestLines = Annotated[list[LineRequest], Meta(min_length=1, max_length=limits.LINES_MAX)]
RequestMoves = Annotated[list[LineMove], Meta(min_length=1, max_length=limits.LINES_MAX)]
Fingerprint = Annotated[bytes, Meta(max_length=8)]


# --- commands about a reservation ------------------------------------------------------------
#
# `scope` is the channel that the caller's key belongs to, or None for an operator: what lies
# outside the scope does not exist. `home` is the shard that owns the reservation, or UNKNOWN_HOME.
# `key` names the request, where a repetition would otherwise count again.


class Reserve(Message, tag=1):
    reservation_id: Id
    lines: RequestLines
    channel: Id | None = None
    ttl_seconds: TtlSeconds = limits.TTL_SECONDS_DEFAULT
    policy: Policy = Policy.ALL
    scope: Id | None = None


class Commit(Message, tag=2):
    reservation_id: Id
    home: Home = UNKNOWN_HOME
    lines: RequestLines | None = None
    """Fewer units than were reserved; what is not named is released. None = everything."""
    if_available: bool = False
    scope: Id | None = None


class Release(Message, tag=3):
    reservation_id: Id
    home: Home = UNKNOWN_HOME
    scope: Id | None = None
    bury: bool = False
    """The caller vouches for `home`: an unknown id leaves a tombstone there."""


class Extend(Message, tag=4):
    reservation_id: Id
    ttl_seconds: TtlSeconds
    home: Home = UNKNOWN_HOME
    scope: Id | None = None


class Ship(Message, tag=5):
    reservation_id: Id
    home: Home = UNKNOWN_HOME
    lines: RequestLines | None = None
    """None = every unit that is still allocated."""
    key: Id | None = None
    scope: Id | None = None


class Cancel(Message, tag=6):
    reservation_id: Id
    home: Home = UNKNOWN_HOME
    lines: RequestLines | None = None
    """None = every unit that is still allocated."""
    key: Id | None = None
    scope: Id | None = None


class Restock(Message, tag=7):
    reservation_id: Id
    home: Home = UNKNOWN_HOME
    lines: RequestLines | None = None
    """A line's `location` is where the units go back to; None = where they were shipped from.
    No lines = every shipped unit that has not been restocked."""
    key: Id | None = None
    scope: Id | None = None


class MoveLines(Message, tag=8):
    reservation_id: Id
    moves: RequestMoves
    home: Home = UNKNOWN_HOME
    key: Id | None = None
    scope: Id | None = None


class GetReservation(Message, tag=9):
    reservation_id: Id
    home: Home = UNKNOWN_HOME
    scope: Id | None = None


class Find(Message, tag=10):
    """Which of the host's shards know this reservation? Answered for all of them at once."""

    reservation_id: Id
    scope: Id | None = None


# --- commands about stock --------------------------------------------------------------------
#
# `by` says whose key asked (`engine.scope`), "" if nobody showed one. The edges set it, whatever
# the caller sent; it is journaled with the event, and is no part of what a `key` is bound to.


class Receive(Message, tag=20):
    sku: Id
    location: Id
    quantity: Quantity
    reason: Text = ""
    reference: Text = ""
    unit_cost: Level | None = None
    """In minor units of `currency` (ISO 4217)."""
    currency: Annotated[str, Meta(min_length=3, max_length=3)] | None = None
    key: Id | None = None
    fingerprint: Fingerprint = b""
    """Of the whole request that `key` names, made by the edge; empty = of this movement."""
    by: Text = ""


class Adjust(Message, tag=21):
    sku: Id
    location: Id
    quantity: Signed
    reason: Text = ""
    reference: Text = ""
    key: Id | None = None
    fingerprint: Fingerprint = b""
    by: Text = ""


class Count(Message, tag=22):
    """Sets on_hand to what was counted, if nothing physical moved since the counter looked."""

    sku: Id
    location: Id
    quantity: Level
    reason: Text = ""
    reference: Text = ""
    expected_on_hand: Signed | None = None
    physical_version: Version | None = None
    key: Id | None = None
    fingerprint: Fingerprint = b""
    by: Text = ""


class Transfer(Message, tag=23):
    sku: Id
    location: Id
    to_location: Id
    quantity: Quantity
    reason: Text = ""
    reference: Text = ""
    key: Id | None = None
    fingerprint: Fingerprint = b""
    by: Text = ""


class GetStock(Message, tag=24):
    sku: Id


class SetStock(Message, tag=25):
    """Sets (not adds) the safety stock of locations and what pools ring-fence."""

    sku: Id
    safety_stock: Annotated[dict[Id, Level], Meta(max_length=limits.LOCATIONS_MAX)] = field(
        default_factory=dict
    )
    pools: Annotated[dict[Id, Level], Meta(max_length=limits.POOLS_MAX)] = field(
        default_factory=dict
    )
    by: Text = ""


class GetAvailability(Message, tag=26):
    sku: Id
    channel: Id | None = None


class SetChannel(Message, tag=30):
    """Journaled by every shard: the caller sends one to each, naming it in `shard`."""

    shard: Home
    channel: Id
    policy: ChannelPolicy
    by: Text = ""
    unless_known: bool = False
    """Leave a policy that the shard has as it is."""


class GetChannel(Message, tag=31):
    shard: Home
    channel: Id


class ListShortfalls(Message, tag=40):
    """Locations where more is promised than is there, after `(sku, location)`, in that order."""

    shard: Home
    after: tuple[str, str] | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 1_000


class Audit(Message, tag=41):
    """Recompute every sum of the shard from its reservations and compare; then replay its journal
    beside it, and compare again."""

    shard: Home
    quick: bool = False
    """Leave out the replay."""


class GetStatistics(Message, tag=42):
    """The counters of the process that answers; asked by a gateway when it is scraped."""


class GetStockAsOf(Message, tag=43):
    """What GetStock would have answered at an earlier moment: right after the record `position`
    (epoch, sequence), or after every record that is stamped `time` or earlier."""

    sku: Id
    time: Version | None = None
    position: tuple[Version, Version] | None = None


class ListMovements(Message, tag=44):
    """What changed the numbers of a SKU, oldest first. `after` is a place (epoch, sequence, event
    number) in the journal; `since` and `until` are stamps, both included."""

    sku: Id
    after: tuple[Version, Version, Version] | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.HISTORY_ENTRIES_MAX)] = limits.HISTORY_ENTRIES_MAX
    since: Version | None = None
    until: Version | None = None
    scope: Id | None = None


class GetMap(Message, tag=45):
    """Who owns which shard? Answered by hosts and gateways as soon as they know of something newer
    than version `after` of the engine's life `run`; at the deadline, with nothing new."""

    run: Text = ""
    after: Annotated[int, Meta(ge=-1, le=limits.COUNTER_MAX)] = -1


class ListStock(Message, tag=46):
    """SKUs of a shard in the order of their ids, those after `after`."""

    shard: Home
    after: Id | None = None
    limit: ListLimit = limits.LIST_ROWS_MAX


class ListReservations(Message, tag=47):
    """Reservations that live at a shard in the order of their ids, those after `after`; of `state`
    only, if one is named."""

    shard: Home
    after: Id | None = None
    limit: ListLimit = limits.LIST_ROWS_MAX
    state: State | None = None
    scope: Id | None = None


# --- commands about dedicated shards ---------------------------------------------------------
#
# In this order (`engine.dedication_rules`): bind, dedicate, settle; or bind, refused, unbind.


class Bind(Message, tag=48):
    """Keep dedicated shard `shard` for `sku`; it holds nothing of it yet."""

    shard: Home
    sku: Id


class Unbind(Message, tag=49):
    """The SKU cannot be dedicated: dedicated shard `shard` is free again."""

    shard: Home
    sku: Id


class Settle(Message, tag=50):
    """The SKU's hashed shard has declared that it lives in dedicated shard `shard`."""

    shard: Home
    sku: Id


class GetBinding(Message, tag=51):
    """Which SKU is dedicated shard `shard` for?"""

    shard: Home


class Dedicate(Message, tag=52):
    """To the SKU's hashed shard: from now on it lives in dedicated shard `shard`, for ever."""

    sku: Id
    shard: Home
    by: Text = ""


class ListChannels(Message, tag=53):
    """The policies that a shard has, in the order of the channels' ids, those after `after`."""

    shard: Home
    after: Id | None = None


Command = (
    Reserve
    | Commit
    | Release
    | Extend
    | Ship
    | Cancel
    | Restock
    | MoveLines
    | GetReservation
    | Find
    | Receive
    | Adjust
    | Count
    | Transfer
    | GetStock
    | SetStock
    | GetAvailability
    | SetChannel
    | GetChannel
    | ListShortfalls
    | Audit
    | GetStatistics
    | GetStockAsOf
    | ListMovements
    | GetMap
    | ListStock
    | ListReservations
    | Bind
    | Unbind
    | Settle
    | GetBinding
    | Dedicate
    | ListChannels
)
ReservationCommand = (
    Commit | Release | Extend | Ship | Cancel | Restock | MoveLines | GetReservation
)
Movement = Receive | Adjust | Count | Transfer
BESIDE: Final = frozenset({Audit, GetStockAsOf, ListMovements})
"""What an owner answers beside its batches."""
ABOUT_SKU: Final = frozenset(
    {
        *(Reserve, Receive, Adjust, Count, Transfer),
        *(GetStock, SetStock, GetAvailability, GetStockAsOf, ListMovements),
    }
)
"""What goes to where the SKU lives that it names, or the smallest of those."""


# --- events ----------------------------------------------------------------------------------


class Part(Exact):
    """The units of a line that sit at one location."""

    location: str
    quantity: int
    shipped: int = 0
    cancelled: int = 0
    restocked: int = 0


class Draw(Exact):
    """Units of a line that came out of a pool and go back there unless they are shipped."""

    pool: str
    quantity: int


class Line(Exact):
    """A line as it was accepted: `parts` add up to its quantity, `draws` to at most that."""

    sku: str
    parts: list[Part]
    draws: list[Draw] = field(default_factory=list)


class Reserved(Message, tag=1):
    reservation_id: str
    fingerprint: bytes
    channel: str | None
    expires_at: int
    lines: list[Line]
    attempt: int = 0
    """Of a hold that is part of a cart over several shards; 0 = not part of one."""
    participants: list[int] = field(default_factory=list)
    """The other shards that hold lines of this cart, if this shard is its home."""


class Committed(Message, tag=2):
    reservation_id: str
    lines: list[Line] | None = None
    """What was taken; None = all that was reserved."""


class Released(Message, tag=3):
    reservation_id: str


class Expired(Message, tag=4):
    reservation_id: str


class Extended(Message, tag=5):
    reservation_id: str
    expires_at: int


class UnitsMoved(Exact):
    """`quantity` units of line number `line` (from 0), at `location`; restocked to `to_location`,
    or moved there."""

    line: int
    location: str
    quantity: int
    to_location: str | None = None


class Shipped(Message, tag=6):
    reservation_id: str
    units: list[UnitsMoved]
    key: str | None = None
    fingerprint: bytes = b""


class Cancelled(Message, tag=7):
    reservation_id: str
    units: list[UnitsMoved]
    key: str | None = None
    fingerprint: bytes = b""


class Restocked(Message, tag=8):
    reservation_id: str
    units: list[UnitsMoved]
    key: str | None = None
    fingerprint: bytes = b""


class LinesMoved(Message, tag=9):
    reservation_id: str
    units: list[UnitsMoved]
    key: str | None = None
    fingerprint: bytes = b""


class Buried(Message, tag=10):
    """An unknown id was released here: a reserve that comes late is refused."""

    reservation_id: str


class Received(Message, tag=20):
    sku: str
    location: str
    quantity: int
    reason: str = ""
    reference: str = ""
    unit_cost: int | None = None
    currency: str | None = None
    key: str | None = None
    fingerprint: bytes = b""
    by: str = ""


class Adjusted(Message, tag=21):
    sku: str
    location: str
    quantity: int
    reason: str = ""
    reference: str = ""
    key: str | None = None
    fingerprint: bytes = b""
    by: str = ""


class Counted(Message, tag=22):
    sku: str
    location: str
    quantity: int
    reason: str = ""
    reference: str = ""
    key: str | None = None
    fingerprint: bytes = b""
    by: str = ""


class Transferred(Message, tag=23):
    sku: str
    location: str
    to_location: str
    quantity: int
    reason: str = ""
    reference: str = ""
    key: str | None = None
    fingerprint: bytes = b""
    by: str = ""


class StockSet(Message, tag=25):
    sku: str
    safety_stock: dict[str, int]
    pools: dict[str, int]
    by: str = ""


class ShortfallChanged(Message, tag=26):
    """More is promised at a location than is there: `quantity` units; 0 = no longer."""

    sku: str
    location: str
    quantity: int


class ChannelSet(Message, tag=30):
    channel: str
    policy: ChannelPolicy
    by: str = ""


class Genesis(Message, tag=50):
    """The first record of a shard's journal: what can never change."""

    cluster_id: str
    shards: int
    hash: str


class Claimed(Message, tag=51):
    """Record `<epoch>-0`. From here on every older owner's appends are refused."""

    nonce: bytes
    host: str


class Opened(Message, tag=52):
    """Record `<epoch>-1`: the state that the new owner found, and the settings it serves under.

    `digest` is empty if the owner had followed the shard, and has not summed it up.
    """

    previous_epoch: int
    previous_sequence: int
    previous_checksum: int
    digest: bytes
    opened_at: int
    grace_until: int
    finished_window_us: int
    returns_window_us: int
    keys_window_us: int


class SnapshotTaken(Message, tag=53):
    """Chunks 0…`chunks`-1 of the state as of (`epoch`, `sequence`) are stored."""

    epoch: int
    sequence: int
    chunks: int
    digest: bytes


class Passed(Message, tag=54):
    """Nothing happened: an append that only proves ownership, or that only lets time pass."""


class HandedOff(Message, tag=55):
    """The owner has stopped; the host that it names may claim."""

    host: str


class SnapshotBegun(Message, tag=56):
    """The state as of this record is being stored. Unless that is announced (`SnapshotTaken`), its
    chunks are nobody's."""


class Bound(Message, tag=57):
    """This dedicated shard is kept for a SKU, which it holds nothing of yet."""

    sku: str


class Unbound(Message, tag=58):
    """This dedicated shard is free again."""

    sku: str


class Settled(Message, tag=59):
    """The SKU that this dedicated shard is kept for lives here."""

    sku: str


class Dedicated(Message, tag=60):
    """The SKU, which this hashed shard knows nothing of, lives in dedicated shard `shard`."""

    sku: str
    shard: int
    by: str = ""


Event = (
    Reserved
    | Committed
    | Released
    | Expired
    | Extended
    | Shipped
    | Cancelled
    | Restocked
    | LinesMoved
    | Buried
    | Received
    | Adjusted
    | Counted
    | Transferred
    | StockSet
    | ShortfallChanged
    | ChannelSet
    | Genesis
    | Claimed
    | Opened
    | SnapshotTaken
    | Passed
    | HandedOff
    | SnapshotBegun
    | Bound
    | Unbound
    | Settled
    | Dedicated
)


# --- answers ---------------------------------------------------------------------------------


class LineView(Message):
    """`locations` pairs each location with the units of the line there (shipped ones included)."""

    sku: str
    quantity: int
    locations: list[tuple[str, int]]
    shipped: int = 0
    cancelled: int = 0
    restocked: int = 0


class ReservationView(Message, tag=1):
    reservation_id: str
    home: int
    state: State
    channel: str | None
    expires_at: int
    lines: list[LineView]


class ShortLine(Message):
    sku: str
    requested: int
    available: int


class Shortage(Message, tag=2):
    lines: list[ShortLine]


class LocationView(Message):
    location: str
    on_hand: int
    reserved: int
    allocated: int
    safety_stock: int
    available: int


class StockView(Message, tag=3):
    sku: str
    version: int
    physical_version: int
    on_hand: int
    reserved: int
    allocated: int
    safety_stock: int
    available: int
    locations: list[LocationView]
    pools: list[tuple[str, int]]


class AvailabilityView(Message, tag=4):
    """The waterfall that ends in what the channel may sell now.

    available_to_promise = max(0, min(served, available - ring_fenced) - buffer); a channel that may
    not draw from common stock gets at most `own_pools`.
    """

    sku: str
    channel: str | None
    version: int
    available: int
    """In all locations of the SKU, those that are short included."""
    served: int
    """In the locations that the channel sells from, those that are short counting as 0."""
    ring_fenced: int
    """Withheld for the pools of others."""
    own_pools: int
    buffer: int
    available_to_promise: int


class MovementView(Message, tag=5):
    sku: str
    location: str
    on_hand: int
    available: int
    version: int
    physical_version: int


class ChannelView(Message, tag=6):
    channel: str
    policy: ChannelPolicy


class Homes(Message, tag=7):
    """Of the `asked` shards of this host, those that know the reservation."""

    shards: list[int]
    asked: list[int]


class MovedTo(Message, tag=8):
    shard: int
    epoch: int
    address: str


class Shortfall(Message):
    sku: str
    location: str
    quantity: int


class ShortfallPage(Message, tag=9):
    shortfalls: list[Shortfall]


class AuditView(Message, tag=10):
    """Sums of one shard, and every disagreement that was found (the first few, in words)."""

    shard: int
    epoch: int
    sequence: int
    digest: bytes
    skus: int
    on_hand: int
    reserved: int
    allocated: int
    available: int
    shipped: int
    reservations: dict[str, int]
    """How many are remembered, by state."""
    units: dict[str, int]
    """Their units, by state."""
    drift: int
    findings: list[str]
    replayed: int = 0
    """Records of the journal that were replayed beside the shard."""
    checks: int = 0
    """Digests and checksums that were compared."""
    complete: bool = False
    """Whether that led from a snapshot, or from the first record, to what is served."""
    skipped: str = ""
    """Why it did not, if nothing was found that would say so."""
    damage: int = 0
    """Of the findings, those about what is stored; memory is right."""


class Histogram(Message):
    """`counts[i]` observations ≤ `bounds[i]`, above the bound before; one count more: the rest."""

    bounds: list[float]
    counts: list[int]
    total: float


class Sample(Message):
    """One metric: `labels` pairs names with values; `value` is its reading."""

    name: str
    labels: list[tuple[str, str]]
    value: float | Histogram


class Statistics(Message, tag=12):
    """Samples of one process at one moment. Names ending in `_total` only ever grow."""

    samples: list[Sample]


class StockAsOf(Message, tag=13):
    """A SKU as it stood right after the record (`epoch`, `sequence`), which is stamped `time`."""

    epoch: int
    sequence: int
    time: int
    stock: StockView


class Counters(Message):
    """Of one location of a SKU."""

    on_hand: int
    reserved: int
    allocated: int
    available: int


class PlaceChange(Message):
    """What one event did at one location."""

    location: str
    before: Counters
    after: Counters


class PoolChange(Message):
    """What one event did to what a pool ring-fences."""

    pool: str
    before: int
    after: int


class LedgerEntry(Message):
    """What one event did to one SKU: event `number` (from 0) of the record (`epoch`, `sequence`).

    Of a reservation the channel is known, of everything else whose key asked. `quantity` is what
    the event was about: signed if units were adjusted, absolute if they were counted; of a commit,
    the units that were taken.
    """

    epoch: int
    sequence: int
    number: int
    time: int
    kind: str
    quantity: int
    version: int
    places: list[PlaceChange]
    pools: list[PoolChange]
    reservation_id: str | None = None
    channel: str | None = None
    by: str = ""
    reason: str = ""
    reference: str = ""


class LedgerPage(Message, tag=14):
    """Entries in the order of the journal. `next`: from where to go on, None = that was all;
    (`epoch`, `sequence`): up to there the journal was looked through."""

    entries: list[LedgerEntry]
    next: tuple[int, int, int] | None
    epoch: int
    sequence: int
    begins: tuple[int, int] = (0, 0)
    """The record after which looking began: where neither `after` nor `since` was given, what is
    before is not kept."""


class RouteView(Message):
    """Who owns a shard, under which epoch; `address` "" = nobody at the moment."""

    shard: int
    epoch: int
    address: str


class MapView(Message, tag=15):
    """The shard map, version `version` of the engine's life `run`. Of a caller who has an earlier
    version of the same life only those `routes` that have changed since."""

    run: str
    version: int
    shards: int
    routes: list[RouteView]
    stopped: list[int] = field(default_factory=list)
    """All shards whose journal does not prove itself: nobody is going to own them."""
    alive: list[str] = field(default_factory=list)
    """Where all hosts are that live, owners or not."""
    dedicated: int = 0
    """How many dedicated shards there are; their numbers begin with `shards`."""


class StockPage(Message, tag=16):
    """The page may be empty and still not the last: `next` is the id after which to go on; None =
    that was all."""

    stock: list[StockView]
    next: str | None


class ReservationPage(Message, tag=17):
    """As `StockPage`."""

    reservations: list[ReservationView]
    next: str | None


class DedicatedTo(Message, tag=18):
    """The SKU lives in this dedicated shard."""

    sku: str
    shard: int


class Binding(Message, tag=19):
    """Which SKU a dedicated shard is for, if for any; whether it lives there."""

    shard: int
    sku: str | None
    settled: bool


class ChannelPage(Message, tag=20):
    """`next`: the channel after which to go on; None = that was all."""

    channels: list[ChannelView]
    next: str | None


class Detail(Message, tag=11):
    """Says in words what was wrong with the command."""

    message: str


Body = (
    ReservationView
    | Shortage
    | StockView
    | AvailabilityView
    | MovementView
    | ChannelView
    | Homes
    | MovedTo
    | ShortfallPage
    | AuditView
    | Detail
    | Statistics
    | StockAsOf
    | LedgerPage
    | MapView
    | StockPage
    | ReservationPage
    | DedicatedTo
    | Binding
    | ChannelPage
)


class Answer(Message):
    status: Status
    body: Body | None = None


AnyAnswer = Answer | bytes
"""An answer, perhaps encoded already (see `engine.wire.encode_answer`)."""


# --- frames ----------------------------------------------------------------------------------

PROTOCOL_VERSION: Final = 1
MAGIC: Final = "onhand"


class Hello(Message):
    """The first frame of either side."""

    magic: str
    version: int
    key: str | None = None
    """The caller's API key; absent in the answer."""
    name: str = ""
    """Who answers: a gateway's or host's name."""
    shards: int = 0
    """How many hashed shards the installation has: the modulus."""
    dedicated: int = 0
    """How many dedicated shards it has beside them."""


class Trace(Message):
    """Of which trace command number `index` of a request is a part, the span that it was sent in,
    and what its caller calls it: for logs. Nothing rests on it."""

    index: Annotated[int, Meta(ge=0, lt=limits.COMMANDS_PER_FRAME_MAX)]
    trace_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    span_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    request_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{0,128}\Z")] = ""


class Request(Message):
    request_id: Annotated[int, Meta(ge=0, le=limits.COUNTER_MAX)]
    deadline_ms: Annotated[int, Meta(ge=1, le=limits.DEADLINE_MS_MAX)]
    """How long the caller will wait, from the moment of receipt."""
    commands: Annotated[list[Command], Meta(min_length=1, max_length=limits.COMMANDS_PER_FRAME_MAX)]
    traces: Annotated[list[Trace], Meta(max_length=limits.COMMANDS_PER_FRAME_MAX)] | None = None
    """Of those commands that are traced; None = of none."""
    shard: Home = UNKNOWN_HOME
    """Which shard those of the commands are for that name a SKU, if the sender has worked it out: a
    host takes them there without looking at each. A gateway finds that out by itself."""


class Head(Message):
    """The last acknowledged record that an answer of this shard rests on."""

    shard: int
    epoch: int
    sequence: int


class Response(Message):
    """One answer per command, in the order of the request's commands. Requests are numbered from 1
    on; a response to request 0 is about the connection itself (`GOODBYE`, or why it is closed)."""

    request_id: int
    answers: list[Answer]
    heads: list[Head] = field(default_factory=list)


class Outgoing(Message):
    """A response on its way out. The same on the wire; who reads it gets a `Response`."""

    request_id: int
    answers: Sequence[AnyAnswer]
    heads: list[Head] = field(default_factory=list)


GOODBYE: Final = Response(0, [Answer(Status.NOT_DONE)])
"""Send no more over this connection: whoever says it is about to end. What was sent before is
answered; whoever hears it connects anew, which leads elsewhere if there is anybody else, and closes
this connection when it has all of its answers."""
