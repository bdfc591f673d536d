"""Several machines: nodes of a Ray cluster that die whole, or in part, under load."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
import pytest_asyncio

from actors.process import identify, is_alive, send_signal
from gateway.status import HostEntry
from tests.faults.conftest import Figures
from tests.faults.engine_process import gone
from tests.faults.history import History, all_served, longest_gap, statuses
from tests.faults.load import load, stock
from tests.faults.ray_nodes import RayNodes, ray_nodes
from tests.faults.site import site

pytestmark = [
    pytest.mark.faults,
    pytest.mark.ray,
    pytest.mark.redis,
    pytest.mark.asyncio(loop_scope="module"),
]

SHARDS = 9
WORKERS = 2
SERVED_SECONDS_MAX = 5.0
"""From the moment in which the coordinator knows until all shards serve again."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes() -> AsyncIterator[RayNodes]:
    """A head and two workers, for all tests here: it takes Ray long to start them."""
    async with ray_nodes(WORKERS) as found:
        yield found


def shards_of(hosts: Iterable[HostEntry]) -> list[int]:
    return [int(shard) for host in hosts for shard in host.epochs]


async def test_a_node_is_killed(nodes: RayNodes, tmp_path: Path, figures: Figures) -> None:
    """kill -9 of everything on one of three nodes: its shards are served by the others at once."""
    history = History()
    loop = asyncio.get_running_loop()
    await nodes.have(WORKERS)
    async with site(nodes, tmp_path, SHARDS) as place:
        await stock(place.engine, history)
        async with load(place.engine, history, name="node") as buyers:
            await buyers.until(2_000)
            victim = nodes.workers[0]
            lost = await place.hosts_on(victim)
            assert [1] * len(nodes.nodes) == [
                len(await place.hosts_on(each)) for each in nodes.nodes
            ]
            killed, wall = loop.time(), time.time()
            await victim.kill()
            await buyers.until_served(shards_of(lost))
            served = all_served(history.attempts, shards_of(lost), killed)
            detected = min(place.heard("down", wall))
            await place.engine.until_hosts(len(nodes.nodes), 60)
            back = loop.time() - killed
            await buyers.until(500)
        books = await place.check(history)
    figures(
        detected_s=detected,
        all_shards_s=served,
        hosts_back_s=back,
        gap_s=longest_gap(history.attempts, killed),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert SERVED_SECONDS_MAX >= served - detected


@pytest.mark.parametrize("reaps", [True, False], ids=["reaped", "zombie"])
async def test_only_a_raylet_is_killed(
    nodes: RayNodes, tmp_path: Path, figures: Figures, reaps: bool
) -> None:
    """kill -9 of one node's raylet. Where nobody reaps it its hosts live on, and go on serving; and
    should they die then, they are replaced elsewhere."""
    history = History()
    loop = asyncio.get_running_loop()
    await nodes.have(WORKERS - 1)
    victim = await nodes.add(reaps=reaps)
    async with site(nodes, tmp_path, SHARDS) as place:
        await stock(place.engine, history)
        async with load(place.engine, history, name="raylet") as buyers:
            await buyers.until(2_000)
            (lost,) = await place.hosts_on(victim)
            identity = identify(lost.pid)
            assert identity is not None
            killed = loop.time()
            send_signal(victim.raylet, signal.SIGKILL)
            if reaps:
                await gone([identity])
            else:
                await nodes.until_dead(victim)
                await buyers.until(1_000)
                assert is_alive(identity), "nobody has told it that its raylet is dead"
                send_signal(identity, signal.SIGKILL)
            ended = loop.time()
            await buyers.until_served(shards_of([lost]))
            served = all_served(history.attempts, shards_of([lost]), ended)
            await place.engine.until_hosts(len(nodes.nodes), 60)
            back = loop.time() - ended
            await buyers.until(500)
        assert [] == await place.hosts_on(victim)
        await victim.kill()
        books = await place.check(history)
    figures(
        host_outlived_raylet_s=ended - killed,
        all_shards_s=served,
        hosts_back_s=back,
        gap_s=longest_gap(history.attempts, killed),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert SERVED_SECONDS_MAX >= served
