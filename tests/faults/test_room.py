"""No room: the disk is full, or the memory that the journal's server may use."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.messages import Commit, Release, Reserve, Status
from tests.faults.ballast import Ballast, pouring, pouring_deep, reserve_many
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, StartError, eventually, running, start
from tests.faults.history import (
    UNAVAILABLE,
    Attempt,
    History,
    all_served,
    first_success,
    longest_gap,
    longest_wait,
    statuses,
)
from tests.faults.load import load, stock
from tests.faults.redis_process import redis_running
from tests.faults.till import DEADLINE_MS, Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
DISK = "48m"
START_WAIT_SECONDS = 15
STASH = 200
POURED = 50_000
"""Movements, of 30 MB in all."""
FLOOD_SECONDS = 15.0
ROOM_BYTES = 200 << 10
"""What is left on the disk, so that it fills up under load."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 48 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    shutil.copytree(disk, tmp_path / "kept", symlinks=True)
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """Leave hardly any room; remove the file to give it back."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - ROOM_BYTES
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast


async def test_the_disk_is_full(small_disk: Path, figures: Figures) -> None:
    """What was acknowledged stays; 503 until there is room; then service returns by itself."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(small_disk / "data", "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="disk") as buyers:
            await buyers.until(1_000)
            ballast = fill(small_disk)
            await buyers.until_refused()
            full = loop.time()
            await buyers.for_seconds(6)
            meanwhile = [each for each in history.since(full + 0.5) if each.answered < loop.time()]
            ballast.unlink()
            room = loop.time()
            await buyers.until_served(range(SHARDS), 60)
        books = await check(engine, history)
    figures(
        first_success_s=first_success(history.attempts, range(SHARDS), room),
        meanwhile=statuses(meanwhile),
        longest_wait_s=longest_wait(history.attempts),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert {each.status for each in meanwhile} <= UNAVAILABLE
    assert longest_wait(history.attempts) < DEADLINE_MS / 1_000 + 1


async def test_a_full_disk_and_a_kill(small_disk: Path, figures: Figures) -> None:
    """kill -9 of everything on a full disk: `onhand up` waits for room, or says that there is
    none, or finds enough once the files of the dead are gone; with room, everything is there."""
    history = History()
    data = small_disk / "data"
    async with running(data, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="disk") as buyers:
            await buyers.until(1_000)
            ballast = fill(small_disk)
            await buyers.until_refused()
            await engine.kill_all()
    starting = asyncio.create_task(start(data, "--shards", str(SHARDS)))
    await asyncio.wait([starting], timeout=START_WAIT_SECONDS)
    refused = starting.exception() if starting.done() else None
    ballast.unlink()
    engine = await (start(data, "--shards", str(SHARDS)) if refused is not None else starting)
    try:
        async with load(engine, history, name="after") as buyers:
            await buyers.until(500)
        books = await check(engine, history)
    finally:
        await engine.end()
    said = "" if refused is None else str(refused)
    figures(said=said, **books.figures, heard=statuses(history.attempts))
    assert refused is None or isinstance(refused, StartError)
    assert len(said.splitlines()) <= 1


async def test_a_flood(tmp_path: Path, figures: Figures) -> None:
    """Whatever comes, as fast as it may: what does not fit is refused, nothing is stuck, and
    snapshots and trims make room meanwhile."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(tmp_path, "--shards", str(SHARDS), "--maxmemory", "64mb") as engine:
        await stock(engine, history)
        async with load(engine, history, name="flood") as buyers:
            began = loop.time()
            async with pouring(engine, pourers=4) as ballast:
                await buyers.for_seconds(FLOOD_SECONDS)
            await buyers.until_served(range(SHARDS), 30, Reserve)
        books = await check(engine, history, whole=False)
    figures(
        ballast={status.name.lower(): n for status, n in ballast.statuses.items()},
        longest_without_success_s=longest_gap(history.attempts, began),
        longest_wait_s=longest_wait(history.attempts),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert {Status.OK, Status.MEMORY_FULL} >= set(ballast.statuses)


async def test_a_deep_flood(tmp_path: Path, figures: Figures) -> None:
    """Within a second, before there is any snapshot, more is queued than there is memory: it is
    refused before the server is full to the brim, where nothing could make room any more."""
    history = History()
    async with running(tmp_path, "--shards", str(SHARDS), "--maxmemory", "64mb") as engine:
        await stock(engine, history)
        async with load(engine, history, name="deep") as buyers:
            async with pouring_deep(engine) as ballast:
                await buyers.for_seconds(FLOOD_SECONDS / 2)
            await buyers.until_served(range(SHARDS), 30, Reserve)
        books = await check(engine, history, whole=False)
    figures(
        ballast={status.name.lower(): n for status, n in ballast.statuses.items()},
        longest_wait_s=longest_wait(history.attempts),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert {Status.OK, Status.MEMORY_FULL} <= set(ballast.statuses)
    assert {Status.OK, *UNAVAILABLE} >= set(ballast.statuses)


async def test_the_memory_is_full(tmp_path: Path, figures: Figures) -> None:
    """New work is refused, what was reserved can be committed and released; then snapshots make
    room. Where there is none to be made, all is refused until the operator gives more."""
    history = History()
    loop = asyncio.get_running_loop()
    async with (
        redis_running(tmp_path / "redis") as server,
        running(tmp_path / "data", "--shards", str(SHARDS), "--redis", server.url) as engine,
    ):
        await stock(engine, history)
        names = await reserve_many(engine, history, "stash", STASH, SHARDS)
        async with pouring(engine) as ballast:
            await eventually(partial(has_poured, ballast), 60)
        async with load(engine, history, name="memory") as buyers:
            await buyers.until(500)
            server.configure(maxmemory=str(int(server.used_memory() / 0.85)))
            full = loop.time()
            await buyers.until_refused()
            finished = await finish(engine, history, names)
            await buyers.until_served(range(SHARDS), 60, Reserve)
            trimmed = loop.time()

            server.configure(maxmemory="1mb")  # which it needs for itself
            await buyers.until_refused()
            await buyers.for_seconds(DEADLINE_MS / 1_000 + 2)
            refused = [each for each in history.since(trimmed + 1) if each.answered < loop.time()]
            server.configure(maxmemory="256mb")
            more = loop.time()
            await buyers.until_served(range(SHARDS), 60, Reserve)
        sold = [each for each in history.attempts if isinstance(each.command, Reserve)]
        books = await check(engine, history, redis_url=server.url, whole=False)
    figures(
        finished_while_full=finished,
        sold_again_after_trims_s=trimmed - full,
        refused_without_any=statuses(refused),
        sold_again_with_more_s=all_served(sold, range(SHARDS), more),
        longest_wait_s=longest_wait(history.attempts),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert {"ok": STASH} == finished
    assert {each.status for each in refused} <= UNAVAILABLE


async def has_poured(ballast: Ballast) -> bool:
    return ballast.statuses[Status.OK] >= POURED


async def finish(engine: EngineProcess, history: History, names: list[str]) -> dict[str, int]:
    """Commit half of the reservations and release the others, each once; what is said to that."""
    homes = {name: found[0].shard for name, found in history.reservations().items()}
    attempts = []
    loop = asyncio.get_running_loop()
    async with Till(engine.binary) as till:
        assert await till.connected(5)
        for number, name in enumerate(names):
            kind = Commit if number % 2 else Release
            sent = loop.time()
            response = await till.ask([kind(name, homes[name])])
            status = response.answers[0].status if response is not None else None
            attempt = Attempt(
                kind(name, homes[name]), homes[name], False, sent, loop.time(), status, None
            )
            history.record(attempt)
            attempts.append(attempt)
    return statuses(attempts)
