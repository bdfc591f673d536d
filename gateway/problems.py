"""Refusals over HTTP: one table from what was refused to what the caller reads.

Every answer that is not a success is an RFC 9457 problem document. Its `code` never changes and is
what programs test; `title` and `detail` are for people; `retryable` says whether the very same
request, sent again, may succeed. `TABLE` holds one row per `Status` of the engine, the constants
below it what only HTTP can refuse. Nothing else in the gateway knows an HTTP status of a refusal.
"""

from typing import Final, NamedTuple

import msgspec

from engine.messages import Answer, Detail, ReservationView, Shortage, Status
from gateway.http_types import Reservation, ShortfallLine, reservation_of, short_lines_of


class Kind(NamedTuple):
    """One way to be refused. `retry_after` is in seconds; `advice` is the detail, if none other."""

    code: str
    http: int
    title: str
    retryable: bool
    advice: str
    retry_after: int | None = None


def _row(
    status: Status,
    http: int,
    title: str,
    advice: str,
    *,
    retryable: bool = False,
    retry_after: int | None = None,
) -> tuple[Status, Kind]:
    return status, Kind(status.name.lower(), http, title, retryable, advice, retry_after)


TABLE: Final[dict[Status, Kind]] = dict(
    [
        _row(Status.OK, 200, "Done", "Nothing is left to do."),
        _row(Status.REPLAYED, 200, "Done before", "Nothing is left to do."),
        _row(
            Status.INSUFFICIENT_STOCK,
            409,
            "Not enough stock",
            "Ask for less, use the policy partial, or try again once stock has arrived.",
        ),
        _row(
            Status.IDEMPOTENCY_MISMATCH,
            422,
            "The name was used for another request",
            "Send the request as it was first sent, or give this one a name of its own.",
        ),
        _row(
            Status.UNKNOWN_RESERVATION,
            404,
            "Unknown reservation",
            "Check the id; reservations that ended long ago are forgotten.",
        ),
        _row(
            Status.RESERVATION_EXPIRED,
            410,
            "The reservation has expired",
            "Reserve again, or commit with if_available to take the units if they are still there.",
        ),
        _row(
            Status.RESERVATION_RELEASED,
            409,
            "The reservation was released",
            "Reserve again under a new id.",
        ),
        _row(
            Status.ILLEGAL_TRANSITION,
            409,
            "Not possible in this state",
            "Read the reservation to see how it stands.",
        ),
        _row(
            Status.PHYSICAL_SHORTFALL,
            409,
            "Fewer units are there than should be",
            "Count the location, or move the line to one that has the units.",
        ),
        _row(Status.UNKNOWN_SKU, 404, "Unknown SKU", "A SKU exists once a movement names it."),
        _row(
            Status.UNKNOWN_LOCATION,
            422,
            "Unknown location",
            "A location of a SKU exists once a movement names it.",
        ),
        _row(
            Status.STALE_COUNT,
            409,
            "Stock moved since it was counted",
            "Read the stock and count again.",
        ),
        _row(
            Status.LINES_SPAN_SHARDS,
            422,
            "The lines belong to several shards",
            "Reserve each line under an id of its own.",
        ),
        _row(
            Status.UNKNOWN_LINE,
            422,
            "No such line, or not that many units of it",
            "Read the reservation to see what can be shipped, cancelled, restocked or moved.",
        ),
        _row(
            Status.AMBIGUOUS_RESERVATION,
            409,
            "Several reservations have this id",
            "Say which one is meant: ?home= takes the home that was answered when it was made.",
        ),
        _row(
            Status.UNKNOWN_CHANNEL,
            404,
            "Unknown channel",
            "A channel exists once its policy has been put.",
        ),
        _row(
            Status.LOCATION_NOT_SERVED,
            422,
            "The channel does not sell from this location",
            "Leave the location out, or name one of the channel's.",
        ),
        _row(
            Status.QUANTITY_OVERFLOW,
            422,
            "The sum would be too large",
            "A location holds at most 2,147,483,647 units of a SKU.",
        ),
        _row(
            Status.HISTORY_NOT_KEPT,
            410,
            "That past is not kept",
            "Ask for a later moment.",
        ),
        _row(
            Status.NOT_YET,
            409,
            "That moment is to come",
            "Ask again once it has passed.",
            retryable=True,
        ),
        _row(
            Status.UNKNOWN_RECORD,
            404,
            "There is no such record",
            "Take a position that an answer has named, or a time.",
        ),
        _row(
            Status.DEDICATED,
            409,
            "The SKU has another dedicated shard",
            "It stays there. Name that shard, or none.",
        ),
        _row(
            Status.SKU_KNOWN,
            409,
            "The SKU has stock already",
            "A SKU is dedicated before its first stock; this one stays where it is.",
        ),
        _row(
            Status.SHARD_TAKEN,
            409,
            "No dedicated shard is free for it",
            "Start the engine with a larger --dedicated, or name another shard.",
        ),
        _row(Status.INVALID, 400, "Not a valid request", "Mend the request."),
        _row(
            Status.FORBIDDEN,
            403,
            "The API key does not allow this",
            "Use a key with the verb that this call needs.",
        ),
        _row(
            Status.UNAUTHENTICATED,
            401,
            "An API key is needed",
            "Send a valid key as: Authorization: Bearer <key>.",
        ),
        _row(
            Status.TOO_MANY_REQUESTS,
            429,
            "Too many requests",
            "Send fewer; try again after the time in Retry-After.",
            retryable=True,
            retry_after=1,
        ),
        _row(
            Status.NOT_DONE,
            503,
            "Not done",
            "Certainly not applied. Send the same request again.",
            retryable=True,
            retry_after=1,
        ),
        _row(
            Status.OUTCOME_UNKNOWN,
            503,
            "Perhaps done",
            "Send the same request under the same name: it finds out, and never applies twice.",
            retryable=True,
            retry_after=1,
        ),
        _row(
            Status.OVERLOADED,
            503,
            "Overloaded",
            "Not applied. Send the same request again after the time in Retry-After.",
            retryable=True,
            retry_after=1,
        ),
        _row(
            Status.MEMORY_FULL,
            503,
            "No room to remember more",
            "Not applied. Send the same request again once finished reservations were forgotten.",
            retryable=True,
            retry_after=10,
        ),
        _row(
            Status.MOVED,
            503,
            "The shard is moving",
            "Not applied. Send the same request again.",
            retryable=True,
            retry_after=1,
        ),
        _row(
            Status.SHARD_STOPPED,
            503,
            "The shard has stopped",
            "Its journal failed a check, and it refuses to guess. An operator has to look.",
        ),
        _row(
            Status.HISTORY_DAMAGED,
            500,
            "What is kept of that time is damaged",
            "It does not prove itself; the engine's log says where. An operator has to look.",
        ),
    ]
)

INVALID: Final = TABLE[Status.INVALID]
FORBIDDEN: Final = TABLE[Status.FORBIDDEN]
UNAUTHENTICATED: Final = TABLE[Status.UNAUTHENTICATED]

MALFORMED_HTTP: Final = Kind(
    "malformed_http", 400, "Not a valid HTTP request", False, "The connection is closed."
)
ORIGIN_NOT_ALLOWED: Final = Kind(
    "origin_not_allowed",
    403,
    "This page may not call the engine",
    False,
    "Without API keys, only pages of the engine's own host may.",
)
NOT_FOUND: Final = Kind(
    "not_found", 404, "There is nothing here", False, "The calls are listed in /openapi.json."
)
METHOD_NOT_ALLOWED: Final = Kind(
    "method_not_allowed", 405, "Wrong method", False, "Use one that the header Allow names."
)
REQUEST_TIMEOUT: Final = Kind(
    "request_timeout", 408, "The request came too slowly", True, "Send it again, whole."
)
BODY_TOO_LARGE: Final = Kind(
    "body_too_large", 413, "The body is too large", False, "A body may have 65,536 bytes."
)
UNSUPPORTED_MEDIA_TYPE: Final = Kind(
    "unsupported_media_type",
    415,
    "Not a type that is read here",
    False,
    "Send application/json, uncompressed.",
)
MISDIRECTED: Final = Kind(
    "misdirected", 421, "Not a name of this host", False, "Call the engine by a name it answers to."
)
HEADERS_TOO_LARGE: Final = Kind(
    "headers_too_large", 431, "The headers are too large", False, "They may have 16,384 bytes."
)
INTERNAL: Final = Kind(
    "internal", 500, "A bug", False, "Look at the gateway's log. The outcome is unknown."
)
NOT_READY: Final = Kind("not_ready", 503, "Not ready", True, "Wait until every shard is served.", 1)
NOT_MOVABLE: Final = Kind(
    "not_movable", 409, "The shard cannot move there", True, "See /v1/status, and try again."
)
NOT_RESTARTABLE: Final = Kind(
    "not_restartable", 409, "The process cannot restart now", True, "See /v1/status, and try again."
)
TOO_MANY_CONNECTIONS: Final = Kind(
    "too_many_connections", 503, "Too many connections", True, "Use fewer; try again later.", 1
)
EDGE_KINDS: Final = (
    MALFORMED_HTTP,
    ORIGIN_NOT_ALLOWED,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    REQUEST_TIMEOUT,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    MISDIRECTED,
    HEADERS_TOO_LARGE,
    INTERNAL,
    NOT_READY,
    NOT_MOVABLE,
    NOT_RESTARTABLE,
    TOO_MANY_CONNECTIONS,
)
"""What only HTTP refuses."""


class Problem(msgspec.Struct, omit_defaults=True):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    lines: list[ShortfallLine] | None = None
    """What is missing, for insufficient_stock."""
    reservation: Reservation | None = None
    """How the reservation stands now, where that is why the request was refused."""
    instance: str = ""
    """This very request, by the id that X-Request-Id says."""
    trace_id: str = ""
    """The trace that it is a part of."""


class Reply(NamedTuple):
    """A whole HTTP answer, short of what the connection adds."""

    status: int
    payload: bytes
    media: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RefusedError(Exception):
    """What the caller sent cannot be served; raised while reading it, answered at one place."""

    def __init__(
        self, kind: Kind, detail: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(detail or kind.advice)
        self.kind = kind
        self.detail = detail
        self.headers = headers


PROBLEM_MEDIA: Final = b"application/problem+json"
_encode: Final = msgspec.json.Encoder().encode


def problem(
    kind: Kind,
    detail: str = "",
    lines: list[ShortfallLine] | None = None,
    reservation: Reservation | None = None,
) -> Problem:
    """The document that says so."""
    return Problem(
        f"urn:onhand:problem:{kind.code}",
        kind.title,
        kind.http,
        detail or kind.advice,
        kind.code,
        kind.retryable,
        lines,
        reservation,
    )


def refusal(kind: Kind, detail: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """The answer that refuses."""
    return _reply(kind, problem(kind, detail), headers)


def signed(reply: Reply, request_id: str, trace_id: str) -> Reply:
    """`reply`, a problem document, as that of this very request. Both ids are plain ASCII."""
    ids = f',"instance":"urn:onhand:request:{request_id}","trace_id":"{trace_id}"}}'
    return reply._replace(payload=reply.payload[:-1] + ids.encode())


def refusal_of(answer: Answer) -> Reply:
    """The answer to a command that the engine refused."""
    return _reply(TABLE[answer.status], problem_of(answer))


def problem_of(answer: Answer) -> Problem:
    """The document of a command that the engine refused."""
    kind, body = TABLE[answer.status], answer.body
    if isinstance(body, Shortage):
        return problem(kind, lines=short_lines_of(body))
    if isinstance(body, ReservationView):
        return problem(kind, reservation=reservation_of(body))
    return problem(kind, body.message if isinstance(body, Detail) else "")


def _reply(kind: Kind, document: Problem, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    if kind.retry_after is not None:
        headers = (*headers, (b"retry-after", b"%d" % kind.retry_after))
    if kind.http == 401:
        headers = (*headers, (b"www-authenticate", b'Bearer realm="onhand"'))
    return Reply(kind.http, _encode(document), PROBLEM_MEDIA, headers)
