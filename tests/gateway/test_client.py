"""The client, against hosts with real shards and through a gateway: typed, patient, never twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from actors.binary_server import BinaryServer
from actors.map_board import MapBoard
from engine import limits
from engine.messages import (
    Answer,
    ChannelPolicy,
    Command,
    Detail,
    GetStock,
    LineMove,
    LineRequest,
    Policy,
    Receive,
    ReservationView,
    Reserve,
    Shortage,
    State,
    Statistics,
    Status,
    StockView,
)
from engine.scope import OPERATOR, Scope
from gateway.client import Client, OutcomeUnknown, Refused, Unavailable
from gateway.forwarder import Forwarder
from gateway.homes import home_in
from gateway.router import Router
from gateway.way import Through
from tests.actors.peer import DEADLINE_SECONDS, until
from tests.actors.tenure import tenure
from tests.actors.trial import Trial
from tests.gateway.hosts import SHARDS, Host, Store, map_of, sku_at, tell, two_hosts

SKU, OTHER = sku_at(2), sku_at(2, 1)
SHORT_MS = 150


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(Store(), set(range(SHARDS)), tmp_path / "host")
    await host.start()
    yield host
    await host.die()


@pytest.fixture
async def client(host: Host) -> AsyncIterator[Client]:
    async with Client.connect(host.address) as client:
        await client.receive(SKU, "berlin", 10)
        yield client


@asynccontextmanager
async def through_gateway(tmp_path: Path) -> AsyncIterator[Client]:
    async with two_hosts(tmp_path) as hosts:
        router = Router(SHARDS)
        board = MapBoard("secret", SHARDS)
        for each in (router.update_map, board.post):
            each(1, map_of(*hosts))
        server = BinaryServer(
            "gateway", SHARDS, Forwarder(router, board, lambda: Statistics([])), operator
        )
        async with Client.connect(await server.listen("tcp:127.0.0.1:0")) as client:
            try:
                yield client
            finally:
                await server.close()
                await router.close()


@asynccontextmanager
async def straight_to_a_host(tmp_path: Path) -> AsyncIterator[Client]:
    host = Host(Store(), set(range(SHARDS)), tmp_path / "host")
    await host.start()
    try:
        async with Client.connect(host.address) as client:
            yield client
    finally:
        await host.die()


@asynccontextmanager
async def straight_to_the_owners(tmp_path: Path) -> AsyncIterator[Client]:
    async with two_hosts(tmp_path) as hosts:
        tell(1, *hosts)
        async with Client.connect(hosts[0].address, straight=True) as client:
            yield client


def operator(key: str | None, peer: str) -> Scope:
    return OPERATOR


# --- every call ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [through_gateway, straight_to_a_host, straight_to_the_owners])
async def test_a_whole_life(way: object, tmp_path: Path) -> None:
    """Stock comes in, is held, promised, moved, shipped, cancelled and comes back."""
    assert callable(way)
    async with way(tmp_path) as client:
        assert 10 == (await client.receive(SKU, "berlin", 10, unit_cost=5, currency="EUR")).on_hand
        assert 9 == (await client.adjust(SKU, "berlin", -1, reason="broken")).on_hand
        assert 6 == (await client.transfer(SKU, "berlin", "paris", 3)).on_hand
        assert 8 == (await client.count(SKU, "berlin", 8)).on_hand
        await client.receive(OTHER, "berlin", 2)
        held = await client.reserve([(SKU, 5), LineRequest(OTHER, 2, "berlin")], channel="web")
        assert (State.RESERVED, 2) == (held.state, held.home)
        name, home = held.reservation_id, held.home
        assert held.home == home_in(name)
        longer = await client.extend(name, 3_600, home=home)
        assert longer.expires_at > held.expires_at
        assert State.COMMITTED is (await client.commit(name, [(SKU, 4)], home=home)).state
        moved = await client.move_lines(name, [LineMove(SKU, "berlin", "paris", 2)], home=home)
        assert dict(moved.lines[0].locations) == {"berlin": 2, "paris": 2}
        shipped = await client.ship(name, [(SKU, 2)], home=home)
        assert 2 == shipped.lines[0].shipped
        restocked = await client.restock(name, home=home)
        assert 2 == restocked.lines[0].restocked
        cancelled = await client.cancel(name, home=home)
        assert 2 == cancelled.lines[0].cancelled
        assert (await client.get_reservation(name, home=home)) == cancelled
        stock = await client.stock(SKU)
        assert (stock.on_hand, stock.reserved, stock.allocated) == (11, 0, 0)


async def test_releasing_and_settings(client: Client) -> None:
    """A released hold frees its units; safety stock, pools and channels say what may be sold."""
    held = await client.reserve([(SKU, 4)])
    assert State.RELEASED is (await client.release(held.reservation_id, home=held.home)).state
    assert 10 == (await client.availability(SKU)).available_to_promise
    withheld = await client.set_stock(SKU, safety_stock={"berlin": 1}, pools={"vip": 2})
    assert 9 == withheld.available
    policy = ChannelPolicy(buffer=3)
    assert policy == (await client.set_channel("web", policy)).policy
    assert policy == (await client.get_channel("web")).policy
    assert 4 == (await client.availability(SKU, "web")).available_to_promise
    assert [0] * SHARDS == [view.drift for view in await client.audit()]


async def test_the_past(tmp_path: Path) -> None:
    """What changed a SKU, and how it stood after each of its movements."""
    trial = Trial(tmp_path, shards=2)
    async with tenure(trial, 0, 1) as one:
        server = BinaryServer("host", 2, one.host, operator)
        async with Client.connect(await server.listen("tcp:127.0.0.1:0")) as client:
            for units in (3, 4):
                await client.receive(SKU, "berlin", units)
            first = await client.movements(SKU, limit=1)
            rest = await client.movements(SKU, after=first.next)
            entries = [*first.entries, *rest.entries]
            assert [3, 4] == [each.quantity for each in entries]
            for each, expected in zip(entries, (3, 7), strict=True):
                position = each.epoch, each.sequence
                by_position = await client.stock_as_of(SKU, position=position)
                assert expected == by_position.stock.on_hand
                assert by_position == await client.stock_as_of(SKU, time=each.time)
            late = entries[-1].time + 60_000_000
            with pytest.raises(Refused, match="not_yet: the shard's time is"):
                await client.stock_as_of(SKU, time=late)
            ended = await one.sample("onhand_history_questions_total", outcome="ended")
            assert 7 == ended
        await server.close()


async def test_refusals_say_why(client: Client) -> None:
    """A refusal carries its status and its body, and reads well."""
    with pytest.raises(Refused, match="insufficient_stock") as short:
        await client.reserve([(SKU, 11)])
    assert isinstance(short.value.body, Shortage)
    assert (11, 10) == (short.value.body.lines[0].requested, short.value.body.lines[0].available)
    partly = await client.reserve([(SKU, 11)], policy=Policy.PARTIAL)
    assert 10 == partly.lines[0].quantity
    with pytest.raises(Refused) as unknown:
        await client.get_reservation("nobody", home=0)
    assert Status.UNKNOWN_RESERVATION is unknown.value.status
    with pytest.raises(Refused, match="unknown_sku"):
        await client.stock("nothing")


@pytest.mark.parametrize("quantity", [0, -1, limits.QUANTITY_MAX + 1, 2**70])
async def test_nonsense_is_refused_before_it_is_sent(client: Client, quantity: int) -> None:
    """What would cost the connection does not reach it; others in flight do not notice."""
    with pytest.raises(Refused, match="invalid") as refused:
        await client.reserve([(SKU, quantity)])
    assert Status.INVALID is refused.value.status
    answers = await client.submit_many([GetStock(SKU), GetStock("\ud800"), GetStock(SKU)])
    assert [Status.OK, Status.INVALID, Status.OK] == [answer.status for answer in answers]


# --- many at once ----------------------------------------------------------------------------


async def test_calls_do_not_wait_for_one_another(client: Client, host: Host) -> None:
    """A hundred calls are in flight on one connection, and each gets its own answer."""
    await client.receive(SKU, "berlin", 1_000)
    host.frozen = True
    calls = [asyncio.ensure_future(client.reserve([(SKU, n)])) for n in range(1, 41)]
    await until(lambda: len(host.held) == 40)
    host.thaw()
    held = await asyncio.gather(*calls)
    assert list(range(1, 41)) == [view.lines[0].quantity for view in held]


async def test_many_commands_travel_in_one_frame_per_shard(client: Client, host: Host) -> None:
    """Answers are in the order of the commands, whatever frames they went in."""
    skus = [sku_at(shard, nth) for nth in range(3) for shard in range(SHARDS)]
    before = len(host.frames)
    received = await client.submit_many([Receive(sku, "l", 1, key=sku) for sku in skus])
    assert {Status.OK} == {answer.status for answer in received}
    assert [3] * SHARDS == host.frames[before:]
    stock = [answer.body for answer in await client.submit_many([GetStock(sku) for sku in skus])]
    assert skus == [view.sku for view in stock if isinstance(view, StockView)]
    assert [] == await client.submit_many([])


async def test_more_commands_than_a_frame_holds(client: Client, host: Host) -> None:
    """A long list is cut into frames within the limits, in order."""
    count = limits.COMMANDS_PER_FRAME_MAX + 10
    before = len(host.frames)
    answers = await client.submit_many(
        [Reserve(f"r{n}", [LineRequest(SKU, 1)]) for n in range(count)]
    )
    assert [Status.OK] * 10 == [answer.status for answer in answers[:10]]
    assert {Status.INSUFFICIENT_STOCK} == {answer.status for answer in answers[10:]}
    assert count == sum(host.frames[before:])
    assert max(host.frames) <= limits.COMMANDS_PER_FRAME_MAX


# --- what goes wrong -------------------------------------------------------------------------


async def test_lost_connection_is_tried_again_and_nothing_counts_twice(
    client: Client, host: Host
) -> None:
    """The answer is lost after the work was done: the same name finds it done."""
    host.frozen = True
    reserving = asyncio.ensure_future(client.reserve([(SKU, 2)], reservation_id="r"))
    receiving = asyncio.ensure_future(client.receive(SKU, "berlin", 5))
    await until(lambda: len(host.held) == 2)
    for request, _ in host.held:
        for command in request.commands:
            host.store.execute(2, command)
    await host.die()
    host.frozen = False
    await host.start()
    assert isinstance(await reserving, ReservationView)
    assert 15 == (await receiving).on_hand
    stock = await client.stock(SKU)
    assert (15, 2) == (stock.on_hand, stock.reserved)


@pytest.mark.parametrize(
    "status", [Status.NOT_DONE, Status.OVERLOADED, Status.MOVED, Status.OUTCOME_UNKNOWN]
)
async def test_refusals_of_the_moment_pass(client: Client, host: Host, status: Status) -> None:
    """What may be different in a moment is tried again, under the same names."""
    seen: list[Command] = []

    def replaced(command: Command) -> Answer | None:
        seen.append(command)
        return Answer(status) if len(seen) < 4 else None

    host.replaced = replaced
    assert 11 == (await client.receive(SKU, "berlin", 1)).on_hand
    assert 4 == len(seen)
    assert all(command == seen[0] for command in seen)


async def test_deadline_tells_what_is_known(client: Client, host: Host) -> None:
    """Unanswered is OutcomeUnknown; refused to the end is Unavailable, and nothing was done."""
    client.deadline_ms = SHORT_MS
    host.replaced = lambda command: Answer(Status.NOT_DONE, Detail("no room"))
    with pytest.raises(Unavailable, match="no room"):
        await client.reserve([(SKU, 1)])
    refusals = iter([Answer(Status.OUTCOME_UNKNOWN)])
    host.replaced = lambda command: next(refusals, Answer(Status.NOT_DONE))
    with pytest.raises(OutcomeUnknown):
        await client.reserve([(SKU, 1)])
    host.replaced = lambda command: None
    host.frozen = True
    with pytest.raises(OutcomeUnknown):
        await client.receive(SKU, "berlin", 1)
    await host.die()
    await until(lambda: not is_up(client))
    with pytest.raises(Unavailable):
        await client.reserve([(SKU, 1)])


@pytest.mark.parametrize(
    "status", [Status.MEMORY_FULL, Status.SHARD_STOPPED, Status.UNAUTHENTICATED, Status.OVERLOADED]
)
async def test_a_refusal_proves_nothing_of_an_earlier_sending(
    client: Client, host: Host, status: Status
) -> None:
    """Perhaps done once stays perhaps done, however the next sending is refused."""
    client.deadline_ms = SHORT_MS
    refusals = iter([Answer(Status.OUTCOME_UNKNOWN)])
    host.replaced = lambda command: next(refusals, Answer(status))
    with pytest.raises(OutcomeUnknown):
        await client.reserve([(SKU, 1)])


async def test_bare_movement_is_not_repeated(client: Client, host: Host) -> None:
    """A command without a name, submitted as it is, is sent once and its outcome told."""
    before = len(host.frames)
    host.replaced = lambda command: Answer(Status.OUTCOME_UNKNOWN)
    assert Status.OUTCOME_UNKNOWN is (await client.submit(Receive(SKU, "berlin", 1))).status
    assert before + 1 == len(host.frames)


async def test_full_memory_is_not_waited_for(client: Client, host: Host) -> None:
    """What will not pass within a deadline is told at once."""
    host.replaced = lambda command: Answer(Status.MEMORY_FULL)
    with pytest.raises(Unavailable):
        await client.reserve([(SKU, 1)])


async def test_keys(host: Host) -> None:
    """A key that opens nothing is refused at once; a good one is not."""
    with pytest.raises(Refused) as refused:
        async with Client.connect(host.address, key="stolen"):
            pass
    assert Status.UNAUTHENTICATED is refused.value.status
    async with Client.connect(host.address, key="operator") as client:
        assert SHARDS == client.shards


async def test_nobody_there(tmp_path: Path) -> None:
    """Nobody at the address is Unavailable, after the deadline."""
    with pytest.raises(Unavailable, match="nobody answers"):
        async with Client.connect(f"unix:{tmp_path}/nobody", deadline_ms=50):
            pass


async def test_closing_ends_what_is_under_way(host: Host) -> None:
    """Calls that wait when the client is closed are told that their outcome is unknown."""
    async with Client.connect(host.address) as client:
        host.frozen = True
        waiting = asyncio.ensure_future(client.receive(SKU, "berlin", 1))
        await until(partial(has_frames, host))
    with pytest.raises(OutcomeUnknown):
        await waiting


async def test_closing_ends_who_waits_for_a_connection(host: Host) -> None:
    """Calls that were never sent are told so at once, not at their deadline."""
    async with Client.connect(host.address, deadline_ms=60_000) as client:
        await host.die()
        await until(lambda: not is_up(client))
        waiting = asyncio.ensure_future(client.receive(SKU, "berlin", 1))
        await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(Unavailable):
            await waiting


def is_up(client: Client) -> bool:
    assert isinstance(client._way, Through)
    return client._way.link.up


def has_frames(host: Host) -> bool:
    return bool(host.held)
