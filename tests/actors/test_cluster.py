"""Ray on several machines, as far as the placing of processes goes: three raylets on this one."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from concurrent.futures import Future
from pathlib import Path

import pytest
from ray.exceptions import ActorUnschedulableError

from actors import cluster
from actors.cluster import Cluster, ClusterError, roomiest
from actors.control import Kind

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
    stranger = Cluster({}, lambda process: None)

    with pytest.raises(ClusterError) as caught:
        await stranger.start(address, tmp_path)

    assert str(caught.value).startswith(said)
    await stranger.stop()


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
    assert {
        "raylets": 3,
        "answers": [True] * 3,
        "elsewhere": True,
        "roomier": True,
        "left": 0,
    } == found


@pytest.mark.parametrize(
    ("hosts", "stay", "where"),
    [
        ("", "", "a"),  # nobody is anywhere: the first, which is this one
        ("a", "", "b"),
        ("ab", "", "c"),
        ("abc", "", "a"),
        ("aab", "a", "c"),  # three of four are beside one another: two too many
        ("a", "a", "b"),  # two against none
        ("ab", "b", "c"),
        ("abc", "b", "b"),  # two against one: nothing would be gained
        ("ac", "b", "b"),  # alone
        ("", "c", "c"),
    ],
)
def test_where_there_is_most_room(hosts: str, stay: str, where: str) -> None:
    """Fewest others decide; of as few it is where it was, or else the first."""
    assert where == roomiest("abc", hosts, stay)


async def test_a_machine_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and what it says later does no harm."""
    monkeypatch.setattr(cluster, "ASK_SECONDS", 0.01)
    future = Future[bytes]()
    assert "no answer within" in str(await cluster._settled(future))

    future.set_result(b"late")
    assert b"late" == await cluster._settled(future)


async def test_a_machine_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray names it, but starts nothing on it: another one is looked for."""
    tried: list[str | None] = []

    def place(kind: Kind, name: str, node: str | None) -> Future[None]:
        tried.append(node)
        future = Future[None]()
        if node is None:
            future.set_result(None)
        else:
            future.set_exception(ActorUnschedulableError("it has just come"))
        return future

    ours = Cluster({}, lambda process: None)
    monkeypatch.setattr(cluster, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(ours, "_place", place)

    await ours._start_process(Kind.HOST, "host-1", "late")

    assert ["late", None] == tried
    await ours.stop()
