"""`POST /v1/stock/{sku}/dedicate`: all of its steps, and what is left where it was interrupted."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.messages import (
    Answer,
    Bind,
    Binding,
    ChannelPolicy,
    Command,
    Dedicate,
    GetBinding,
    GetChannel,
    Receive,
    SetChannel,
    Settle,
    Status,
    Unbind,
)
from engine.placement import shard_of
from tests.gateway.http_engine import SHARDS, LocalEngine, Server, serving

HOT = "SNEAKER-42"
HASHED = shard_of(HOT, SHARDS)
PATH = f"/v1/stock/{HOT}/dedicate"
STEPS = (Bind, SetChannel, Dedicate, Settle)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """With two dedicated shards."""
    engine = LocalEngine(dedicated=2)
    for shard in range(SHARDS):
        await engine.ask(SetChannel(shard, "web", ChannelPolicy(buffer=2)))
    async with serving(engine, dedicated=2) as server:
        yield server


def bound(server: Server) -> list[str | None]:
    """Which SKUs the dedicated shards are for."""
    found: list[str | None] = []
    for shard in server.engine.shards[SHARDS:]:
        body = shard.execute(GetBinding(shard.number)).body
        assert isinstance(body, Binding)
        found.append(body.sku)
    return found


async def test_a_free_one_is_found(server: Server) -> None:
    """The SKU lives in the first dedicated shard that is free, from its first stock on."""
    answer = await server.post(PATH, {})
    stocked = await server.engine.ask(Receive(HOT, "berlin", 5))

    assert (200, {"sku": HOT, "shard": SHARDS}) == (answer.status, answer.body)
    assert Status.OK is stocked.status
    assert server.engine.shards[SHARDS].state.skus.get(HOT) is not None
    assert server.engine.shards[HASHED].state.skus.get(HOT) is None


async def test_it_is_named(server: Server) -> None:
    """Which one it is may be said; another one later on may not."""
    assert 200 == (await server.post(PATH, {"shard": SHARDS + 1})).status
    refused = await server.post(PATH, {"shard": SHARDS})

    assert (409, "dedicated") == (refused.status, refused.body["code"])
    assert [None, HOT] == bound(server)
    assert 200 == (await server.post(PATH, {})).status


async def test_policies_come_along(server: Server) -> None:
    """A dedicated shard that is younger than a policy has it by then; one that has its own keeps
    it."""
    await server.engine.ask(SetChannel(SHARDS + 1, "web", ChannelPolicy(buffer=7)))
    for number, sku in enumerate((HOT, "another")):
        await server.post(f"/v1/stock/{sku}/dedicate", {"shard": SHARDS + number})

    for shard, buffer in ((SHARDS, 2), (SHARDS + 1, 7)):
        body: Any = (await server.engine.ask(GetChannel(shard, "web"))).body
        assert buffer == body.policy.buffer


async def test_stock_is_known_already(server: Server) -> None:
    """It stays where it is, and the dedicated shard is free again."""
    server.engine.receive(HOT, 3)
    answer = await server.post(PATH, {})

    assert (409, "sku_known") == (answer.status, answer.body["code"])
    assert [None, None] == bound(server)


async def test_none_is_free(server: Server) -> None:
    """There are only so many."""
    for sku in ("one", "two"):
        assert 200 == (await server.post(f"/v1/stock/{sku}/dedicate", {})).status
    answer = await server.post(PATH, {})

    assert (409, "shard_taken") == (answer.status, answer.body["code"])


@pytest.mark.parametrize("shard", [0, SHARDS - 1, SHARDS + 2, -1])
async def test_no_dedicated_one(server: Server, shard: int) -> None:
    """A shard that is hashed, or that there is not, is refused."""
    assert 400 == (await server.post(PATH, {"shard": shard})).status
    assert [None, None] == bound(server)


@pytest.mark.parametrize("kind", STEPS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("happens", [False, True])
async def test_interrupted(server: Server, kind: type[Command], happens: bool) -> None:
    """Whatever step it dies at, whether or not that was done: nothing is undone, and the same call
    completes it in the same shard."""
    engine = server.engine

    def interrupt(command: Command) -> Answer | None:
        if not isinstance(command, kind):
            return None
        if happens:
            engine.replaced = lambda command: None
            engine.forward(command, 1_000, lambda answer: None)
            engine.replaced = interrupt
        return Answer(Status.OUTCOME_UNKNOWN)

    engine.replaced = interrupt
    assert 503 == (await server.post(PATH, {})).status
    assert not any(isinstance(command, Unbind) for command in engine.commands)

    engine.replaced = lambda command: None
    assert {"sku": HOT, "shard": SHARDS} == (await server.post(PATH, {})).body
    assert [HOT, None] == bound(server)
    assert Status.OK is (await engine.ask(Receive(HOT, "berlin", 5))).status


async def test_two_at_once(server: Server) -> None:
    """Who comes second takes the shard that the first one's call has come to, and frees its own."""
    engine = server.engine

    def interfere(command: Command) -> Answer | None:
        if isinstance(command, Dedicate):
            engine.replaced = lambda command: None
            for step in (Bind(SHARDS + 1, HOT), Dedicate(HOT, SHARDS + 1), Settle(SHARDS + 1, HOT)):
                engine.forward(step, 1_000, lambda answer: None)
        return None

    engine.replaced = interfere

    assert {"sku": HOT, "shard": SHARDS + 1} == (await server.post(PATH, {})).body
    assert [None, HOT] == bound(server)
