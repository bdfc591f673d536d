"""Marks: newest only, written whole, proven when read."""

import asyncio
import os
from pathlib import Path

import pytest

from actors.marks import CorruptMarkError, Mark, Marks, mark_path, newest_mark, read_mark
from engine.codec import Position

SHARD = 11


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.parent.glob(f"{directory.name}/*"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "marks"


async def test_what_is_written_is_read(directory: Path) -> None:
    """Another process reads the position and the checksum that were noted."""
    marks = Marks(directory)
    marks.note(SHARD, Position(2**63, 2**53), 2**32 - 1)
    marks.note(0, Position(1, 0), 0)

    assert 2 == await marks.write()
    assert Mark(Position(2**63, 2**53), 2**32 - 1) == read_mark(directory, SHARD)
    assert Mark(Position(1, 0), 0) == Marks(directory).read(0)
    assert None is read_mark(directory, 12)


async def test_nothing_is_known_at_first(directory: Path) -> None:
    """Without a directory there are no marks, and nothing to write creates none."""
    marks = Marks(directory)

    assert None is marks.read(SHARD)
    assert 0 == await marks.write()
    assert [] == names(directory)


async def test_only_the_newest_counts(directory: Path) -> None:
    """Whatever the order in which records are noted, the one furthest on is kept."""
    marks = Marks(directory)
    for position in (Position(1, 9), Position(2, 0), Position(1, 10)):
        marks.note(SHARD, position, position.sequence)

    assert Mark(Position(2, 0), 0) == marks.read(SHARD)
    await marks.write()
    assert Mark(Position(2, 0), 0) == read_mark(directory, SHARD)


async def test_only_changes_are_written(directory: Path) -> None:
    """A second write touches only the shards that moved on."""
    marks = Marks(directory)
    marks.note(1, Position(1, 1), 1)
    marks.note(2, Position(1, 1), 1)
    await marks.write()
    untouched = mark_path(directory, 1).stat()
    marks.note(2, Position(1, 2), 2)

    assert 1 == await marks.write()
    assert 0 == await marks.write()
    assert untouched == mark_path(directory, 1).stat()
    assert ["shard-1.mark", "shard-2.mark"] == names(directory)


async def test_a_newer_mark_of_another_process_stays(directory: Path) -> None:
    """A process that lags behind does not set a shared mark back."""
    slow, fast = Marks(directory), Marks(directory)
    slow.note(SHARD, Position(1, 5), 5)
    fast.note(SHARD, Position(2, 0), 7)
    await asyncio.gather(fast.write(), slow.write())

    assert Mark(Position(2, 0), 7) == read_mark(directory, SHARD)
    assert Mark(Position(2, 0), 7) == slow.read(SHARD)


async def test_the_newest_of_several_directories(tmp_path: Path) -> None:
    """What any process on the machine has seen counts."""
    directories = [tmp_path / name for name in "abc"]
    for sequence, directory in enumerate(directories[:2]):
        marks = Marks(directory)
        marks.note(SHARD, Position(1, sequence), sequence)
        await marks.write()

    assert Mark(Position(1, 1), 1) == newest_mark(directories, SHARD)
    assert None is newest_mark(directories, 12)


async def test_any_flipped_bit_is_found(directory: Path) -> None:
    """No mark with one bit changed passes for a mark."""
    marks = Marks(directory)
    marks.note(SHARD, Position(3, 4), 5)
    await marks.write()
    path = mark_path(directory, SHARD)
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        path.write_bytes((int.from_bytes(data) ^ 1 << bit).to_bytes(len(data)))
        with pytest.raises(CorruptMarkError, match=r"shard-11\.mark: "):
            read_mark(directory, SHARD)


@pytest.mark.parametrize("length", [0, 1, 35, 37])
def test_a_mark_of_another_length_is_found(directory: Path, length: int) -> None:
    """A torn or padded mark is an error, not the absence of a mark."""
    directory.mkdir()
    mark_path(directory, SHARD).write_bytes(b"x" * length)

    with pytest.raises(CorruptMarkError, match=f"{length} bytes are no mark"):
        newest_mark([directory], SHARD)


async def test_a_mark_of_another_shard_is_found(directory: Path) -> None:
    """A file that was copied or renamed says so."""
    marks = Marks(directory)
    marks.note(1, Position(3, 4), 5)
    await marks.write()
    mark_path(directory, 1).rename(mark_path(directory, SHARD))

    with pytest.raises(CorruptMarkError, match="is the mark of shard 1"):
        read_mark(directory, SHARD)


async def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    """A failed write is reported and loses nothing."""
    marks = Marks(mark_path(tmp_path, 0))  # once shard 0 has a mark, no place for a directory
    marks.note(SHARD, Position(1, 1), 1)
    obstacle = Marks(tmp_path)
    obstacle.note(0, Position(1, 1), 1)
    await obstacle.write()
    with pytest.raises(FileExistsError):
        await marks.write()

    os.unlink(mark_path(tmp_path, 0))
    assert 1 == await marks.write()
    assert Mark(Position(1, 1), 1) == marks.read(SHARD)
