"""A client that goes straight to the hosts, and SKUs that have a shard of their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.messages import Bind, Dedicate, LineRequest, Receive, Reserve, Settle, State, Status
from gateway.client import Client
from gateway.homes import home_in
from tests.gateway.hosts import SHARDS, Host, Store, sku_at, tell

HOT, LIVES = sku_at(1), SHARDS
UNITS = 100


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[tuple[Host, Host]]:
    """The hashed shards here, the dedicated one there; both know."""
    store = Store(SHARDS, 1)
    here = Host(store, set(range(SHARDS)), tmp_path / "here")
    there = Host(store, {LIVES}, tmp_path / "there")
    await asyncio.gather(here.start(), there.start())
    tell(1, here, there)
    yield here, there
    await asyncio.gather(here.die(), there.die())


@asynccontextmanager
async def straight(entry: Host) -> AsyncIterator[Client]:
    async with Client.connect(entry.address, None, straight=True, jitter=lambda: 0.5) as client:
        yield client


def dedicate(store: Store) -> None:
    """It happens; nobody is told."""
    for shard, step in (
        (LIVES, Bind(LIVES, HOT)),
        (1, Dedicate(HOT, LIVES)),
        (LIVES, Settle(LIVES, HOT)),
    ):
        assert Status.OK is store.execute(shard, step).status
    assert Status.OK is store.execute(LIVES, Receive(HOT, "north", UNITS)).status


async def test_it_is_followed(hosts: tuple[Host, Host]) -> None:
    """Whoever was connected before finds the way; whatever is done there is done once."""
    here, _ = hosts
    async with straight(here) as client:
        assert Status.INSUFFICIENT_STOCK is (await client.submit(cart("early"))).status
        dedicate(here.store)

        held = await client.reserve([(HOT, 2)])
        assert LIVES == held.home
        assert State.COMMITTED is (await client.commit(held.reservation_id)).state
        asked = sum(here.frames)
        again = await client.reserve([(HOT, 1)])
        assert (LIVES, asked) == (home_in(again.reservation_id), sum(here.frames))
        stock = await client.stock(HOT)
        assert (UNITS, 1, 2) == (stock.on_hand, stock.reserved, stock.allocated)
    assert here.store.shards[1].state.skus.get(HOT) is None


async def test_its_shard_moves(hosts: tuple[Host, Host]) -> None:
    """The dedicated shard goes to another host like any other; orders stay in order."""
    here, there = hosts
    dedicate(here.store)
    async with straight(here) as client:
        calls = []
        for number in range(2 * UNITS):
            calls.append(asyncio.ensure_future(client.submit(cart(f"r{number:03}"))))
            if number == UNITS // 2:
                await calls[0]
                there.owned.discard(LIVES)
                here.owned.add(LIVES)
                there.moved[LIVES] = (2, here.address)
        answers = await asyncio.gather(*calls)
    sold = [Status.OK] * UNITS + [Status.INSUFFICIENT_STOCK] * UNITS
    assert sold == [answer.status for answer in answers]


async def test_what_concerns_every_shard(hosts: tuple[Host, Host]) -> None:
    """Policies and audits reach the dedicated ones."""
    here, _ = hosts
    dedicate(here.store)
    async with straight(here) as client:
        assert (SHARDS, SHARDS + 1) == (client.shards, client.total)
        audits = await client.audit(quick=True)
    assert list(range(SHARDS + 1)) == [each.shard for each in audits]
    assert UNITS == audits[LIVES].on_hand


def cart(name: str) -> Reserve:
    return Reserve(name, [LineRequest(HOT, 1)])
