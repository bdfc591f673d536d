"""Commands that talk to a running engine over HTTP, as any other caller would.

Each prints what came of it, for people or with --json as the engine said it, and returns an exit
status. A refusal is one line on stderr and status 1.
"""

import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal
from urllib.parse import quote

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.table import Table

from actors.config import PORT_DEFAULT
from engine import limits
from gateway.http_client import HttpClient, Reply

CHUNK_BYTES: Final = 64 << 10
_LINE: Final = re.compile(r"(?P<sku>[^=@]+)(=(?P<quantity>\d{1,10}))?(@(?P<location>[^=@]+))?")
_FORMATS: Final = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
_SUFFIXES: Final = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}

Movement = Literal["received", "counted", "adjusted"]


class FailedError(Exception):
    """What was asked for could not be done; the message is one line for the operator."""


class UsageError(Exception):
    """The command does not make sense; the message is one line for the operator."""


@Parameter(name="*")
@dataclass(frozen=True)
class Engine:
    """The engine to talk to.

    Parameters
    ----------
    port
        HTTP port of an engine on this machine.
    url
        Where the engine is, if it is elsewhere.
    key
        API key; taken from ONHAND_KEY if it is not given.
    json
        Print what the engine said, as JSON.
    """

    port: int = PORT_DEFAULT
    url: str | None = None
    key: Annotated[str | None, Parameter(env_var="ONHAND_KEY", show_default=False)] = None
    json: Annotated[bool, Parameter(negative=())] = False

    def client(self) -> HttpClient:
        try:
            return HttpClient(self.url or f"http://127.0.0.1:{self.port}", self.key)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def say(self, reply: Reply, show: Callable[[Any], None]) -> Any:
        """Print the answer one way or the other. Raises FailedError if it is a refusal."""
        if not reply.ok:
            if self.json:
                say_json(reply.body)
            raise FailedError(reply.refusal)
        if self.json:
            say_json(reply.body)
        else:
            show(reply.body)
        return reply.body


THE_ENGINE: Final = Engine()


def say_json(body: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(body), indent=2).decode())


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table; the named columns are aligned as numbers are."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left")
    return made


def show(shown: Table) -> None:
    Console(soft_wrap=True).print(shown)


def line(text: str) -> dict[str, Any]:
    """`SKU`, `SKU=2` or `SKU=2@berlin` as a line of a request. Raises UsageError."""
    found = _LINE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no line: SKU, SKU=QUANTITY or SKU=QUANTITY@LOCATION")
    made: dict[str, Any] = {"sku": found["sku"], "quantity": int(found["quantity"] or 1)}
    if found["location"]:
        made["location"] = found["location"]
    return made


# --- stock -----------------------------------------------------------------------------------


def import_file(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    kind: Movement = "received",
    format: Literal["csv", "ndjson"] | None = None,
    idempotency_key: str | None = None,
    engine: Engine = THE_ENGINE,
) -> int:
    """Import stock movements from a file; `-` reads standard input.

    Sending a file again adds nothing twice: a row is remembered by its content and its line, for
    the engine's keys_window. So a different file, or a recount, needs an --idempotency-key of its
    own, or rows that are equal to earlier ones on the same line are not applied. For example, with
    the header `sku,location,quantity`:

        onhand import stock.csv --idempotency-key delivery-17

    Parameters
    ----------
    file
        CSV with a header row, or one JSON object per line.
    kind
        What the rows are.
    format
        What the file is, if its name does not end in .csv, .ndjson or .jsonl.
    idempotency_key
        Names the file; rows are remembered together with it.
    """
    form = format or format_of(file)
    if form is None:
        raise UsageError(f"what is {file}? Say --format csv or --format ndjson")
    headers = {"Content-Type": _FORMATS[form]}
    if idempotency_key:
        headers["Idempotency-Key"] = idempotency_key
    try:
        with open(0 if str(file) == "-" else file, "rb") as source:
            reply = engine.client().send(
                "POST", f"/v1/stock/import?kind={kind}", chunks(source), headers
            )
    except FileNotFoundError:
        raise FailedError(f"there is no file {file}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise FailedError(f"cannot read {file}: {error.strerror}") from error
    report = engine.say(reply, _show_import)
    return 1 if report["failed"] else 0


def format_of(file: Path) -> str | None:
    """What a file of this name holds: csv or ndjson, if it says so."""
    return _SUFFIXES.get(file.suffix.lower())


def _show_import(report: dict[str, Any]) -> None:
    print("{rows} rows: {applied} applied, {replayed} before, {failed} failed".format(**report))
    for error in report["errors"]:
        print("row {row}: {detail} ({code})".format(**error), file=sys.stderr)


def chunks(source: BinaryIO) -> Iterator[bytes]:
    """The file piece by piece; a bar on stderr, at a terminal, if it takes long."""
    status = os.fstat(source.fileno())
    size = status.st_size or None
    columns = ("importing", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=size)
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
            bar.advance(task, len(chunk))


def stock(
    sku: str,
    /,
    *,
    channel: str | None = None,
    as_of: str | None = None,
    receive: int | None = None,
    adjust: int | None = None,
    count: int | None = None,
    location: str | None = None,
    reason: str | None = None,
    reference: str | None = None,
    idempotency_key: str | None = None,
    engine: Engine = THE_ENGINE,
) -> int:
    """Show the stock of a SKU, or what a channel may sell of it; or book a movement first.

    For example:

        onhand stock tee-red

        onhand stock tee-red --channel web

        onhand stock tee-red --as-of 2026-12-01T09:10:00Z

        onhand stock tee-red --receive 40 --location berlin --reference PO-17

    Parameters
    ----------
    channel
        Show what this channel may sell, and why.
    as_of
        Show the stock as it was at this time, or right after this record (EPOCH-SEQUENCE).
    receive
        Units that came in.
    adjust
        Units found, or lost if negative.
    count
        Units that were counted.
    location
        Where they came in, were found or counted.
    idempotency_key
        Names the movement, so that the same command again adds nothing; made up if not given.
    """
    client = engine.client()
    given = {"received": receive, "adjusted": adjust, "counted": count}
    movements = {kind: units for kind, units in given.items() if units is not None}
    if len(movements) > 1 or bool(movements) != (location is not None):
        raise UsageError("one of --receive, --adjust and --count, together with --location")
    if as_of is not None and (movements or channel is not None):
        raise UsageError("--as-of shows the stock, and goes with nothing else")
    for kind, units in movements.items():
        movement = {"kind": kind, "sku": sku, "location": location, "quantity": units}
        movement |= {
            name: text
            for name, text in (("reason", reason), ("reference", reference))
            if text is not None
        }
        _book(client, movement, idempotency_key or str(uuid.uuid4()))
    if channel is not None:
        reply = client.get(f"/v1/stock/{sku}/availability", channel=channel)
        engine.say(reply, _show_availability)
    else:
        engine.say(client.get(f"/v1/stock/{sku}", as_of=as_of), _show_stock)
    return 0


def _book(client: HttpClient, movement: dict[str, Any], key: str) -> None:
    reply = client.call(
        "POST", "/v1/stock/movements", {"movements": [movement]}, {"Idempotency-Key": key}
    )
    if not reply.ok:
        raise FailedError(f"{reply.refusal}; to try again: --idempotency-key {key}")
    (result,) = reply.body["results"]
    if result["status"] == "refused":
        raise FailedError(Reply(409, result["problem"]).refusal)


def _show_stock(body: dict[str, Any]) -> None:
    if "as_of" in body:
        print("as of {time}, record {position}".format(**body["as_of"]))
    numbers = ("on_hand", "reserved", "allocated", "safety_stock", "available")
    made = table("location", *numbers, numbers=numbers)
    for each in body["locations"]:
        made.add_row(each["location"], *(f"{each[name]:,}" for name in numbers))
    made.add_row("in total", *(f"{body[name]:,}" for name in numbers), style="bold")
    show(made)
    for pool in body["pools"]:
        print(f"ring-fenced for {pool['pool']}: {pool['quantity']:,}")


def _show_availability(body: dict[str, Any]) -> None:
    made = table("", "units", numbers=("units",))
    for name, units in body["waterfall"].items():
        made.add_row(name.replace("_", " "), f"{units:,}")
    made.add_row("available to promise", f"{body['available_to_promise']:,}", style="bold")
    show(made)


# --- reservations ----------------------------------------------------------------------------


def reserve(
    *lines: str,
    id: str | None = None,
    channel: str | None = None,
    ttl: int = limits.TTL_SECONDS_DEFAULT,
    partial: Annotated[bool, Parameter(negative=())] = False,
    engine: Engine = THE_ENGINE,
) -> int:
    """Hold units for a time, before the order.

    For example, two red T-shirts, from wherever they are:

        onhand reserve tee-red=2 --ttl 900

    Parameters
    ----------
    lines
        SKU, SKU=QUANTITY or SKU=QUANTITY@LOCATION.
    id
        Names the reservation: the same again has no second effect. Made up if it is not given.
    channel
        Who sells them.
    ttl
        For how many seconds.
    partial
        Take what there is, instead of all or nothing.
    """
    if not lines:
        raise UsageError("what is to be reserved? For example: onhand reserve tee-red=2")
    body: dict[str, Any] = {
        "lines": [line(text) for text in lines],
        "ttl_seconds": ttl,
        "policy": "partial" if partial else "all",
        "reservation_id": id,
        "channel": channel,
    }
    engine.say(engine.client().post("/v1/reservations", body), _show_reservation)
    return 0


def commit(
    reservation_id: str,
    /,
    *lines: str,
    home: int | None = None,
    if_available: Annotated[bool, Parameter(negative=())] = False,
    engine: Engine = THE_ENGINE,
) -> int:
    """Turn a reservation into an order: its units are promised for good.

    For example:

        onhand commit 0192f0c1-7a5e-7c43-b1c4-3f0a5d1e9b6a

    Parameters
    ----------
    lines
        Fewer units than were reserved, as SKU=QUANTITY; the rest is released.
    home
        As the reservation says; spares the engine the search.
    if_available
        If the reservation has expired, take the units anew if they are still there.
    """
    body: dict[str, Any] = {"if_available": if_available}
    if lines:
        body["lines"] = [line(text) for text in lines]
    reply = engine.client().post(f"/v1/reservations/{reservation_id}/commit", body, home=home)
    engine.say(reply, _show_reservation)
    return 0


def release(reservation_id: str, /, *, home: int | None = None, engine: Engine = THE_ENGINE) -> int:
    """Give the units of a reservation back.

    For example:

        onhand release 0192f0c1-7a5e-7c43-b1c4-3f0a5d1e9b6a

    Parameters
    ----------
    home
        As the reservation says; spares the engine the search.
    """
    reply = engine.client().post(f"/v1/reservations/{reservation_id}/release", {}, home=home)
    engine.say(reply, _show_reservation)
    return 0


def _show_reservation(body: dict[str, Any]) -> None:
    expires = f", until {body['expires_at']}" if body["status"] == "reserved" else ""
    print(f"{body['reservation_id']} (home {body['home']}): {body['status']}{expires}")
    for each in body["lines"]:
        places = ", ".join(f"{part['quantity']} {part['location']}" for part in each["locations"])
        print(f"  {each['quantity']} × {each['sku']}: {places}")


# --- the engine ------------------------------------------------------------------------------


def status(*, engine: Engine = THE_ENGINE) -> int:
    """Show the processes of the engine, and which shards each host has.

    `near` counts others' shards that a host has kept up with, and could take over in a moment.
    Exit status 1 if a shard is not served, or has an alarm. For example:

        onhand status --json
    """
    report = engine.say(engine.client().get("/v1/status"), _show_status)
    return 0 if report["served"] == report["shards"] and not report["alarms"] else 1


def _show_status(report: dict[str, Any]) -> None:
    made = table("name", "pid", "node", "state", "shards", "address", numbers=("pid",))
    for host in report["hosts"]:
        served = f"{len(host['epochs'])} of {len(host['shards'])}"
        served += f", near {len(host['near'])}" if host["near"] else ""
        made.add_row(*_process(host), served, host["address"])
    for gateway in report["gateways"]:
        made.add_row(*_process(gateway), "", f"{gateway['http']} {gateway['binary']}")
    show(made)
    print(f"{report['served']} of {report['shards']} shards are served")
    for server in report["servers"]:
        for host, reason in server["troubles"].items():
            where = "server {server} of the journal, {address}".format(**server)
            print(f"{where}: {host} cannot ask it: {reason}", file=sys.stderr)
    for shard in report["hot"]:
        alone = ", alone there" if shard["alone"] else ""
        print("shard {shard} is hot: {share:.0%} of what {host} does".format(**shard) + alone)
    if (move := report["proposal"]) is not None:
        print(f"it would help to: onhand move --shard {move['shard']} --to {move['host']}")
    for shard in report["failed"]:
        print("shard {shard} has failed: {reason}".format(**shard), file=sys.stderr)
    for shard in report["alarms"]:
        print("shard {shard}: its audit found: {finding}".format(**shard), file=sys.stderr)


def _process(entry: dict[str, Any]) -> tuple[str, ...]:
    state = "alive" if entry["alive"] else "silent"
    return entry["name"], str(entry["pid"]), entry["node"], state


def move(*, shard: int, to: str, engine: Engine = THE_ENGINE) -> int:
    """Move a shard to another host.

    Done as soon as it is on its way: commands for it wait a moment, and `onhand status --json`
    shows when it has arrived. For example:

        onhand move --shard 3 --to host-2

    Parameters
    ----------
    shard
        Its number.
    to
        The host's name, as `onhand status` shows it.
    """
    engine.say(engine.client().post(f"/v1/shards/{shard}/move", {"host": to}), _show_move)
    return 0


def _show_move(report: dict[str, Any]) -> None:
    print("shard {shard} is on its way to {host}".format(**report))


def dedicate(sku: str, *, shard: int | None = None, engine: Engine = THE_ENGINE) -> int:
    """Give a SKU a shard of its own, before its first stock.

    On the day of the sale nothing else waits behind it, nor it behind anything else. The engine
    must have been started with `--dedicated`. It stays so for ever; to say it again changes
    nothing, and completes what was interrupted. For example:

        onhand dedicate SNEAKER-42

    Parameters
    ----------
    sku
        Whose first stock is yet to come.
    shard
        The number of a dedicated shard; any that is free, if it is left out.
    """
    body = {} if shard is None else {"shard": shard}
    path = f"/v1/stock/{quote(sku, safe='')}/dedicate"
    engine.say(engine.client().post(path, body), _show_dedication)
    return 0


def _show_dedication(report: dict[str, Any]) -> None:
    print("{sku} lives in shard {shard}, which has nothing else".format(**report))


def restart(*, name: str, engine: Engine = THE_ENGINE) -> int:
    """Restart a host or a gateway, in order.

    Nobody is refused for it: a host's shards move elsewhere first. `onhand status` shows another
    process id when it is back. For example:

        onhand restart --name host-2

    Parameters
    ----------
    name
        As `onhand status` shows it.
    """
    engine.say(engine.client().post(f"/v1/processes/{name}/restart", {}), _show_restart)
    return 0


def _show_restart(report: dict[str, Any]) -> None:
    print("{name} is about to restart".format(**report))


COMMANDS: Final[dict[str, Callable[..., int]]] = {
    "import": import_file,
    "stock": stock,
    "reserve": reserve,
    "commit": commit,
    "release": release,
    "status": status,
    "move": move,
    "restart": restart,
    "dedicate": dedicate,
}


def register(app: App) -> None:
    """Make them commands of `app`."""
    for name, function in COMMANDS.items():
        app.command(function, name=name)
