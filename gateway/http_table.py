"""Every call of the API, declared: this is the list that is served and described.

The examples are values of the very types that are sent, so they cannot drift from them.
"""

from typing import Any, Final

from engine import limits
from engine.messages import (
    STATE_NAMES,
    Audit,
    Cancel,
    Commit,
    Dedicate,
    Extend,
    GetAvailability,
    GetChannel,
    GetReservation,
    GetStatistics,
    GetStock,
    ListMovements,
    ListReservations,
    ListShortfalls,
    ListStock,
    MoveLines,
    Receive,
    Release,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    Status,
)
from gateway import dedication, problems
from gateway import http_calls as calls
from gateway import http_history as history
from gateway import http_lists as lists
from gateway import http_pages as pages
from gateway.http_import import CSV, NDJSON
from gateway.http_movements import MOVEMENTS
from gateway.http_reports import (
    AuditReport,
    Health,
    ImportReport,
    MovementResult,
    MovementResults,
    Readiness,
    RowError,
    ShardAudit,
    ShardOwner,
    Shards,
)
from gateway.http_routes import Operation, Parameter, RouteTable
from gateway.http_rows import KINDS
from gateway.http_types import (
    Availability,
    Channel,
    ChannelBody,
    CommitBody,
    CommitLine,
    CountedMovement,
    ExtendBody,
    LocationQuantity,
    LocationStock,
    MoveBody,
    MoveLine,
    Movement,
    MovementsBody,
    PoolStock,
    ReceivedMovement,
    ReleaseBody,
    Reservation,
    ReservationLine,
    Reservations,
    ReserveBody,
    ReserveLine,
    SetStockBody,
    Shortfall,
    Shortfalls,
    Stock,
    Stocks,
    UnitsBody,
    Waterfall,
)
from gateway.problems import problem

RESERVATIONS: Final = "reservations"
STOCK: Final = "stock"
CHANNELS: Final = "channels"
ENGINE: Final = "engine"

_ID: Final = {"type": "string", "pattern": limits.ID_PATTERN}
_HOME: Final = Parameter(
    "home",
    {"type": "integer", "minimum": 0, "maximum": limits.SHARDS_MAX - 1},
    "The reservation's home, as it was answered: saves looking for it.",
)


def _reservation(status: Any, shipped: int = 0, cancelled: int = 0, restocked: int = 0) -> Any:
    line = ReservationLine(
        "SKU-1", 2, [LocationQuantity("berlin", 2)], shipped, cancelled, restocked
    )
    return Reservation("cart-7", 3, status, "web", "2026-12-01T09:10:00.000Z", [line])


_STOCK: Final = Stock(
    "SKU-1",
    *(7, 2, 40, 2, 5, 3, 30),
    [LocationStock("berlin", 40, 2, 5, 3, 30)],
    [PoolStock("vip", 10)],
)
_MOVEMENTS: Final = history.Movements(
    [
        history.LedgerMovement(
            *("4-17-0", "2026-12-01T09:10:00.000000Z", "received", 40, 7),
            [
                history.PlaceChange(
                    "berlin", history.Counters(0, 0, 0, 0), history.Counters(40, 0, 0, 40)
                )
            ],
            [],
            *(None, None, "0a1b2c3d4e5f", "bought", "PO-17"),
        )
    ],
    *("4-17-0", "4-17", None),
)
_LIST: Final = (
    Parameter(
        "limit",
        {
            "type": "integer",
            "minimum": 1,
            "maximum": lists.ROWS_MAX,
            "default": lists.ROWS_DEFAULT,
        },
        "How many to list at most.",
    ),
    Parameter("cursor", {"type": "string"}, "What `next` said, for what follows."),
)
_OF_LISTS: Final = (
    "Shard by shard, in the order of ids within each. What is there when reading begins, and "
    "stays, is listed once, as it stands when its page is made. A page may have fewer rows than "
    "`limit`, or none, and not be the last: the list has ended once `next` is null."
)
_OF_THE_PAST: Final = (
    Status.HISTORY_NOT_KEPT,
    Status.NOT_YET,
    Status.HISTORY_DAMAGED,
)
_CHANNEL: Final = Channel("web", ["berlin", "paris"], ["vip"], True, 2)
_ANY: Final = (Status.UNKNOWN_RESERVATION, Status.AMBIGUOUS_RESERVATION)
_UNITS: Final = (
    *_ANY,
    Status.ILLEGAL_TRANSITION,
    Status.RESERVATION_EXPIRED,
    Status.UNKNOWN_LINE,
    Status.IDEMPOTENCY_MISMATCH,
    Status.MEMORY_FULL,
)

_OF_RESERVATIONS: Final = (
    Operation(
        name="listReservations",
        method="GET",
        path="/v1/reservations",
        tag=RESERVATIONS,
        summary="The reservations that are remembered",
        description=_OF_LISTS + " A channel's key sees its own.",
        command=ListReservations,
        query=(
            Parameter(
                "status",
                {"type": "string", "enum": list(STATE_NAMES.values())},
                "Only those that are so now.",
            ),
            *_LIST,
        ),
        answers={200: Reservations([_reservation("reserved")], "3~cart-7")},
        page=lists.reservations,
    ),
    Operation(
        name="reserve",
        method="POST",
        path="/v1/reservations",
        tag=RESERVATIONS,
        summary="Hold units for a time",
        description=(
            "All lines or none, unless the policy is partial. The reservation's id names the "
            "request: the same again answers 200 and how the reservation stands."
        ),
        command=Reserve,
        key=False,
        body=calls.RESERVE,
        example=ReserveBody([ReserveLine("SKU-1", 2)], "cart-7", "web", 600),
        answers={201: _reservation("reserved"), 200: _reservation("committed")},
        refusals=(
            Status.INSUFFICIENT_STOCK,
            Status.IDEMPOTENCY_MISMATCH,
            Status.RESERVATION_EXPIRED,
            Status.RESERVATION_RELEASED,
            Status.LINES_SPAN_SHARDS,
            Status.LOCATION_NOT_SERVED,
            Status.MEMORY_FULL,
        ),
        call=calls.reserve,
    ),
    Operation(
        name="getReservation",
        method="GET",
        path="/v1/reservations/{reservation_id}",
        tag=RESERVATIONS,
        summary="How a reservation stands",
        command=GetReservation,
        query=(_HOME,),
        answers={200: _reservation("reserved")},
        refusals=_ANY,
        call=calls.get_reservation,
    ),
    Operation(
        name="commit",
        method="POST",
        path="/v1/reservations/{reservation_id}/commit",
        tag=RESERVATIONS,
        summary="Turn a reservation into an order's allocation",
        description="All of it, or the given units; the rest is released.",
        command=Commit,
        query=(_HOME,),
        body=calls.COMMIT,
        example=CommitBody([CommitLine("SKU-1", 2)]),
        answers={200: _reservation("committed")},
        refusals=(
            *_ANY,
            Status.RESERVATION_EXPIRED,
            Status.ILLEGAL_TRANSITION,
            Status.UNKNOWN_LINE,
            Status.INSUFFICIENT_STOCK,
            Status.LOCATION_NOT_SERVED,
        ),
        call=calls.commit,
    ),
    Operation(
        name="release",
        method="POST",
        path="/v1/reservations/{reservation_id}/release",
        tag=RESERVATIONS,
        summary="Give the units back",
        description="An unknown id answers 404; a reserve of that id that comes late is refused.",
        command=Release,
        query=(_HOME,),
        body=calls.RELEASE,
        example=ReleaseBody(),
        answers={200: _reservation("released")},
        refusals=(
            *_ANY,
            Status.RESERVATION_EXPIRED,
            Status.ILLEGAL_TRANSITION,
            Status.MEMORY_FULL,
        ),
        call=calls.release,
    ),
    Operation(
        name="extend",
        method="POST",
        path="/v1/reservations/{reservation_id}/extend",
        tag=RESERVATIONS,
        summary="Hold for longer",
        command=Extend,
        query=(_HOME,),
        body=calls.EXTEND,
        example=ExtendBody(900),
        answers={200: _reservation("reserved")},
        refusals=(*_ANY, Status.RESERVATION_EXPIRED, Status.ILLEGAL_TRANSITION),
        call=calls.extend,
    ),
    Operation(
        name="ship",
        method="POST",
        path="/v1/reservations/{reservation_id}/ship",
        tag=RESERVATIONS,
        summary="Allocated units have left",
        command=Ship,
        key=False,
        query=(_HOME,),
        body=calls.UNITS,
        example=UnitsBody([ReserveLine("SKU-1", 2, "berlin")]),
        answers={200: _reservation("committed", shipped=2)},
        refusals=(*_UNITS, Status.PHYSICAL_SHORTFALL),
        call=calls.ship,
    ),
    Operation(
        name="cancel",
        method="POST",
        path="/v1/reservations/{reservation_id}/cancel",
        tag=RESERVATIONS,
        summary="Allocated units are wanted no longer",
        command=Cancel,
        key=False,
        query=(_HOME,),
        body=calls.UNITS,
        example=UnitsBody([ReserveLine("SKU-1", 1)]),
        answers={200: _reservation("committed", cancelled=1)},
        refusals=_UNITS,
        call=calls.cancel,
    ),
    Operation(
        name="restock",
        method="POST",
        path="/v1/reservations/{reservation_id}/restock",
        tag=RESERVATIONS,
        summary="Shipped units are back",
        description="A line's location is where they are put; absent: where they came from.",
        command=Restock,
        key=False,
        query=(_HOME,),
        body=calls.UNITS,
        example=UnitsBody([ReserveLine("SKU-1", 1, "paris")]),
        answers={200: _reservation("committed", shipped=2, restocked=1)},
        refusals=(*_UNITS, Status.QUANTITY_OVERFLOW),
        call=calls.restock,
    ),
    Operation(
        name="move",
        method="POST",
        path="/v1/reservations/{reservation_id}/move",
        tag=RESERVATIONS,
        summary="Take the units from another location",
        description="In one event: at no moment are they free.",
        command=MoveLines,
        key=False,
        query=(_HOME,),
        body=calls.MOVE,
        example=MoveBody([MoveLine("SKU-1", 2, "berlin", "paris")]),
        answers={200: _reservation("reserved")},
        refusals=(*_UNITS, Status.INSUFFICIENT_STOCK),
        call=calls.move,
    ),
)

_OF_STOCK: Final = (
    Operation(
        name="listStock",
        method="GET",
        path="/v1/stock",
        tag=STOCK,
        summary="How every SKU stands",
        description=_OF_LISTS,
        command=ListStock,
        query=_LIST,
        answers={200: Stocks([_STOCK], "3~SKU-1")},
        page=lists.stock,
    ),
    Operation(
        name="moveStock",
        method="POST",
        path="/v1/stock/movements",
        tag=STOCK,
        summary="Stock came, went, was counted or transferred",
        description=(
            "Each movement stands or falls by itself; the answer has one result for each. The "
            "Idempotency-Key names the list: the same movements again, in any order, are a replay; "
            "others under the same key are refused with 422 and nothing of them is applied, "
            "wherever both lists have a shard in common on which the first has applied anything. "
            "A key is remembered for the engine's keys_window."
        ),
        command=Receive,
        key=True,
        body=MOVEMENTS,
        example=MovementsBody(
            [
                ReceivedMovement("SKU-1", "berlin", 40, reference="PO-17", unit_cost=995),
                CountedMovement("SKU-2", "paris", 12, expected_on_hand=13),
            ]
        ),
        answers={
            200: MovementResults(
                [
                    MovementResult("ok", Movement("SKU-1", "berlin", 40, 30, 7, 2)),
                    MovementResult("refused", problem=problem(problems.TABLE[Status.STALE_COUNT])),
                ]
            )
        },
        refusals=(Status.IDEMPOTENCY_MISMATCH,),
        page=pages.movements,
    ),
    Operation(
        name="importStock",
        method="POST",
        path="/v1/stock/import",
        tag=STOCK,
        summary="Movements from a file of any length",
        description=(
            "CSV with a header row, or one JSON object per line, in UTF-8, read as it comes. A row "
            "is one line; a quoted cell ends on its line.\n\n"
            "**A row is remembered by its content and its line number**, together with the "
            "Idempotency-Key, which names the file, for the engine's keys_window. So the same file "
            "sent again adds nothing twice, and a file mended in place adds what was mended. "
            "**A different file, or a recount, needs an Idempotency-Key of its own**: without one, "
            "a row that is equal to an earlier one on the same line is taken for a repetition and "
            "not applied. Lines that have moved are new rows."
        ),
        command=Receive,
        key=False,
        query=(
            Parameter(
                "kind", {"type": "string", "enum": [*KINDS]}, "What the rows are.", required=True
            ),
        ),
        media=(CSV, NDJSON[0]),
        streamed=True,
        example="sku,location,quantity,reference\nSKU-1,berlin,40,PO-17\n",
        answers={200: ImportReport(3, 1, 1, 1, [RowError(4, "invalid", "quantity is ...")])},
        page=pages.import_rows,
    ),
    Operation(
        name="getStock",
        method="GET",
        path="/v1/stock/{sku}",
        tag=STOCK,
        summary="How a SKU stands, or stood",
        description=(
            "With `as_of`, what this call would have answered at that moment: after every record "
            "of the SKU's shard that is stamped then or earlier, or right after the record that is "
            "named. The answer says which record it is of; by that position the answer is the same "
            "for ever. A reservation counts as held until its expiry was recorded, which may be a "
            "moment after its deadline."
        ),
        command=GetStock,
        query=(
            Parameter(
                "as_of",
                history.AS_OF_SCHEMA,
                "A time (RFC 3339), or the position of a record: <epoch>-<sequence>. Absent: now.",
            ),
        ),
        answers={200: _STOCK},
        refusals=(Status.UNKNOWN_SKU, *_OF_THE_PAST, Status.UNKNOWN_RECORD),
        call=calls.get_stock,
    ),
    Operation(
        name="listMovements",
        method="GET",
        path="/v1/stock/{sku}/movements",
        tag=STOCK,
        summary="What changed a SKU: who, why, when, before and after",
        description=(
            "Every event that changed a number of the SKU, oldest first, as far back as the "
            "journal and its archive are kept. A page may end early; `next` says where to go on. "
            "A channel's key sees all changes, but of others neither their reservations nor who "
            "moved stock and why."
        ),
        command=ListMovements,
        query=(
            Parameter("after", history.PLACE_SCHEMA, "What `next` said, for what follows."),
            Parameter(
                "limit",
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": limits.HISTORY_ENTRIES_MAX,
                    "default": history.MOVEMENTS_DEFAULT,
                },
                "How many to list at most.",
            ),
            Parameter("since", history.TIME_SCHEMA, "Nothing earlier than this time."),
            Parameter("until", history.TIME_SCHEMA, "Nothing later than this time."),
        ),
        answers={200: _MOVEMENTS},
        refusals=_OF_THE_PAST,
        call=calls.list_movements,
    ),
    Operation(
        name="setStock",
        method="PUT",
        path="/v1/stock/{sku}",
        tag=STOCK,
        summary="Set safety stock and pools",
        command=SetStock,
        body=calls.SET_STOCK,
        example=SetStockBody({"berlin": 3}, {"vip": 10}),
        answers={200: _STOCK},
        refusals=(Status.UNKNOWN_SKU, Status.UNKNOWN_LOCATION),
        call=calls.set_stock,
    ),
    Operation(
        name="dedicate",
        method="POST",
        path="/v1/stock/{sku}/dedicate",
        tag=STOCK,
        summary="Give a SKU a shard of its own, before its first stock",
        description=(
            "For ever. The same call again changes nothing, and completes what was interrupted. "
            "Without `shard`, the engine takes a dedicated shard that is free."
        ),
        command=Dedicate,
        body=dedication.BODY,
        example=dedication.DedicateBody(8),
        answers={200: dedication.DedicationReport("SKU-1", 8)},
        refusals=(Status.DEDICATED, Status.SKU_KNOWN, Status.SHARD_TAKEN),
        page=dedication.dedicate,
    ),
    Operation(
        name="getAvailability",
        method="GET",
        path="/v1/stock/{sku}/availability",
        tag=STOCK,
        summary="What a channel may sell now, and why",
        command=GetAvailability,
        query=(Parameter("channel", _ID, "Absent: a seller without a policy."),),
        answers={200: Availability("SKU-1", "web", 7, 28, Waterfall(30, 30, 0, 10, 2))},
        refusals=(Status.UNKNOWN_SKU,),
        call=calls.get_availability,
    ),
    Operation(
        name="listShortfalls",
        method="GET",
        path="/v1/shortfalls",
        tag=STOCK,
        summary="Where more is promised than there is",
        command=ListShortfalls,
        query=_LIST,
        answers={200: Shortfalls([Shortfall("SKU-1", "berlin", 2)], "3~SKU-1~berlin")},
        page=lists.shortfalls,
    ),
)

_OF_CHANNELS: Final = (
    Operation(
        name="getChannel",
        method="GET",
        path="/v1/channels/{channel}",
        tag=CHANNELS,
        summary="A channel's policy",
        command=GetChannel,
        answers={200: _CHANNEL},
        refusals=(Status.UNKNOWN_CHANNEL,),
        call=calls.get_channel,
    ),
    Operation(
        name="putChannel",
        method="PUT",
        path="/v1/channels/{channel}",
        tag=CHANNELS,
        summary="Say what of the stock a channel may sell",
        description="Every shard takes it, or the answer is 503: put it again.",
        command=SetChannel,
        body=pages.CHANNEL,
        example=ChannelBody(["berlin", "paris"], ["vip"], buffer=2),
        answers={200: _CHANNEL},
        page=pages.put_channel,
    ),
)

_OF_THE_ENGINE: Final = (
    Operation(
        name="audit",
        method="POST",
        path="/v1/audit",
        tag=ENGINE,
        summary="Hold every shard against its reservations and its journal",
        description=(
            "The replay of the journals costs time; without them it is quick. All shards must be"
            " done within a minute, or there is no answer: ask for one at a time if that is long."
        ),
        command=Audit,
        query=(
            Parameter("quick", {"type": "boolean"}, "Leave out the replay."),
            Parameter("shard", {"type": "integer", "minimum": 0}, "Only this one."),
        ),
        answers={
            200: AuditReport(
                *(1, 40, 2, 5, 30, 0),
                {"reserved": 1, "committed": 2},
                {"reserved": 2, "allocated": 5},
                0,
                [],
                [ShardAudit(0, "4-17", "9f86d081884c7d659a2feaa0c55ad015", 0, [], 0, 9, 3, True)],
                *(0, 9, 3, True),
            )
        },
        page=pages.audit,
    ),
    Operation(
        name="health",
        method="GET",
        path="/healthz",
        tag=ENGINE,
        summary="Is the gateway alive?",
        answers={200: Health("ok")},
        page=pages.health,
    ),
    Operation(
        name="ready",
        method="GET",
        path="/readyz",
        tag=ENGINE,
        summary="Is every shard served?",
        answers={200: Readiness("ready", 16)},
        refusals=(problems.NOT_READY,),
        page=pages.ready,
    ),
    Operation(
        name="metrics",
        method="GET",
        path="/metrics",
        tag=ENGINE,
        summary="Metrics of all gateways and hosts, for Prometheus",
        command=GetStatistics,
        answers={200: "onhand_http_connections 50.0\n"},
        answer_media="text/plain",
        page=pages.scrape,
    ),
    Operation(
        name="describe",
        method="GET",
        path="/openapi.json",
        tag=ENGINE,
        summary="This description",
        answers={200: "{}"},
        page=pages.describe,
    ),
    Operation(
        name="listShards",
        method="GET",
        path="/v1/shards",
        tag=ENGINE,
        summary="Who owns which shard",
        command=GetStatistics,
        answers={200: Shards([ShardOwner(0, 4, "unix:/run/onhand/host-1", "4-17")])},
        page=pages.shards,
    ),
)

OPERATIONS: Final = (*_OF_RESERVATIONS, *_OF_STOCK, *_OF_CHANNELS, *_OF_THE_ENGINE)


def route_table() -> RouteTable:
    """The table of all calls."""
    return RouteTable(OPERATIONS)
