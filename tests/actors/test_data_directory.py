"""The data directory: one engine at a time, and nothing left of the one before."""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from actors.data_directory import DataDirectory, DataDirectoryError, end, this_process
from actors.process import Identity, identify, is_alive

SLEEPER = (sys.executable, "-c", "import signal; print(flush=True); signal.pause()")


async def sleeper() -> tuple[asyncio.subprocess.Process, Identity]:
    """A process that does nothing until it is ended."""
    process = await asyncio.create_subprocess_exec(*SLEEPER, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    identity = identify(process.pid)
    assert identity is not None
    return process, identity


def test_one_engine_at_a_time(tmp_path: Path) -> None:
    """A second one is refused in one line that names the first; then it is its turn."""
    first, second = DataDirectory(tmp_path / "d"), DataDirectory(tmp_path / "d")
    first.lock()

    with pytest.raises(DataDirectoryError) as caught:
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()

    expected = f"{tmp_path / 'd'} is in use by process {this_process().pid};"
    assert str(caught.value).startswith(expected)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file where the directory should be is not overwritten."""
    (tmp_path / "d").write_text("mine")

    with pytest.raises(DataDirectoryError, match=f"cannot use {tmp_path / 'd'}: "):
        DataDirectory(tmp_path / "d").lock()


async def test_what_a_killed_engine_left_is_ended(tmp_path: Path) -> None:
    """Processes that were remembered and still run are gone before anything new starts."""
    process, identity = await sleeper()
    before = DataDirectory(tmp_path)
    before.lock()
    before.remember(this_process())
    before.remember(identity)
    socket = before.make_run_dir() / "socket"
    socket.touch()
    _let_go(before)

    after = DataDirectory(tmp_path)
    after.lock()
    ended = await after.end_leftovers()

    assert [identity] == ended
    assert await process.wait() != 0
    assert not socket.parent.exists()
    after.make_run_dir()
    after.unlock()


async def test_what_others_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of an engine that was killed go when any other starts; those of one that runs stay,
    also if that is only a process that a killed one has left behind."""
    place = tmp_path / "sockets"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    alive, killed, orphan = [DataDirectory(tmp_path / name) for name in ("a", "b", "c")]
    process, identity = await sleeper()
    for each in (alive, killed, orphan):
        each.lock()
        each.make_run_dir()
    orphan.remember(identity)
    _let_go(killed)
    _let_go(orphan)
    begun, foreign = place / "onhand-begun", place / "onhand-foreign"
    begun.mkdir()
    (begun / "engine").touch()
    foreign.mkdir()
    kept = [begun, foreign, *((tmp_path / name / "run").readlink() for name in ("a", "c"))]

    fresh = DataDirectory(tmp_path / "d")
    fresh.lock()
    await fresh.end_leftovers()
    assert set(kept) == set(place.iterdir())
    process.kill()
    await process.wait()
    shutil.rmtree(tmp_path / "c")
    await fresh.end_leftovers()
    assert set(kept[:3]) == set(place.iterdir())
    alive.unlock()
    fresh.unlock()


async def test_who_came_by_the_same_id_is_left_alone(tmp_path: Path) -> None:
    """A process id that was reused, or that was written down before a reboot, names nobody."""
    process, identity = await sleeper()
    directory = DataDirectory(tmp_path)
    directory.lock()
    directory.remember(identity._replace(started=identity.started - 1))
    other_boot = msgspec.json.encode(("another boot", identity))
    (tmp_path / "processes" / "other").write_bytes(other_boot)
    (tmp_path / "processes" / "torn").write_bytes(b'["')

    assert [] == await directory.end_leftovers()
    assert is_alive(identity)
    process.kill()
    await process.wait()
    directory.unlock()


def test_nothing_is_left_but_the_data(tmp_path: Path) -> None:
    """After an orderly stop there are neither records of processes nor sockets."""
    directory = DataDirectory(tmp_path)
    directory.lock()
    directory.remember(this_process())
    run_dir = directory.make_run_dir()

    directory.unlock()

    assert not run_dir.exists()
    assert {"lock", "processes"} == {path.name for path in tmp_path.iterdir()}
    assert [] == list((tmp_path / "processes").iterdir())


async def test_ending_takes_no_time_when_all_are_gone() -> None:
    """A process that has ended meanwhile is no obstacle."""
    process, identity = await sleeper()
    process.kill()
    await process.wait()

    await asyncio.wait_for(end([identity]), 1)


def _let_go(directory: DataDirectory) -> None:
    """What the kernel does for an engine that is killed: the lock goes, all else stays."""
    assert directory._lock is not None
    os.close(directory._lock)
    if directory._run_lock is not None:
        os.close(directory._run_lock)
