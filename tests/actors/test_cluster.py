"""Ray on several machines, as far as the placing of processes goes: three raylets on this one."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from actors.cluster import Cluster, ClusterError

pytestmark = [pytest.mark.ray]

SECONDS = 240


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1 (--address)"),
        ("auto", "--address is 'auto'; host:port of Ray's head is expected"),
    ],
)
async def test_nobody_is_there(tmp_path: Path, address: str, said: str) -> None:
    """An address at which no cluster is, is said to be one, at once."""
    cluster = Cluster({}, lambda process: None)

    with pytest.raises(ClusterError) as caught:
        await cluster.start(address, tmp_path)

    assert str(caught.value).startswith(said)
    await cluster.stop()


async def test_three_raylets(tmp_path: Path) -> None:
    """Hosts are one to a raylet; what was on one that is gone is started on another; every raylet
    can be asked; the end of this machine's own is noticed; nothing is left in the end."""
    environment = {name: value for name, value in os.environ.items() if "RAY_AUTH" not in name}
    environment["RAY_raylet_start_wait_time_s"] = str(SECONDS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.actors.cluster_story", tmp_path),
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=PIPE,
        stderr=PIPE,
    )
    said, errors = await asyncio.wait_for(process.communicate(), SECONDS)

    assert 0 == process.returncode, errors.decode()
    found = json.loads(said.splitlines()[-1])
    assert {"raylets": 3, "answers": [True] * 3, "elsewhere": True, "left": 0} == found
