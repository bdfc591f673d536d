"""`onhand export`: files that say what the engine holds."""

import asyncio
import csv
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.messages import Answer, Command, ListStock, Status
from gateway import command_line_export
from gateway.command_line import run
from tests.gateway.http_engine import Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        for number in range(30):
            server.engine.receive(f"SKU-{number}", number + 1)
        server.engine.receive("SKU-3", 7, "paris")
        yield server


async def onhand(server: Server, *arguments: str) -> int:
    """The exit status of a command against that engine."""
    url = f"http://127.0.0.1:{server.port}"
    return await asyncio.to_thread(run, [*arguments, "--url", url])


async def test_stock_as_json(server: Server, tmp_path: Path) -> None:
    """A line per SKU, as the API shows it."""
    file = tmp_path / "stock.ndjson"
    assert 0 == await onhand(server, "export", "stock", str(file))

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {f"SKU-{number}" for number in range(30)} == {row["sku"] for row in rows}
    assert (await server.get("/v1/stock/SKU-3")).body in rows
    assert ["stock.ndjson"] == os.listdir(tmp_path)


async def test_stock_as_a_table(server: Server, tmp_path: Path) -> None:
    """A row per SKU and location."""
    file = tmp_path / "stock.csv"
    assert 0 == await onhand(server, "export", "stock", str(file))

    with file.open(newline="") as source:
        rows = list(csv.DictReader(source))
    found = {(row["sku"], row["location"]): int(row["on_hand"]) for row in rows}
    assert 31 == len(rows) == len(found)
    assert (4, 7) == (found["SKU-3", "berlin"], found["SKU-3", "paris"])


async def test_reservations_as_a_table(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A row per line; of a state, if that is asked for; to standard output."""
    for name, sku in (("cart-1", "SKU-3"), ("cart-2", "SKU-9")):
        lines = [{"sku": sku, "quantity": 2, "location": "berlin"}]
        await server.post("/v1/reservations", {"lines": lines, "reservation_id": name})
    await server.post("/v1/reservations/cart-2/commit", {})
    arguments = ("export", "reservations", "--status", "committed", "--format", "csv")
    assert 0 == await onhand(server, *arguments)

    [row] = csv.DictReader(capsys.readouterr().out.splitlines())
    assert ("cart-2", "committed", "SKU-9", "2", "berlin=2") == tuple(
        row[name] for name in ("reservation_id", "status", "sku", "quantity", "locations")
    )


async def test_shortfalls(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file they are printed, as JSON."""
    await server.put("/v1/stock/SKU-1", {"safety_stock": {"berlin": 5}})
    assert 0 == await onhand(server, "export", "shortfalls")

    expected = {"sku": "SKU-1", "location": "berlin", "quantity": 3}
    assert expected == json.loads(capsys.readouterr().out)


class Refusing:
    """Refuses the first pages that are asked of a shard."""

    def __init__(self, pages: int, status: Status = Status.NOT_DONE) -> None:
        self._left = pages
        self._status = status

    def __call__(self, command: Command) -> Answer | None:
        if not isinstance(command, ListStock) or not self._left:
            return None
        self._left -= 1
        return Answer(self._status)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line_export, "PAUSE_SECONDS_MAX", 0.01)


async def test_a_shard_that_is_moving(server: Server, tmp_path: Path, hurried: None) -> None:
    """A page that is refused for a while is asked for again, and nothing is missing."""
    server.engine.replaced = Refusing(3)
    file = tmp_path / "stock.ndjson"

    assert 0 == await onhand(server, "export", "stock", str(file))
    assert 30 == len(file.read_text().splitlines())


@pytest.mark.parametrize(
    ("pages", "status"), [(99, Status.NOT_DONE), (1, Status.FORBIDDEN), (1, Status.INVALID)]
)
async def test_what_cannot_be_exported(
    server: Server,
    tmp_path: Path,
    hurried: None,
    capsys: pytest.CaptureFixture[str],
    pages: int,
    status: Status,
) -> None:
    """The reason is told, and there is no file that looks like an export; an earlier one stays."""
    server.engine.replaced = Refusing(pages, status)
    file = tmp_path / "stock.ndjson"
    file.write_text("of yesterday")

    assert 1 == await onhand(server, "export", "stock", str(file))
    assert capsys.readouterr().err.startswith("onhand: ")
    assert (["stock.ndjson"], "of yesterday") == (os.listdir(tmp_path), file.read_text())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stock", "stock.txt"], "what is stock.txt to be?"),
        (["stock", "--status", "reserved"], "--status is for reservations"),
        (["everything"], "everything"),
    ],
)
async def test_what_makes_no_sense(
    server: Server, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """A usage error, and what is wrong with it."""
    assert 2 == await onhand(server, "export", *arguments)
    assert says in capsys.readouterr().err


async def test_a_file_that_cannot_be_written(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    """One line says why."""
    assert 1 == await onhand(server, "export", "stock", str(tmp_path / "no" / "stock.csv"))
    assert "No such file or directory" in capsys.readouterr().err
