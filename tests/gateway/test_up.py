"""The whole engine on real Ray, real Redis and real processes: up, through deaths, and down.

One story, told in order, because starting takes seconds: an engine is started as a user would and
killed without a chance to tidy up; the next one takes over its data directory, each test does
something to it that it must survive, and at last it is interrupted and must leave nothing behind.
"""

import asyncio
import json
import os
import signal
import socket
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
from actors.data_directory import DataDirectory
from actors.process import Identity, identify, is_alive
from gateway.up import UpError, running

pytestmark = [pytest.mark.ray, pytest.mark.redis, pytest.mark.asyncio(loop_scope="module")]

START_SECONDS = 60
POLL_SECONDS = 0.02
SHARDS = 4
UP = """
import sys
import uvloop
from actors.config import Settings
from gateway.up import UpError, up
settings = Settings(data_dir=sys.argv[1], port=0, binary_port=0, shards=int(sys.argv[2]))
try:
    uvloop.run(up(settings, lambda engine: print(engine.http, flush=True)))
except UpError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


class Answer(NamedTuple):
    status: int
    body: Any


class Engine:
    """A process that is `up`, seen through its HTTP port."""

    def __init__(self, process: Process, url: str, data_dir: Path) -> None:
        self.process = process
        self.url = url
        self.data_dir = data_dir

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        """One HTTP request, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        head += "content-type: application/json\r\nidempotency-key: once\r\n"
        writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        head, _, text = answer.decode().partition("\r\n\r\n")
        return Answer(int(head.split()[1]), json.loads(text))

    async def status(self) -> Any:
        """What `onhand status` prints; None if the gateway does not know yet, or is on its way."""
        try:
            answer = await self.call("GET", "/v1/status")
        except (OSError, IndexError):
            return None
        return answer.body if answer.status == 200 else None

    async def stock(self) -> tuple[int, int]:
        """How many cups are there, and reserved."""
        answer = await self.call("GET", "/v1/stock/cup")
        assert 200 == answer.status, answer.body
        return answer.body["on_hand"], answer.body["reserved"]

    async def come(self, condition: Callable[[Any], bool], seconds: float = 20) -> Any:
        """The first status that meets the condition."""
        status: Any = None
        for _ in range(int(seconds / POLL_SECONDS)):
            status = await self.status()
            if status is not None and condition(status):
                return status
            await asyncio.sleep(POLL_SECONDS)
        raise AssertionError(f"it did not come to that: {status}")

    def processes(self) -> list[Identity]:
        """All that descend from it, and itself."""
        identity = identify(self.process.pid)
        assert identity is not None
        return [identity, *descendants([identity])]


async def start(data_dir: Path, shards: int = SHARDS, cwd: Path | None = None) -> Engine:
    """`up` in a process and a session of its own, called in the directory `cwd`; ready, or ended if
    its address is empty."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", UP, str(data_dir), str(shards)),
        cwd=cwd,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    return Engine(process, line.decode().strip(), data_dir)


class Predecessor(NamedTuple):
    data_dir: Path
    processes: list[Identity]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def predecessor(tmp_path_factory: pytest.TempPathFactory) -> Predecessor:
    """An engine that has sold two of ten, and was then killed."""
    engine = await start(tmp_path_factory.mktemp("up"))
    received = {"kind": "received", "sku": "cup", "location": "berlin", "quantity": 10}
    await engine.call("POST", "/v1/stock/movements", {"movements": [received]})
    lines = [{"sku": "cup", "quantity": 2}]
    assert 201 == (await engine.call("POST", "/v1/reservations", {"lines": lines})).status
    processes = engine.processes()
    engine.process.kill()
    await engine.process.wait()
    return Predecessor(engine.data_dir, processes)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which something else has the name of a package of the engine's."""
    strange = tmp_path_factory.mktemp("strange")
    strange.joinpath("engine").mkdir()
    strange.joinpath("engine", "__init__.py").write_text("raise ImportError('not this one')")
    return strange


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(predecessor: Predecessor, strange: Path) -> AsyncIterator[Engine]:
    engine = await start(predecessor.data_dir, cwd=strange)
    yield engine
    if engine.process.returncode is None:  # a test has failed before the last one
        engine.process.terminate()
        await engine.process.communicate()


def shares(status: Any) -> list[int]:
    """How many shards each host has."""
    return sorted(Counter(owners(status).values()).values())


def owners(status: Any) -> dict[int, str]:
    """Shard → host, of those that are served."""
    return {int(shard): host["name"] for host in status["hosts"] for shard in host["epochs"]}


def entry(status: Any, name: str) -> Any:
    (found,) = [e for e in [*status["hosts"], *status["gateways"]] if e["name"] == name]
    return found


async def test_a_killed_predecessor_is_cleared_up_and_inherited(
    predecessor: Predecessor, engine: Engine
) -> None:
    """Nothing of it runs any more, and everything that it acknowledged is there."""
    assert len(predecessor.processes) > 8
    assert [] == [each for each in predecessor.processes if is_alive(each)]
    assert (10, 2) == await engine.stock()


async def test_hosts_share_the_shards(engine: Engine) -> None:
    """Both hosts have as many shards, and the gateway knows: it is ready."""
    status = await engine.status()

    assert {"host-1": 2, "host-2": 2} == Counter(owners(status).values())
    assert 200 == (await engine.call("GET", "/readyz")).status


async def test_the_directory_of_the_call_is_not_imported_from(
    engine: Engine, strange: Path
) -> None:
    """Hosts and gateways run what is installed, wherever `onhand up` is called."""
    assert strange == Path(os.readlink(f"/proc/{engine.process.pid}/cwd"))

    status = await engine.come(lambda status: all(shares(status)))
    assert {True} == {each["alive"] for each in status["hosts"] + status["gateways"]}


async def test_an_operator_moves_a_shard(engine: Engine) -> None:
    """It is served elsewhere a moment later; what cannot move is refused with the reason."""
    even = [2, 2]  # who came back has its share, and nothing moves of its own accord any more
    status = await engine.come(lambda status: even == shares(status))
    target = "host-2" if owners(status)[0] == "host-1" else "host-1"

    refused = await engine.call("POST", "/v1/shards/0/move", {"host": "host-9"})
    moved = await engine.call("POST", "/v1/shards/0/move", {"host": target})

    assert (409, "not_movable") == (refused.status, refused.body["code"])
    assert (202, {"shard": 0, "host": target}) == moved
    await engine.come(lambda status: owners(status).get(0) == target)
    assert (10, 2) == await engine.stock()


async def test_nobody_else_may_use_the_directory(engine: Engine) -> None:
    """A second engine on the same directory fails at once, in one line that says who has it."""
    second = await start(engine.data_dir)

    output, errors = await second.process.communicate()
    said = f"{engine.data_dir} is in use by process {engine.process.pid};"
    assert (1, b"") == (second.process.returncode, output)
    assert errors.decode().startswith(said)
    assert 1 == len(errors.splitlines())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"redis": ("redis://127.0.0.1:1/0",)}, "cannot use Redis at 127.0.0.1:1: "),
        ({"redis": ("redis://127.0.0.1:1/x",)}, "--redis: a Redis database is a number"),
        ({"bind": "0.0.0.0"}, "--bind 0.0.0.0 needs API keys and there are none"),
    ],
)
async def test_what_cannot_start_says_why(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
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


async def test_a_port_in_use_is_named(engine: Engine, tmp_path: Path) -> None:
    """The port, and the flag that changes it."""
    settings = Settings(data_dir=str(tmp_path), port=engine.port, binary_port=0)

    with pytest.raises(UpError, match=rf"port {engine.port}: address already in use \(--port\)"):
        async with running(settings):
            pass


async def test_other_shards_are_refused(tmp_path: Path) -> None:
    """The number of shards is the journal's for ever."""
    settings = Settings(data_dir=str(tmp_path), port=0, binary_port=0, shards=2)
    (tmp_path / "installation.json").write_text('{"cluster_id": "x", "shards": 4}')

    with pytest.raises(UpError, match=r"--shards is 2, but .* in 4 shards"):
        async with running(settings):
            pass


async def test_a_killed_host_is_inherited_from_and_comes_back(engine: Engine) -> None:
    """The survivor has all shards within moments; the dead one is back soon, for its share."""
    before = entry(await engine.status(), "host-1")

    os.kill(before["pid"], signal.SIGKILL)

    everything = dict.fromkeys(range(SHARDS), "host-2")
    await engine.come(lambda status: owners(status) == everything, 2)
    assert (10, 2) == await engine.stock()
    shares = {"host-1": 2, "host-2": 2}
    status = await engine.come(lambda status: Counter(owners(status).values()) == shares)
    assert before["pid"] != entry(status, "host-1")["pid"]
    assert (10, 2) == await engine.stock()


async def test_the_past_outlives_whoever_lived_it(engine: Engine) -> None:
    """What an engine did that was killed, and hosts that are dead, is listed; and as of each record
    and time of it the stock is what that movement left."""
    answer = await engine.call("GET", "/v1/stock/cup/movements")
    assert (200, None) == (answer.status, answer.body["begins_after"])
    movements = answer.body["movements"]
    assert ["received", "reserved"] == [each["kind"] for each in movements]

    for each in movements:
        ((left, there),) = [(place["after"], place["location"]) for place in each["locations"]]
        position = each["place"].rpartition("-")[0]
        for then in (position, each["time"]):
            stock = await engine.call("GET", f"/v1/stock/cup?as_of={then}")
            assert {"position": position, "time": each["time"]} == stock.body["as_of"]
            assert [left | {"location": there, "safety_stock": 0}] == stock.body["locations"]
    early = await engine.call("GET", "/v1/stock/cup?as_of=1999-12-31T23:59:59Z")
    late = await engine.call("GET", "/v1/stock/cup?as_of=2999-12-31T23:59:59Z")
    assert (404, "unknown_sku") == (early.status, early.body["code"])
    assert (409, "not_yet") == (late.status, late.body["code"])


async def test_a_frozen_host_is_superseded_and_leaves(engine: Engine) -> None:
    """Silence is as good as death; what wakes up has nothing any more, and starts anew."""
    frozen = identify(entry(await engine.status(), "host-2")["pid"])
    assert frozen is not None

    os.kill(frozen.pid, signal.SIGSTOP)

    everything = dict.fromkeys(range(SHARDS), "host-1")
    await engine.come(lambda status: owners(status) == everything, 5)
    assert (10, 2) == await engine.stock()
    os.kill(frozen.pid, signal.SIGCONT)
    await engine.come(lambda status: entry(status, "host-2")["pid"] != frozen.pid)
    assert not is_alive(frozen)


async def test_a_killed_gateway_is_back_on_its_port(engine: Engine) -> None:
    """Clients find it where it was; meanwhile nobody else gets the port."""
    before = entry(await engine.status(), "gateway-1")

    os.kill(before["pid"], signal.SIGKILL)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(20):  # it ends soon, and its successor takes longer to start
            await asyncio.sleep(POLL_SECONDS)
            with pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", engine.port))

    status = await engine.come(
        lambda status: (
            entry(status, "gateway-1")["pid"] != before["pid"] and len(owners(status)) == SHARDS
        )
    )
    assert before["http"] == entry(status, "gateway-1")["http"]
    assert (10, 2) == await engine.stock()


@pytest.mark.faults
@pytest.mark.parametrize("program", ["raylet", "gcs_server"])
async def test_ray_itself_is_replaced(engine: Engine, program: str) -> None:
    """Without its GCS or its raylet Ray restarts nobody: all of it is started anew."""
    before = await engine.status()
    (victim,) = [e for e in engine.processes() if Path(e.program).name == program]

    os.kill(victim.pid, signal.SIGKILL)

    names = ["host-1", "host-2", "gateway-1"]
    await engine.come(
        lambda status: (
            len(owners(status)) == SHARDS
            and all(entry(status, name)["pid"] != entry(before, name)["pid"] for name in names)
        ),
        60,
    )
    assert (10, 2) == await engine.stock()


async def test_an_interrupt_ends_everything(engine: Engine) -> None:
    """Ctrl-C reaches the whole process group; the exit is in order, and no process is left."""
    processes = engine.processes()

    os.killpg(engine.process.pid, signal.SIGINT)

    output, errors = await asyncio.wait_for(engine.process.communicate(), 20)
    assert (0, b"") == (engine.process.returncode, output), errors
    warnings = [json.loads(line) for line in errors.splitlines()]
    assert {each["level"] for each in warnings} <= {"warning", "error"}, "of what the tests did"
    assert len(processes) > 8
    assert [] == [each for each in processes if is_alive(each)]
    logged = (engine.data_dir / "logs" / "host-1.log").read_text().splitlines()
    assert "stopped" == json.loads(logged[-1])["event"]
