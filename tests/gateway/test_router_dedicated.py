"""A router and SKUs with a shard of their own: learnt of by refusals, all commands in order."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from engine import limits
from engine.messages import (
    Answer,
    Bind,
    Command,
    Commit,
    Dedicate,
    DedicatedTo,
    GetStock,
    LineRequest,
    Receive,
    ReservationView,
    Reserve,
    Settle,
    Status,
    StockView,
)
from engine.scope import OPERATOR
from engine.shard import Shard
from gateway.router import Router
from tests.actors.peer import until
from tests.gateway.hosts import SHARDS, Host, Store, sku_at

HOT, COLD, LIVES = sku_at(1), sku_at(1, 1), SHARDS


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """It has all shards, and the SKU is dedicated, of which no router knows yet."""
    store = Store(SHARDS, 1)
    made = Host(store, set(range(SHARDS + 1)), tmp_path / "host")
    await made.start()
    assert Status.OK is store.execute(LIVES, Bind(LIVES, HOT)).status
    assert Status.OK is store.execute(1, Dedicate(HOT, LIVES)).status
    assert Status.OK is store.execute(LIVES, Settle(LIVES, HOT)).status
    store.execute(1, Receive(COLD, "north", 100))
    yield made
    await made.die()


@pytest.fixture
async def router(host: Host) -> AsyncIterator[Router]:
    made = Router(SHARDS, dedicated=1)
    made.update_map(1, dict.fromkeys(host.owned, (1, host.address)))
    await until(lambda: made.statistics().links_up == 1)
    yield made
    await made.close()


def holds(host: Host, frames: int) -> bool:
    return len(host.held) == frames


def cart(number: int, sku: str = HOT) -> Reserve:
    return Reserve(f"cart-{number}", [LineRequest(sku, 1)])


async def test_it_finds_the_way(router: Router, host: Host) -> None:
    """Who knows nothing is told by the hashed shard, and asks there once."""
    assert 1 == router.place_of(HOT)
    assert Status.OK is (await router.ask(Receive(HOT, "north", 5, key="delivery"))).status
    assert LIVES == router.place_of(HOT)
    frames = len(host.frames)
    body = (await router.ask(GetStock(HOT))).body

    assert isinstance(body, StockView)
    assert 5 == body.on_hand
    assert frames + 1 == len(host.frames)
    assert host.store.shards[1].state.skus.get(HOT) is None


async def test_the_home_is_the_dedicated_shard(router: Router, host: Host) -> None:
    """A reservation lives where its SKU does, and is found there by whoever thinks otherwise."""
    await router.ask(Receive(HOT, "north", 5, key="delivery"))
    body = (await router.ask(cart(1))).body
    assert isinstance(body, ReservationView)

    assert LIVES == body.home
    assert Status.OK is (await router.ask(Commit("cart-1", home=1))).status


async def test_order_when_it_is_learnt(router: Router, host: Host) -> None:
    """What is in flight, waits or comes when the first refusal does is decided in its order."""
    host.store.execute(LIVES, Receive(HOT, "north", 1_000))
    host.frozen = True
    answers: list[Answer] = []
    commands: list[Command] = [cart(n, COLD if n % 5 == 0 else HOT) for n in range(60)]
    for each in commands[:20]:
        router.submit(each, 10_000, answers.append)
    await until(lambda: len(host.held) == 1)
    for each in commands[20:40]:
        router.submit(each, 10_000, answers.append)
    await until(lambda: len(host.held) == 2)
    for each in commands[40:]:
        router.submit(each, 10_000, answers.append)
    host.executed.clear()
    host.thaw()
    await until(lambda: len(answers) == len(commands))
    sent = [c.reservation_id for c in host.executed if isinstance(c, Reserve)]
    last = {name: place for place, name in enumerate(sent)}

    assert {Status.OK} == {each.status for each in answers}
    hot = [f"cart-{n}" for n in range(60) if n % 5]
    assert hot == sorted(hot, key=last.__getitem__)
    held = host.store.shards[LIVES].state.reservations.items()
    assert set(hot) == {name.decode() for name, _ in held}


async def test_new_ones_do_not_overtake(router: Router, host: Host) -> None:
    """While a flight is still out, a new command waits behind what it may bring back."""
    host.store.execute(LIVES, Receive(HOT, "north", 1))
    host.frozen = True
    answers: dict[str, Answer] = {}
    for name, frames in (("first", 1), ("second", 2)):
        command = Reserve(name, [LineRequest(HOT, 1)])
        router.submit(command, 10_000, partial(answers.__setitem__, name))
        await until(partial(holds, host, frames))
    request, reply = host.held.pop()
    host.frozen = False
    host.submit(request, OPERATOR, reply)  # the second flight lands before the first
    command = Reserve("third", [LineRequest(HOT, 1)])
    router.submit(command, 10_000, partial(answers.__setitem__, "third"))
    host.thaw()
    await until(lambda: len(answers) == 3)

    assert Status.OK is answers["first"].status
    assert Status.INSUFFICIENT_STOCK is answers["second"].status
    assert Status.INSUFFICIENT_STOCK is answers["third"].status


async def test_a_host_that_sends_round_in_circles(router: Router, host: Host) -> None:
    """A dedicated shard that names another is not believed; the command ends at its deadline."""
    host.replaced = lambda command: Answer(Status.DEDICATED, DedicatedTo(HOT, LIVES))

    assert Status.NOT_DONE is (await router.ask(GetStock(HOT), 300)).status


async def test_another_life_forgets(router: Router, host: Host) -> None:
    """An engine that was restored from a backup is asked anew."""
    await router.ask(GetStock(HOT))
    router.forget_map()

    assert 1 == router.place_of(HOT)


async def test_more_shards_than_it_was_made_for(host: Host) -> None:
    """A router of an earlier life of the engine makes room for dedicated shards as it hears of
    them."""
    router = Router(SHARDS)
    router.update_map(1, dict.fromkeys(host.owned, (1, host.address)))
    try:
        assert Status.OK is (await router.ask(Receive(HOT, "north", 5, key="delivery"))).status
        assert SHARDS + 1 == router.total
    finally:
        await router.close()


async def test_where_it_lives_cannot_be_changed(router: Router, host: Host) -> None:
    """That is the answer to whoever wants it in another shard, at once."""
    frames = len(host.frames)
    answer = await router.ask(Dedicate(HOT, LIVES + 1))

    assert (Status.DEDICATED, DedicatedTo(HOT, LIVES)) == (answer.status, answer.body)
    assert frames + 1 == len(host.frames)


async def test_what_everybody_waits_for_goes_first(host: Host) -> None:
    """Commands for a SKU whose shard is not settled come back again and again, and do not keep the
    word waiting that settles it."""
    other = sku_at(2)
    host.store.shards[LIVES] = Shard(LIVES, SHARDS)
    host.store.execute(LIVES, Bind(LIVES, other))
    host.store.execute(2, Dedicate(other, LIVES))
    router = Router(SHARDS, dedicated=1)
    router.update_map(1, dict.fromkeys(host.owned, (1, host.address)))
    try:
        sales = [
            asyncio.create_task(router.ask(Receive(other, "north", 1, key=f"{number}")))
            for number in range(2 * limits.BATCH_COMMANDS_MAX)
        ]
        await until(lambda: router.place_of(other) == LIVES)
        assert Status.OK is (await router.ask(Settle(LIVES, other), 2_000)).status
        assert {Status.OK} == {answer.status for answer in await asyncio.gather(*sales)}
    finally:
        await router.close()
