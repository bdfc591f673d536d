"""Lists of what there is, page by page: stock, reservations, shortfalls.

A list goes shard by shard, in the order of ids within each. Its cursor is a shard and the last row
seen there, `<shard>~<id>`, and nothing else is remembered of whoever reads it: the next page may be
asked of another gateway, after the shard has moved to another host, or twice. A row is as it stands
when its page is made; what was there when reading began, and stays, is listed once.

A page ends at `limit` rows, or after a moment with fewer, perhaps none: a shard may have to sort
its ids first, or find few that are wanted among many. A list has ended once `next` is null.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from engine import limits
from engine.messages import (
    STATE_NAMES,
    Answer,
    Command,
    ListReservations,
    ListShortfalls,
    ListStock,
    ReservationPage,
    ShortfallPage,
    StockPage,
)
from gateway import problems
from gateway.http_input import check_id, parse_number
from gateway.http_movements import ask_each
from gateway.http_types import (
    Reservation,
    Reservations,
    Shortfall,
    Shortfalls,
    Stock,
    Stocks,
    reservation_of,
    stock_of,
)
from gateway.problems import TABLE, RefusedError, Reply

if TYPE_CHECKING:
    from gateway.http_pages import Page

ROWS_MAX: Final = 1_000
ROWS_DEFAULT: Final = 100
PAGE_SECONDS: Final = 1.0
"""After this a page leaves with what it has."""
SHARDS_PER_PAGE_MAX: Final = 64
"""Shards that one page of shortfalls, of which there are few, asks at once."""
_STATES: Final = {name: state for state, name in STATE_NAMES.items()}
_encode: Final = msgspec.json.Encoder().encode


class Walk(NamedTuple):
    """What a page has come to."""

    rows: list[Any]
    next: str | None


async def stock(page: "Page") -> Reply:
    def ask(shard: int, after: str | None, limit: int) -> Command:
        return ListStock(shard, after, limit)

    def read(body: StockPage) -> tuple[list[Stock], str | None]:
        return [stock_of(each) for each in body.stock], body.next

    rows, following = await _walk(page, ask, read)
    return Reply(200, _encode(Stocks(rows, following)))


async def reservations(page: "Page") -> Reply:
    name = page.query.get("status")
    if name is not None and name not in _STATES:
        raise RefusedError(problems.INVALID, f"status must be one of {', '.join(_STATES)}")
    state = None if name is None else _STATES[name]

    def ask(shard: int, after: str | None, limit: int) -> Command:
        return ListReservations(shard, after, limit, state)

    def read(body: ReservationPage) -> tuple[list[Reservation], str | None]:
        return [reservation_of(each) for each in body.reservations], body.next

    rows, following = await _walk(page, ask, read)
    return Reply(200, _encode(Reservations(rows, following)))


async def _walk(
    page: "Page",
    ask: Callable[[int, str | None, int], Command],
    read: Callable[[Any], tuple[list[Any], str | None]],
) -> Walk:
    """Shard after shard, from the cursor on. Raises RefusedError if one does not answer."""
    api, limit, loop = page.api, _limit(page), asyncio.get_running_loop()
    shard, after = _place(page)
    rows: list[Any] = []
    leave_at = loop.time() + PAGE_SECONDS
    while shard < api.total:
        most = min(limit - len(rows), limits.LIST_ROWS_MAX)
        command = api.narrow(ask(shard, after or None, most), page.scope)
        more, after = read(body_of(await api.router.ask(command)))
        rows += more
        if after is None:
            shard += 1
        if len(rows) == limit or loop.time() > leave_at:
            break
    return Walk(rows, f"{shard}~{after or ''}" if shard < api.total else None)


async def shortfalls(page: "Page") -> Reply:
    limit = _limit(page)
    first, after = _shortfall_place(page)
    last = min(first + SHARDS_PER_PAGE_MAX, page.api.total)
    commands: list[Command] = [
        ListShortfalls(shard, after if shard == first else None, limit)
        for shard in range(first, last)
    ]
    answers = await ask_each(page.api, [page.api.narrow(each, page.scope) for each in commands])
    found: list[Shortfall] = []
    for shard, answer in enumerate(answers, first):
        body: ShortfallPage = body_of(answer)
        for each in body.shortfalls:
            found.append(Shortfall(each.sku, each.location, each.quantity))
            if len(found) == limit:
                following = f"{shard}~{each.sku}~{each.location}"
                return Reply(200, _encode(Shortfalls(found, following)))
    following_shard = f"{last}~~" if last < page.api.total else None
    return Reply(200, _encode(Shortfalls(found, following_shard)))


def body_of(answer: Answer, whose: str = "") -> Any:
    """The body of a successful answer. Raises RefusedError if it was refused."""
    kind = TABLE[answer.status]
    if kind.http >= 400:
        detail = problems.problem_of(answer).detail
        raise RefusedError(kind, f"{whose}: {detail}" if whose else detail)
    return answer.body


def _limit(page: "Page") -> int:
    return parse_number(page.query.get("limit", str(ROWS_DEFAULT)), "limit", 1, ROWS_MAX)


def _place(page: "Page") -> tuple[int, str | None]:
    """The shard and the id after which to go on."""
    text = page.query.get("cursor")
    if text is None:
        return 0, None
    shard, _, name = text.partition("~")
    number = parse_number(shard, "cursor", 0, page.api.total - 1)
    return number, check_id(name, "cursor") if name else None


def _shortfall_place(page: "Page") -> tuple[int, tuple[str, str] | None]:
    text = page.query.get("cursor")
    if text is None:
        return 0, None
    shard, _, rest = text.partition("~")
    sku, _, location = rest.partition("~")
    number = parse_number(shard, "cursor", 0, page.api.total - 1)
    if not sku:
        return number, None
    return number, (check_id(sku, "cursor"), check_id(location, "cursor"))
