"""Ray's tables in a Redis of their own: its GCS dies, comes back, and nobody has noticed.

Ray as it is started by `ray start` does not start a GCS again; an operator's supervisor does (in
Kubernetes the pod's). Here the test does, by the very command line that it was started with.
"""

import asyncio
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from actors.process import Identity, identify, send_signal
from tests.faults.conftest import Figures
from tests.faults.engine_process import gone
from tests.faults.history import History, all_served, longest_gap, statuses
from tests.faults.load import load, stock
from tests.faults.ray_nodes import free_port, ray_nodes
from tests.faults.redis_process import redis_running
from tests.faults.site import site

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
WITHOUT_SECONDS = 10.0
"""Ray's processes give up a GCS that is away for a minute."""
GAP_SECONDS_MAX = 2.0


async def test_the_gcs_is_killed_and_comes_back(tmp_path: Path, figures: Figures) -> None:
    """Ten seconds without a GCS are no interruption; after that a host that dies is back, too."""
    history = History()
    loop = asyncio.get_running_loop()
    where = f"127.0.0.1:{free_port()}"
    (tmp_path / "gcs").mkdir()
    async with (
        redis_running(tmp_path / "gcs", where=where),
        ray_nodes(1, {"RAY_REDIS_ADDRESS": where}) as nodes,
        site(nodes, tmp_path, SHARDS) as place,
    ):
        await stock(place.engine, history)
        (gcs,) = nodes.head.find("gcs_server")
        command, environment = command_of(gcs)
        async with AsyncExitStack() as stack:
            async with load(place.engine, history, name="gcs") as buyers:
                await buyers.until(1_000)
                killed = loop.time()
                send_signal(gcs, signal.SIGKILL)
                await gone([gcs])
                await buyers.for_seconds(WITHOUT_SECONDS)
                await stack.enter_async_context(started_again(command, environment))
                await buyers.until(1_000)
                gap = longest_gap(history.attempts, killed)
                (victim, *_) = await place.hosts_on(nodes.workers[0])
                host = identify(victim.pid)
                assert host is not None
                send_signal(host, signal.SIGKILL)
                died = loop.time()
                await gone([host])
                await buyers.until_served(range(SHARDS), 60)
                served = all_served(history.attempts, range(SHARDS), died)
                await place.engine.until_hosts(len(nodes.nodes), 120)
                back = loop.time() - died
                await buyers.until(500)
            books = await place.check(history)
            assert 0 == await place.engine.stop()
    figures(
        without_gcs_s=WITHOUT_SECONDS,
        longest_gap_s=gap,
        all_shards_s_after_a_host_died=served,
        host_back_s=back,
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert GAP_SECONDS_MAX >= gap


@asynccontextmanager
async def started_again(command: list[str], environment: dict[str, str]) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


def command_of(process: Identity) -> tuple[list[str], dict[str, str]]:
    """How it was started."""
    proc = Path(f"/proc/{process.pid}")
    words = (proc / "cmdline").read_text(encoding="utf-8").split("\0")[:-1]
    variables = (proc / "environ").read_text(encoding="utf-8").split("\0")[:-1]
    return words, dict(each.split("=", 1) for each in variables)
