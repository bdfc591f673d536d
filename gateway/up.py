"""`onhand up`: the one place where real parts are chosen and put together.

    lock the data directory ─► end what a killed predecessor left ─► ports, keys
      ─► Redis ─► Ray ─► coordinator ─► hosts and gateways ─► ready
      ◄─ and back in the opposite order: gateways drain, hosts flush, Ray, Redis, lock

What it guarantees: either the engine is ready, every shard owned (or known to have failed) and
every gateway knowing by whom; or an UpError says in one line why not, and nothing is left running.
The same holds at the end, whatever ended it.

On several machines it waits for those that it was told of (`--machines`), because hosts stay where
they were placed first; not for ever, and not for one that is unfit: what would be refused for a
machine that is missing is everything, and it is said aloud which one it is. Only this machine must
be fit.

`running` is for whoever has an event loop already (tests, the demo); `up` adds the signals of a
process in the foreground. Both belong on the main thread: the kernel ends the embedded server with
the thread that started it.
"""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from actors.address import TcpAddress, hold
from actors.cluster import Cluster, ClusterError, MakeProgram, Told
from actors.config import Settings
from actors.control import Kind, Map
from actors.coordinator import Coordinator
from actors.data_directory import DataDirectory, DataDirectoryError, this_process
from actors.host_process import HostProcess
from actors.installation import Installation, InstallationError, find_installation
from actors.journal import JournalError
from actors.journal_servers import look_for
from actors.keys import KeysError, check_keys
from actors.log import close_logs, set_up_logs, warn_on_stderr
from actors.machine import Needs, examine, shares_archive, unfit, witness
from actors.redis_server import RedisServer, RedisServerError
from gateway.gateway import GatewayProcess

READY_SECONDS: Final = 60.0
"""Without progress; a long recovery may take as long as it needs."""
JOURNAL_SECONDS: Final = 3.0
MACHINES_SECONDS: Final = 120.0
"""For all machines to be there, before the engine is started on those that are."""
MACHINES_SAY_SECONDS: Final = 10.0
MACHINES_LOOK_SECONDS: Final = 0.5

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_OPERATORS_ERRORS: Final = (
    ClusterError,
    DataDirectoryError,
    InstallationError,
    JournalError,
    KeysError,
    RedisServerError,
)
_log = structlog.get_logger(__name__)


class UpError(Exception):
    """The engine does not run; the message is one line for the operator."""


class Running(NamedTuple):
    """An engine that is ready."""

    settings: Settings
    coordinator: Coordinator
    cluster: Cluster
    redis: RedisServer | None
    broken: asyncio.Future[None]
    """Raises what ended the engine, if it ends by itself."""

    @property
    def http(self) -> str:
        return f"http://{_in_url(self.settings.bind)}:{self.settings.port}"

    @property
    def binary(self) -> str:
        return f"tcp:{_in_url(self.settings.bind)}:{self.settings.binary_port}"

    def map(self) -> Map:
        """Who serves what, and which processes there are."""
        return self.coordinator.map()


Programs = Mapping[Kind, MakeProgram]
PROGRAMS: Final[Programs] = {Kind.HOST: HostProcess, Kind.GATEWAY: GatewayProcess}


async def up(
    settings: Settings,
    ready: Callable[[Running], None] | None = None,
    *,
    programs: Programs = PROGRAMS,
) -> None:
    """Run the engine until SIGINT or SIGTERM. Raises UpError."""
    stop = asyncio.Event()
    starting: asyncio.Task[object] | None = asyncio.current_task()

    def interrupt() -> None:
        stop.set()
        if starting is not None:
            starting.cancel()

    _on_signals(interrupt)
    warnings = warn_on_stderr()
    try:
        async with running(settings, programs=programs) as engine:
            _on_signals(interrupt)  # once more: Ray has put a handler of its own before ours
            starting = None
            if ready is not None:
                ready(engine)
            await _either(stop, engine.broken)
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        close_logs(warnings)
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)


def _on_signals(action: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.remove_signal_handler(number)
        loop.add_signal_handler(number, action)


@asynccontextmanager
async def running(settings: Settings, *, programs: Programs = PROGRAMS) -> AsyncIterator[Running]:
    """A ready engine for as long as the block lasts. Raises UpError."""
    async with AsyncExitStack() as stack:
        try:
            engine = await _start(settings, programs, stack)
        except _OPERATORS_ERRORS as error:
            raise UpError(str(error)) from error
        _log.info("ready", http=engine.http, binary=engine.binary)
        yield engine
        _log.info("stops")


async def _start(settings: Settings, programs: Programs, stack: AsyncExitStack) -> Running:
    directory = await _take_directory(settings, stack)
    check_keys(settings, directory.keys)
    settings = msgspec.structs.replace(
        settings,
        data_dir=str(directory.path),
        run_dir=str(directory.make_run_dir()),
        control_token=secrets.token_hex(32),
        port=_hold_port(settings.bind, settings.port, "--port", stack),
        binary_port=_hold_port(settings.bind, settings.binary_port, "--binary-port", stack),
    )
    redis = None
    if not settings.redis:
        redis = _embedded(settings, directory)
        settings = msgspec.structs.replace(settings, redis=(redis.url,))
        stack.push_async_callback(redis.stop)
        await redis.start()
    installation = await _find_installation(settings)
    settings = msgspec.structs.replace(
        settings, cluster_id=installation.cluster_id, dedicated=installation.dedicated
    )
    cluster = Cluster(programs, directory.remember)
    stack.push_async_callback(cluster.stop)
    await cluster.start(settings.address, Path(settings.run_dir))
    if settings.address is not None:
        await wait_for_machines(cluster.machines, settings.machines)
        cluster.unfit = await _unfit_machines(cluster, settings)
    coordinator = Coordinator(settings, cluster)
    coordinator.on_join = cluster.joined
    control = await coordinator.listen(await cluster.listen_address())
    stack.push_async_callback(coordinator.stop)
    cluster.arguments = (settings.encode(), control)
    broken = asyncio.get_running_loop().create_future()
    _guard(stack, broken, cluster.watch(coordinator.replace_everything))
    if redis is not None:
        _guard(stack, broken, redis.supervise())
    await coordinator.start()
    _guard(stack, broken, coordinator.watch())
    await _wait_until_ready(coordinator, directory)
    return Running(settings, coordinator, cluster, redis, broken)


async def _take_directory(settings: Settings, stack: AsyncExitStack) -> DataDirectory:
    directory = DataDirectory(settings.data_path)
    directory.lock()
    stack.callback(directory.unlock)
    logs = set_up_logs(directory.logs / "coordinator.log", settings.log_level)
    stack.callback(close_logs, logs)
    await directory.end_leftovers()
    directory.remember(this_process())
    return directory


def _hold_port(bind: str, port: int, flag: str, stack: AsyncExitStack) -> int:
    """`port`, or a free one for 0: the gateways' for as long as the engine runs, though none of
    them be there yet, or just now. Raises UpError if it cannot be had."""
    try:
        held = hold(TcpAddress(bind, port))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UpError(f"cannot listen on {bind} port {port}: {reason} ({flag})") from error
    stack.callback(held.close)
    return int(held.getsockname()[1])


def _embedded(settings: Settings, directory: DataDirectory) -> RedisServer:
    return RedisServer(
        directory.redis,
        fsync=settings.fsync,
        memory_bytes=settings.maxmemory_bytes,
        socket=Path(settings.run_dir) / "redis.sock",
    )


async def _find_installation(settings: Settings) -> Installation:
    """The journal's servers answer, are set up as they must be, and hold this installation.

    One of several that does not answer is waited for by its shards alone.
    """
    async with AsyncExitStack() as stack:
        try:
            servers = await look_for(settings.redis, settings.fsync, JOURNAL_SECONDS, stack)
        except ValueError as error:
            raise UpError(f"--redis: {error}") from error
        found = await find_installation(
            settings.data_path,
            servers,
            settings.shards,
            secrets.token_hex(8),
            settings.dedicated,
        )
        for each in servers:
            if isinstance(each, JournalError):
                _log.error("journal_server_down", reason=str(each))
        return found


async def wait_for_machines(
    there: Callable[[], Awaitable[list[str]]], wanted: int, seconds: float = MACHINES_SECONDS
) -> None:
    """Returns when as many are there, or when this was long enough; says meanwhile who is."""
    now = asyncio.get_running_loop().time
    until, say_at = now() + seconds, now()
    while len(addresses := await there()) < wanted:
        found = {"wanted": wanted, "there": addresses}
        if now() >= until:
            _log.error("machines_missing", **found)
            return
        if now() >= say_at:
            _log.warning("waits_for_machines", **found, seconds_left=round(until - now()))
            say_at += MACHINES_SAY_SECONDS
        await asyncio.sleep(MACHINES_LOOK_SECONDS)


async def _unfit_machines(cluster: Cluster, settings: Settings) -> set[str]:
    """Those without this engine, the journal's server or a directory. Raises UpError if this is
    one: the coordinator and the gateways are here."""
    needs = await Needs.of(settings)
    with witness(DataDirectory(settings.data_path).archive) as name:
        needs = msgspec.structs.replace(needs, witness=name)
        told = await cluster.ask_everywhere(examine, needs.encode())
    return sort_out(needs, told, cluster.here)


def sort_out(needs: Needs, told: Sequence[Told], here: str) -> set[str]:
    """Which machines, by Ray's id, are to get no hosts, said aloud. Raises UpError if `here` is
    one."""
    found, fit = set[str](), []
    for each in told:
        problem = unfit(needs, each.answer)
        if problem is None:
            fit.append(each)
        elif each.node == here:
            raise UpError(f"the machine at {each.address}: {problem}")
        else:
            found.add(each.node)
            _log.error("machine_unfit", address=each.address, problem=problem)
    if apart := [each.address for each in fit if not shares_archive(each.answer)]:
        _log.warning("archive_not_shared", addresses=apart)
    _log.info("machines", addresses=[each.address for each in fit])
    return found


async def _wait_until_ready(coordinator: Coordinator, directory: DataDirectory) -> None:
    while not await coordinator.wait_until(coordinator.is_ready, READY_SECONDS):
        if not coordinator.is_recovering():
            raise UpError(f"the engine did not come up; {directory.logs} may say why")
    failures = coordinator.failures()
    if len(failures) == coordinator.shards:
        raise UpError(f"no shard can be served: {failures[0]}")


def _guard(
    stack: AsyncExitStack, broken: asyncio.Future[None], work: Coroutine[None, None, None]
) -> None:
    """Run `work` until the stack unwinds; if it raises, the engine is broken."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not broken.done():
            _log.error("broken", error=repr(error))
            broken.set_exception(UpError(f"the engine broke: {error}"))

    async def cancel() -> None:
        task.cancel()
        await asyncio.wait([task])

    task = asyncio.create_task(work)
    task.add_done_callback(ended)
    stack.push_async_callback(cancel)


async def _either(stop: asyncio.Event, broken: asyncio.Future[None]) -> None:
    """Returns when `stop` is set; raises what broke the engine."""
    stopped = asyncio.create_task(stop.wait())
    either: list[asyncio.Future[Any]] = [stopped, broken]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            broken.result()
    finally:
        stopped.cancel()


def _in_url(bind: str) -> str:
    return f"[{bind}]" if ":" in bind else bind
