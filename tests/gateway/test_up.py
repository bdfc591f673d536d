"""The whole engine on real Ray, real Redis and real processes: up, through deaths, and down.

One story, told in order, because starting takes seconds: an engine is started as a user would and
killed with all its traces left behind (`predecessor`); the next one, in this process, takes over
its data directory (`engine`), and each test does something to it that it must survive.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from actors.cluster import descendants
from actors.config import Settings
from actors.control import Kind, MemberView
from actors.data_directory import DataDirectory
from actors.process import Identity, identify, is_alive
from gateway.up import Running, UpError, running

pytestmark = [pytest.mark.ray, pytest.mark.redis, pytest.mark.asyncio(loop_scope="module")]

START_SECONDS = 60
SHARDS = 4
UP = """
import sys
import uvloop
from actors.config import Settings
from gateway.up import UpError, up
settings = Settings(data_dir=sys.argv[1], port=0, binary_port=0, shards=int(sys.argv[2]), hosts=1)
try:
    uvloop.run(up(settings, lambda engine: print(engine.http, flush=True)))
except UpError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


class Answer(NamedTuple):
    status: int
    body: Any


async def call(url: str, method: str, path: str, body: object = None) -> Answer:
    """One HTTP request, on a connection of its own."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\nidempotency-key: {path[-40:].replace('/', '.')}\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    head, _, text = answer.decode().partition("\r\n\r\n")
    return Answer(int(head.split()[1]), json.loads(text))


async def started_up(data_dir: Path, shards: int = SHARDS) -> tuple[Process, str]:
    """`up` in a process and a session of its own, and the address that it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", UP, str(data_dir), str(shards)),
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    return process, line.decode().strip()


def everything_below(process: Process) -> list[Identity]:
    """All processes that descend from one, and itself."""
    identity = identify(process.pid)
    assert identity is not None
    return [identity, *descendants([identity])]


class Predecessor(NamedTuple):
    data_dir: Path
    processes: list[Identity]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def predecessor(tmp_path_factory: pytest.TempPathFactory) -> Predecessor:
    """An engine that sold two of ten, and was then killed without a chance to say anything."""
    data_dir = tmp_path_factory.mktemp("up")
    process, url = await started_up(data_dir)
    received = {"kind": "received", "sku": "cup", "location": "berlin", "quantity": 10}
    await call(url, "POST", "/v1/stock/movements", {"movements": [received]})
    lines = [{"sku": "cup", "quantity": 2}]
    reserved = await call(url, "POST", "/v1/reservations", {"lines": lines})
    assert 201 == reserved.status
    processes = everything_below(process)
    process.kill()
    await process.wait()
    return Predecessor(data_dir, processes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(predecessor: Predecessor) -> AsyncIterator[Running]:
    settings = Settings(
        data_dir=str(predecessor.data_dir), port=0, binary_port=0, shards=SHARDS, gateways=1
    )
    async with running(settings) as engine:
        yield engine


async def come(engine: Running, condition: Callable[[], bool], seconds: float = 20) -> None:
    assert await engine.coordinator.wait_until(condition, seconds)


def members(engine: Running, kind: Kind) -> dict[str, MemberView]:
    return {each.name: each for each in engine.map().members if each.kind is kind}


def owners(engine: Running) -> dict[int, str]:
    return {route.shard: route.host for route in engine.map().routes}


async def stock(engine: Running) -> tuple[int, int]:
    """What is there of the cup, and reserved."""
    answer = await call(engine.http, "GET", "/v1/stock/cup")
    assert 200 == answer.status, answer.body
    return answer.body["on_hand"], answer.body["reserved"]


async def test_a_killed_predecessor_is_cleared_up_and_inherited(
    predecessor: Predecessor, engine: Running
) -> None:
    """Nothing of it runs any more, and everything that it acknowledged is there."""
    assert len(predecessor.processes) > 8
    assert [] == [each for each in predecessor.processes if is_alive(each)]
    assert (10, 2) == await stock(engine)


async def test_hosts_share_the_shards(engine: Running) -> None:
    """Both hosts are there, with as many shards each; the gateway is ready, and says who is who."""
    status = (await call(engine.http, "GET", "/v1/status")).body

    assert {"host-1", "host-2"} == set(members(engine, Kind.HOST))
    assert [SHARDS // 2] * 2 == [len(host["epochs"]) for host in status["hosts"]]
    assert 200 == (await call(engine.http, "GET", "/readyz")).status


async def test_nobody_else_may_use_the_directory(engine: Running) -> None:
    """A second engine on the same directory fails at once, in one line that says who has it."""
    process, line = await started_up(Path(engine.settings.data_dir))

    assert "" == line
    assert process.stderr is not None
    said = (await process.stderr.read()).decode()
    assert 1 == await process.wait()
    assert f"{engine.settings.data_dir} is in use by process {os.getpid()};" in said
    assert 1 == len(said.splitlines())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"redis": "redis://127.0.0.1:1/0"}, "cannot use Redis at 127.0.0.1:1: "),
        ({"redis": "redis://127.0.0.1:1/x"}, "--redis: a Redis database is a number"),
        ({"bind": "0.0.0.0"}, "--bind 0.0.0.0 needs API keys and there are none"),
    ],
)
async def test_what_cannot_start_says_why(
    engine: Running, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    """One line for the operator; nothing is left running, the directory is free again."""
    settings = Settings(data_dir=str(tmp_path), port=0, binary_port=0, **wrong)

    with pytest.raises(UpError) as caught:
        async with running(settings):
            pass

    assert str(caught.value).startswith(said)
    directory = DataDirectory(tmp_path)
    directory.lock()
    assert [] == directory.remembered()
    directory.unlock()


async def test_a_port_in_use_is_named(engine: Running, tmp_path: Path) -> None:
    """The port, and the flag that changes it."""
    settings = Settings(data_dir=str(tmp_path), port=engine.settings.port, binary_port=0)

    with pytest.raises(UpError, match=rf"port {settings.port}: address already in use \(--port\)"):
        async with running(settings):
            pass


async def test_a_killed_host_is_inherited_from_and_comes_back(engine: Running) -> None:
    """The survivor has all shards within moments; the dead one is back soon, for its share."""
    before = members(engine, Kind.HOST)["host-1"]

    os.kill(before.pid, signal.SIGKILL)

    await come(engine, lambda: owners(engine) == dict.fromkeys(range(SHARDS), "host-2"), 2)
    assert (10, 2) == await stock(engine)
    await come(engine, lambda: members(engine, Kind.HOST)["host-1"].pid != before.pid)
    await come(engine, lambda: Counter(owners(engine).values()) == {"host-1": 2, "host-2": 2})
    assert (10, 2) == await stock(engine)


async def test_a_frozen_host_is_superseded_and_leaves(engine: Running) -> None:
    """Silence is as good as death; what wakes up has nothing any more, and starts anew."""
    frozen = members(engine, Kind.HOST)["host-2"]
    process = identify(frozen.pid)
    assert process is not None

    os.kill(frozen.pid, signal.SIGSTOP)

    await come(engine, lambda: owners(engine) == dict.fromkeys(range(SHARDS), "host-1"), 5)
    assert (10, 2) == await stock(engine)
    os.kill(frozen.pid, signal.SIGCONT)
    await come(engine, lambda: members(engine, Kind.HOST)["host-2"].pid != frozen.pid)
    assert not is_alive(process)


async def test_a_killed_gateway_is_back_on_its_port(engine: Running) -> None:
    """Clients find it where it was."""
    before = members(engine, Kind.GATEWAY)["gateway-1"]

    os.kill(before.pid, signal.SIGKILL)

    await come(engine, lambda: members(engine, Kind.GATEWAY)["gateway-1"].pid != before.pid)
    await come(engine, engine.coordinator.is_ready)
    assert before.http == members(engine, Kind.GATEWAY)["gateway-1"].http
    assert (10, 2) == await stock(engine)


@pytest.mark.faults
@pytest.mark.parametrize("program", ["raylet", "gcs_server"])
async def test_ray_itself_is_replaced(engine: Running, program: str) -> None:
    """Without its GCS or its raylet Ray restarts nobody: all of it is started anew."""
    restarts = engine.cluster.restarts
    (victim,) = [each for each in engine.cluster.head if Path(each.program).name == program]

    os.kill(victim.pid, signal.SIGKILL)

    await come(engine, lambda: engine.cluster.restarts > restarts and all_alive(engine), 60)
    await come(engine, engine.coordinator.is_ready, 60)
    assert (10, 2) == await stock(engine)


def all_alive(engine: Running) -> bool:
    return engine.coordinator.is_ready() and all(each.alive for each in engine.map().members)


async def test_an_interrupt_ends_everything(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group; the exit is in order, and no process is left."""
    process, url = await started_up(tmp_path)
    processes = everything_below(process)
    assert url.startswith("http://127.0.0.1:")

    os.killpg(process.pid, signal.SIGINT)

    output, errors = await asyncio.wait_for(process.communicate(), 20)
    assert (0, b"", "") == (process.returncode, output, errors.decode())
    assert [] == [each for each in processes if is_alive(each)]
    logged = (tmp_path / "logs" / "host-1.log").read_text().splitlines()
    assert "stopped" == json.loads(logged[-1])["event"]


async def test_other_shards_are_refused(tmp_path: Path) -> None:
    """The number of shards is the journal's for ever."""
    settings = Settings(data_dir=str(tmp_path), port=0, binary_port=0, shards=2)
    (tmp_path / "installation.json").write_text('{"cluster_id": "x", "shards": 4}')

    with pytest.raises(UpError, match=r"--shards is 2, but .* in 4 shards"):
        async with running(settings):
            pass
