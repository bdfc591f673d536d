"""Disks: one suite over the real one and the one in memory."""

import os
from pathlib import Path

import pytest

from actors.disk import AnyDisk, Disk
from actors.memory_disk import MemoryDisk


@pytest.fixture(params=["disk", "memory"])
def disk(request: pytest.FixtureRequest) -> AnyDisk:
    """Each of them."""
    return Disk() if request.param == "disk" else MemoryDisk()


def written(disk: AnyDisk, directory: Path, *parts: bytes) -> Path:
    path = disk.create(directory, ".new")
    for part in parts:
        disk.append(path, part)
    return path


def test_a_file_comes_to_be(disk: AnyDisk, tmp_path: Path) -> None:
    """Made where there was no directory, appended to, published, and read."""
    place = tmp_path / "a" / "b"
    assert [] == disk.names(place)
    path = written(disk, place, b"one", b"two")
    assert [path.name] == disk.names(place)
    assert path.name.endswith(".new")
    assert disk.publish(path, place / "name")
    disk.remove(path)
    disk.sync(place)

    assert ["name"] == disk.names(place)
    assert 6 == disk.size(place / "name")
    with disk.open(place / "name") as file:
        assert b"onetwo" == file.read()


def test_a_name_that_is_taken_stays_as_it_is(disk: AnyDisk, tmp_path: Path) -> None:
    """Of two who publish under one name, the second is told so; equal bytes change nothing."""
    assert disk.publish(written(disk, tmp_path, b"first"), tmp_path / "name")
    for other in (b"other", b"first"):
        assert not disk.publish(written(disk, tmp_path, other), tmp_path / "name")

    with disk.open(tmp_path / "name") as file:
        assert b"first" == file.read()


def test_what_was_removed_is_gone(disk: AnyDisk, tmp_path: Path) -> None:
    """It is not made again by accident; to remove it twice is no error."""
    path = written(disk, tmp_path, b"one")
    disk.remove(path)
    disk.remove(path)

    for use in (
        lambda: disk.append(path, b"two"),
        lambda: disk.publish(path, tmp_path / "name"),
        lambda: disk.open(path),
        lambda: disk.size(path),
    ):
        with pytest.raises(FileNotFoundError):
            use()
    assert [] == disk.names(tmp_path)


def test_what_is_published_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every directory that is made, then the bytes, then the name: each is synced before the next
    is relied on."""
    synced: list[tuple[Path, bool]] = []
    target = tmp_path / "a" / "b" / "name"
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), target.exists()))

    monkeypatch.setattr(os, "fsync", noted)
    path = written(Disk(), target.parent, b"one")
    assert Disk().publish(path, target)

    expected = [
        *((tmp_path, False), (tmp_path / "a", False)),
        *((path, False), (target.parent, True)),
    ]
    assert expected == synced
    assert not Disk().publish(path, target)  # by somebody who had no time to make the name last
    assert (target.parent, True) == synced[-1]
    assert len(expected) + 2 == len(synced)


def test_a_disk_in_memory_can_be_full() -> None:
    """What needs room fails as it would; what gives room does not."""
    disk = MemoryDisk()
    path = written(disk, Path("d"), b"one")
    disk.full = True
    with pytest.raises(OSError, match="No space left on device"):
        disk.append(path, b"two")
    disk.sync(Path("d"))
    disk.remove(path)
    disk.full, disk.broken = False, 1
    with pytest.raises(OSError, match="Input/output error"):
        disk.create(Path("d"), ".new")

    assert disk.create(Path("d"), ".new").name in disk.names(Path("d"))
