"""Processors and disk per thousand operations: an engine under load, over each way into it.

One engine is started, and loaded by the benchmark's own generator, run after run; each ends with
the audit. What the processes used is read from the kernel, and what was journaled from /metrics.
How much larger the append-only file is than the records in it, how much of the server's memory
they take, and how small the archive makes them, is seen at the end, when the whole journal is
archived as it would be before a trim.
"""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from actors.archive import Archive
from actors.archiver import batches
from actors.config import Settings
from actors.data_directory import DataDirectory
from actors.journal import RedisJournal
from actors.standing_journal import standing_journal
from bench.options import BenchError, Options, Target
from bench.report import Report
from bench.run import run
from bench.screen import Screen
from engine.codec import START
from gateway.temporary import TemporaryEngine, temporary_engine

_APPENDED: Final = "onhand_journal_appended_bytes_total"
_RECORDS: Final = "onhand_journal_appends_total"


class Way(NamedTuple):
    """One run."""

    name: str
    options: dict[str, object]


WAYS: Final = (
    Way("reserve, HTTP, 50 connections", {"via": "http"}),
    Way("reserve, through the gateway, 128 in flight", {"via": "gateway"}),
    Way("reserve, through the gateway, frames of 64", {"via": "gateway", "frame": 64}),
    Way("reserve, straight to the hosts, 128 in flight", {"via": "host"}),
    Way(
        "reserve, then commit or release, through the gateway, 128 in flight",
        {"via": "gateway", "scenario": "order"},
    ),
)


class Work(NamedTuple):
    """Per thousand operations of one way."""

    name: str
    per_second: float
    gateway_ms: float
    hosts_ms: float
    server_ms: float
    records: float
    record_bytes: float
    foreign: float
    """The part of the machine that others used meanwhile: how noisy the figure is."""
    passed: bool
    """The audit."""


class Growth(NamedTuple):
    """Bytes per byte of records."""

    file: float
    """Of the append-only file."""
    memory: float
    """Of the server's memory."""
    archive: float


async def measure(settings: Settings, seconds: float, screen: Screen) -> tuple[list[Work], Growth]:
    """Every way, on one engine. Raises UpError, BenchError, CallerError."""
    works = []
    async with temporary_engine(settings) as engine:
        assert engine.running.settings.data_dir, "resolved"
        directory = DataDirectory(Path(engine.running.settings.data_dir))
        async with standing_journal(directory, ()) as servers:
            [journal] = servers.journals  # the embedded one
            empty = (await journal.memory()).used
            for way in WAYS:
                works.append(await _work(way, engine, seconds, screen))
            growth = await _growth(directory, journal, settings.shards, empty)
    if engine.left:
        raise BenchError(f"the engine left {len(engine.left)} processes running")
    return works, growth


async def _work(way: Way, engine: TemporaryEngine, seconds: float, screen: Screen) -> Work:
    screen.say(way.name)
    found = engine.running
    target = Target(url=found.http, binary=found.binary, pids=engine.pids())
    options = Options(warm_up=1.0, duration=seconds, **way.options)  # type: ignore[arg-type]
    return work_of(way.name, await run(options, target, screen))


def work_of(name: str, report: Report) -> Work:
    """What a report says of one way."""
    cpu = report.cpu_seconds_per_1000
    answered = sum(each.answered for each in report.operations)
    ours = sum(cpu.values()) * answered / 1_000
    cores, wall = report.environment.cores, report.measured_seconds
    thousands = _grown(report, "onhand_commands_total") / 1_000 or 1.0
    return Work(
        name,
        sum(each.per_second for each in report.operations),
        cpu.get("gateways", 0.0) * 1_000,
        cpu.get("hosts", 0.0) * 1_000,
        cpu.get("redis", 0.0) * 1_000,
        _grown(report, _RECORDS) / thousands,
        _grown(report, _APPENDED) / thousands,
        max(0.0, report.machine_busy - ours / (cores * wall)),
        report.audit is not None and report.audit.passed,
    )


def _grown(report: Report, metric: str) -> float:
    """Of all hosts; only what changes anything, of the commands."""
    sold = ("reserve", "commit", "release")
    return sum(
        value
        for name, value in report.metrics.items()
        if name.startswith(f"{metric}{{")
        and ("command=" not in name or any(f'command="{each}"' in name for each in sold))
    )


async def _growth(
    directory: DataDirectory, journal: RedisJournal, shards: int, empty: int
) -> Growth:
    """Of all that is in the journal by now."""
    used = (await journal.memory()).used - empty
    file = bytes_below(directory.redis / "appendonlydir")
    with TemporaryDirectory(prefix="onhand-sizing-") as name:
        place = Path(name)
        archive, records = Archive(place, None), 0
        for shard in range(shards):
            newest = (await journal.read(shard, START, 1, newest=True))[0].position
            async for entries in batches(journal, shard, newest):
                await asyncio.to_thread(archive.add, shard, entries)
            records += sum(each.size for each in archive.segments(shard))
        return Growth(file / records, used / records, bytes_below(place) / records)


def bytes_below(directory: Path) -> int:
    """Of all files."""
    return sum(each.stat().st_size for each in directory.rglob("*") if each.is_file())
