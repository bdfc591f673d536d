"""Calls that are one command each: what HTTP says, as the engine's vocabulary, and back.

Each function reads one request and returns the command it stands for, or raises RefusedError; the
answer is shown by `show`, the same way for all. Nothing here waits, and nothing decides: what a
shopper gets is the engine's business.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from engine import limits
from engine.messages import (
    UNKNOWN_HOME,
    Answer,
    Cancel,
    Command,
    Commit,
    Extend,
    GetAvailability,
    GetChannel,
    GetReservation,
    GetStock,
    GetStockAsOf,
    LineMove,
    LineRequest,
    ListMovements,
    MoveLines,
    Policy,
    Release,
    Reserve,
    Restock,
    SetStock,
    Ship,
    Status,
)
from engine.placement import shard_of
from gateway import http_history as history
from gateway import problems
from gateway.http_input import BodyDecoder, check_id, parse_number
from gateway.http_types import (
    VIEWS,
    CommitBody,
    ExtendBody,
    MoveBody,
    ReleaseBody,
    ReserveBody,
    ReserveLine,
    SetStockBody,
    UnitsBody,
)
from gateway.problems import RefusedError, Reply, refusal_of

if TYPE_CHECKING:
    from gateway.http_api import Api

RESERVE: Final = BodyDecoder(ReserveBody)
COMMIT: Final = BodyDecoder(CommitBody, optional=True)
RELEASE: Final = BodyDecoder(ReleaseBody, optional=True)
EXTEND: Final = BodyDecoder(ExtendBody)
UNITS: Final = BodyDecoder(UnitsBody, optional=True)
MOVE: Final = BodyDecoder(MoveBody)
SET_STOCK: Final = BodyDecoder(SetStockBody)

_POLICIES: Final = {"all": Policy.ALL, "partial": Policy.PARTIAL}
_VIEWS: Final = VIEWS | history.HISTORY_VIEWS
_DEADLINES_MS: Final[dict[type[Command], int]] = dict.fromkeys(
    (GetStockAsOf, ListMovements), limits.HISTORY_DEADLINE_MS
)
_encode: Final = msgspec.json.Encoder().encode


class Call:
    """One request, as far as commands are concerned."""

    __slots__ = ("api", "body", "key", "query", "subject")

    api: "Api"
    subject: str
    """The `{id}` of the path, checked."""
    query: dict[str, str]
    key: str | None
    """The Idempotency-Key, checked."""
    body: bytes

    @property
    def home(self) -> int:
        """The hint ?home=, or UNKNOWN_HOME."""
        text = self.query.get("home")
        if text is None:
            return UNKNOWN_HOME
        return parse_number(text, "home", 0, self.api.total - 1)


def deadline_ms(command: Command) -> int:
    """How long the engine has to answer."""
    return _DEADLINES_MS.get(type(command), limits.DEADLINE_MS_DEFAULT)


def show(answer: Answer, success: int) -> Reply:
    """`answer` as the caller sees it; OK is shown as `success`."""
    status, body = answer.status, answer.body
    if status is Status.OK:
        return Reply(success, _encode(_VIEWS[type(body)](body)))
    if status is Status.REPLAYED:
        return Reply(200, _encode(_VIEWS[type(body)](body)))
    return refusal_of(answer)


# --- reservations ----------------------------------------------------------------------------


def reserve(call: Call) -> Command:
    body = RESERVE.read(call.body)
    name = body.reservation_id or None
    if call.key is not None:
        if name not in (None, call.key):
            raise RefusedError(problems.INVALID, "reservation_id and Idempotency-Key differ")
        name = call.key
    if name is None:
        smallest = min((line.sku for line in body.lines), key=str.encode)
        name = call.api.mint(call.api.router.place_of(smallest))
    return Reserve(
        name,
        _lines(body.lines),
        body.channel or None,
        body.ttl_seconds or limits.TTL_SECONDS_DEFAULT,
        _POLICIES[body.policy or "all"],
    )


def commit(call: Call) -> Command:
    body = COMMIT.read(call.body)
    lines = [LineRequest(line.sku, line.quantity) for line in body.lines or ()]
    return Commit(call.subject, call.home, lines or None, body.if_available is True)


def release(call: Call) -> Command:
    RELEASE.decode(call.body)
    return Release(call.subject, call.home)


def extend(call: Call) -> Command:
    body = EXTEND.read(call.body)
    return Extend(call.subject, body.ttl_seconds, call.home)


def ship(call: Call) -> Command:
    body = UNITS.read(call.body)
    return Ship(call.subject, call.home, _lines(body.lines or ()) or None, call.key)


def cancel(call: Call) -> Command:
    body = UNITS.read(call.body)
    return Cancel(call.subject, call.home, _lines(body.lines or ()) or None, call.key)


def restock(call: Call) -> Command:
    body = UNITS.read(call.body)
    return Restock(call.subject, call.home, _lines(body.lines or ()) or None, call.key)


def move(call: Call) -> Command:
    lines = MOVE.read(call.body).lines
    moves = [
        LineMove(line.sku, line.from_location, line.to_location, line.quantity) for line in lines
    ]
    return MoveLines(call.subject, moves, call.home, call.key)


def get_reservation(call: Call) -> Command:
    return GetReservation(call.subject, call.home)


def _lines(lines: "list[ReserveLine] | tuple[()]") -> list[LineRequest]:
    return [LineRequest(line.sku, line.quantity, line.location or None) for line in lines]


# --- stock -----------------------------------------------------------------------------------


def get_stock(call: Call) -> Command:
    then = call.query.get("as_of")
    return GetStock(call.subject) if then is None else history.as_of(call.subject, then)


def list_movements(call: Call) -> Command:
    return history.movements(call.subject, call.query)


def set_stock(call: Call) -> Command:
    body = SET_STOCK.read(call.body)
    return SetStock(call.subject, body.safety_stock or {}, body.pools or {})


def get_availability(call: Call) -> Command:
    channel = call.query.get("channel")
    return GetAvailability(call.subject, None if channel is None else check_id(channel, "channel"))


def get_channel(call: Call) -> Command:
    """Every hashed shard has all policies; which one is asked spreads the load, and is always the
    same."""
    return GetChannel(shard_of(call.subject, call.api.shards), call.subject)
