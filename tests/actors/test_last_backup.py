"""How old the newest backup is, as scrapes are told."""

import os
from pathlib import Path

import pytest

from actors.data_directory import DataDirectory
from actors.installation import FILE, Installation, write_installation
from actors.last_backup import NOTE, backup_age, note_backup

NOW = 1_796_000_000.0


def age(path: Path) -> float | None:
    samples = backup_age(path, NOW)
    assert {each.name for each in samples} <= {"onhand_backup_age_seconds"}
    values = [each.value for each in samples]
    assert all(isinstance(each, float) for each in values)
    return values[0] if values else None  # type: ignore[return-value] # as was just seen


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_installation(tmp_path, Installation("here", 1))
    os.utime(tmp_path / FILE, (NOW - 900, NOW - 900))
    return tmp_path


def test_without_any_backup(data: Path) -> None:
    """What counts is since when there is anything to lose."""
    assert 900 == age(data)


def test_the_newest_counts(data: Path) -> None:
    """From its beginning on, because what was sold meanwhile is not in it."""
    for before in (500, 60):
        note_backup(DataDirectory(data), NOW - before)
    assert 60 == age(data)


def test_a_clock_that_was_set_back(data: Path) -> None:
    """Nothing is younger than now."""
    note_backup(DataDirectory(data), NOW + 60)
    assert 0 == age(data)


def test_a_note_of_somebody_else(data: Path) -> None:
    """It is as good as none."""
    (data / NOTE).write_text("yesterday\n")
    assert 900 == age(data)


def test_no_installation(tmp_path: Path) -> None:
    """Nothing is told, and no scrape fails for it."""
    assert None is age(tmp_path)
