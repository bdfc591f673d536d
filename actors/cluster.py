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

Every call of Ray's is made on one thread that lives as long as Ray does: the kernel ends Ray's
processes with the thread that started them. Start and stop with care, and only once at a time.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import platform
import secrets
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import ray
import ray._private.parameter as ray_parameter
import ray._private.worker as ray_worker
import ray.exceptions
import structlog
import uvloop
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.control import Join, Kind
from actors.data_directory import end
from actors.process import Identity, identify, is_alive, send_signal

OBJECT_STORE_BYTES: Final = 75 << 20
"""The least that Ray accepts; nothing of ours is ever put there."""
WATCH_SECONDS: Final = 0.5
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
_HEAD: Final = (_GCS, "raylet")
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
        self._actors: dict[str, ActorHandle[Process]] = {}
        self._roots: list[Identity] = []
        self.head: list[Identity] = []
        self._ours: set[Identity] = set()
        self._address: str | None = None
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
        started = await self._call(lambda: self._place(kind, name))
        try:
            await asyncio.wrap_future(started)
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray does not start {name}: {error}") from error

    async def kill(self, join: Join) -> None:
        """End that very process; Ray starts its successor."""
        if join.node == platform.node():
            if send_signal(join.process, signal.SIGKILL):
                _log.warning("killed", name=join.name, pid=join.process.pid)
        else:
            actor = self._actors[join.name]
            await self._call(lambda: ray.kill(actor, no_restart=False))

    async def listen_address(self) -> str:
        """Where the coordinator should listen, for everybody in the cluster to find it."""
        if self._address is None:
            return f"unix:{self._run_dir}/control"
        return f"tcp:{await self._call(ray.util.get_node_ip_address)}:0"

    async def watch(self, started_anew: Callable[[], Any]) -> None:
        """Keep Ray itself alive; `started_anew` is awaited when it is a new one."""
        while self._address is None:
            await asyncio.sleep(WATCH_SECONDS)
            dead = [each for each in self.head if not is_alive(each)]
            if dead:
                _log.error("ray is dead", programs=[Path(each.program).name for each in dead])
                self.restarts += 1
                self.note_processes()
                await end([each for each in self._ours if Path(each.program).name != _GCS])
                await self._finish()
                await self._end_ours()
                await self._begin()
                await started_anew()

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
        namespace = f"onhand-{secrets.token_hex(4)}"
        try:
            if self._address is None:
                self._start_head(namespace)
            else:
                ray.init(
                    self._address,
                    namespace=namespace,
                    log_to_driver=False,
                    configure_logging=False,
                )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"Ray does not start: {error}") from error

    def _start_head(self, namespace: str) -> None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        paths = [_ROOT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        with _without_monitors():
            ray.init(
                "local",
                namespace=namespace,
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
        self._actors.clear()
        ray.shutdown()

    def _place(self, kind: Kind, name: str) -> Future[Any]:
        """Hosts are spread over the machines; gateways are where their ports were promised."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Process).options(
            name=name,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy=here if kind is Kind.GATEWAY else "SPREAD",
        )
        settings, control = self.arguments
        handle = actor.remote(self._programs[kind], settings, name, control)
        assert isinstance(handle, ActorHandle), "nothing is bound lazily"
        self._actors[name] = handle
        started: Future[Any] = handle.__ray_ready__.remote().future()
        return started

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
