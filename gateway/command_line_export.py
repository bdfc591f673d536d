"""`onhand export`: what a running engine holds, as a file.

An export reads page after page and remembers nothing but where it is, so it takes little memory
however much there is. A page that is refused because a shard is moving, or a process is being
replaced, is asked for again for a while. A file gets its name once it is complete, so that half an
export is never taken for one.
"""

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TextIO

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from gateway.command_line_engine import (
    THE_ENGINE,
    Engine,
    FailedError,
    UsageError,
    format_of,
)
from gateway.http_client import HttpClient, UnreachableError

What = Literal["stock", "reservations", "shortfalls"]
Status = Literal["reserved", "committed", "released", "expired"]
Row = dict[str, Any]
PAGE_ROWS: Final = 1_000
TRIES: Final = 8
"""How often a page is asked for, with pauses that double up to…"""
PAUSE_SECONDS_MAX: Final = 5.0
_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "stock": (
        "sku",
        "location",
        "on_hand",
        "reserved",
        "allocated",
        "safety_stock",
        "available",
        "version",
    ),
    "reservations": (
        "reservation_id",
        "home",
        "status",
        "channel",
        "expires_at",
        "sku",
        "quantity",
        "shipped",
        "cancelled",
        "restocked",
        "locations",
    ),
    "shortfalls": ("sku", "location", "quantity"),
}
_encode: Final = msgspec.json.Encoder().encode


def export(
    what: What,
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)] = Path("-"),
    /,
    *,
    format: Literal["csv", "ndjson"] | None = None,
    status: Status | None = None,
    engine: Engine = THE_ENGINE,
) -> int:
    """Export stock, reservations or shortfalls to a file; `-`, or none, writes standard output.

    NDJSON has one object per SKU, reservation or shortfall, as the API shows it; CSV one row per
    SKU and location, per reservation and line, or per shortfall. Each is as it stands when it is
    read; what is there all the time is there once. For example:

        onhand export stock stock.csv

        onhand export reservations --status committed --format ndjson | wc -l

    Parameters
    ----------
    what
        What is to be exported.
    file
        Where to.
    format
        What the file is to be, if its name does not end in .csv, .ndjson or .jsonl.
    status
        Of reservations, only those that are so now.
    """
    if status is not None and what != "reservations":
        raise UsageError("--status is for reservations")
    to_stdout = str(file) == "-"
    form = format or format_of(file) or ("ndjson" if to_stdout else None)
    if form is None:
        raise UsageError(f"what is {file} to be? Say --format csv or --format ndjson")
    rows = rows_of(engine.client(), what, status)
    if to_stdout:
        write(sys.stdout, what, form, rows)
    else:
        with fresh_file(file) as target:
            count = write(target, what, form, counted(rows))
        print(f"{count} rows")
    return 0


def rows_of(client: HttpClient, what: What, status: Status | None) -> Iterator[Row]:
    """All rows, page by page. Raises FailedError or UnreachableError."""
    cursor: str | None = None
    while True:
        body = _page(client, f"/v1/{what}", cursor, status)
        yield from body[what]
        cursor = body["next"]
        if cursor is None:
            return


def _page(client: HttpClient, path: str, cursor: str | None, status: Status | None) -> Row:
    """One page; asked for again as long as the engine says that this may help."""
    pause = 0.1
    for left in reversed(range(TRIES)):
        try:
            reply = client.get(path, limit=PAGE_ROWS, cursor=cursor, status=status)
        except UnreachableError:
            if cursor is None or not left:
                raise
        else:
            if reply.ok:
                body: Row = reply.body
                return body
            if reply.status < 500 or not left:
                raise FailedError(reply.refusal)
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_SECONDS_MAX)
    raise AssertionError("the last try returns or raises")


def write(target: TextIO, what: What, form: str, rows: Iterator[Row]) -> int:
    """Write the rows; how many were read."""
    count = 0
    table = csv.writer(target, lineterminator="\n")
    if form == "csv":
        table.writerow(_COLUMNS[what])
    for row in rows:
        count += 1
        if form == "csv":
            table.writerows(_FLAT[what](row))
        else:
            target.write(_encode(row).decode() + "\n")
    return count


def _flat_stock(row: Row) -> Iterator[tuple[Any, ...]]:
    names = _COLUMNS["stock"][1:-1]
    for place in row["locations"]:
        yield (row["sku"], *(place[name] for name in names), row["version"])


def _flat_reservation(row: Row) -> Iterator[tuple[Any, ...]]:
    of_reservation, of_line = _COLUMNS["reservations"][:5], _COLUMNS["reservations"][5:-1]
    for line in row["lines"]:
        places = " ".join(f"{each['location']}={each['quantity']}" for each in line["locations"])
        yield (*(row[name] for name in of_reservation), *(line[name] for name in of_line), places)


def _flat_shortfall(row: Row) -> Iterator[tuple[Any, ...]]:
    yield tuple(row[name] for name in _COLUMNS["shortfalls"])


_FLAT: Final[dict[str, Callable[[Row], Iterator[tuple[Any, ...]]]]] = {
    "stock": _flat_stock,
    "reservations": _flat_reservation,
    "shortfalls": _flat_shortfall,
}


def counted(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; at a terminal, stderr says how many have come."""
    console = Console(stderr=True)
    columns = (TextColumn("exporting: {task.completed:,} rows"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        for row in rows:
            yield row
            bar.advance(task)


@contextmanager
def fresh_file(path: Path) -> Iterator[TextIO]:
    """A file beside `path` that gets its name when all was written. Raises FailedError."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="") as target:
            yield target
        os.replace(part, path)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def register(app: App) -> None:
    """Add the command."""
    app.command(export, name="export")
