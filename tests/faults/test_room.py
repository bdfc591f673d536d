"""No room: the disk is full, or the memory that the journal's server may use."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.messages import Commit, Release, Reserve
from tests.faults.ballast import pouring, reserve_many
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, StartError, running, start
from tests.faults.history import (
    UNAVAILABLE,
    Attempt,
    History,
    first_success,
    longest_wait,
    statuses,
)
from tests.faults.load import load, stock
from tests.faults.till import DEADLINE_MS, Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
DISK = "48m"
START_WAIT_SECONDS = 15
STASH = 200
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
    none; with room, everything is there."""
    history = History()
    data, said = small_disk / "data", "(waits)"
    async with running(data, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="disk") as buyers:
            await buyers.until(1_000)
            ballast = fill(small_disk)
            await buyers.until_refused()
            await engine.kill_all()
    starting = asyncio.create_task(start(data, "--shards", str(SHARDS)))
    await asyncio.wait([starting], timeout=START_WAIT_SECONDS)
    if starting.done():
        with pytest.raises(StartError) as refused:
            starting.result()
        said = refused.value.said
        assert 1 == len(said.splitlines())
    ballast.unlink()
    engine = await (start(data, "--shards", str(SHARDS)) if starting.done() else starting)
    try:
        async with load(engine, history, name="after") as buyers:
            await buyers.until(500)
        books = await check(engine, history)
    finally:
        await engine.end()
    figures(said=said, **books.figures, heard=statuses(history.attempts))


async def test_the_memory_is_full(tmp_path: Path, figures: Figures) -> None:
    """New reserves are refused, what was reserved can be committed and released; then snapshots
    make room, and service returns by itself."""
    history = History()
    loop = asyncio.get_running_loop()
    flags = "--shards", str(SHARDS), "--maxmemory", "64mb"
    async with running(tmp_path, *flags) as engine:
        await stock(engine, history)
        names = await reserve_many(engine, history, "stash", STASH, SHARDS)
        async with load(engine, history, name="memory") as buyers:
            await buyers.until(500)
            async with pouring(engine, pause=0.02) as ballast:
                await buyers.until_refused(120)
            full = loop.time()
            finished = await finish(engine, history, names)
            await buyers.until_served(range(SHARDS), 60, Reserve)
        sold = [each for each in history.since(full) if isinstance(each.command, Reserve)]
        refused = statuses(each for each in history.since(full - 1) if not each.done)
        books = await check(engine, history, whole=False)
    figures(
        refused_s=first_success(sold, range(SHARDS), full),
        ballast={status.name.lower(): n for status, n in ballast.statuses.items()},
        finished_while_full=finished,
        refused=refused,
        longest_wait_s=longest_wait(history.attempts),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert {"ok": STASH} == finished


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
