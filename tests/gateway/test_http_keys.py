"""Keys over HTTP: who may come in, what each may do, and what it cannot even see."""

from collections.abc import AsyncIterator

import pytest

from engine.messages import Adjust, Count, Receive, SetChannel, SetStock, Transfer
from engine.scope import ADMIN, ALL_VERBS, CHANNEL_VERBS, OPERATOR, READ, SELL, Scope
from gateway.http_table import OPERATIONS
from tests.gateway.http_engine import Keys, LocalEngine, Server, serving

SignedCommand = Receive | Adjust | Count | Transfer | SetStock | SetChannel
WEB = Scope("web", CHANNEL_VERBS)
KEYS = Keys(
    None,
    operator=OPERATOR,
    everything=Scope(None, ALL_VERBS),
    reader=Scope(None, frozenset({READ})),
    seller=Scope("web", frozenset({SELL})),
    web=WEB,
    ebay=Scope("ebay", CHANNEL_VERBS),
    admin=Scope(None, frozenset({ADMIN})),
    stocktaker=Scope(None, ALL_VERBS, "0a1b2c"),
)
RESERVE = {"reservation_id": "r", "lines": [{"sku": "A", "quantity": 1}]}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    engine = LocalEngine()
    engine.receive("A", 10)
    async with serving(engine, KEYS, names=None) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), {"authorization": "Basic b3BlcmF0b3I6"}]
)
async def test_without_a_key_nothing_but_health_is_answered(
    server: Server, headers: dict[str, str]
) -> None:
    """401 for every operation that needs a verb, before anything else is judged."""
    for operation in OPERATIONS:
        path = operation.path.replace("{", "").replace("}", "") + "?nonsense=1"
        answered = await server.call(operation.method, path, None, **headers)
        if operation.command is None:
            assert 400 == answered.status, path
        else:
            assert (401, "unauthenticated") == (answered.status, answered.body["code"]), path
            assert 'Bearer realm="onhand"' == answered.headers["www-authenticate"]
    assert [] == server.engine.commands


@pytest.mark.parametrize("key", ["operator", "everything", "web", "seller"])
async def test_a_key_opens_what_its_verbs_say(server: Server, key: str) -> None:
    """An operator's key, whole or listed verb by verb, and a channel's, may sell."""
    assert 201 == (await server.post("/v1/reservations", RESERVE, **bearer(key))).status


@pytest.mark.parametrize(
    ("key", "method", "path"),
    [
        ("reader", "POST", "/v1/reservations"),
        ("reader", "POST", "/v1/stock/movements"),
        ("reader", "PUT", "/v1/channels/web"),
        ("reader", "POST", "/v1/audit"),
        ("admin", "GET", "/v1/stock/A"),
        ("seller", "GET", "/v1/stock/A"),
        ("seller", "POST", "/v1/reservations/r/ship"),
        ("web", "POST", "/v1/stock/import?kind=received"),
        ("web", "PUT", "/v1/stock/A"),
        ("web", "GET", "/metrics"),
        ("web", "GET", "/v1/shards"),
        ("web", "GET", "/v1/stock/A/availability?channel=ebay"),
    ],
)
async def test_a_verb_that_a_key_lacks_is_forbidden(
    server: Server, key: str, method: str, path: str
) -> None:
    """403, whatever the body."""
    answered = await server.call(method, path, None, **bearer(key))

    assert (403, "forbidden") == (answered.status, answered.body["code"])


async def test_a_channel_sees_its_own_reservations_only(server: Server) -> None:
    """What is another channel's does not exist for it; the operator sees all."""
    made = await server.post("/v1/reservations", RESERVE, **bearer("web"))
    path = "/v1/reservations/r"

    assert "web" == made.body["channel"]
    assert 404 == (await server.get(path, **bearer("ebay"))).status
    for action in ("commit", "release", "ship", "cancel", "restock"):
        assert 404 == (await server.post(f"{path}/{action}", **bearer("ebay"))).status
    assert 200 == (await server.get(path, **bearer("web"))).status
    assert 200 == (await server.get(path, **bearer("operator"))).status


async def test_a_channel_cannot_sell_as_another(server: Server) -> None:
    """Neither reserve nor read the policy."""
    other = RESERVE | {"channel": "ebay"}
    answered = await server.post("/v1/reservations", other, **bearer("web"))
    policy = await server.get("/v1/channels/ebay", **bearer("web"))

    assert (403, "forbidden") == (answered.status, answered.body["code"])
    assert (404, "unknown_channel") == (policy.status, policy.body["code"])


async def test_with_keys_any_host_name_is_answered_to(server: Server) -> None:
    """A browser attaches no key by itself, so names prove nothing."""
    answered = await server.get("/v1/stock/A", host="shop.example", **bearer("operator"))

    assert 200 == answered.status


async def test_what_changes_stock_says_whose_key_asked(server: Server) -> None:
    """Every way by which stock and policies change over HTTP carries the id of the key."""
    key = bearer("stocktaker")
    moved = {"movements": [{"kind": "adjusted", "sku": "A", "location": "berlin", "quantity": 1}]}
    rows = b"sku,location,quantity\nA,berlin,1\n"

    assert (
        200 == (await server.post("/v1/stock/movements", moved, idempotency_key="k", **key)).status
    )
    assert 200 == (await server.put("/v1/stock/A", {"pools": {"b2b": 1}}, **key)).status
    assert 200 == (await server.put("/v1/channels/web", {"buffer": 1}, **key)).status
    path = "/v1/stock/import?kind=received"
    assert 200 == (await server.post(path, rows, content_type="text/csv", **key)).status

    said = [each.by for each in server.engine.commands if isinstance(each, SignedCommand)]
    assert 3 + len(server.engine.shards) == len(said)
    assert {"0a1b2c"} == set(said)
