"""Ten machines that have little to do: what each costs, and how long it takes to be ready."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.conftest import Figures
from tests.faults.history import History, statuses
from tests.faults.load import load, stock
from tests.faults.ray_nodes import Node, ray_nodes
from tests.faults.site import site

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

NODES = 10
SHARDS = 64


async def test_ten_nodes_and_64_shards(tmp_path: Path, figures: Figures) -> None:
    """One host on each of ten nodes, every shard is served, and the memory of it all."""
    history = History()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with ray_nodes(NODES - 1) as nodes:
        started = loop.time() - began
        idle = [megabytes(each) for each in nodes.workers]
        began = loop.time()
        async with site(nodes, tmp_path, SHARDS) as place:
            ready = loop.time() - began
            assert [1] * NODES == [len(await place.hosts_on(each)) for each in nodes.nodes]
            shares = [len(each.epochs) for each in await place.engine.hosts()]
            assert 1 >= max(shares) - min(shares)
            busy = [megabytes(each) for each in nodes.workers]
            await stock(place.engine, history)
            async with load(place.engine, history, name="many") as buyers:
                await buyers.until(1_000, 120)
            books = await place.check(history)
    figures(
        ray_started_s=started,
        ready_s=ready,
        idle_raylet_mb=[min(idle), max(idle)],
        with_a_host_mb=[min(busy), max(busy)],
        **books.figures,
        heard=statuses(history.attempts),
    )


def megabytes(node: Node) -> float:
    """Memory of all processes of a node; what several share counts once, in parts."""
    kilobytes = 0
    for each in node.processes():
        if each == node.first:  # the test's own
            continue
        lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1_024
