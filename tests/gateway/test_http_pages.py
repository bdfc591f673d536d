"""Pages over a socket: movements, channels, audit, and what operators look at."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.messages import (
    Answer,
    Audit,
    AuditView,
    Command,
    Detail,
    GetChannel,
    Receive,
    SetChannel,
    Status,
)
from gateway.metrics import Others
from gateway.problems import TABLE
from tests.gateway.http_engine import SHARDS, LocalEngine, Server, serving

MOVEMENTS = "/v1/stock/movements"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def received(sku: str = "A", quantity: int = 5) -> dict[str, Any]:
    return {"kind": "received", "sku": sku, "location": "berlin", "quantity": quantity}


async def move(server: Server, *movements: dict[str, Any], key: str = "k") -> Any:
    answered = await server.post(MOVEMENTS, {"movements": movements}, idempotency_key=key)
    assert 200 == answered.status, answered.payload
    return answered.body["results"]


async def test_movements_stand_or_fall_by_themselves(server: Server) -> None:
    """One result per movement, in order, whatever became of the others."""
    results = await move(
        server,
        received(),
        {"kind": "adjusted", "sku": "A", "location": "berlin", "quantity": -9},
        {
            "kind": "transferred",
            "sku": "A",
            "location": "berlin",
            "to_location": "x",
            "quantity": 2,
        },
        {"kind": "counted", "sku": "B", "location": "x", "quantity": 7, "expected_on_hand": 0},
        {"kind": "counted", "sku": "B", "location": "x", "quantity": 7, "physical_version": 0},
        {"kind": "transferred", "sku": "C", "location": "x", "to_location": "y", "quantity": 1},
    )

    assert ["ok", "refused", "ok", "ok", "refused", "refused"] == [
        each["status"] for each in results
    ]
    assert ["physical_shortfall", "stale_count", "unknown_sku"] == [
        each["problem"]["code"] for each in results if "problem" in each
    ]
    assert {
        "sku": "A",
        "location": "berlin",
        "on_hand": 3,
        "available": 3,
        "version": 2,
        "physical_version": 2,
    } == results[2]["movement"]


async def test_movements_are_done_once(server: Server) -> None:
    """The same request again is a replay, however it is written; another under its key is 422."""
    first = await move(server, received(), received("B"))
    again = await move(server, dict(reversed(received().items())), received("B"))
    other = await server.post(
        MOVEMENTS, {"movements": [received(), received("B"), received("C")]}, idempotency_key="k"
    )
    fresh = await move(server, received(), key='"k2"')

    assert ["ok", "ok"] == [each["status"] for each in first]
    assert ["replayed", "replayed"] == [each["status"] for each in again]
    assert (422, "idempotency_mismatch") == (other.status, other.body["code"])
    assert 10 == fresh[0]["movement"]["on_hand"]
    assert 404 == (await server.get("/v1/stock/C")).status


SKUS = "ABCDEFGH"
"""On several shards."""


async def stock(server: Server) -> dict[str, int]:
    """The units of each SKU that has any."""
    found = {sku: await server.get(f"/v1/stock/{sku}") for sku in SKUS}
    return {sku: each.body["on_hand"] for sku, each in found.items() if each.status == 200}


async def test_movements_in_another_order_are_the_same_request(server: Server) -> None:
    """All of them are replayed, equal ones one by one."""
    movements = [received(sku, quantity) for sku in SKUS for quantity in (1, 2, 2)]
    first = await move(server, *movements)
    before = await stock(server)
    again = await move(server, *reversed(movements))

    assert {"ok"} == {each["status"] for each in first}
    assert dict.fromkeys(SKUS, 5) == before
    assert {"replayed"} == {each["status"] for each in again}
    assert before == await stock(server)


@pytest.mark.parametrize(
    "others",
    [
        [received(), received("B"), received()],
        [received("C"), received(), received("B")],
        [received("B")],
        [received()],
        [received(), received("B", 6)],
        [received("A", 6)],
        [received("H", 1), received("G", 1), *(received(sku, 1) for sku in SKUS)],
    ],
)
async def test_another_request_under_a_key_changes_nothing(
    server: Server, others: list[dict[str, Any]]
) -> None:
    """422 for more, fewer or other movements, first or last, and before anything is applied."""
    await move(server, received(), received("B"))
    before = await stock(server)
    other = await server.post(MOVEMENTS, {"movements": others}, idempotency_key="k")

    assert (422, "idempotency_mismatch") == (other.status, other.body["code"])
    assert before == await stock(server)


async def test_a_refused_movement_leaves_the_others_found(server: Server) -> None:
    """Whether it stands first or last; once it can be applied, a repetition does so."""
    lost = {"kind": "adjusted", "sku": "A", "location": "berlin", "quantity": -7}
    first = await move(server, lost, received(), received("A", 1))
    await move(server, received("A", 100), key="other")
    other = await server.post(MOVEMENTS, {"movements": [received("A", 1)]}, idempotency_key="k")
    second = await move(server, received("A", 1), lost, received())
    third = await move(server, lost, received(), received("A", 1))

    assert ["refused", "ok", "ok"] == [each["status"] for each in first]
    assert 422 == other.status
    assert ["replayed", "ok", "replayed"] == [each["status"] for each in second]
    assert ["replayed"] * 3 == [each["status"] for each in third]
    assert {"A": 99} == await stock(server)


async def test_an_unsure_movement_leaves_the_others_of_its_shard_unsure(server: Server) -> None:
    """Whose name it is cannot be told then; a repetition tells."""
    movements = [received("A", quantity) for quantity in (1, 2, 3)]
    await move(server, *movements)
    server.engine.replaced = lambda command: (
        Answer(Status.NOT_DONE) if isinstance(command, Receive) and command.quantity == 1 else None
    )
    second = await move(server, *movements)
    server.engine.replaced = lambda command: None
    third = await move(server, *movements)

    assert ["not_done", "outcome_unknown", "outcome_unknown"] == [
        each["problem"]["code"] for each in second
    ]
    assert ["replayed"] * 3 == [each["status"] for each in third]
    assert {"A": 6} == await stock(server)


async def test_an_outage_in_the_middle_is_mended_by_a_repetition(server: Server) -> None:
    """What was done is replayed, what was not is done."""
    server.engine.replaced = lambda command: (
        Answer(Status.NOT_DONE) if isinstance(command, Receive) and command.sku == "B" else None
    )
    first = await move(server, received(), received("B"))
    server.engine.replaced = lambda command: None
    second = await move(server, received(), received("B"))

    assert ["ok", "refused"] == [each["status"] for each in first]
    assert first[1]["problem"]["retryable"]
    assert ["replayed", "ok"] == [each["status"] for each in second]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"movements": [received()]}, {}, 400),
        ({"movements": [received()]}, {"idempotency_key": "a b"}, 400),
        ({"movements": []}, {"idempotency_key": "k"}, 400),
        ({"movements": [received()] * 101}, {"idempotency_key": "k"}, 400),
        ({"movements": [{"kind": "shipped"}]}, {"idempotency_key": "k"}, 400),
        ({"movements": [received() | {"to_location": "x"}]}, {"idempotency_key": "k"}, 400),
        (b"{" * 70_000, {"idempotency_key": "k"}, 413),
        ({"movements": [received()]}, {"idempotency_key": "k", "content_type": "text/csv"}, 415),
        (
            {"movements": [received()]},
            {"idempotency_key": "k", "content_encoding": "gzip"},
            415,
        ),
    ],
)
async def test_what_is_no_list_of_movements_is_refused(
    server: Server, body: object, headers: dict[str, str], status: int
) -> None:
    """Whole, before anything is done."""
    answered = await server.post(MOVEMENTS, body, **headers)

    assert (status, status) == (answered.status, answered.body["status"])
    assert [] == server.engine.commands


async def test_a_channel_is_put_on_every_shard(server: Server) -> None:
    """And read from any."""
    policy = {"locations": ["berlin"], "pools": ["vip"], "common_stock": False, "buffer": 2}
    put = await server.put("/v1/channels/web", policy)
    shards = {each.shard for each in server.engine.commands if isinstance(each, SetChannel)}
    got = await server.get("/v1/channels/web")

    assert (200, {"channel": "web"} | policy) == (put.status, put.body)
    assert set(range(SHARDS)) == shards
    assert put.body == got.body


async def test_a_channel_has_defaults(server: Server) -> None:
    """All locations, common stock, no buffer; no locations at all is something else."""
    put = await server.put("/v1/channels/web", {})
    nothing = await server.put("/v1/channels/none", {"locations": []})

    assert {
        "channel": "web",
        "locations": None,
        "pools": [],
        "common_stock": True,
        "buffer": 0,
    } == put.body
    assert [] == nothing.body["locations"]


async def test_a_channel_that_one_shard_did_not_take_is_503(server: Server) -> None:
    """Until every shard has it; putting it again mends it."""
    server.engine.replaced = lambda command: (
        Answer(Status.NOT_DONE) if isinstance(command, SetChannel) and command.shard == 2 else None
    )
    partly = await server.put("/v1/channels/web", {"buffer": 1})
    server.engine.replaced = lambda command: None
    again = await server.put("/v1/channels/web", {"buffer": 1})

    assert (503, "outcome_unknown") == (partly.status, partly.body["code"])
    assert "did not take the policy: 2." in partly.body["detail"]
    assert 200 == again.status


async def test_a_channel_that_no_shard_takes_is_invalid(server: Server) -> None:
    """A refusal that all share is the caller's fault."""
    server.engine.replaced = lambda command: Answer(Status.INVALID, Detail("too many channels"))
    answered = await server.put("/v1/channels/web", {})

    assert (400, "too many channels") == (answered.status, answered.body["detail"])


async def test_an_audit_adds_up_all_shards(server: Server) -> None:
    """Totals, drift, and what each shard found."""
    for number in range(8):
        server.engine.receive(f"SKU-{number}", 10)
    await server.post("/v1/reservations", {"lines": [{"sku": "SKU-1", "quantity": 3}]})
    report = (await server.post("/v1/audit")).body

    assert (8, 80, 3, 77, 0, []) == tuple(
        report[name] for name in ("skus", "on_hand", "reserved", "available", "drift", "findings")
    )
    assert list(range(SHARDS)) == [each["shard"] for each in report["shards"]]
    assert 1 == report["reservations"]["reserved"]
    assert all(32 == len(each["digest"]) for each in report["shards"])


@pytest.mark.parametrize(
    ("query", "quick"), [("", False), ("?quick=false", False), ("?quick=true", True)]
)
async def test_an_audit_may_be_quick(server: Server, query: str, quick: bool) -> None:
    """Every shard is told; what else it replayed is added up."""
    view = AuditView(0, 1, 2, bytes(16), 0, 0, 0, 0, 0, 0, {}, {}, 3, ["a gap"], 9, 4, True, "", 1)
    server.engine.replaced = lambda command: Answer(Status.OK, view)
    report = (await server.post(f"/v1/audit{query}")).body

    assert {quick} == {each.quick for each in server.engine.commands if isinstance(each, Audit)}
    numbers = ("drift", "damage", "replayed", "checks", "complete")
    assert (3 * SHARDS, SHARDS, 9 * SHARDS, 4 * SHARDS, True) == tuple(map(report.get, numbers))
    assert (9, 4, True, "") == tuple(
        map(report["shards"][0].get, ("replayed", "checks", "complete", "skipped"))
    )


async def test_an_audit_that_is_not_complete_says_so(server: Server) -> None:
    """And why; and a flag is a flag."""
    why = "the journal was trimmed"
    view = AuditView(0, 1, 2, bytes(16), 0, 0, 0, 0, 0, 0, {}, {}, 0, [], skipped=why)
    server.engine.replaced = lambda command: Answer(Status.OK, view)
    report = (await server.post("/v1/audit")).body

    assert (False, why) == (report["complete"], report["shards"][0]["skipped"])
    assert 400 == (await server.post("/v1/audit?quick=1")).status


async def test_an_audit_that_a_shard_does_not_answer_is_refused(server: Server) -> None:
    """A sum that lacks a shard would be a lie."""
    server.engine.replaced = lambda command: (
        Answer(Status.SHARD_STOPPED) if getattr(command, "shard", 0) == 3 else None
    )
    answered = await server.post("/v1/audit")

    assert (503, "shard_stopped") == (answered.status, answered.body["code"])
    assert answered.body["detail"].startswith("Shard 3: ")


async def test_one_shard_is_audited_whatever_the_others_are(server: Server) -> None:
    """Nobody else is asked; a shard that there is not is refused."""
    server.engine.replaced = lambda command: (
        Answer(Status.SHARD_STOPPED) if getattr(command, "shard", 0) == 3 else None
    )
    report = (await server.post("/v1/audit?shard=2&quick=true")).body

    assert [2] == [each["shard"] for each in report["shards"]]
    assert [Audit(2, True)] == server.engine.commands
    assert 400 == (await server.post(f"/v1/audit?shard={SHARDS}")).status


async def test_the_gateway_is_alive_whatever_the_engine_is(server: Server) -> None:
    """/healthz asks nobody."""
    server.engine.replaced = lambda command: Answer(Status.NOT_DONE)

    assert {"status": "ok"} == (await server.get("/healthz")).body
    assert [] == server.engine.commands


@pytest.mark.parametrize(
    ("status", "http"),
    [(Status.OK, 200), (Status.UNKNOWN_CHANNEL, 200), (Status.NOT_DONE, 503)],
)
async def test_the_engine_is_ready_once_every_shard_answers(
    server: Server, status: Status, http: int
) -> None:
    """One shard that does not is named."""
    server.engine.replaced = lambda command: (
        Answer(status) if isinstance(command, GetChannel) and command.shard == 1 else None
    )
    answered = await server.get("/readyz")

    assert http == answered.status
    if http == 503:
        assert ("not_ready", True) == (answered.body["code"], answered.body["retryable"])
        assert "answers: 1." in answered.body["detail"]


async def test_a_shard_without_an_owner_is_not_ready() -> None:
    """Nobody has to be asked to know that."""

    class Ownerless(LocalEngine):
        def owners(self) -> dict[int, tuple[int, str | None]]:
            return super().owners() | {2: (4, None)}

    async with serving(Ownerless()) as server:
        answered = await server.get("/readyz")
        shards = (await server.get("/v1/shards")).body["shards"]

    assert 503 == answered.status
    assert {"shard": 2, "epoch": 4, "host": None, "head": None} == shards[2]


async def test_many_who_ask_for_readiness_cost_one_probe(server: Server) -> None:
    """An open call must not multiply load."""
    await asyncio.gather(*(server.get("/readyz") for _ in range(20)))

    assert SHARDS == len(server.engine.commands)


async def test_shards_are_listed(server: Server) -> None:
    """Owner, epoch, and the newest record that was seen."""
    shards = (await server.get("/v1/shards")).body["shards"]

    assert SHARDS == len(shards)
    assert {"shard": 0, "epoch": 3, "host": "unix:/run/host-1", "head": "3-7"} == shards[0]


async def test_metrics_are_served(server: Server) -> None:
    """The gateway's own counters, the router's and the hosts', as Prometheus reads them."""
    await server.get("/v1/stock/none")
    await server.get("/healthz")
    answered = await server.get("/metrics")
    text = answered.payload.decode()

    assert answered.headers["content-type"].startswith("text/plain; version=")
    labels = 'gateway="gateway-1",operation="getStock"'
    assert f'onhand_http_requests_total{{code="404",{labels}}} 1.0' in text
    labels = 'gateway="gateway-1",operation="health"'
    assert f"onhand_http_request_duration_seconds_count{{{labels}}} 1.0" in text
    assert 'onhand_router_answers_total{gateway="gateway-1",status="ok"} 5.0' in text
    assert 'onhand_shard_queue_commands{host="host-1",shard="0"} 3.0' in text
    assert 'onhand_scrape_hosts_silent{gateway="gateway-1"} 0.0' in text


async def test_metrics_do_without_silent_hosts() -> None:
    """A scrape in an outage still shows the gateway."""

    async def silent() -> Others:
        raise TimeoutError

    async with serving(ask_others=silent) as server:
        answered = await server.get("/metrics")

    assert b'onhand_scrape_hosts_silent{gateway="gateway-1"} 1.0' in answered.payload


async def test_a_bug_in_a_page_is_a_500(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, it says nothing of itself, and others are served."""
    server.engine.replaced = lambda command: Answer(Status.OK, None)
    answered = await server.post("/v1/audit")

    assert (500, "internal") == (answered.status, answered.body["code"])
    assert "AssertionError" not in answered.payload.decode()
    assert "Exception in ASGI application" in caplog.text
    assert {500: 1} == server.api.counters.operations["audit"].codes
    assert 200 == (await server.get("/healthz")).status


@pytest.mark.parametrize("status", [each for each in Status if TABLE[each].http >= 400])
async def test_a_movement_may_be_refused_in_every_way(server: Server, status: Status) -> None:
    """What became of one movement is said in its place, unless it concerns the whole request."""

    def refuse(command: Command) -> Answer | None:
        return Answer(status) if isinstance(command, Receive) else None

    server.engine.replaced = refuse
    body = {"movements": [received()]}
    answered = await server.post(MOVEMENTS, body, idempotency_key="k")

    if status is Status.IDEMPOTENCY_MISMATCH:
        assert 422 == answered.status
    else:
        assert TABLE[status].code == answered.body["results"][0]["problem"]["code"]
