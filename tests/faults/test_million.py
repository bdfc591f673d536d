"""A merchant with a million SKUs: they come in from a file, survive the death of everything, and go
out into another one."""

import asyncio
import csv
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Figures
from tests.faults.disk_probe import probing
from tests.faults.engine_process import ONHAND, EngineProcess, eventually, running

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SKUS = 1_000_000
SHARDS = 8
FLAGS = ("--shards", str(SHARDS), "--maxmemory", "4gb")
PLACES = ("main", "annex")


async def test_a_million_skus(tmp_path: Path, figures: Figures) -> None:
    """Imported, imported again to no effect, recovered from snapshots, audited and exported."""
    files = {place: write_stock(tmp_path / f"{place}.csv", place) for place in PLACES}
    data = tmp_path / "data"
    async with running(data, *FLAGS) as engine, probing(tmp_path) as disk:
        first = await onhand(engine, "import", files["main"])
        again = await onhand(engine, "import", files["main"])
        more = await onhand(engine, "import", files["annex"])
        await until_written_down(engine)
        await engine.kill_all()
    killed, began = time.time(), time.monotonic()
    async with running(data, *FLAGS) as engine:
        await engine.until_ready(120)
        up = time.monotonic() - began
        opened = said(engine, "shard_opened", killed)
        audited = await onhand(engine, "audit", "--json")
        exported = await onhand(engine, "export", "stock", tmp_path / "out.csv")
    figures(
        skus=SKUS,
        imported_s=first[0],
        imported_again_s=again[0],
        second_place_s=more[0],
        killed_to_ready_s=up,
        of_it_recovering_s=moment(opened[-1]) - min(map(moment, said(engine, None, killed))),
        records_after_the_snapshots=sum(each["records"] for each in opened),
        audited_s=audited[0],
        exported_s=exported[0],
        longest_fsync_of_the_disk_s=disk.longest,
    )
    assert f"{SKUS} rows: {SKUS} applied, 0 before, 0 failed\n" == first[1]
    assert f"{SKUS} rows: 0 applied, {SKUS} before, 0 failed\n" == again[1]
    assert f"{SKUS} rows: {SKUS} applied, 0 before, 0 failed\n" == more[1]
    assert SHARDS == len([each for each in opened if each["snapshot"] != "0-0"])
    assert wanted() == sorted(stock_in(tmp_path / "out.csv"))


def write_stock(path: Path, place: str) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("sku", "location", "quantity"))
        rows.writerows((name(number), place, units(number)) for number in range(SKUS))
    return path


def name(number: int) -> str:
    return f"SKU-{number:07d}"


def units(number: int) -> int:
    return 1 + number % 97


def wanted() -> list[tuple[str, str, int]]:
    return [
        (name(number), place, units(number)) for number in range(SKUS) for place in sorted(PLACES)
    ]


def stock_in(path: Path) -> Iterator[tuple[str, str, int]]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["sku"], row["location"], int(row["on_hand"])


async def onhand(engine: EngineProcess, *arguments: str | Path) -> tuple[float, str]:
    """How long a command took that succeeds, and what it said."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(ONHAND, *arguments, "--url", engine.http), stdout=PIPE
    )
    said, _ = await process.communicate()
    assert 0 == process.returncode, said
    return time.monotonic() - began, said.decode()


def said(engine: EngineProcess, event: str | None, after: float) -> list[dict[str, Any]]:
    """What hosts have logged since then, in that order; of one event only, if it is named."""
    lines = [line for number in (1, 2) for line in engine.log(f"host-{number}")]
    found = [
        each
        for each in lines
        if moment(each) >= after and (event is None or each["event"] == event)
    ]
    return sorted(found, key=moment)


def moment(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["timestamp"]).timestamp()


async def until_written_down(engine: EngineProcess) -> None:
    """Until every shard has a snapshot."""

    async def is_written_down() -> bool:
        return SHARDS == len({each["shard"] for each in said(engine, "snapshot_taken", 0)})

    await eventually(is_written_down, 60)
