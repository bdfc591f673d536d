"""Calls over a socket, against real shards: what each answers, and every way it is refused."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from engine import limits
from engine.messages import Answer, Command, Detail, Reserve, Status
from engine.placement import shard_of
from gateway.http_table import OPERATIONS
from gateway.problems import TABLE
from tests.gateway.http_engine import SHARDS, START_US, LocalEngine, Server, serving

RESERVATIONS = "/v1/reservations"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    engine = LocalEngine()
    engine.receive("A", 10)
    engine.receive("A", 5, "paris")
    async with serving(engine) as server:
        yield server


def lines(quantity: int = 2, sku: str = "A", **more: Any) -> list[dict[str, Any]]:
    return [{"sku": sku, "quantity": quantity, **more}]


def elsewhere() -> str:
    """A SKU of another shard than A."""
    names = (f"B{number}" for number in range(100))
    return next(name for name in names if shard_of(name, SHARDS) != shard_of("A", SHARDS))


async def reserve(server: Server, name: str = "r", **more: Any) -> Any:
    answered = await server.post(RESERVATIONS, {"reservation_id": name, "lines": lines()} | more)
    assert 201 == answered.status, answered.payload
    return answered.body


async def code_of(
    server: Server, path: str, body: object = None, **headers: str
) -> tuple[int, str]:
    answered = await server.post(path, body, **headers)
    assert "application/problem+json" == answered.headers["content-type"], answered.payload
    assert answered.status == answered.body["status"]
    return answered.status, answered.body["code"]


async def test_a_reservation_is_shown_as_promised(server: Server) -> None:
    """The whole answer, field by field."""
    body = {"reservation_id": "r", "channel": "web", "ttl_seconds": 60, "lines": lines(12)}
    answered = await server.post(RESERVATIONS, body)

    assert 201 == answered.status
    assert "application/json" == answered.headers["content-type"]
    assert "no-store" == answered.headers["cache-control"]
    assert "nosniff" == answered.headers["x-content-type-options"]
    assert "date" in answered.headers
    assert {
        "reservation_id": "r",
        "home": shard_of("A", SHARDS),
        "status": "reserved",
        "channel": "web",
        "expires_at": "2026-11-30T00:54:20.000Z",
        "lines": [
            {
                "sku": "A",
                "quantity": 12,
                "locations": [
                    {"location": "berlin", "quantity": 10},
                    {"location": "paris", "quantity": 2},
                ],
                "shipped": 0,
                "cancelled": 0,
                "restocked": 0,
            }
        ],
    } == answered.body
    assert START_US // limits.SECOND_US + 60 == 1_796_000_060


async def test_the_same_reserve_again_is_a_replay(server: Server) -> None:
    """201 the first time, 200 with how it stands from then on."""
    first = await reserve(server)
    again = await server.post(RESERVATIONS, {"reservation_id": "r", "lines": lines()})

    assert (200, first) == (again.status, again.body)


async def test_a_reserve_may_be_named_by_the_header(server: Server) -> None:
    """Idempotency-Key, quoted or bare, is the reservation's id; twice the same is fine."""
    quoted = await server.post(RESERVATIONS, {"lines": lines()}, idempotency_key='"k-1"')
    bare = await server.post(RESERVATIONS, {"lines": lines()}, idempotency_key="k-1")
    both = await server.post(
        RESERVATIONS, {"reservation_id": "k-1", "lines": lines()}, idempotency_key='"k-1"'
    )

    assert [201, 200, 200] == [quoted.status, bare.status, both.status]
    assert {"k-1"} == {each.body["reservation_id"] for each in (quoted, bare, both)}


async def test_two_names_that_differ_are_refused(server: Server) -> None:
    """Nobody could say which of them the request has."""
    body = {"reservation_id": "r", "lines": lines()}

    assert (400, "invalid") == await code_of(server, RESERVATIONS, body, idempotency_key="k")


async def test_an_id_is_minted_where_there_is_none(server: Server) -> None:
    """It tells its home."""
    answered = await server.post(RESERVATIONS, {"lines": lines()})

    assert 201 == answered.status
    assert shard_of("A", SHARDS) == answered.body["home"]
    assert 8 == UUID(answered.body["reservation_id"]).version


async def test_a_shortage_is_refused_with_what_there_is(server: Server) -> None:
    """409 with each line's requested and available; an unknown SKU has 0."""
    answered = await server.post(RESERVATIONS, {"lines": lines(16)})
    unknown = await server.post(RESERVATIONS, {"lines": lines(1, "no-such-sku")})

    assert (409, "insufficient_stock") == (answered.status, answered.body["code"])
    assert [{"sku": "A", "requested": 16, "available": 15}] == answered.body["lines"]
    assert (409, 0) == (unknown.status, unknown.body["lines"][0]["available"])


async def test_partial_takes_what_there_is(server: Server) -> None:
    """The policy of the request reaches the engine."""
    answered = await server.post(RESERVATIONS, {"policy": "partial", "lines": lines(99)})

    assert (201, 15) == (answered.status, answered.body["lines"][0]["quantity"])


async def test_a_reserve_that_ended_is_not_replayed(server: Server) -> None:
    """410 if it has expired since, 409 if it was released, 422 for other content."""
    await reserve(server, "released")
    await server.post(f"{RESERVATIONS}/released/release")
    await reserve(server, "other")
    other = {"reservation_id": "other", "lines": lines(3)}
    mismatch = await code_of(server, RESERVATIONS, other)
    await reserve(server, "expired")
    server.engine.now += 601 * limits.SECOND_US

    assert (422, "idempotency_mismatch") == mismatch
    for name, expected in (("expired", 410), ("released", 409)):
        answered = await server.post(RESERVATIONS, {"reservation_id": name, "lines": lines()})
        assert (expected, f"reservation_{name}") == (answered.status, answered.body["code"])
        assert name == answered.body["reservation"]["status"]


async def test_lines_of_two_shards_are_refused(server: Server) -> None:
    """422 until carts are built."""
    server.engine.receive(elsewhere(), 1)
    body = {"lines": [*lines(), *lines(1, elsewhere())]}

    assert (422, "lines_span_shards") == await code_of(server, RESERVATIONS, body)


@pytest.mark.parametrize("query", ["", f"?home={shard_of('A', SHARDS)}"])
async def test_a_reservation_is_committed_and_shipped(server: Server, query: str) -> None:
    """The way of an order, with and without the hint of its home; each step may be repeated."""
    await reserve(server)
    path = f"{RESERVATIONS}/r"
    for action, key in (("commit", None), ("ship", None)):
        for _ in range(2):
            answered = await server.post(f"{path}/{action}{query}")
            assert (200, "committed") == (answered.status, answered.body["status"]), (action, key)
    restocked = await server.post(
        f"{path}/restock{query}", {"lines": lines(1, location="paris")}, idempotency_key="back-1"
    )
    again = await server.post(
        f"{path}/restock{query}", {"lines": lines(1, location="paris")}, idempotency_key="back-1"
    )
    shown = await server.get(f"{path}{query}")

    assert (200, 2, 1) == (restocked.status, *_moved(restocked.body, "shipped", "restocked"))
    assert (200, 2, 1) == (again.status, *_moved(again.body, "shipped", "restocked"))
    assert again.body == shown.body


def _moved(body: Any, *names: str) -> tuple[int, ...]:
    return tuple(body["lines"][0][name] for name in names)


async def test_a_commit_may_take_less(server: Server) -> None:
    """The rest is free again."""
    await reserve(server)
    answered = await server.post(f"{RESERVATIONS}/r/commit", {"lines": lines(1)})
    stock = await server.get("/v1/stock/A")

    assert (200, 1) == (answered.status, answered.body["lines"][0]["quantity"])
    assert (0, 1) == (stock.body["reserved"], stock.body["allocated"])


async def test_a_late_commit_is_refused_unless_it_may_take_anew(server: Server) -> None:
    """410 after the deadline; with if_available the units are taken if they are there."""
    await reserve(server)
    server.engine.now += 601 * limits.SECOND_US
    late = await code_of(server, f"{RESERVATIONS}/r/commit")
    anew = await server.post(f"{RESERVATIONS}/r/commit", {"if_available": True})

    assert (410, "reservation_expired") == late
    assert (200, "committed") == (anew.status, anew.body["status"])


async def test_a_release_gives_the_units_back(server: Server) -> None:
    """And what was released cannot be committed."""
    await reserve(server)
    released = await server.post(f"{RESERVATIONS}/r/release", {})
    again = await server.post(f"{RESERVATIONS}/r/release")

    assert (200, "released") == (released.status, released.body["status"])
    assert 200 == again.status
    assert (409, "illegal_transition") == await code_of(server, f"{RESERVATIONS}/r/commit")


async def test_extend_never_shortens(server: Server) -> None:
    """A longer time moves the deadline, a shorter one does not."""
    before = (await reserve(server))["expires_at"]
    shorter = await server.post(f"{RESERVATIONS}/r/extend", {"ttl_seconds": 10})
    longer = await server.post(f"{RESERVATIONS}/r/extend", {"ttl_seconds": 1_200})

    assert (200, before) == (shorter.status, shorter.body["expires_at"])
    assert 200 == longer.status
    assert longer.body["expires_at"] > before


async def test_units_are_cancelled_and_moved(server: Server) -> None:
    """An allocation may be given up in part, and moved to another location."""
    await reserve(server)
    await server.post(f"{RESERVATIONS}/r/commit")
    move = {"sku": "A", "from": "berlin", "to": "paris", "quantity": 2}
    moved = await server.post(f"{RESERVATIONS}/r/move", {"lines": [move]}, idempotency_key="m")
    cancelled = await server.post(f"{RESERVATIONS}/r/cancel", {"lines": lines(1)})

    assert [{"location": "paris", "quantity": 2}] == moved.body["lines"][0]["locations"]
    assert (200, 1) == (cancelled.status, cancelled.body["lines"][0]["cancelled"])


async def test_more_cannot_be_shipped_than_is_there(server: Server) -> None:
    """409 physical_shortfall, and 422 for units that the reservation does not have."""
    await reserve(server)
    await server.post(f"{RESERVATIONS}/r/commit")
    count = {"kind": "counted", "sku": "A", "location": "berlin", "quantity": 1}
    await server.post("/v1/stock/movements", {"movements": [count]}, idempotency_key="c")

    path = f"{RESERVATIONS}/r/ship"
    assert (409, "physical_shortfall") == await code_of(server, path)
    assert (422, "unknown_line") == await code_of(server, path, {"lines": lines(3)})


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("commit", None),
        ("release", None),
        ("extend", {"ttl_seconds": 9}),
        ("ship", None),
        ("cancel", None),
        ("restock", None),
        ("move", {"lines": [{"sku": "A", "from": "x", "to": "y", "quantity": 1}]}),
    ],
)
async def test_an_unknown_reservation_is_404(server: Server, action: str, body: object) -> None:
    """Whatever is asked of it."""
    path = f"{RESERVATIONS}/nobody"

    assert (404, "unknown_reservation") == await code_of(server, f"{path}/{action}", body)
    assert 404 == (await server.get(path)).status


async def test_stock_is_shown_set_and_explained(server: Server) -> None:
    """Sums, locations, pools, and the waterfall of what a channel may sell."""
    await reserve(server)
    put = await server.put("/v1/stock/A", {"safety_stock": {"berlin": 3}, "pools": {"vip": 4}})
    stock = (await server.get("/v1/stock/A")).body
    offer = (await server.get("/v1/stock/A/availability?channel=web")).body

    assert put.body == stock
    assert (15, 2, 0, 3, 10) == tuple(
        stock[name] for name in ("on_hand", "reserved", "allocated", "safety_stock", "available")
    )
    assert [{"pool": "vip", "quantity": 4}] == stock["pools"]
    assert ["berlin", "paris"] == [each["location"] for each in stock["locations"]]
    assert ("A", "web", 6) == (offer["sku"], offer["channel"], offer["available_to_promise"])
    assert (10, 4) == (offer["waterfall"]["available"], offer["waterfall"]["ring_fenced"])


async def test_what_is_unknown_is_404(server: Server) -> None:
    """SKUs and channels that nobody has named; a location is 422, for it is in the body."""
    for path in ("/v1/stock/B", "/v1/stock/B/availability", "/v1/stock/movements"):
        answered = await server.get(path)
        assert (404, "unknown_sku") == (answered.status, answered.body["code"])
    channel = await server.get("/v1/channels/web")
    put = await server.put("/v1/stock/A", {"safety_stock": {"nowhere": 1}})

    assert (404, "unknown_channel") == (channel.status, channel.body["code"])
    assert (422, "unknown_location") == (put.status, put.body["code"])


@pytest.mark.parametrize("raw", ["a%20b", "a%2Fb", "%C3%A5", "%ff", "a%0A", "A" * 129, "a+b", "%"])
async def test_an_id_in_the_path_is_an_id(server: Server, raw: str) -> None:
    """It is decoded first, then judged."""
    answered = await server.get(f"/v1/stock/{raw}")

    assert (400, "invalid") == (answered.status, answered.body["code"])


async def test_an_id_in_the_path_may_be_encoded(server: Server) -> None:
    """%41 is A."""
    assert "A" == (await server.get("/v1/stock/%41")).body["sku"]


@pytest.mark.parametrize(
    "query", ["home=4", "home=-1", "home=x", "home=", "home=1&home=1", "hom=1", "home=%ff"]
)
async def test_a_query_must_make_sense(server: Server, query: str) -> None:
    """A hint that is no shard, and a parameter that there is not, are refused."""
    assert 400 == (await server.get(f"{RESERVATIONS}/r?{query}")).status


async def test_a_body_must_say_that_it_is_json(server: Server) -> None:
    """415 for another type, for none at all, and for one that is compressed."""
    body = {"lines": lines()}
    for headers in (
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "application/json; charset=utf-16"},
        {"content_type": ""},
        {"content_encoding": "gzip"},
    ):
        assert (415, "unsupported_media_type") == await code_of(
            server, RESERVATIONS, body, **headers
        )


async def test_a_body_is_bounded(server: Server) -> None:
    """64 KiB are read and judged, one byte more is 413."""
    body = b'{"lines": [{"sku": "A", "quantity": 1}]'
    fits = body + b" " * (limits.BODY_BYTES_MAX - len(body) - 1) + b"}"

    assert 201 == (await server.post(RESERVATIONS, fits)).status
    assert (413, "body_too_large") == await code_of(server, RESERVATIONS, fits + b" ")


async def test_wrong_methods_and_paths_are_told_apart(server: Server) -> None:
    """405 with Allow where there is something, 404 where there is nothing."""
    for method, path, allow in (
        ("DELETE", "/v1/reservations/r", "GET, HEAD"),
        ("DELETE", "/v1/reservations", "GET, HEAD, POST"),
        ("GET", "/v1/reservations/r/commit", "POST"),
        ("POST", "/v1/stock/A", "GET, HEAD, PUT"),
        ("PUT", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/v1/audit", "POST"),
        ("PURGE", "/metrics", "GET, HEAD"),
    ):
        answered = await server.call(method, path, None)
        assert (405, allow) == (answered.status, answered.headers.get("allow")), path
        assert "method_not_allowed" == answered.body["code"]
    for path in (
        "/",
        "/v1",
        "/v1/",
        "/v2/stock/A",
        "/v1/stock/",
        "/v1/stock/A/",
        "/v1/stock/A/b/c",
    ):
        answered = await server.get(path)
        assert (404, "not_found") == (answered.status, answered.body["code"]), path


async def test_head_is_get_without_the_body(server: Server) -> None:
    """Of calls and of pages alike."""
    for path in ("/v1/stock/A", "/healthz", "/v1/stock/B"):
        get = await server.get(path)
        async with server.connect() as (reader, writer):
            writer.write(
                f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            head, rest = (await reader.read()).split(b"\r\n\r\n")
        assert b"" == rest
        assert f"content-length: {len(get.payload)}".encode() in head.lower()


@pytest.mark.parametrize("status", [each for each in Status if TABLE[each].http >= 400])
async def test_every_refusal_reaches_the_caller(server: Server, status: Status) -> None:
    """Whatever the engine answers is a problem document of the table."""

    def refuse(command: Command) -> Answer | None:
        return Answer(status, Detail("as told")) if isinstance(command, Reserve) else None

    server.engine.replaced = refuse
    answered = await server.post(RESERVATIONS, {"lines": lines()})
    kind = TABLE[status]

    assert (kind.http, kind.code) == (answered.status, answered.body["code"])
    assert "as told" == answered.body["detail"]
    retry_after = None if kind.retry_after is None else str(kind.retry_after)
    assert retry_after == answered.headers.get("retry-after")


async def test_every_call_counts(server: Server) -> None:
    """Requests are counted by operation and status, refusals too."""
    await reserve(server)
    await server.post(RESERVATIONS, {"lines": lines(99)})
    await server.post(RESERVATIONS, b"{")
    counters = server.api.counters

    assert {500: 0, 201: 1, 409: 1, 400: 1} == counters.operations["reserve"].codes
    assert 3 == sum(counters.operations["reserve"].counts)
    assert 0 == counters.in_flight
    assert {each.name for each in OPERATIONS} == set(counters.operations)
