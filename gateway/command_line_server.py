"""Commands that run an engine on this machine, or prepare one: up, demo, keys."""

import asyncio
import json as text_json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
import uvloop
from cyclopts import App, Parameter
from rich.console import Console
from rich.live import Live

from actors.config import DATA_DIR_DEFAULT, Fsync, HotShards, LogLevel, Settings, SettingsError
from actors.data_directory import DataDirectory
from actors.keys import Key, KeyFile
from engine import limits
from gateway.command_line_engine import Engine, FailedError, UsageError, say_json, show, table
from gateway.place import Place, find_place

if TYPE_CHECKING:
    from gateway.demo import Sale, SaleReport
    from gateway.up import Running

DEFAULTS: Final = Settings()
_Result = TypeVar("_Result")
Redis = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False)]
"""--redis URL, once for each server."""
_UNITS: Final = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}


def settings_of(**values: object) -> Settings:
    """Raises UsageError if there can be no such settings."""
    try:
        return msgspec.convert(values, Settings)
    except (SettingsError, msgspec.ValidationError) as error:
        raise UsageError(str(error)) from error


def memory_bytes(text: str, option: str = "--maxmemory") -> int:
    """`512mb`, `2gb` or plain bytes. Raises UsageError."""
    number, unit = text.lower().strip(), 1
    for suffix, size in _UNITS.items():
        if number.endswith(suffix):
            number, unit = number.removesuffix(suffix), size
    if not number.isdecimal():
        raise UsageError(f"{option} is {text!r}; for example 512mb or 2gb")
    return int(number) * unit


def run_to_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run it on an event loop; whatever it has started is ended when a signal comes, too."""

    async def watched() -> _Result:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return await work
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(watched())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


# --- up --------------------------------------------------------------------------------------


@Parameter(name="*")
@dataclass(frozen=True)
class Doors:
    """Where it serves.

    Parameters
    ----------
    port
        Of HTTP; 0 = any that is free.
    binary_port
        Of the binary protocol; 0 = any that is free.
    bind
        The address to listen on; any but a loopback one needs API keys.
    require_keys
        Ask for API keys on loopback as well.
    """

    port: int = DEFAULTS.port
    binary_port: int = DEFAULTS.binary_port
    bind: str = DEFAULTS.bind
    require_keys: Annotated[bool, Parameter(negative=())] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Shape:
    """Of what it consists.

    Parameters
    ----------
    hosts
        Processes that own the stock.
    spares
        Further ones, that keep up with the others and take over from one that dies, in a moment.
    shards
        Parts that the stock is divided into, for good.
    dedicated
        Parts beside those, each for one SKU that `onhand dedicate` names; never fewer than before.
    gateways
        Processes that serve the two ports.
    address
        Of a Ray cluster that runs already.
    machines
        How many of that cluster to wait for, two minutes at most, before hosts are placed on them.
    hot_shards
        What to do about a shard that takes most of what its host can do: tell, in `onhand status`,
        which move would help; or move what is beside it elsewhere.
    """

    hosts: int = DEFAULTS.hosts
    spares: int = DEFAULTS.spares
    shards: int = DEFAULTS.shards
    dedicated: int = DEFAULTS.dedicated
    gateways: int = DEFAULTS.gateways
    address: str | None = None
    machines: int = DEFAULTS.machines
    hot_shards: HotShards = DEFAULTS.hot_shards


@Parameter(name="*")
@dataclass(frozen=True)
class Memory:
    """What it keeps, where, and for how long.

    Parameters
    ----------
    data_dir
        Where everything is kept.
    redis
        URL of the server that keeps the journal; given several times, the shards are spread over
        all of them, in this order for ever. If not given, a server of our own.
    fsync
        When the journal is synced to disk: before every answer, or once a second.
    maxmemory
        Of the server of our own.
    remembered_max
        Reservations and keys that one shard remembers.
    finished_window
        Seconds for which reservations that were released, expired or cancelled are remembered.
    returns_window
        Seconds for which shipped ones are, so that what comes back can be restocked.
    keys_window
        Seconds for which keys of movements are.
    grace
        Seconds by which deadlines that fell into a downtime may move.
    archive_days
        How long trimmed records of the journal are kept in the data directory; 0 = for ever.
    archive_snapshot
        How much journal of one shard lies between two snapshots that are kept there.
    audit_interval
        Seconds between two audits of a shard that nobody asks for; 0 = there are none.
    """

    data_dir: Path = Path(DATA_DIR_DEFAULT)
    redis: Redis = ()
    fsync: Fsync = DEFAULTS.fsync
    maxmemory: str = f"{DEFAULTS.maxmemory_bytes >> 20}mb"
    remembered_max: int = DEFAULTS.remembered_max
    finished_window: int = DEFAULTS.finished_window_us // limits.SECOND_US
    returns_window: int = DEFAULTS.returns_window_us // limits.SECOND_US
    keys_window: int = DEFAULTS.keys_window_us // limits.SECOND_US
    grace: int = DEFAULTS.grace_us // limits.SECOND_US
    archive_days: int = DEFAULTS.archive_days
    archive_snapshot: str = f"{DEFAULTS.archive_snapshot_bytes >> 20}mb"
    audit_interval: int = DEFAULTS.audit_interval_us // limits.SECOND_US

    def settings(self) -> dict[str, object]:
        """In the units of Settings."""
        seconds = ("finished_window", "returns_window", "keys_window", "grace", "audit_interval")
        return {
            **{f"{name}_us": getattr(self, name) * limits.SECOND_US for name in seconds},
            "data_dir": str(self.data_dir),
            "redis": self.redis,
            "fsync": self.fsync,
            "maxmemory_bytes": memory_bytes(self.maxmemory),
            "remembered_max": self.remembered_max,
            "archive_days": self.archive_days,
            "archive_snapshot_bytes": memory_bytes(self.archive_snapshot, "--archive-snapshot"),
        }


def up(
    *,
    doors: Doors = Doors(),  # frozen
    shape: Shape = Shape(),  # frozen
    memory: Memory = Memory(),  # frozen
    log_level: LogLevel = DEFAULTS.log_level,
    slow_ms: int = DEFAULTS.slow_ms,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Serve on this machine, in the foreground, until interrupted.

    For example, with the data elsewhere, and the journal on a server of your own:

        onhand up --data-dir /srv/onhand --redis redis://10.0.0.5/0

    Parameters
    ----------
    log_level
        Of the files in the data directory's `logs`.
    slow_ms
        Milliseconds after which a request, or an append to the journal, is logged as slow; 0 =
        never.
    json
        Say as JSON where it serves.
    """
    from gateway.up import UpError
    from gateway.up import up as serve

    settings = settings_of(
        **vars(doors), **vars(shape), **memory.settings(), log_level=log_level, slow_ms=slow_ms
    )
    try:
        uvloop.run(serve(settings, lambda engine: _say_ready(engine, json)))
    except UpError as error:
        raise FailedError(str(error)) from error
    return 0


def _say_ready(engine: "Running", json: bool) -> None:
    found = {
        "http": engine.http,
        "binary": engine.binary,
        "data_dir": engine.settings.data_dir,
        "pid": os.getpid(),
    }
    if json:
        print(text_json.dumps(found), flush=True)
        return
    print(f"HTTP on {found['http']}, the binary protocol on {found['binary']}")
    print(f"data in {found['data_dir']}; Ctrl-C stops it", flush=True)


# --- demo ------------------------------------------------------------------------------------


def demo(
    *,
    units: int = 10_000,
    buyers: int = 50_000,
    connections: int = 200,
    port: int | None = None,
    url: str | None = None,
    key: Annotated[str | None, Parameter(env_var="ONHAND_KEY", show_default=False)] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Run a flash sale to its end, and audit it.

    Starts an engine in a temporary directory, and leaves nothing behind; or uses the one that
    --port or --url names. Exit status 1 if a single unit is not where it ought to be. For example:

        onhand demo --units 1000 --buyers 5000

    Parameters
    ----------
    units
        Units of the one SKU that is on sale.
    buyers
        Each wants one.
    connections
        Over which they come; every tenth is HTTP, the others speak the binary protocol.
    port
        HTTP port of an engine that runs on this machine already.
    url
        Where the engine is, if it runs elsewhere.
    key
        API key of an operator; taken from ONHAND_KEY if it is not given.
    json
        Print the result as JSON.
    """
    from gateway.demo import DemoError
    from gateway.up import UpError

    if not (0 < units <= limits.QUANTITY_MAX and buyers > 0 and connections > 0):
        raise UsageError("--units, --buyers and --connections must be above 0")
    place = None
    if port is not None or url is not None:
        place = find_place(Engine(port or DEFAULTS.port, url, key).client(), key)
    console = Console(stderr=json)
    try:
        report, left = run_to_end(_demo(place, units, buyers, connections, console))
    except (DemoError, UpError) as error:
        raise FailedError(str(error)) from error
    if json:
        say_json(msgspec.to_builtins(report) | {"left_running": left})
    else:
        _show_sale(report, left)
    return 0 if report.passed and not left else 1


async def _demo(
    place: Place | None, units: int, buyers: int, connections: int, console: Console
) -> tuple["SaleReport", list[int]]:
    """The report, and the processes that are left running though they should not be."""
    from gateway.demo import hold
    from gateway.temporary import temporary_engine

    with showing(console) as shown:
        if place is not None:
            return await hold(place, units, buyers, connections, shown), []
        began = time.monotonic()
        async with temporary_engine(DEFAULTS) as engine:
            console.print(f"an engine is up after {time.monotonic() - began:.1f} s")
            place = Place(engine.running.http, engine.running.binary)
            report = await hold(place, units, buyers, connections, shown)
        return report, [process.pid for process in engine.left]


@contextmanager
def showing(console: Console) -> Iterator[Callable[["Sale"], None]]:
    """Shows a sale while it runs: in place at a terminal, a line each second otherwise."""
    if console.is_terminal:
        with Live(console=console, transient=True) as live:
            yield lambda sale: live.update(_progress(sale))
        return
    last = 0.0

    def show_line(sale: "Sale") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1 or sale.served == sale.buyers:
            last = now
            console.print(_progress(sale), highlight=False, soft_wrap=True)

    yield show_line


def _progress(sale: "Sale") -> str:
    return (
        f"{sale.served:>9,} of {sale.buyers:,} buyers served: "
        f"{sale.sold:,} sold, {sale.refused:,} refused, {sale.rate:,.0f} operations/s"
    )


def _show_sale(report: "SaleReport", left: list[int]) -> None:
    stock = report.stock
    made = table("", "")
    for name, value in (
        ("sold", f"{report.sold:,} of {report.units:,} units"),
        ("refused", f"{report.refused:,} of {report.buyers:,} buyers"),
        ("unknown", f"{report.unknown:,} buyers do not know what came of it"),
        ("rate", f"{report.operations_per_second:,.0f} operations/s for {report.seconds:.1f} s"),
        ("reserve", f"p50 {report.p50_ms:.1f} ms, p99 {report.p99_ms:.1f} ms"),
        (
            "stock",
            f"{stock.on_hand:,} on hand, {stock.reserved:,} reserved, "
            f"{stock.allocated:,} allocated, {stock.available:,} available",
        ),
        ("audit", f"drift {report.drift}: " + ("passed" if report.passed else "FAILED")),
        *(("finding", finding) for finding in report.findings),
        *(("left running", f"process {pid}") for pid in left),
    ):
        made.add_row(name, value)
    show(made)


# --- keys ------------------------------------------------------------------------------------

DataDir = Annotated[Path, Parameter(help="Where the engine keeps everything.")]
Json = Annotated[bool, Parameter(negative=(), help="Print the result as JSON.")]


def create_key(
    *,
    channel: str | None = None,
    verbs: list[str] | None = None,
    data_dir: DataDir = Path(DATA_DIR_DEFAULT),
    json: Json = False,
) -> int:
    """Make an API key, and show it: the only time that it is seen.

    For example: a key for the web shop, that may sell and read, but not ship:

        onhand keys create --channel web --verbs sell --verbs read

    Parameters
    ----------
    channel
        Whose key; if not given, an operator's.
    verbs
        What it may do; if not given, all that such a key may.
    """
    key = _keys(data_dir).create(channel, verbs)
    print(text_json.dumps({"key": key}) if json else key)
    return 0


def list_keys(*, data_dir: DataDir = Path(DATA_DIR_DEFAULT), json: Json = False) -> int:
    """List the API keys, without their secrets.

    For example:

        onhand keys list
    """
    keys = _keys(data_dir).read()
    if json:
        hidden = {"digest"}
        dicts = [msgspec.to_builtins(key) for key in keys]
        say_json([{n: v for n, v in each.items() if n not in hidden} for each in dicts])
        return 0
    made = table("key", "channel", "verbs", "created", "state")
    for key in keys:
        created = datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d %H:%M")
        whose = key.channel or "(operator)"
        made.add_row(key.prefix, whose, " ".join(key.verbs), created, _state(key))
    show(made)
    return 0


def _state(key: Key) -> str:
    if key.is_valid(time.time()):
        return "valid"
    return "revoked" if key.revoked is not None else "expired"


def revoke_key(
    prefix: str, /, *, data_dir: DataDir = Path(DATA_DIR_DEFAULT), json: Json = False
) -> int:
    """End an API key at once.

    For example, with the key as `onhand keys list` shows it:

        onhand keys revoke 3f0a5d1e9b6a
    """
    key = _keys(data_dir).revoke(prefix)
    print(text_json.dumps({"revoked": key.prefix}) if json else f"{key.prefix} is revoked")
    return 0


def rotate_key(
    prefix: str,
    /,
    *,
    overlap: int = 86_400,
    data_dir: DataDir = Path(DATA_DIR_DEFAULT),
    json: Json = False,
) -> int:
    """Make a new key for the holder of an old one, which lives on for a while.

    For example:

        onhand keys rotate 3f0a5d1e9b6a --overlap 3600

    Parameters
    ----------
    overlap
        Seconds for which the old key is still good.
    """
    if overlap < 0:
        raise UsageError("--overlap must not be below 0")
    key = _keys(data_dir).rotate(prefix, overlap)
    print(text_json.dumps({"key": key}) if json else key)
    return 0


def _keys(data_dir: Path) -> KeyFile:
    return KeyFile(DataDirectory(data_dir).keys)


def register(app: App) -> None:
    """Make them commands of `app`."""
    app.command(up, name="up")
    app.command(demo, name="demo")
    keys = App(name="keys", help="API keys: make, list, rotate and revoke them.")
    for name, function in (
        ("create", create_key),
        ("list", list_keys),
        ("rotate", rotate_key),
        ("revoke", revoke_key),
    ):
        keys.command(function, name=name)
    app.command(keys)
