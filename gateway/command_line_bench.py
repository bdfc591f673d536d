"""`onhand bench`: the benchmark, loaded by nobody else and only when it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from cyclopts import App, Parameter
from rich.console import Console

from actors.config import Fsync, Settings
from gateway.command_line_engine import Engine, FailedError, UsageError
from gateway.command_line_server import DEFAULTS, run_to_end, settings_of
from gateway.place import PlaceError

AUDIT_FAILED: Final = 3


@Parameter(name="*")
@dataclass(frozen=True)
class Load:
    """What is sent, and how.

    Parameters
    ----------
    distribution
        How buyers spread over SKUs: evenly, by Zipf's law (0.99), or all on one.
    skus
        How many SKUs there are (10,000; hot: 1).
    units
        Units of each.
    via
        HTTP; the binary protocol through the gateway; or the same straight to the hosts.
    connections
        Of all processes together (8; HTTP: 50).
    in_flight
        Requests that wait for an answer (128; with frames: 16; HTTP: one per connection).
    frame
        Commands of one request.
    rate
        Requests per second, by schedule, whatever the answers do: an open loop. Without it, each
        answer sends the next request: a closed loop, which finds the peak and hides the queue.
    poisson
        Arrivals at random, as buyers come; otherwise at even distances.
    warm_up
        Seconds that do not count.
    duration
        Seconds that do.
    operations
        Stop after so many measured reservations.
    processes
        Generator processes.
    seed
        Of everything that is drawn.
    """

    distribution: Literal["uniform", "zipf", "hot"] = "uniform"
    skus: int | None = None
    units: int | None = None
    via: Literal["http", "gateway", "host"] = "gateway"
    connections: int | None = None
    in_flight: int | None = None
    frame: int = 1
    rate: float | None = None
    poisson: Annotated[bool, Parameter(negative=())] = False
    warm_up: float = 2.0
    duration: float = 10.0
    operations: int | None = None
    processes: int = 1
    seed: int = 1


@Parameter(name="*")
@dataclass(frozen=True)
class Engines:
    """What it is sent to: an engine that runs already, or one that is started for it.

    Parameters
    ----------
    port
        HTTP port of an engine that runs on this machine already.
    url
        Where the engine is, if it runs elsewhere.
    key
        API key of an operator; taken from ONHAND_KEY if it is not given.
    echo
        Measure the generator alone, against a handler that answers at once.
    hosts
        Of the engine that is started.
    shards
        Of the engine that is started.
    gateways
        Of the engine that is started.
    fsync
        Of the engine that is started.
    redis_binary
        The server to keep its journal, in place of the embedded one.
    """

    port: int | None = None
    url: str | None = None
    key: Annotated[str | None, Parameter(env_var="ONHAND_KEY", show_default=False)] = None
    echo: Annotated[bool, Parameter(negative=())] = False
    hosts: int = DEFAULTS.hosts
    shards: int = DEFAULTS.shards
    gateways: int = DEFAULTS.gateways
    fsync: Fsync = DEFAULTS.fsync
    redis_binary: Path | None = None

    def address(self) -> str | None:
        """Of the engine that runs already, if one is named."""
        if self.url is None and self.port is None:
            return None
        return Engine(self.port or DEFAULTS.port, self.url, self.key).client().url

    def settings(self) -> Settings:
        return settings_of(
            hosts=self.hosts, shards=self.shards, gateways=self.gateways, fsync=self.fsync
        )


def run(
    scenario: str = "reserve",
    /,
    *,
    load: Load = Load(),  # frozen
    engines: Engines = Engines(),  # frozen
    output: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Measure an engine, and audit what it holds afterwards against what buyers were told.

    Exit status 3 if the audit fails, however fast it was. For example:

        onhand bench run

        onhand bench run checkout --distribution zipf --frame 64 --via host

        onhand bench run reserve --via http --rate 2000 --poisson --port 8080

    Parameters
    ----------
    scenario
        What buyers do: reserve, order or checkout.
    output
        Write the result to this file, as JSON.
    json
        Print the result as JSON; progress goes to stderr.
    """
    from bench.options import BenchError, Options
    from bench.report import render

    options = Options(scenario=scenario, **vars(load))
    try:
        options.check()
    except BenchError as error:
        raise UsageError(str(error)) from error
    if engines.redis_binary is not None and not engines.redis_binary.is_file():
        raise UsageError(f"--redis-binary: there is no {engines.redis_binary}")
    report = _measure(options, engines, Console(stderr=json))
    document = msgspec.json.format(msgspec.json.encode(report), indent=2)
    if output is not None:
        output.write_bytes(document + b"\n")
    if json:
        print(document.decode())
    else:
        Console().print(render(report))
    return 0 if report.audit is None or report.audit.passed else AUDIT_FAILED


def _measure(options: Any, engines: Engines, console: Console) -> Any:
    """The report. The benchmark's types are not known here before it is loaded."""
    from bench.caller import CallerError
    from bench.options import BenchError
    from bench.report import Report
    from bench.run import run as measure
    from bench.screen import screen
    from bench.target import Where, target
    from gateway.up import UpError

    async def measured() -> Report:
        where = Where(
            echo=engines.echo,
            url=engines.address(),
            key=engines.key,
            settings=engines.settings(),
            redis_binary=engines.redis_binary,
        )
        async with target(where) as found:
            with screen(console) as shown:
                return await measure(options, found, shown)

    try:
        return run_to_end(measured())
    except (BenchError, CallerError, PlaceError, UpError) as error:
        raise FailedError(str(error)) from error


def register(app: App) -> None:
    """Make it a command of `app`."""
    bench = App(name="bench", help="Measure an engine, and audit it.")
    bench.command(run, name="run")
    app.command(bench)
