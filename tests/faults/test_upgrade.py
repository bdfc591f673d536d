"""A rolling upgrade while it sells, and the way back.

    between     reads 1 2     writes 1        what runs, and what is gone back to
    next        reads 1 2     writes 2

Two releases lie beside each other, and a link names the one that new processes are of. One process
after the other restarts, hosts before gateways, so for a while each shard may be anybody's.
"""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch
from zlib import compress, decompress

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine import formats
from engine.formats import pack_array, unpack_events
from tests.faults.checker import check, read_journal
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, eventually, get, running
from tests.faults.history import History, longest_gap, statuses
from tests.faults.load import Load, load, stock
from tests.faults.test_moves import BUYERS, SOLD
from tests.faults.test_restarts import processes, restart

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "actors", "gateway")
READS = """
from zlib import compress, decompress

FORMATS[2] = FORMATS[1]._replace(
    pack=lambda encoded: compress(pack_array(encoded), 1),
    events=lambda packed: unpack_events(decompress(packed)),
)
"""
WRITES = "FORMAT = 2\n"


def deflate(encoded: Sequence[bytes]) -> bytes:
    return compress(pack_array(encoded), 1)


FORMAT_2 = formats.FORMATS[1]._replace(
    pack=deflate, events=lambda packed: unpack_events(decompress(packed))
)


class Releases:
    """Two of them, and a link to the one that is started."""

    def __init__(self, directory: Path) -> None:
        self.current = directory / "current"
        for name, more in (("between", READS), ("next", READS + WRITES)):
            for package in PACKAGES:
                shutil.copytree(ROOT / package, directory / name / package)
            with (directory / name / "engine" / "formats.py").open("a") as file:
                file.write(more)

    def choose(self, name: str) -> None:
        """What is started from now on is of this one."""
        fresh = self.current.with_suffix(".fresh")
        fresh.symlink_to(name)
        fresh.replace(self.current)


async def test_a_rolling_upgrade_and_back(tmp_path: Path, figures: Figures) -> None:
    """Nobody is refused while two formats are written side by side, and the older release goes on
    from what the newer has written."""
    history, loop = History(), asyncio.get_running_loop()
    releases = Releases(tmp_path)
    releases.choose("between")
    flags = ("--shards", str(SHARDS), "--gateways", "2")
    environment = {**os.environ, "PYTHONPATH": str(releases.current)}
    with patch.dict(formats.FORMATS, {2: FORMAT_2}):
        async with running(tmp_path / "data", *flags, environment=environment) as engine:
            await stock(engine, history)
            async with load(engine, history, name="roll", buyers=BUYERS, direct=0) as buyers:
                began = loop.time()
                await until_written(engine, {1})
                releases.choose("next")
                up = await roll(engine, buyers)
                await until_written(engine, {2})
                releases.choose("between")
                down = await roll(engine, buyers)
                await until_written(engine, {1})
            during = [each for each in history.attempts if each.sent > began]
            journal = await read_journal(engine.redis_url, SHARDS)
            books = await check(engine, history)
    figures(
        upgraded_s=up,
        rolled_back_s=down,
        operations=len(during),
        longest_gap_ms=longest_gap(during, began) * 1_000,
        **books.figures,
        heard=statuses(during),
    )
    assert {each.status for each in during} <= SOLD
    for records in journal.values():
        assert {1, 2} == {record.format for record in records}
        assert 1 == records[-1].format


async def roll(engine: EngineProcess, buyers: Load) -> float:
    """Restart everything, hosts first; between the two hosts, both releases serve for a while."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for name in sorted(await processes(engine), key=lambda name: (name.startswith("g"), name)):
        await restart(engine, name)
        if name == "host-1":
            await until_written(engine, {1, 2})
            await buyers.until(1_000)
    return loop.time() - began


async def until_written(engine: EngineProcess, wanted: set[int]) -> None:
    """Until these, and no others, are the formats that hosts and gateways say they write."""

    async def found() -> bool:
        try:
            code, page = await get(engine.http, "/metrics")
        except (OSError, asyncio.IncompleteReadError):
            return False  # of a gateway that was about to end
        told = {
            int(sample.labels["writes"])
            for family in text_string_to_metric_families(page.decode() if code == 200 else "")
            for sample in family.samples
            if sample.name == "onhand_format_info" and sample.labels["of"] == "journal"
        }
        return told == wanted

    await eventually(found, 30)
