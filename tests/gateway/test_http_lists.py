"""Lists over a socket: stock, reservations and shortfalls, page by page."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine import limits
from engine.messages import Answer, ListStock, Status, StockPage
from engine.scope import SELL, Scope
from gateway import http_lists
from tests.gateway.http_engine import Keys, LocalEngine, Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


async def walk(server: Server, path: str, what: str, query: str = "") -> list[list[Any]]:
    """All pages of a list."""
    pages: list[list[Any]] = []
    cursor = ""
    while True:
        answered = await server.get(f"{path}?{query}{cursor}")
        assert 200 == answered.status, answered.payload
        pages.append(answered.body[what])
        if answered.body["next"] is None:
            return pages
        cursor = f"&cursor={answered.body['next']}"


def flat(pages: list[list[Any]]) -> list[Any]:
    return [row for page in pages for row in page]


# --- stock -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 300, 1_000])
async def test_stock_is_listed_page_by_page(server: Server, limit: int) -> None:
    """Each SKU exactly once, over all shards, as a look at it by itself would show it."""
    for number in range(600):
        server.engine.receive(f"SKU-{number}", number + 1)
    pages = await walk(server, "/v1/stock", "stock", f"limit={limit}")

    assert sorted(f"SKU-{number}" for number in range(600)) == sorted(
        each["sku"] for each in flat(pages)
    )
    assert all(len(page) <= limit for page in pages)
    assert (await server.get("/v1/stock/SKU-5")).body in flat(pages)


async def test_there_is_no_stock(server: Server) -> None:
    """An empty list, which is all."""
    assert {"stock": [], "next": None} == (await server.get("/v1/stock")).body


async def test_a_page_may_leave_early(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that takes long comes in more pages, and whole all the same."""
    monkeypatch.setattr(http_lists, "PAGE_SECONDS", 0)
    monkeypatch.setattr(limits, "LIST_ROWS_MAX", 2)
    for number in range(20):
        server.engine.receive(f"SKU-{number}", 1)
    pages = await walk(server, "/v1/stock", "stock", "limit=1000")

    assert len(pages) > 5
    assert 20 == len({each["sku"] for each in flat(pages)}) == len(flat(pages))


async def test_a_shard_that_sorts_first(server: Server) -> None:
    """An empty page of a shard is not its last."""
    server.engine.receive("SKU-1", 1)
    asked: list[ListStock] = []

    def sorts(command: Any) -> Answer | None:
        if not isinstance(command, ListStock) or command.shard or len(asked) >= 3:
            return None
        asked.append(command)
        return Answer(Status.OK, StockPage([], ""))

    server.engine.replaced = sorts
    assert ["SKU-1"] == [each["sku"] for each in flat(await walk(server, "/v1/stock", "stock"))]
    assert 3 == len(asked)


async def test_a_shard_that_does_not_answer(server: Server) -> None:
    """The page is refused, and may be asked for again: nothing is left out silently."""
    for number in range(50):
        server.engine.receive(f"SKU-{number}", 1)
    server.engine.replaced = lambda command: (
        Answer(Status.NOT_DONE) if isinstance(command, ListStock) and command.shard == 1 else None
    )
    refused = await server.get("/v1/stock")
    server.engine.replaced = lambda command: None

    assert (503, "not_done") == (refused.status, refused.body["code"])
    assert 50 == len((await server.get("/v1/stock")).body["stock"])


# --- reservations ----------------------------------------------------------------------------


async def reserve(server: Server, name: str, key: str | None = None, **more: Any) -> None:
    body = {"lines": [{"sku": "SKU-1", "quantity": 1}], "reservation_id": name, **more}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    answered = await server.post("/v1/reservations", body, **headers)
    assert 201 == answered.status, answered.payload


async def test_reservations_are_listed(server: Server) -> None:
    """All of them, or those of a state, as a look at each would show it."""
    server.engine.receive("SKU-1", 99)
    for number in range(5):
        await reserve(server, f"cart-{number}")
    await server.post("/v1/reservations/cart-3/commit", {})
    everything = flat(await walk(server, "/v1/reservations", "reservations", "limit=2"))
    committed = (await server.get("/v1/reservations?status=committed")).body["reservations"]

    assert [f"cart-{number}" for number in range(5)] == [
        each["reservation_id"] for each in everything
    ]
    assert [(await server.get("/v1/reservations/cart-3")).body] == committed


async def test_a_channel_lists_its_own_reservations() -> None:
    """And nobody else's, not even their number."""
    keys = Keys(web=Scope("web", frozenset({SELL})), shop=Scope("shop", frozenset({SELL})))
    async with serving(LocalEngine(), keys) as server:
        server.engine.receive("SKU-1", 99)
        for number in range(4):
            await reserve(server, f"cart-{number}", ("web", "shop")[number % 2])
        answered = await server.get("/v1/reservations", authorization="Bearer web")

    assert ["cart-0", "cart-2"] == [
        each["reservation_id"] for each in answered.body["reservations"]
    ]


# --- shortfalls ------------------------------------------------------------------------------


async def _short(server: Server, count: int) -> set[str]:
    """So many SKUs of which more is withheld than there is."""
    names = {f"S{number}" for number in range(count)}
    for name in names:
        server.engine.receive(name, 1)
        await server.put(f"/v1/stock/{name}", {"safety_stock": {"berlin": 3}})
    return names


@pytest.mark.parametrize("limit", [1, 3, 10, 1_000])
async def test_shortfalls_are_listed_page_by_page(server: Server, limit: int) -> None:
    """Each exactly once, over all shards."""
    names = await _short(server, 10)
    found, cursor = [], ""
    while True:
        answered = await server.get(f"/v1/shortfalls?limit={limit}{cursor}")
        assert 200 == answered.status, answered.payload
        assert limit >= len(answered.body["shortfalls"])
        found += answered.body["shortfalls"]
        if answered.body["next"] is None:
            break
        cursor = f"&cursor={answered.body['next']}"

    assert sorted(names) == sorted(each["sku"] for each in found)
    assert {("berlin", 2)} == {(each["location"], each["quantity"]) for each in found}


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "cursor=x", "cursor=9~a~b", "cursor=0~a b~c", "cursor=", "x=1"],
)
@pytest.mark.parametrize("path", ["stock", "reservations", "shortfalls"])
async def test_a_cursor_is_one_that_was_given(server: Server, path: str, query: str) -> None:
    """Anything else is refused."""
    assert 400 == (await server.get(f"/v1/{path}?{query}")).status


async def test_a_status_is_one_that_there_is(server: Server) -> None:
    """Anything else is refused, and what there is is named."""
    answered = await server.get("/v1/reservations?status=open")

    assert 400 == answered.status
    assert "reserved, committed, released, expired" in answered.body["detail"]
