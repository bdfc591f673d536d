"""The sizing tables: plausible where they can be checked by hand, and rendered as Markdown."""

from pathlib import Path

import pytest

from actors.config import Settings
from bench.sizing.__main__ import cpu_table, disk_table, memory_table
from bench.sizing.memory import KINDS, Cost, measure_here
from bench.sizing.work import WAYS, Growth, Work, bytes_below, measure
from tests.bench.test_run import Nobody

WORK = Work("reserve", 1_234.5, 20, 30.4, 10, 128, 99_000, 0.25, True)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_can_be_measured(name: str) -> None:
    """Its commands are accepted one and all, and a snapshot has something of each entry."""
    cost = measure_here(name, 500)

    assert name == cost.name
    assert 20 < cost.snapshot < 1_000


def test_more_of_it_takes_more() -> None:
    """A SKU at four places has a longer entry than one at one, four lines more than none."""
    costs = {name: measure_here(name, 500).snapshot for name in KINDS}

    assert costs["SKU at four locations"] > 2 * costs["SKU at one location"]
    assert costs["reservation of five lines, open"] > costs["reservation, open"] + 4 * 16


def test_files_are_added_up(tmp_path: Path) -> None:
    """At any depth."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"123")
    (tmp_path / "a" / "b" / "two").write_bytes(b"4567")

    assert 7 == bytes_below(tmp_path)


def test_tables() -> None:
    """Per thousand operations; a run whose audit failed says so."""
    failed = WORK._replace(name="order", passed=False)

    assert "| open | 180 | 100 |" in memory_table([Cost("open", 180.4, 99.6)])
    assert "| reserve | 1,234 | 20 | 30 | 10 | 25% |" in cpu_table([WORK])
    assert "| order (audit FAILED) |" in cpu_table([failed])
    assert "| reserve | 128 | 99 | 198 | 148 | 25 |" in disk_table([WORK], Growth(2, 1.5, 0.25))


@pytest.mark.ray
@pytest.mark.redis
async def test_an_engine_is_measured() -> None:
    """Every way is gone, every audit passes, and no factor is out of this world."""
    works, growth = await measure(Settings(shards=2, audit_interval_us=0), 0.3, Nobody())

    assert [way.name for way in WAYS] == [each.name for each in works]
    assert all(each.passed and each.hosts_ms > 0 and each.record_bytes > 0 for each in works)
    assert 1 < growth.file < 2
    assert 0.9 < growth.memory < 3
    assert 0.02 < growth.archive < 1
