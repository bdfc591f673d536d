"""Whom a router is connected to: owners, whoever may be one next, and in the end nobody."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.messages import Commit, GetStatistics, GetStock, Receive, Status
from gateway.router import Router
from tests.actors.peer import until
from tests.gateway.hosts import SHARDS, Host, map_of, sku_at, two_hosts

THERE = sku_at(2)


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[tuple[Host, Host]]:
    async with two_hosts(tmp_path) as both:
        for shard in range(SHARDS):
            both[0].store.execute(shard, Receive(sku_at(shard), "l", 10))
        yield both


@pytest.fixture
async def router(hosts: tuple[Host, Host]) -> AsyncIterator[Router]:
    router = Router(SHARDS)
    router.update_map(1, map_of(*hosts))
    await until(lambda: router.statistics().links_up == 2)
    yield router
    await router.close()


async def test_an_heir_is_connected_before_it_owns(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """Its first command waits for no handshake; until then it counts as no owner, and nobody asks
    it for reservations, because it might be silent and has none."""
    first, second = hosts
    first.owned, second.owned = {0, 1, 2, 3}, set()
    alive = {first.address, second.address}
    router.update_map(2, map_of(first), frozenset(), alive)
    assert (1, 1) == (router.statistics().links, router.statistics().links_up)
    assert second.server is not None
    second.frozen = True
    assert Status.UNKNOWN_RESERVATION is (await router.ask(Commit("nobody's"))).status
    assert not second.held

    second.frozen = False
    made = second.server.accepted
    first.owned, second.owned = {0, 1}, {2, 3}
    router.update_map(3, map_of(first, second, epoch=2), frozenset(), alive)

    assert Status.OK is (await router.ask(GetStock(THERE))).status
    assert 1 == made == second.server.accepted


async def test_a_spare_is_connected(hosts: tuple[Host, Host]) -> None:
    """Also one that has never owned anything; it tells its counters with the others."""
    first, second = hosts
    first.owned = {0, 1, 2, 3}
    router = Router(SHARDS)
    router.update_map(1, map_of(first), frozenset(), {first.address, second.address})
    await until(lambda: second.server is not None and second.server.accepted == 1)
    assert {host.address for host in hosts} == (await router.ask_hosts(GetStatistics)).keys()

    router.update_map(2, map_of(first), frozenset(), {first.address})
    assert [first.address] == list(await router.ask_hosts(GetStatistics))
    await router.close()


async def test_a_closed_router_is_connected_to_nobody(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """Neither to hosts that have lost their shards before, nor to those of maps that come late."""
    first, second = hosts
    router.update_map(2, map_of(first))

    await router.close()
    router.update_map(3, map_of(first, second, epoch=2))

    servers = [host.server for host in hosts if host.server is not None]
    await until(lambda: not any(server.connections for server in servers))
    assert [1, 1] == [server.accepted for server in servers]
