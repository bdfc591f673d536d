"""Straight to the owners: what a caller sees is what it would see through a gateway."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from pathlib import Path

import pytest

from engine.messages import (
    Answer,
    Commit,
    Find,
    GetReservation,
    GetStock,
    Homes,
    LineRequest,
    Receive,
    Release,
    ReservationView,
    Reserve,
    State,
    Status,
)
from gateway.client import Client, OutcomeUnknown, Refused, Unavailable
from gateway.way import Straight
from tests.actors.peer import DEADLINE_SECONDS, until
from tests.gateway.hosts import SCOPES, SHARDS, Host, sku_at, tell, two_hosts

HERE, THERE = sku_at(0), sku_at(2)
SHORT_MS = 150


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[tuple[Host, Host]]:
    """Shards 0 and 1 here, 2 and 3 there; both know."""
    async with two_hosts(tmp_path) as both:
        for shard in range(SHARDS):
            both[0].store.execute(shard, Receive(sku_at(shard), "l", 1_000_000))
        tell(1, *both)
        yield both


@pytest.fixture
async def client(hosts: tuple[Host, Host]) -> AsyncIterator[Client]:
    async with straight(hosts[0]) as client:
        yield client


@asynccontextmanager
async def straight(entry: Host, key: str | None = None) -> AsyncIterator[Client]:
    async with Client.connect(entry.address, key, straight=True, jitter=lambda: 0.5) as client:
        yield client


def move(shard: int, source: Host, target: Host, epoch: int) -> None:
    """It happens; nobody is told."""
    source.owned.discard(shard)
    target.owned.add(shard)
    source.moved[shard] = (epoch, target.address)


def reserve(name: str, sku: str = HERE) -> Reserve:
    return Reserve(name, [LineRequest(sku, 1)])


def names(*hosts: Host) -> list[str]:
    return [getattr(each, "reservation_id", "") for host in hosts for each in host.executed]


# --- to the owners ---------------------------------------------------------------------------


async def test_each_shard_is_asked_of_its_owner(client: Client, hosts: tuple[Host, Host]) -> None:
    """One frame per shard to the host that has it, and the answers in the order of the commands."""
    skus = [sku_at(shard) for shard in range(SHARDS)] * 3
    answers = await client.submit_many([GetStock(sku) for sku in skus])
    assert skus == [getattr(answer.body, "sku", None) for answer in answers]
    assert [[3, 3], [3, 3]] == [host.frames for host in hosts]
    assert [GetStock(sku_at(0))] * 3 + [GetStock(sku_at(1))] * 3 == hosts[0].executed


async def test_a_home_that_nobody_names_is_found(client: Client, hosts: tuple[Host, Host]) -> None:
    """All hosts are asked for it; the caller's command stays as the caller wrote it."""
    hosts[1].store.execute(3, reserve("elsewhere", sku_at(3)))
    command = Commit("elsewhere")
    answer = await client.submit(command)
    assert isinstance(answer.body, ReservationView)
    assert (State.COMMITTED, 3) == (answer.body.state, answer.body.home)
    assert Commit("elsewhere") == command
    absent = await client.submit(Release("nobody"))
    assert Status.UNKNOWN_RESERVATION is absent.status
    found = await client.submit(Find("elsewhere"))
    assert Homes([3], list(range(SHARDS))) == found.body


async def test_a_wrong_hint_does_not_become_the_callers_word(
    client: Client, hosts: tuple[Host, Host]
) -> None:
    """What the client remembers of a home may be wrong: a release that is tried again leaves its
    tombstone where the caller says, not where the client thought."""
    await client.submit(reserve("cart", THERE))
    refusals = iter([Answer(Status.OVERLOADED)])
    hosts[1].replaced = lambda command: next(refusals, None)
    command = Release("cart")
    assert Status.OK is (await client.submit(command)).status
    assert Release("cart") == command


# --- keys ------------------------------------------------------------------------------------


async def test_a_channel_finds_its_own_only(hosts: tuple[Host, Host]) -> None:
    """Another channel's reservation is in no shard, for whoever asks by a channel's key."""
    async with straight(hosts[0], "shop") as shop, straight(hosts[1], "trade") as trade:
        held = await shop.reserve([(THERE, 1)], reservation_id="cart")
        assert ("shop", 2) == (held.channel, held.home)
        for command in (GetReservation("cart"), GetReservation("cart", 2), Commit("cart")):
            assert Status.UNKNOWN_RESERVATION is (await trade.submit(command)).status
        assert Homes([], list(range(SHARDS))) == (await trade.submit(Find("cart"))).body
        assert State.COMMITTED is (await shop.commit("cart")).state


@pytest.mark.parametrize("key", ["shop", "warehouse", "stocktaker"])
async def test_any_key_may_ask_who_owns_what(hosts: tuple[Host, Host], key: str) -> None:
    """Whatever it may do, it has to find where."""
    async with straight(hosts[0], key) as client:
        assert SHARDS == client.shards


async def test_a_key_does_what_it_may(hosts: tuple[Host, Host]) -> None:
    """Who may ship finds the reservation; who may not touch it is told so at once, as through a
    gateway, and not that nobody knows it."""
    hosts[0].store.execute(2, reserve("cart", THERE))
    hosts[0].store.execute(2, Commit("cart", 2))
    async with straight(hosts[0], "warehouse") as warehouse:
        assert 1 == (await warehouse.ship("cart")).lines[0].shipped
    async with straight(hosts[0], "stocktaker") as stocktaker:
        with pytest.raises(Refused) as refused:
            await stocktaker.ship("cart")
        assert Status.FORBIDDEN is refused.value.status
        assert 1_000_001 == (await stocktaker.receive(HERE, "l", 1)).on_hand


async def test_a_revoked_key(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens nothing from the start; and no longer, once it is revoked."""
    with pytest.raises(Refused) as stolen:
        async with straight(hosts[0], "stolen"):
            pass
    assert Status.UNAUTHENTICATED is stolen.value.status
    async with straight(hosts[0], "shop") as client:
        monkeypatch.delitem(SCOPES, "shop")
        client.deadline_ms = SHORT_MS
        async with asyncio.timeout(DEADLINE_SECONDS):
            status = Status.OK
            while status is not Status.UNAUTHENTICATED:
                status = (await client.submit(GetStock(HERE))).status


# --- shards that move ------------------------------------------------------------------------


async def test_moved_is_followed_before_the_map_says_so(
    client: Client, hosts: tuple[Host, Host]
) -> None:
    """The former owner says who has come after it, and that is enough."""
    move(0, *hosts, epoch=2)
    assert 1_000_000 == (await client.stock(HERE)).on_hand
    assert [GetStock(HERE)] == hosts[1].executed


async def test_a_map_is_followed(client: Client, hosts: tuple[Host, Host]) -> None:
    """The former owner knows nothing; the next map does."""
    move(0, *hosts, epoch=2)
    del hosts[0].moved[0]
    asked = asyncio.ensure_future(client.stock(HERE))
    await until(lambda: sum(hosts[0].frames) >= 2)
    tell(2, *hosts, epoch=2)
    assert 1_000_000 == (await asked).on_hand


async def test_order_is_kept_while_a_shard_moves(client: Client, hosts: tuple[Host, Host]) -> None:
    """Whatever comes meanwhile waits until what was refused has gone to the new owner."""
    first, second = hosts
    calls = []
    for number in range(400):
        calls.append(asyncio.ensure_future(client.submit(reserve(f"r{number:03}"))))
        if number == 100:
            await until(lambda: len(first.executed) > 50)
            move(0, first, second, epoch=2)
        if number == 250:
            tell(2, *hosts, epoch=2)
        if number % 7 == 0:
            await asyncio.sleep(0)
    answers = await asyncio.gather(*calls)
    assert {Status.OK} == {answer.status for answer in answers}
    assert [f"r{number:03}" for number in range(400)] == names(*hosts)
    assert 0 < len(second.executed) < 400


# --- hosts that are gone ---------------------------------------------------------------------


async def test_a_host_dies(client: Client, hosts: tuple[Host, Host]) -> None:
    """What it had is the other's by the next map: nothing is lost, nothing counts twice."""
    first, second = hosts
    second.frozen = True
    waiting = [asyncio.ensure_future(client.reserve([(THERE, 1)])) for _ in range(20)]
    receiving = asyncio.ensure_future(client.receive(THERE, "l", 5))
    await until(lambda: sum(len(request.commands) for request, _ in second.held) >= 21)
    for request, _ in second.held:
        for command in request.commands:
            if not is_question(command):
                first.store.execute(2, command)
    await second.die()
    first.owned |= second.owned
    tell(2, first, epoch=2)
    await asyncio.gather(*waiting)
    assert 1_000_005 == (await receiving).on_hand
    stock = await client.stock(THERE)
    assert (1_000_005, 20) == (stock.on_hand, stock.reserved)


def is_question(command: object) -> bool:
    return type(command).__name__ == "GetMap"


@pytest.mark.parametrize("entry", [0, 1])
async def test_a_host_freezes(hosts: tuple[Host, Host], entry: int) -> None:
    """Its shards go to the other; the client hears of it from whoever is awake, be the frozen one
    its entry or not, and does not wait for it."""
    first, second = hosts
    async with straight(hosts[entry]) as client:
        await until(lambda: all(host.questions for host in hosts))
        second.frozen = True
        asked = [asyncio.ensure_future(client.reserve([(THERE, 1)])) for _ in range(10)]
        await until(lambda: bool(second.held))
        first.owned |= second.owned
        tell(2, first, epoch=2)
        async with asyncio.timeout(2):
            await asyncio.gather(*asked)
    assert 10 == (await settled(first, THERE))[1]


async def settled(host: Host, sku: str) -> tuple[int, int]:
    answer = host.store.execute(2, GetStock(sku))
    return getattr(answer.body, "on_hand", 0), getattr(answer.body, "reserved", 0)


async def test_the_entry_dies(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """It is needed only to begin with: the hosts tell the rest."""
    entry = Host(hosts[0].store, set(), tmp_path / "entry")
    await entry.start()
    entry.board.post(1, {shard: (1, hosts[shard // 2].address) for shard in range(SHARDS)})
    async with straight(entry) as client:
        await until(lambda: any(host.questions for host in hosts))
        await entry.die()
        move(0, *hosts, epoch=2)
        del hosts[0].moved[0]
        tell(2, *hosts, epoch=2)
        assert 1_000_000 == (await client.stock(HERE)).on_hand
    assert [GetStock(HERE)] == hosts[1].executed


async def test_what_is_known_at_the_deadline(client: Client, hosts: tuple[Host, Host]) -> None:
    """Refused to the end is Unavailable, unanswered is OutcomeUnknown: as through a gateway."""
    client.deadline_ms = SHORT_MS
    hosts[0].replaced = lambda command: Answer(Status.NOT_DONE)
    with pytest.raises(Unavailable):
        await client.reserve([(HERE, 1)])
    doubts: Iterator[Answer] = iter([Answer(Status.OUTCOME_UNKNOWN)])
    refusals = repeat(Answer(Status.FORBIDDEN))
    hosts[0].replaced = lambda command: next(doubts, next(refusals))
    with pytest.raises(OutcomeUnknown):
        await client.reserve([(HERE, 1)])
    hosts[1].frozen = True
    with pytest.raises(OutcomeUnknown):
        await client.reserve([(THERE, 1)])
    hosts[1].owned.clear()
    tell(2, hosts[0], epoch=2)
    await until(partial(is_orphan, client, 2))
    with pytest.raises(Unavailable):
        await client.stock(THERE)


def is_orphan(client: Client, shard: int) -> bool:
    """Whether the client knows that nobody has it."""
    assert isinstance(client._way, Straight)
    assert client._way._router is not None
    return client._way._router.owners()[shard][1] is None


async def test_a_shard_that_has_stopped(client: Client, hosts: tuple[Host, Host]) -> None:
    """Nobody waits for it."""
    hosts[1].owned.discard(2)
    for host in hosts:
        host.board.post(2, {0: (1, hosts[0].address)}, {2})
    with pytest.raises(Unavailable, match="shard_stopped"):
        await client.stock(THERE)


# --- begin and end ---------------------------------------------------------------------------


async def test_who_does_not_know_opens_nothing(tmp_path: Path) -> None:
    """An entry that has heard of no map is no way in."""
    async with two_hosts(tmp_path) as hosts:
        with pytest.raises(Unavailable, match="does not say who owns what"):
            async with Client.connect(hosts[0].address, straight=True, deadline_ms=SHORT_MS):
                pass
        with pytest.raises(Unavailable, match="nobody answers"):
            async with Client.connect(f"unix:{tmp_path}/no", straight=True, deadline_ms=SHORT_MS):
                pass


async def test_hosts_that_cannot_be_reached(tmp_path: Path) -> None:
    """Whoever may ask where the hosts are, but cannot get there, is told so."""
    async with two_hosts(tmp_path) as (entry, _):
        entry.board.post(1, dict.fromkeys(range(SHARDS), (1, f"unix:{tmp_path}/elsewhere")))
        async with straight(entry) as client:
            client.deadline_ms = SHORT_MS
            with pytest.raises(Unavailable, match="no host can be reached"):
                await client.stock(HERE)


async def test_closing_ends_what_is_under_way(hosts: tuple[Host, Host]) -> None:
    """Calls that wait when the client is closed are told what is known; nothing is left behind."""
    async with straight(hosts[0]) as client:
        hosts[1].frozen = True
        waiting = asyncio.ensure_future(client.receive(THERE, "l", 1))
        abandoned = asyncio.ensure_future(client.receive(THERE, "l", 1))
        await until(partial(has_commands, hosts[1], 2))
        abandoned.cancel()
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(OutcomeUnknown):
            await waiting
    with pytest.raises(asyncio.CancelledError):
        await abandoned


def has_commands(host: Host, count: int) -> bool:
    held = [each for request, _ in host.held for each in request.commands]
    return sum(not is_question(each) for each in held) == count
