"""The past over HTTP: how moments are written, what is answered, and what is refused."""

from collections.abc import AsyncIterator

import pytest

from engine import limits
from engine.messages import (
    Answer,
    Detail,
    GetStockAsOf,
    LedgerPage,
    ListMovements,
    Status,
)
from engine.scope import CHANNEL_VERBS, Scope
from gateway.http_history import moment, parse_time
from gateway.problems import RefusedError
from tests.gateway.http_engine import START_US, Keys, Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


async def test_stock_as_of_a_time_and_of_a_record(server: Server) -> None:
    """Both name a moment; the answer says which record it is of, and either of its two names, sent
    back, means the same."""
    server.engine.receive("A", 5)
    server.engine.receive("A", 2)
    first = moment(START_US + 1)

    by_record = await server.get("/v1/stock/A?as_of=3-1")
    by_time = await server.get(f"/v1/stock/A?as_of={first}")

    assert by_record.body == by_time.body
    assert {"position": "3-1", "time": first} == by_record.body["as_of"]
    assert (5, 1) == (by_record.body["on_hand"], by_record.body["version"])
    now = (await server.get("/v1/stock/A")).body
    assert 7 == now["on_hand"]
    assert "as_of" not in now


async def test_movements_page_by_page(server: Server) -> None:
    """A page says what changed, by whom and why, and where the next one begins."""
    server.engine.receive("A", 5)
    page = (await server.get("/v1/stock/A/movements")).body

    (entry,) = page["movements"]
    nothing = {"on_hand": 0, "reserved": 0, "allocated": 0, "available": 0}
    five = {"on_hand": 5, "reserved": 0, "allocated": 0, "available": 5}
    change = {"location": "berlin", "before": nothing, "after": five}
    assert [change] == entry["locations"]
    assert ("3-1-0", "received", 5, None) == tuple(
        entry[name] for name in ("place", "kind", "quantity", "by")
    )
    assert (None, "3-1", None) == (page["next"], page["looked_through"], page["begins_after"])

    server.engine.replaced = lambda command: Answer(
        Status.OK, LedgerPage([], (3, 1, 2), 3, 9, (2, 8))
    )
    page = (await server.get("/v1/stock/A/movements")).body
    assert ("3-1-2", "3-9", "2-8") == (page["next"], page["looked_through"], page["begins_after"])


async def test_the_query_is_what_is_asked(server: Server) -> None:
    """Every parameter arrives; none is invented but the number of entries."""
    await server.get("/v1/stock/A/movements")
    since, until = "1970-01-01T00:00:01Z", "1970-01-01T01:00:02.5%2B01:00"
    await server.get(f"/v1/stock/A/movements?after=4-17-2&limit=7&since={since}&until={until}")
    await server.get("/v1/stock/A?as_of=1970-01-01T01:00:00.000009+01:00")

    expected = [
        ListMovements("A", limit=100),
        ListMovements("A", (4, 17, 2), 7, 1_000_000, 2_500_000),
        GetStockAsOf("A", time=9),
    ]
    assert expected == server.engine.commands


@pytest.mark.parametrize(
    "path",
    [
        "A?as_of=",
        "A?as_of=yesterday",
        "A?as_of=4-17-2",
        "A?as_of=2026-12-01",
        "A?as_of=2026-13-01T00:00:00Z",
        "A?as_of=2026-12-01T00:00:00",
        "A?as_of=0001-01-01T00:00:00%2B10:00",
        "A?as_of=1969-12-31T23:59:59Z",
        "A?as_of=9999999999999999-1",
        "A/movements?after=4-17",
        "A/movements?limit=0",
        "A/movements?limit=1001",
        "A/movements?since=3-1",
        "A/movements?as_of=3-1",
    ],
)
async def test_what_is_no_moment_is_refused(server: Server, path: str) -> None:
    """400, and the engine is not asked."""
    answered = await server.get(f"/v1/stock/{path}")

    assert (400, "invalid") == (answered.status, answered.body["code"])
    assert [] == server.engine.commands


@pytest.mark.parametrize(
    ("status", "http"),
    [
        (Status.HISTORY_NOT_KEPT, 410),
        (Status.NOT_YET, 409),
        (Status.UNKNOWN_RECORD, 404),
        (Status.HISTORY_DAMAGED, 500),
    ],
)
async def test_refusals_say_why(server: Server, status: Status, http: int) -> None:
    """Each has a code of its own, and the engine's words."""
    server.engine.replaced = lambda command: Answer(status, Detail("because"))

    answered = await server.get("/v1/stock/A?as_of=3-1")

    expected = (http, status.name.lower(), "because")
    assert expected == (answered.status, answered.body["code"], answered.body["detail"])


async def test_a_channel_asks_for_itself() -> None:
    """A channel's key reads the past as it reads stock; whose eyes it is for is not its choice."""
    async with serving(keys=Keys(None, web=Scope("web", CHANNEL_VERBS))) as server:
        key = {"authorization": "Bearer web"}
        assert 404 == (await server.get("/v1/stock/A?as_of=1970-01-01T00:00:00Z", **key)).status
        assert 200 == (await server.get("/v1/stock/A/movements", **key)).status
        assert 401 == (await server.get("/v1/stock/A/movements")).status
        assert ListMovements("A", limit=100, scope="web") == server.engine.commands[-1]


@pytest.mark.parametrize("microseconds", [0, 1, START_US, START_US + 999_999])
def test_times_survive(microseconds: int) -> None:
    """A time that was answered means the same moment when it is sent."""
    assert microseconds == parse_time(moment(microseconds), "as_of")
    assert limits.COUNTER_MAX == parse_time("9999-12-31T23:59:59Z", "as_of")
    assert limits.SECOND_US == parse_time("1970-01-01t00:00:01z", "as_of")
    with pytest.raises(RefusedError, match="or a position"):
        parse_time("x", "as_of")
