"""`onhand dedicate`, and what other commands and pages say of a SKU with a shard of its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.messages import Answer, Dedicate, Status
from engine.placement import shard_of
from gateway.command_line import run
from tests.gateway.http_engine import SHARDS, LocalEngine, Server, serving

HOT = "SNEAKER-42"
ROWS = f"sku,location,quantity,reference\n{HOT},berlin,5,PO-1\nSOCK,berlin,7,PO-1\n".encode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """With two dedicated shards."""
    async with serving(LocalEngine(dedicated=2), dedicated=2) as server:
        yield server


async def onhand(server: Server, *arguments: str) -> int:
    """The exit status of a command against that engine."""
    url = f"http://127.0.0.1:{server.port}"
    return await asyncio.to_thread(run, [*arguments, "--url", url])


async def test_a_sku_is_dedicated(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Once and for ever; to say it again changes nothing."""
    assert 0 == await onhand(server, "dedicate", HOT, "--shard", str(SHARDS + 1))
    assert f"{HOT} lives in shard {SHARDS + 1}, which has nothing else\n" == capsys.readouterr().out
    assert 0 == await onhand(server, "dedicate", HOT, "--json")
    assert {"sku": HOT, "shard": SHARDS + 1} == json.loads(capsys.readouterr().out)


async def test_what_cannot_be_dedicated(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says why: the shard is taken, or no dedicated one, or none is free."""
    for sku in ("one", "two"):
        assert 0 == await onhand(server, "dedicate", sku)
    capsys.readouterr()

    for arguments, says in (
        (("SOCK", "--shard", str(SHARDS)), "shard_taken"),
        (("HAT", "--shard", "0"), "no dedicated one"),
        (("HAT",), "Start the engine with a larger --dedicated"),
    ):
        assert 1 == await onhand(server, "dedicate", *arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("onhand: ")
        assert says in line


async def test_stock_came_first(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """It is too late then, and the line says so."""
    server.engine.receive(HOT, 3)

    assert 1 == await onhand(server, "dedicate", HOT)
    assert "stock" in capsys.readouterr().err


async def test_an_outcome_that_nobody_knows(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """It failed half way: the command says so, and the same command completes it."""
    engine = server.engine
    engine.replaced = lambda command: (
        Answer(Status.OUTCOME_UNKNOWN) if isinstance(command, Dedicate) else None
    )
    assert 1 == await onhand(server, "dedicate", HOT)
    assert capsys.readouterr().err.startswith("onhand: ")

    engine.replaced = lambda command: None
    assert 0 == await onhand(server, "dedicate", HOT)


async def test_an_import_and_exports(server: Server, tmp_path: Path) -> None:
    """Rows go to where their SKU lives, once; all that it has stands in exports."""
    assert 0 == await onhand(server, "dedicate", HOT)
    path = "/v1/stock/import?kind=received"
    first = await server.post(path, ROWS, content_type="text/csv")
    again = await server.post(path, ROWS, content_type="text/csv")
    assert (2, 2) == (first.body["applied"], again.body["replayed"])
    assert server.engine.shards[SHARDS].state.skus.get(HOT) is not None
    assert server.engine.shards[shard_of(HOT, SHARDS)].state.skus.get(HOT) is None

    body = {"reservation_id": "cart", "lines": [{"sku": HOT, "quantity": 2}]}
    assert SHARDS == (await server.post("/v1/reservations", body)).body["home"]
    await server.put(f"/v1/stock/{HOT}", {"safety_stock": {"berlin": 9}})
    for kind, names in (
        ("stock", {HOT, "SOCK"}),
        ("reservations", {"cart"}),
        ("shortfalls", {HOT}),
    ):
        file = tmp_path / f"{kind}.ndjson"
        assert 0 == await onhand(server, "export", kind, str(file))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found = [row.get("reservation_id") or row["sku"] for row in rows]
        assert (len(names), names) == (len(found), set(found))


async def test_its_past(server: Server) -> None:
    """What changed it is told by the journal of its own shard."""
    await onhand(server, "dedicate", HOT)
    server.engine.receive(HOT, 5)
    (entry,) = (await server.get(f"/v1/stock/{HOT}/movements")).body["movements"]
    then = (await server.get(f"/v1/stock/{HOT}?as_of={entry['place'].rpartition('-')[0]}")).body

    assert ("received", 5, 5) == (entry["kind"], entry["quantity"], then["on_hand"])


async def test_an_audit(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """It reads dedicated shards as well as hashed ones."""
    await onhand(server, "dedicate", HOT)
    server.engine.receive(HOT, 5)
    server.engine.receive("SOCK", 7)
    capsys.readouterr()

    assert 0 == await onhand(server, "audit", "--quick", "--json")
    report = json.loads(capsys.readouterr().out)
    assert (2, 12) == (report["skus"], report["on_hand"])
    assert list(range(SHARDS + 2)) == [each["shard"] for each in report["shards"]]
