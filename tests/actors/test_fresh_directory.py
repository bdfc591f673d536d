"""Fresh directories: whole under their name, or not there; nothing else is touched."""

import asyncio
import os
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from actors.fresh_directory import UnfitTargetError, fresh_directory, to_end


def make(target: Path) -> None:
    with fresh_directory(target) as fresh:
        (fresh.path / "a" / "b").mkdir(parents=True)
        (fresh.path / "a" / "b" / "file").write_text("whole")
        fresh.publish()


def test_it_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """Until it is published there is nothing of that name, and afterwards nothing else."""
    target = tmp_path / "new" / "er" / "target"
    with fresh_directory(target) as fresh:
        (fresh.path / "file").write_text("whole")
        assert not target.exists()
        assert target.parent == fresh.path.parent
        fresh.publish()

    assert [target] == list(target.parent.iterdir())
    assert "whole" == (target / "file").read_text()
    assert 0o700 == target.stat().st_mode & 0o777


def test_what_is_published_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is synced before it gets its name, and the name after that."""
    synced: dict[str, bool] = {}
    target = tmp_path / "new" / "target"
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path.name if ".target." not in path.name else "fresh"] = target.exists()

    monkeypatch.setattr(os, "fsync", noted)
    make(target)

    before = dict.fromkeys([tmp_path.name, "file", "b", "a", "fresh"], False)
    assert before | {"new": True} == synced


def test_what_is_not_published_is_removed(tmp_path: Path) -> None:
    """Whatever went wrong is told, and leaves nothing."""

    def fail() -> None:
        with fresh_directory(tmp_path / "target") as fresh:
            (fresh.path / "file").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [] == list(tmp_path.iterdir())


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    """By the next who makes that directory; what somebody is writing just now stays, and what is of
    another name."""
    for name in (".target.onhand-abc", ".target-abc", ".targets.onhand-abc"):
        (tmp_path / name / "half").mkdir(parents=True)
    with fresh_directory(tmp_path / "target") as first:
        (first.path / "file").write_text("whole")
        with fresh_directory(tmp_path / "target") as second:
            assert first.path != second.path
        first.publish()

    assert "whole" == (tmp_path / "target" / "file").read_text()
    expected = {"target", ".target-abc", ".targets.onhand-abc"}
    assert expected == {each.name for each in tmp_path.iterdir()}


def test_an_empty_directory_gives_way(tmp_path: Path) -> None:
    """Also one that a symbolic link leads to, and one that a link only promises; the link stays."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "promise").symlink_to("nowhere/yet")
    make(tmp_path / "link")
    make(tmp_path / "promise")

    for name in ("empty", "link", "nowhere/yet", "promise"):
        assert "whole" == (tmp_path / name / "a" / "b" / "file").read_text()
    assert (tmp_path / "link").is_symlink()
    assert {"empty", "link", "nowhere", "promise"} == {each.name for each in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", ["file", "full directory"])
def test_what_is_there_stays(tmp_path: Path, kind: str) -> None:
    """Neither a file nor a directory that holds anything is touched."""
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(UnfitTargetError, match=f"^{target} exists already, and is not an empty"):
        make(target)
    assert before == sorted(tmp_path.rglob("*"))


def test_a_mount_point_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be renamed over it, which must not be found out when all has been written."""
    (tmp_path / "target").mkdir()
    monkeypatch.setattr(os.path, "ismount", (tmp_path / "target").samefile)

    with pytest.raises(UnfitTargetError, match="target is a mount point: name a directory in it"):
        make(tmp_path / "target")
    assert [] == list((tmp_path / "target").iterdir())


def test_where_nothing_can_be_made(tmp_path: Path) -> None:
    """One line that says where."""
    (tmp_path / "file").touch()

    with pytest.raises(UnfitTargetError, match=f"cannot write to {tmp_path}/file: "):
        make(tmp_path / "file" / "target")


async def test_a_thread_is_waited_for() -> None:
    """Who is cancelled leaves when the work has ended, and not before."""
    inside, go_on = Event(), Event()

    def work() -> None:
        inside.set()
        assert go_on.wait(60)

    working = asyncio.create_task(to_end(work))
    await asyncio.to_thread(inside.wait, 60)
    working.cancel()
    await asyncio.wait([working], timeout=0)
    assert not working.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert 8 == await to_end(partial(pow, 2, 3))
