"""A Ray cluster of several nodes on this machine, started by the very commands of `cluster.yaml`.

Each node is a machine in miniature: a first process, to which every orphan falls as to the init of
a container, and below it whatever `ray start` has started. So all that runs on a node is found by
descent, the whole can be killed at one moment as by a power cut, and a first process that does not
reap leaves a dead raylet lying about: its workers take it for alive and go on, the zombies that
containers without an init are known for.

What is not taken from the file, and why: addresses and ports are the test's own, several nodes on
one machine need an agent's port each, and `ray stop` would end other people's Ray.
"""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from actors.cluster import descendants
from actors.process import Identity, identify, send_signal
from tests.faults.engine_process import eventually, gone

CLUSTER_FILE: Final = Path(__file__).parents[2] / "cluster.yaml"
START_SECONDS: Final = 300
"""For Ray to start a node on a machine that is busy with much else."""
_FIRST: Final = """
import ctypes, os, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
code = subprocess.run(["bash", "-c", sys.argv[2]], stdout=sys.stderr).returncode
print(code, flush=True)
while True:
    try:
        pid = os.waitpid(-1, 0) if sys.argv[1] == "reaps" else signal.pause()
    except ChildProcessError:
        signal.pause()
"""
_ALIVE: Final = """
import json, sys
from ray._raylet import GcsClient
alive = [each for each in GcsClient(address=sys.argv[1]).get_all_node_info().values()
         if each.state == 0]
print(json.dumps([each.node_manager_address for each in alive]))
"""


class Place(NamedTuple):
    """Where a node is."""

    address: str
    enter: Sequence[str] = ()
    """A command that runs its arguments there."""


class Node:
    """One machine, with its own address."""

    def __init__(self, address: str, first: Process, output: Path) -> None:
        self.address = address
        self._first = first
        self._output = output

    @property
    def first(self) -> Identity | None:
        """Its first process, whatever that runs by now; None if it is dead."""
        return identify(self._first.pid) if self._first.returncode is None else None

    async def started(self) -> None:
        """`ray start` has succeeded."""
        assert self._first.stdout is not None
        line = await asyncio.wait_for(self._first.stdout.readline(), START_SECONDS)
        assert b"0\n" == line, self._output.read_text()

    def processes(self) -> list[Identity]:
        """All that runs on it."""
        first = self.first
        return [first, *descendants([first])] if first is not None else []

    def find(self, program: str) -> list[Identity]:
        """What runs this program on it."""
        return [each for each in self.processes() if Path(each.program).name == program]

    @property
    def raylet(self) -> Identity:
        (found,) = self.find("raylet")
        return found

    def has(self, pid: int) -> bool:
        """Whether this process is one of its own."""
        return any(each.pid == pid for each in self.processes())

    def actors(self) -> list[Identity]:
        """Processes of the engine's that Ray has started on it, or would yet."""
        return [each for each in self.processes() if _title(each).startswith(b"ray::Process")]

    async def kill(self) -> None:
        """Every process of it, at the same moment."""
        everything = self.processes()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for each in everything:
                send_signal(each, number)
        await self._first.wait()
        await gone(everything)


class RayNodes:
    """A head, and workers."""

    def __init__(
        self, directory: Path, environment: Mapping[str, str], place: Callable[[int], Place]
    ) -> None:
        self._directory = directory
        self._place = place
        self._started = 0
        self._file: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text(encoding="utf-8"))
        self.port = free_port()
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_raylet_start_wait_time_s": str(START_SECONDS),
            **environment,
        }
        self.nodes: list[Node] = []

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def workers(self) -> list[Node]:
        return self.nodes[1:]

    @property
    def address(self) -> str:
        """For `--address`."""
        return f"{self.head.address}:{self.port}"

    async def start(self, workers: int) -> None:
        await (await self._start("head", "", reaps=True)).started()
        await self.have(workers)

    async def have(self, workers: int) -> None:
        """So many that live, at least. One starts at a time: Ray picks ports that are free, and so
        would the next one."""
        self.nodes = [each for each in self.nodes if each.first is not None]
        while len(self.workers) < workers:
            await self.add()

    async def add(self, *, reaps: bool = True) -> Node:
        """One more worker; one whose first process does not reap keeps the dead about."""
        added = await self._start("worker", self.head.address, reaps=reaps)
        await added.started()
        return added

    def command(self, kind: str, address: str) -> str:
        """As the cluster file has it, but for what has to be the test's own."""
        (command,) = [
            each for each in self._file[f"{kind}_start_ray_commands"] if " start " in each
        ]
        for old, new in (
            ("~/onhand/.venv/bin/", f"{Path(sys.executable).parent}/"),
            (self._file["provider"]["head_ip"], address),
            ("6379", str(self.port)),
            ("--autoscaling-config=~/ray_bootstrap_config.yaml", f"--temp-dir={self._directory}"),
        ):
            command = command.replace(old, new)
        if kind == "worker":
            command += f" --node-ip-address={address}"
        return f"{command} --dashboard-agent-listen-port=0"

    async def _start(self, kind: str, head: str, *, reaps: bool) -> Node:
        place = self._place(self._started)
        self._started += 1
        output = self._directory / f"node-{self._started}.out"
        with output.open("wb") as errors:
            first = await asyncio.create_subprocess_exec(
                *place.enter,
                *(sys.executable, "-c", _FIRST, "reaps" if reaps else "does not"),
                self.command(kind, place.address),
                env={**self.environment, "RAY_HEAD_IP": head},
                stdout=PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self.nodes.append(Node(place.address, first, output))
        return self.nodes[-1]

    async def until_dead(self, node: Node, seconds: float = 60) -> None:
        """Wait until the GCS has noticed that the raylet of `node` is dead."""

        async def noticed() -> bool:
            asked = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _ALIVE, self.address),
                env=self.environment,
                stdout=PIPE,
                stderr=DEVNULL,
            )
            said, _ = await asked.communicate()
            return bool(said) and node.address not in json.loads(said)

        await eventually(noticed, seconds)

    async def end(self) -> None:
        """Nothing of them runs afterwards."""
        await asyncio.gather(*(each.kill() for each in self.nodes if each.first is not None))


@asynccontextmanager
async def ray_nodes(
    workers: int,
    environment: Mapping[str, str] | None = None,
    place: Callable[[int], Place] = lambda number: Place(f"127.0.0.{number + 2}"),
) -> AsyncIterator[RayNodes]:
    """A cluster for as long as the block lasts; `place`: where each node is, the head being 0.

    Its directory has a short path, because those of sockets must be short.
    """
    directory = Path(tempfile.mkdtemp(prefix="onhand-ray-"))
    nodes = RayNodes(directory, environment or {}, place)
    try:
        await nodes.start(workers)
        yield nodes
    finally:
        await nodes.end()
        shutil.rmtree(directory, ignore_errors=True)


def _title(process: Identity) -> bytes:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:  # gone
        return b""


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
