"""Ray: places the processes of the engine, keeps them alive, and does nothing else.

A process is a Ray actor without methods. Its constructor starts one thread, which runs the program
(`Program`) on an event loop of its own, so that Ray's own thread stays idle; when the program ends,
for whatever reason, the process ends, and Ray starts it again from the same arguments. Everything
at run time flows over our own sockets: no object of ours is ever pickled but the program's class,
by name, and four arguments.

Where no cluster is named, one is started on this machine: no dashboard, the smallest object store,
workers at niceness 0, a token of its own that Ray's ports ask for, its files in the run directory.
If its GCS or its raylet dies, `watch` ends what is left of it and starts anew: the actors with it,
because a raylet that is gone can restart nobody, and a GCS that is gone cannot either.

Where one is named, its machines are somebody else's to keep, and what is ours to decide is where on
them a host runs. Each is bound to one machine: as long as that is there, Ray restarts the host on
it, and when it is not, Ray takes 5 to 15 s to notice, depending on its settings. So it is not Ray
who decides that a host is to run elsewhere, but `kill`: the old actor is given up, whatever there
is of it, and a new one is bound to another machine. Should the old one be alive after all (its
machine was cut off, or only its raylet has died), there are two of one name for a while; the
coordinator sends the older one away, and the journal has fenced it long before.

Hosts go where fewest are. None is taken from where it serves only because there is more room
elsewhere: a machine that comes late, or again, gets hosts when they are restarted in order
(`restart`), which costs nobody anything.

Every call of Ray's is made on one thread that lives as long as Ray does: the kernel ends Ray's
processes with the thread that started them. Start and stop with care, and only once at a time.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import secrets
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import ray
import ray._private.parameter as ray_parameter
import ray._private.worker as ray_worker
import ray.exceptions
import structlog
import uvloop
from ray.actor import ActorHandle
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.control import Join, Kind
from actors.data_directory import end
from actors.process import Identity, identify, is_alive, send_signal

OBJECT_STORE_BYTES: Final = 75 << 20
"""The least that Ray accepts; nothing of ours is ever put there."""
WATCH_SECONDS: Final = 0.5
KNOCK_SECONDS: Final = 5.0
START_SECONDS: Final = 180.0
"""For Ray to start a process, on a machine that it may not know to be dead."""
AGAIN_SECONDS: Final = 0.5
"""After which another machine is looked for, if one that Ray names is not there, or not yet."""
ASK_SECONDS: Final = 60.0
"""For a machine to answer a question: one that is as good as dead keeps nobody waiting."""
COLLECTOR_THRESHOLDS: Final = (50_000, 20, 100)
_SYSTEM_CONFIG: Final = {
    "worker_niceness": 0,  # Ray's default would give way to everything else on the machine
    "worker_oom_score_adjustment": 0,  # nor be the first to go when memory is short
    "memory_monitor_refresh_ms": 0,  # a host that Ray kills would need as much memory elsewhere
    "enable_metrics_collection": False,
}
_ROOT: Final = str(Path(__file__).parent.parent)
"""Where processes on this machine import the engine from: where this one did."""
_GCS: Final = "gcs_server"
_RAYLET: Final = "raylet"
_HEAD: Final = (_GCS, _RAYLET)
_RESULT = TypeVar("_RESULT")
_log = structlog.get_logger(__name__)


class Program(Protocol):
    """What runs in a process: `run` returns when the process should end."""

    async def run(self) -> None: ...


MakeProgram = Callable[[bytes, str, str], Program]
"""Settings, name, and address of the coordinator → program. Importable, because it is sent by
name."""


class Process:
    """The actor. It is made anew by Ray, with the same arguments, whenever it has died."""

    def __init__(self, make: MakeProgram, settings: bytes, name: str, control: str) -> None:
        thread = threading.Thread(
            target=_run, args=(make, settings, name, control), name=name, daemon=True
        )
        thread.start()


def _run(make: MakeProgram, settings: bytes, name: str, control: str) -> None:
    """The life of the thread, which is that of the process."""
    status = os.EX_SOFTWARE
    try:
        uvloop.run(_live(make, settings, name, control))
        status = os.EX_OK
    except Exception:  # of any kind: it is written down, and the process ends
        _log.exception("the process ends")
    finally:
        os._exit(status)


async def _live(make: MakeProgram, settings: bytes, name: str, control: str) -> None:
    program = make(settings, name, control)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    await program.run()


class ClusterError(Exception):
    """Ray does not do what it must; the message is one line for the operator."""


class Told(NamedTuple):
    """What a machine answers."""

    node: str
    """The machine, by Ray's id."""
    address: str
    answer: bytes | Exception


class _Placed(NamedTuple):
    """A process as it was placed."""

    kind: Kind
    actor: ActorHandle[Process]
    node: str
    """The machine that it is bound to, by Ray's id."""


class Cluster:
    """Ray as the coordinator sees it (a `Launcher`)."""

    def __init__(
        self,
        programs: Mapping[Kind, MakeProgram],
        remember: Callable[[Identity], None],
    ) -> None:
        self._programs = programs
        self._remember = remember
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ray")
        self._placed: dict[str, _Placed] = {}
        self.unfit: Set[str] = frozenset()
        """Machines on which no host is placed, by Ray's id."""
        self._replacing: set[str] = set()
        self._roots: list[Identity] = []
        self.head: list[Identity] = []
        """Those of Ray's processes on this machine without which nothing goes on."""
        self._ours: set[Identity] = set()
        self._address: str | None = None
        self.here = ""
        """This machine, by Ray's id."""
        self._run_dir = Path()
        self.arguments = (b"", "")
        """The settings of all processes, and where they find the coordinator; to be set before
        anything is placed."""
        self.restarts = 0

    async def start(self, address: str | None, run_dir: Path) -> None:
        """Join the cluster at `address`, or start one on this machine. Raises ClusterError."""
        self._address, self._run_dir = address, run_dir
        await self._begin()

    async def stop(self) -> None:
        """Ray is down, and no process of it is left on this machine."""
        self.note_processes()
        await self._finish()
        self._thread.shutdown()
        await self._end_ours()

    async def place(self, kind: Kind, name: str) -> None:
        """Start a process that joins as `name`, and start it again whenever it ends.

        Returns when it has started for the first time. Raises ClusterError.
        """
        await self._start_process(kind, name)

    async def _start_process(self, kind: Kind, name: str, node: str | None = None) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._has_started(kind, name, node):
                    await asyncio.sleep(AGAIN_SECONDS)
                    node = None
        except TimeoutError:
            raise ClusterError(f"Ray has not started {name} in {START_SECONDS:.0f} s") from None
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray does not start {name}: {error}") from error

    async def _has_started(self, kind: Kind, name: str, node: str | None) -> bool:
        """Of Ray's list of machines, not all can be started on: some have just come or gone."""
        started = await self._call(lambda: self._place(kind, name, node))
        try:
            await asyncio.wrap_future(started)
        except ray.exceptions.ActorUnschedulableError as error:
            _log.warning("not there", name=name, error=str(error))
            return False
        return True

    async def kill(self, join: Join) -> None:
        """End that very process; its successor is started by Ray, or by us on another machine."""
        node = self._node_of(join.name)
        if node == self.here:
            if send_signal(join.process, signal.SIGKILL):
                _log.warning("killed", name=join.name, pid=join.process.pid)
        elif join.name not in self._replacing:
            _log.warning("replaced", name=join.name, node=join.node)
            await self._replace(join, await self._call(lambda: self._roomiest(join.name, node)))

    async def restart(self, join: Join) -> None:
        """That very process has ended in order, or does so now: have it started again where it was,
        or where there is more room, and nobody will miss it meanwhile."""
        if join.name in self._replacing:
            return
        node, target = self._node_of(join.name), self.here
        if join.kind is Kind.HOST:
            target = await self._call(lambda: self._roomiest(join.name, stay=node))
        if target == node == self.here:
            await self.kill(join)
        else:
            _log.info("restarted", name=join.name, elsewhere=target != node)
            await self._replace(join, target)

    async def _replace(self, join: Join, node: str) -> None:
        """Give the actor up, whatever there is of it, for a new one on that machine."""
        self._replacing.add(join.name)
        try:
            await self._call(lambda: ray.kill(self._placed[join.name].actor, no_restart=True))
            await self._start_process(join.kind, join.name, node)
        finally:
            self._replacing.discard(join.name)

    def _node_of(self, name: str) -> str:
        placed = self._placed.get(name)
        return self.here if placed is None else placed.node

    async def listen_address(self) -> str:
        """Where the coordinator should listen, for everybody in the cluster to find it."""
        if self._address is None:
            return f"unix:{self._run_dir}/control"
        return f"tcp:{await self._call(ray.util.get_node_ip_address)}:0"

    async def ask_everywhere(
        self, question: Callable[[bytes], bytes], argument: bytes
    ) -> list[Told]:
        """What `question`, which every machine must have under this name, answers on each."""
        asked = await self._call(lambda: self._ask_everywhere(question, argument))
        answers = await asyncio.gather(*(_settled(future) for _, _, future in asked))
        return [
            Told(node, address, answer)
            for (node, address, _), answer in zip(asked, answers, strict=True)
        ]

    async def machines(self) -> list[str]:
        """The addresses of those that Ray takes for alive, this one among them."""
        nodes = await self._call(_alive_nodes)
        return sorted({node["NodeManagerAddress"] for node in nodes})

    async def watch(self, started_anew: Callable[[], Any]) -> None:
        """Keep Ray itself alive; `started_anew` is awaited when it is a new one.

        Raises ClusterError if it is not ours to start, and this machine's part of it is dead.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            dead = [each for each in self.head if not is_alive(each)]
            if dead and self._address is not None:
                raise ClusterError("the raylet of this machine is dead; start Ray on it again")
            if dead:
                _log.error("ray is dead", programs=[Path(each.program).name for each in dead])
                self.restarts += 1
                self.note_processes()
                await end([each for each in self._ours if Path(each.program).name != _GCS])
                await self._finish()
                await self._end_ours()
                await self._begin()
                await started_anew()

    def joined(self, join: Join) -> None:
        """A process of ours runs: it, and all of Ray's, are to be gone when we are."""
        if self._address is None:
            self.note_processes()
        elif self._node_of(join.name) == self.here and join.process not in self._ours:
            self._ours.add(join.process)
            self._remember(join.process)

    async def _begin(self) -> None:
        await self._call(self._start)
        take_back_signals()

    async def _finish(self) -> None:
        await self._call(self._stop)
        take_back_signals()

    def note_processes(self) -> None:
        """Remember all of Ray's processes on this machine, so that nobody is left behind."""
        for process in [*self._roots, *descendants(self._roots)]:
            if process not in self._ours:
                self._ours.add(process)
                self._remember(process)

    # --- on Ray's thread --------------------------------------------------------------------

    async def _call(self, function: Callable[[], _RESULT]) -> _RESULT:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _start(self) -> None:
        ray_worker._worker_logs_enabled = False  # obituaries are the coordinator's to write
        logger = logging.getLogger("ray")
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR)
        try:
            if self._address is None:
                self._start_head()
            else:
                self._join(self._address)
            self.here = ray.get_runtime_context().get_node_id()
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"Ray does not start: {error}") from error

    def _join(self, address: str) -> None:
        _knock(address)
        ray.init(
            address, job_config=_no_path_of_ours(), log_to_driver=False, configure_logging=False
        )
        node = ray_worker._global_node
        assert node is not None, "Ray runs"
        self.head = _serving(node.raylet_socket_name)

    def _start_head(self) -> None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        paths = [_ROOT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        with _without_monitors():
            ray.init(
                "local",
                job_config=_no_path_of_ours(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
                _system_config=_SYSTEM_CONFIG,
                _temp_dir=f"{self._run_dir}/ray",
            )
        node = ray_worker._global_node
        assert node is not None, "Ray runs"
        started = [each.process.pid for kind in node.all_processes.values() for each in kind]
        self._roots = [each for each in map(identify, started) if each is not None]
        self.note_processes()
        self.head = [each for each in self._roots if Path(each.program).name in _HEAD]

    def _stop(self) -> None:
        if self._address is not None:
            for placed in self._placed.values():
                ray.kill(placed.actor, no_restart=True)
        self._placed.clear()
        ray.shutdown()

    def _place(self, kind: Kind, name: str, node: str | None) -> Future[Any]:
        """Gateways are where their ports were promised, hosts where there are fewest."""
        if node is None:
            node = self.here if kind is Kind.GATEWAY else self._roomiest(name)
        actor = ray.remote(Process).options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        settings, control = self.arguments
        handle = actor.remote(self._programs[kind], settings, name, control)
        assert isinstance(handle, ActorHandle), "nothing is bound lazily"
        self._placed[name] = _Placed(kind, handle, node)
        started: Future[Any] = handle.__ray_ready__.remote().future()
        return started

    def _roomiest(self, name: str, avoid: str = "", stay: str = "") -> str:
        """The machine for a host; `stay` on it if no other has more room.

        Ray's own ways of spreading look at what is free, and we ask for nothing: they put two of
        three hosts on one machine, and a soft binding may be ignored.
        """
        nodes = [node for node in _alive_nodes() if node["NodeID"] not in self.unfit | {avoid}]
        nodes.sort(key=lambda node: (node["NodeID"] != self.here, node["NodeManagerAddress"]))
        others = [
            placed.node
            for other, placed in self._placed.items()
            if other != name and placed.kind is Kind.HOST
        ]
        return roomiest([node["NodeID"] for node in nodes] or [self.here], others, stay)

    def _ask_everywhere(
        self, question: Callable[[bytes], bytes], argument: bytes
    ) -> list[tuple[str, str, Future[bytes]]]:
        asked = []
        for node in _alive_nodes():
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(question).options(num_cpus=0, scheduling_strategy=there)
            answer = task.remote(argument).future()
            asked.append((node["NodeID"], node["NodeManagerAddress"], answer))
        return asked

    async def _end_ours(self) -> None:
        await end([each for each in self._ours if is_alive(each)])
        self._ours.clear()


@contextlib.contextmanager
def _without_monitors() -> Iterator[None]:
    """No autoscaler's monitor and no log monitor: two processes of 80 MB, each a second's work.

    Nothing here scales, and logs are our own. Ray has parameters for it that `ray.init` lacks.
    """
    whole = ray_parameter.RayParams
    lean = functools.partial(
        whole,
        no_monitor=True,
        include_log_monitor=False,  # type: ignore[arg-type] # annotated as text, used as truth
    )
    ray_parameter.RayParams = lean  # type: ignore[assignment, misc] # for the moment
    try:
        yield
    finally:
        ray_parameter.RayParams = whole  # type: ignore[misc] # as it was


def take_back_signals() -> None:
    """SIGTERM is for whoever handles it in Python.

    Ray puts a handler of its own in front, which aborts the process three seconds after a SIGTERM;
    and when it shuts down, it leaves the default behind.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


async def _settled(future: Future[bytes]) -> bytes | Exception:
    """What came of a task."""
    answer = asyncio.wrap_future(future)
    await asyncio.wait([answer], timeout=ASK_SECONDS)  # which does not cancel what is Ray's to set
    if not answer.done():
        return ClusterError(f"no answer within {ASK_SECONDS:.0f} s")
    error = answer.exception()
    if isinstance(error, ray.exceptions.RayError):
        return error
    return answer.result()


def roomiest(nodes: Sequence[str], hosts: Iterable[str], stay: str = "") -> str:
    """The machine to which fewest `hosts` are bound, each named by its machine; of several, the one
    to `stay` on, else the first.

    The host that is to be placed is none of them. So whoever may stay does unless its machine has
    two more than another, counting itself; with one more there would be nothing gained.
    """
    bound = Counter(hosts)
    return min(nodes, key=lambda node: (bound[node], node != stay))


def _alive_nodes() -> list[dict[str, Any]]:
    """The machines of the cluster that Ray takes for alive."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray's
    return [node for node in found if node["Alive"]]


def _knock(address: str) -> None:
    """Raises ClusterError if nobody listens there: Ray would wait, and let nobody interrupt it."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise ClusterError(f"--address is {address!r}; host:port of Ray's head is expected")
    try:
        with socket.create_connection((host, int(port)), KNOCK_SECONDS):
            pass
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at {address} (--address): {error}") from error


def _no_path_of_ours() -> JobConfig:
    """Processes would else look for the engine first in the directory that `onhand up` was called
    in, where anything may lie that has its name. Clients' jobs are spared that."""
    return JobConfig(_client_job=True)


def _serving(path: str) -> list[Identity]:
    """The raylet behind this socket."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                if f"--raylet_socket_name={path}\0".encode() in (entry / "cmdline").read_bytes():
                    found.append(identify(int(entry.name)))
    return [each for each in found if each is not None and Path(each.program).name == _RAYLET]


def descendants(roots: Iterable[Identity]) -> list[Identity]:
    """The children of processes, and theirs, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parent = int(stat[stat.rindex(")") + 2 :].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, unseen = [], [root.pid for root in roots if is_alive(root)]
    while unseen:
        below = children.get(unseen.pop(), [])
        unseen += below
        found += [each for each in map(identify, below) if each is not None]
    return found
