"""The JSON of the past: stock as of a moment, and the movements of a SKU.

A moment is a time, or the position of a record, `<epoch>-<sequence>`; an answer names both. Times
are RFC 3339 to the microsecond, since two records may lie within a millisecond: a time from an
answer, sent back, means the same moment. A place is a position and the number of an event there,
`<epoch>-<sequence>-<number>`, and is where the next page begins.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from msgspec import Meta

from engine import limits
from engine.history import KINDS
from engine.messages import Counters as CountersView
from engine.messages import GetStockAsOf, LedgerEntry, LedgerPage, ListMovements, StockAsOf
from gateway import problems
from gateway.http_input import parse_number
from gateway.http_types import Moment, Output, Stock, stock_of
from gateway.problems import RefusedError

MOVEMENTS_DEFAULT: Final = 100
PLACE_SCHEMA: Final = {"type": "string", "pattern": "^[0-9]{1,16}-[0-9]{1,16}-[0-9]{1,16}$"}
TIME_SCHEMA: Final = {"type": "string", "format": "date-time"}
AS_OF_SCHEMA: Final = {
    "anyOf": [TIME_SCHEMA, {"type": "string", "pattern": "^[0-9]{1,16}-[0-9]{1,16}$"}]
}
_NUMBERS: Final = re.compile(r"[0-9]{1,16}(-[0-9]{1,16}){1,2}", re.ASCII).fullmatch
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
).fullmatch
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Place = Annotated[str, Meta(pattern=PLACE_SCHEMA["pattern"])]


# --- what goes out ---------------------------------------------------------------------------


class Counters(Output):
    """Of the SKU at one location."""

    on_hand: int
    reserved: int
    allocated: int
    available: int


class PlaceChange(Output):
    """What the movement did at one location."""

    location: str
    before: Counters
    after: Counters


class PoolChange(Output):
    """What the movement did to what a pool ring-fences."""

    pool: str
    before: int
    after: int


class LedgerMovement(Output):
    """One entry of the ledger of a SKU.

    `quantity`: signed if units were adjusted, absolute if they were counted; of a commit, the units
    that were taken. Of a sale, `reservation_id` and `channel` say who; of everything else `by`,
    the id of the API key that asked.
    """

    place: Place
    """May be sent back as ?after=."""
    time: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    kind: Annotated[str, Meta(extra_json_schema={"enum": list(KINDS)})]
    quantity: int
    version: int
    locations: list[PlaceChange]
    pools: list[PoolChange]
    reservation_id: str | None
    channel: str | None
    by: str | None
    reason: str | None
    reference: str | None


class Movements(Output):
    """Movements of a SKU, in the order in which they happened."""

    movements: list[LedgerMovement]
    next: Place | None
    """Send it back as ?after= for what follows; null = that was all."""
    looked_through: str
    """The last record that was looked at."""
    begins_after: str | None
    """Where neither `after` nor `since` was sent: what happened up to this record is not kept; null
    = this is the whole history."""


# --- what comes in ---------------------------------------------------------------------------


def as_of(sku: str, text: str) -> GetStockAsOf:
    """The question that `?as_of=` stands for. Raises RefusedError."""
    if _NUMBERS(text) is not None and text.count("-") == 1:
        epoch, sequence = _numbers(text, "as_of")
        return GetStockAsOf(sku, position=(epoch, sequence))
    return GetStockAsOf(sku, time=parse_time(text, "as_of"))


def movements(sku: str, query: dict[str, str]) -> ListMovements:
    """The question that the query stands for. Raises RefusedError."""
    after, since, until = (query.get(name) for name in ("after", "since", "until"))
    place = None
    if after is not None:
        if _NUMBERS(after) is None or after.count("-") != 2:
            raise RefusedError(problems.INVALID, "after is no place: take `next` of an answer")
        epoch, sequence, number = _numbers(after, "after")
        place = epoch, sequence, number
    limit = query.get("limit", str(MOVEMENTS_DEFAULT))
    return ListMovements(
        sku,
        place,
        parse_number(limit, "limit", 1, limits.HISTORY_ENTRIES_MAX),
        None if since is None else parse_time(since, "since"),
        None if until is None else parse_time(until, "until"),
    )


def _numbers(text: str, name: str) -> list[int]:
    return [parse_number(each, name, 0, limits.COUNTER_MAX) for each in text.split("-")]


def parse_time(text: str, name: str) -> int:
    """Microseconds since 1970. A `+` that the query was sent with unescaped is taken for one."""
    text = text.replace(" ", "+")
    try:
        if _TIME(text) is None:
            raise ValueError("not of that form")
        since = datetime.fromisoformat(text.upper()) - _EPOCH
    except (ValueError, OverflowError) as error:
        form = "a time like 2026-12-01T09:10:00Z"
        if name == "as_of":
            form += ", or a position like 4-17"
        raise RefusedError(problems.INVALID, f"{name} must be {form}") from error
    microseconds = (since.days * 86_400 + since.seconds) * limits.SECOND_US + since.microseconds
    if microseconds < 0:
        raise RefusedError(problems.INVALID, f"{name} is before 1970")
    return min(microseconds, limits.COUNTER_MAX)  # in any case, far from now


# --- from the engine's views -----------------------------------------------------------------


def moment(microseconds: int) -> str:
    """RFC 3339, UTC, microseconds."""
    seconds, rest = divmod(microseconds, limits.SECOND_US)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


def stock_then(view: StockAsOf) -> Stock:
    stock = stock_of(view.stock)
    stock.as_of = Moment(f"{view.epoch}-{view.sequence}", moment(view.time))
    return stock


def movements_of(view: LedgerPage) -> Movements:
    return Movements(
        [_movement(entry) for entry in view.entries],
        None if view.next is None else "-".join(map(str, view.next)),
        f"{view.epoch}-{view.sequence}",
        None if view.begins == (0, 0) else "-".join(map(str, view.begins)),
    )


def _movement(entry: LedgerEntry) -> LedgerMovement:
    return LedgerMovement(
        f"{entry.epoch}-{entry.sequence}-{entry.number}",
        moment(entry.time),
        entry.kind,
        entry.quantity,
        entry.version,
        [
            PlaceChange(each.location, _counters(each.before), _counters(each.after))
            for each in entry.places
        ],
        [PoolChange(each.pool, each.before, each.after) for each in entry.pools],
        entry.reservation_id,
        entry.channel,
        entry.by or None,
        entry.reason or None,
        entry.reference or None,
    )


def _counters(view: CountersView) -> Counters:
    return Counters(view.on_hand, view.reserved, view.allocated, view.available)


HISTORY_VIEWS: Final[dict[type[Any], Any]] = {StockAsOf: stock_then, LedgerPage: movements_of}
"""How each body of an answer about the past is shown."""
