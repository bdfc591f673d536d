"""`deploy/node`, the program of every container, run as it stands: a head and a worker."""

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

import pytest

from actors.cluster import descendants
from actors.process import identify, is_alive, send_signal
from tests.faults.conftest import Figures
from tests.faults.engine_process import eventually, get, gone
from tests.faults.ray_nodes import START_SECONDS, free_port
from tests.faults.redis_process import redis_running

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

NODE = Path(__file__).parents[2] / "deploy" / "node"
STOP_SECONDS = 90
HEAD, WORKER = "127.0.0.2", "127.0.0.3"


async def start(role: str, environment: dict[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        *("bash", NODE, role),
        env=os.environ | environment,
        stdout=DEVNULL,
        start_new_session=True,
    )


async def test_a_head_and_a_worker(tmp_path: Path, figures: Figures) -> None:
    """They come up together, serve, and leave nothing when told to stop, in whatever order."""
    loop = asyncio.get_running_loop()
    ray_dir = tempfile.mkdtemp(prefix="onhand-ray-")
    port, http = free_port(), free_port()
    where = f"127.0.0.1:{free_port()}"
    started = {
        "head": f"--head --port={port} --node-ip-address={HEAD} --temp-dir={ray_dir}"
        " --include-dashboard=false",
        "worker": f"--address={HEAD}:{port} --node-ip-address={WORKER}",
    }
    common = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_raylet_start_wait_time_s": str(START_SECONDS),
        "RAY_HEAD": HEAD,
        "RAY_PORT": str(port),
        "ONHAND_JOURNAL": f"redis://{where}/0",
        "ONHAND_DATA_DIR": str(tmp_path / "data"),
        "ONHAND_BIND": "127.0.0.1",
        "ONHAND_PORT": str(http),
        "ONHAND_BINARY_PORT": "0",
        "ONHAND_HOSTS": "2",
    }
    processes: dict[str, Process] = {}
    async with redis_running(tmp_path / "redis", where=where):
        try:
            for role, flags in started.items():
                command = f"ray start --block --dashboard-agent-listen-port=0 {flags}"
                processes[role] = await start(role, common | {"KUBERAY_GEN_RAY_START_CMD": command})
            began = loop.time()
            await eventually(lambda: answers(http, "/readyz"), START_SECONDS)
            up = loop.time() - began
            everything = [
                each
                for process in processes.values()
                if (found := identify(process.pid)) is not None
                for each in [found, *descendants([found])]
            ]
            stops = []
            for process in reversed(processes.values()):
                began = loop.time()
                process.send_signal(signal.SIGTERM)
                assert 0 == await asyncio.wait_for(process.wait(), STOP_SECONDS)
                stops.append(loop.time() - began)
            await gone(everything, 30)
        finally:
            for process in processes.values():
                if (found := identify(process.pid)) is not None:
                    for each in [*descendants([found]), found]:
                        send_signal(each, signal.SIGKILL)
                    await process.wait()
            shutil.rmtree(ray_dir, ignore_errors=True)
    assert [] == [each for each in everything if is_alive(each)]
    figures(ready_s=up, stops_s=stops, processes=len(everything))


async def answers(port: int, path: str) -> bool:
    try:
        code, _ = await get(f"http://127.0.0.1:{port}", path)
    except (OSError, asyncio.IncompleteReadError):
        return False
    return code == 200
