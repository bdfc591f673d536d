"""Marks: proven when read, never set back, whole whatever happens to a write."""

import asyncio
import fcntl
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from zlib import crc32

import pytest

from actors import marks as module
from actors.marks import (
    FILE_BYTES,
    SLOT_BYTES,
    CorruptMarkError,
    Mark,
    Marks,
    marks_path,
    newest_mark,
    read_mark,
    slot_offsets,
)
from engine.codec import Position
from engine.limits import SHARDS_MAX

SHARD = 11
ROOT = Path(__file__).parent.parent.parent
EMPTY = bytes(SLOT_BYTES)
MARKS = [Mark(Position(3, sequence), 0xC0FFEE00 + sequence) for sequence in (254, 255, 256)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "marks"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.parent.glob(f"{directory.name}/*"))


async def written(directory: Path, *marks: Mark, shard: int = SHARD) -> None:
    """Write one mark after the other."""
    writer = Marks(directory)
    for mark in marks:
        writer.note(shard, *mark)
        assert 1 == await writer.write()


def slots(directory: Path, shard: int = SHARD) -> list[bytes]:
    data = marks_path(directory).read_bytes()
    return [data[offset : offset + SLOT_BYTES] for offset in slot_offsets(shard)]


def put_slots(directory: Path, *contents: bytes, shard: int = SHARD) -> None:
    descriptor = os.open(marks_path(directory), os.O_WRONLY)
    for offset, content in zip(slot_offsets(shard), contents, strict=True):
        os.pwrite(descriptor, content, offset)
    os.close(descriptor)


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data) ^ 1 << bit).to_bytes(len(data))


def put_file(directory: Path, length: int, name: str = "marks") -> None:
    directory.mkdir()
    (directory / name).write_bytes(bytes(length))


def put_obstacle(directory: Path, obstacle: str) -> Callable[[], None]:
    """Returns what removes it."""
    if obstacle == "a file":
        directory.touch()
    else:
        directory.symlink_to("/proc/self")
    return directory.unlink


@contextmanager
def full_from(size: int) -> Iterator[None]:
    """No file of this process gets bytes beyond `size`: an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """As by another process in the middle of a write."""
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


# --- what is kept ---


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
    """A second write touches one slot of each shard that moved on, and the file only if one has."""
    marks = Marks(directory)
    marks.note(1, Position(1, 1), 1)
    marks.note(2, Position(1, 1), 1)
    await marks.write()
    before = marks_path(directory).read_bytes()
    marks.note(2, Position(1, 2), 2)

    assert 1 == await marks.write()
    after = marks_path(directory).read_bytes()
    starts = range(0, FILE_BYTES, SLOT_BYTES)
    changed = [at for at in starts if before[at : at + SLOT_BYTES] != after[at : at + SLOT_BYTES]]
    assert [changed[0]] == changed
    assert changed[0] in slot_offsets(2)
    untouched = marks_path(directory).stat()
    assert 0 == await marks.write()
    assert untouched == marks_path(directory).stat()
    assert ["marks"] == names(directory)


async def test_a_newer_mark_of_another_process_stays(directory: Path) -> None:
    """A process that lags behind does not set a shared mark back."""
    slow, fast = Marks(directory), Marks(directory)
    slow.note(SHARD, Position(1, 5), 5)
    fast.note(SHARD, Position(2, 0), 7)
    await asyncio.gather(fast.write(), slow.write())

    assert Mark(Position(2, 0), 7) == read_mark(directory, SHARD)
    assert Mark(Position(2, 0), 7) == slow.read(SHARD)
    before = slots(directory)
    await written(directory, Mark(Position(1, 6), 6))
    assert before == slots(directory)


async def test_the_newest_of_several_directories(tmp_path: Path) -> None:
    """What any process on the machine has seen counts."""
    directories = [tmp_path / name for name in "abc"]
    for sequence, directory in enumerate(directories[:2]):
        await written(directory, Mark(Position(1, sequence), sequence))

    assert Mark(Position(1, 1), 1) == newest_mark(directories, SHARD)
    assert None is newest_mark(directories, 12)


async def test_every_shard_has_its_place(directory: Path) -> None:
    """As many shards as there may be fit, and neither their first marks nor later ones grow it."""
    marks = Marks(directory)
    marks.note(0, Position(1, 0), 0)
    await marks.write()
    size = marks_path(directory).stat()
    for epoch in (2, 3):
        for shard in range(SHARDS_MAX):
            marks.note(shard, Position(epoch, shard), shard)
        assert SHARDS_MAX == await marks.write()

    for shard in (*range(0, SHARDS_MAX, 97), SHARDS_MAX - 1):
        assert Mark(Position(3, shard), shard) == read_mark(directory, shard)
    assert (FILE_BYTES, size.st_blocks) == (size.st_size, marks_path(directory).stat().st_blocks)
    assert FILE_BYTES == marks_path(directory).stat().st_size
    with pytest.raises(AssertionError):
        read_mark(directory, SHARDS_MAX)


# --- what happens to slots ---


async def test_a_new_mark_overwrites_the_older(directory: Path) -> None:
    """A first mark is in both slots; from then on the last two are there."""
    await written(directory, MARKS[0])
    first, second = slots(directory)
    assert first == second != EMPTY

    await written(directory, *MARKS[1:])
    both = slots(directory)
    await written(directory, Mark(Position(4, 0), 0))
    assert 1 == len(set(both) & set(slots(directory)))
    put_slots(directory, *both)
    assert MARKS[2] == read_mark(directory, SHARD)
    put_slots(directory, *(EMPTY if each == max(both) else each for each in both))
    assert MARKS[1] == read_mark(directory, SHARD)


async def test_any_flipped_bit_is_found(directory: Path) -> None:
    """In the newer slot: the older counts; in the older: the newer; in both: an error."""
    await written(directory, *MARKS[:2])
    older, newer = sorted(slots(directory))
    for bit in range(8 * SLOT_BYTES):
        for one, other, mark in (
            (flipped(newer, bit), older, MARKS[0]),
            (newer, flipped(older, bit), MARKS[1]),
        ):
            put_slots(directory, one, other)
            assert mark == read_mark(directory, SHARD)
            put_slots(directory, other, one)
            assert mark == read_mark(directory, SHARD)
        put_slots(directory, flipped(newer, bit), flipped(older, bit))
        with pytest.raises(CorruptMarkError, match=r"marks/marks: at 704: .*; at 262848: "):
            read_mark(directory, SHARD)


@pytest.mark.parametrize(
    ("first", "second"), list(product(("empty", "older", "newer", "illegible"), repeat=2))
)
async def test_each_pair_of_slots(directory: Path, first: str, second: str) -> None:
    """The table of the module, each way round."""
    contents = {"empty": EMPTY, "illegible": b"x" * SLOT_BYTES}
    for name, mark in (("older", MARKS[0]), ("newer", MARKS[1])):
        await written(directory, mark)
        contents[name] = max(slots(directory))
    put_slots(directory, contents[first], contents[second])

    if first == second == "illegible":
        with pytest.raises(CorruptMarkError):
            read_mark(directory, SHARD)
    elif "newer" in (first, second):
        assert MARKS[1] == read_mark(directory, SHARD)
    elif "older" in (first, second):
        assert MARKS[0] == read_mark(directory, SHARD)
    else:
        assert None is read_mark(directory, SHARD)


@pytest.mark.parametrize("first", ["empty", "older", "illegible"])
@pytest.mark.parametrize("second", ["empty", "older"])
@pytest.mark.parametrize("mark", MARKS[:2])
async def test_a_write_mends_both_slots(
    directory: Path, first: str, second: str, mark: Mark
) -> None:
    """After the next write, of the same mark or a newer one, either slot may be lost again."""
    await written(directory, MARKS[0])
    older = slots(directory)[0]
    contents = {"empty": EMPTY, "illegible": b"x" * SLOT_BYTES, "older": older}
    put_slots(directory, contents[first], contents[second])
    await written(directory, mark)

    assert mark == read_mark(directory, SHARD)
    one, other = slots(directory)
    for left in ((one, EMPTY), (EMPTY, other)):
        put_slots(directory, *left)
        assert read_mark(directory, SHARD) in (MARKS[0], mark)


async def test_a_torn_write_changes_nothing(directory: Path) -> None:
    """Wherever a write is torn, and whichever end of it arrived: the mark before it, or its own."""
    await written(directory, *MARKS[:2])
    before = slots(directory)
    await written(directory, MARKS[2])
    after = slots(directory)
    for length in range(SLOT_BYTES + 1):
        for one, other in ((before, after), (after, before)):
            torn = [a[:length] + b[length:] for a, b in zip(one, other, strict=True)]
            put_slots(directory, *torn)
            expected = MARKS[2] if torn == after else MARKS[1]
            assert expected == read_mark(directory, SHARD)


async def test_a_torn_first_write_is_none(directory: Path) -> None:
    """A first mark that was never reported as written is there, or not; never an error."""
    await written(directory, MARKS[0])
    whole, _ = slots(directory)
    for length in range(SLOT_BYTES):
        put_slots(directory, whole[:length] + EMPTY[length:], EMPTY)
        assert None is read_mark(directory, SHARD)
        put_slots(directory, whole, whole[:length] + EMPTY[length:])
        assert MARKS[0] == read_mark(directory, SHARD)


async def test_a_mark_of_another_shard_is_found(directory: Path) -> None:
    """A slot that proves itself in the wrong place is an error, whatever the other one says."""
    await written(directory, MARKS[0], shard=1)
    await written(directory, MARKS[1])
    put_slots(directory, slots(directory)[0], slots(directory, 1)[0])

    with pytest.raises(CorruptMarkError, match="at 262848: shard 1, not 11"):
        read_mark(directory, SHARD)


async def test_another_format_is_found(directory: Path) -> None:
    """A slot that another version has written is an error."""
    await written(directory, MARKS[0])
    slot, _ = slots(directory)
    body = b"onhmark9" + slot[8:-4]
    put_slots(directory, body + crc32(body).to_bytes(4), slot)

    with pytest.raises(CorruptMarkError, match="at 704: b'onhmark9', not b'onhmark1'"):
        read_mark(directory, SHARD)


@pytest.mark.parametrize("length", [0, SLOT_BYTES, FILE_BYTES - 1, FILE_BYTES + 1])
async def test_a_file_of_another_length_is_found(directory: Path, length: int) -> None:
    """A cut or padded file is an error, not the absence of marks, and is left as it is."""
    put_file(directory, length)

    with pytest.raises(CorruptMarkError, match=f"marks/marks: {length} bytes, not {FILE_BYTES}"):
        newest_mark([directory], SHARD)
    with pytest.raises(CorruptMarkError, match=f"{length} bytes"):
        await written(directory, MARKS[0])
    assert length == marks_path(directory).stat().st_size


async def test_a_corrupt_mark_keeps_no_other_from_being_written(directory: Path) -> None:
    """The error is raised once what can be written is, and again until the mark is."""
    await written(directory, *MARKS)
    bad = [b"x" * SLOT_BYTES] * 2
    put_slots(directory, *bad)
    marks = Marks(directory)
    for shard in (SHARD - 1, SHARD, SHARD + 1):
        marks.note(shard, Position(9, 9), 9)

    for _ in range(2):
        with pytest.raises(CorruptMarkError, match="at 704"):
            await marks.write()
    assert bad == slots(directory)
    assert Mark(Position(9, 9), 9) == read_mark(directory, SHARD - 1)
    assert Mark(Position(9, 9), 9) == read_mark(directory, SHARD + 1)
    put_slots(directory, EMPTY, EMPTY)
    assert 1 == await marks.write()


# --- several processes ---

WRITER = """
import asyncio, sys
from pathlib import Path
from actors.marks import Marks, read_mark
from engine.codec import Position

async def main(directory, number):
    marks = Marks(directory)
    for sequence in range(number, 200, 2):
        for shard in (number, 2 + number, 11):
            marks.note(shard, Position(1, sequence), sequence)
        await marks.write()
        assert read_mark(directory, 11).position.sequence >= sequence

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


async def test_two_processes_share_the_file(directory: Path) -> None:
    """Each keeps its own shards, the one of both only grows, and a reader needs no lock."""
    command = (sys.executable, "-c", WRITER, str(directory))
    writers = [
        await asyncio.create_subprocess_exec(*command, str(number), cwd=ROOT) for number in (0, 1)
    ]
    ended = asyncio.gather(*(each.wait() for each in writers))
    seen = Mark(Position(0, 0), 0)
    while not ended.done():
        mark = read_mark(directory, SHARD) or seen
        assert mark >= seen
        seen = mark
        await asyncio.sleep(0)

    assert [0, 0] == await ended
    expected = [198, 199, 198, 199, 199]
    found = [read_mark(directory, shard) for shard in (0, 1, 2, 3, SHARD)]
    assert [Mark(Position(1, last), last) for last in expected] == found


async def test_one_of_many_creates_the_file(tmp_path: Path) -> None:
    """All who start at once write into the same file, even after one that died creating it."""
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        if attempt % 2:
            put_file(directory, 1_000, "marks.new")
        await asyncio.gather(
            *(written(directory, Mark(Position(1, shard), 5), shard=shard) for shard in range(6))
        )
        found = [read_mark(directory, shard) for shard in range(6)]
        assert [Mark(Position(1, shard), 5) for shard in range(6)] == found
        assert ["marks"] == names(directory)


async def test_who_waits_for_the_lock_leaves_the_loop_free(directory: Path) -> None:
    """A write under way elsewhere delays a write, and nothing else."""
    await written(directory, MARKS[0])
    with locked(directory):
        waiting = asyncio.create_task(written(directory, MARKS[1]))
        for _ in range(3):
            await asyncio.sleep(0)
        assert MARKS[0] == read_mark(directory, SHARD)
    await waiting
    assert MARKS[1] == read_mark(directory, SHARD)


async def test_a_frozen_holder_of_the_lock_is_not_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bounded time the write fails, and is done when the other has gone on."""
    monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 0.02)
    await written(directory, MARKS[0])
    marks = Marks(directory)
    marks.note(SHARD, *MARKS[1])
    with locked(directory), pytest.raises(TimeoutError, match="marks: locked for"):
        await marks.write()

    assert MARKS[0] == read_mark(directory, SHARD)
    assert 1 == await marks.write()
    assert MARKS[1] == read_mark(directory, SHARD)


# --- failing disks ---


async def test_a_full_disk_is_reported_and_loses_nothing(directory: Path) -> None:
    """Without room for all of the file there is none; with room the marks are written."""
    marks = Marks(directory)
    marks.note(SHARD, *MARKS[0])
    with full_from(FILE_BYTES - 1), pytest.raises(OSError, match="too large"):
        await marks.write()

    assert None is read_mark(directory, SHARD)
    assert MARKS[0] == marks.read(SHARD)
    assert 1 == await marks.write()
    assert MARKS[0] == read_mark(directory, SHARD)
    assert ["marks"] == names(directory)


@pytest.mark.parametrize("obstacle", ["a file", "a directory that takes none"])
async def test_what_could_not_be_written_is_written_later(directory: Path, obstacle: str) -> None:
    """A directory that cannot be used is reported and loses nothing."""
    remove = put_obstacle(directory, obstacle)
    marks = Marks(directory)
    marks.note(SHARD, *MARKS[0])
    for _ in range(2):
        with pytest.raises(OSError, match=r"marks"):
            await marks.write()

    remove()
    assert 1 == await marks.write()
    assert MARKS[0] == read_mark(directory, SHARD)


@pytest.mark.parametrize("room", [0, 100])
async def test_a_failed_write_is_repeated_where_it_was(
    directory: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """What a failed write left behind may not be on the disk: the mark before it stays whole."""
    monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 0.02)
    last = SHARDS_MAX - 1
    limit = slot_offsets(last)[1] // 4_096 * 4_096 + room
    marks = Marks(directory)
    marks.note(SHARD, *MARKS[0])
    marks.note(last, *MARKS[0])
    await marks.write()
    durable = slots(directory)[0]
    marks.note(last, *MARKS[1])
    for mark in (MARKS[1], MARKS[1], MARKS[2], Mark(Position(4, 0), 0)):
        marks.note(SHARD, *mark)
        with locked(directory), pytest.raises(TimeoutError):
            await marks.write()
        with full_from(limit), pytest.raises(OSError, match=r"too large|wrote 100 bytes"):
            await marks.write()
        assert mark == read_mark(directory, SHARD)
        assert durable in slots(directory)

    assert 2 == await marks.write()
    assert durable in slots(directory)
    assert MARKS[1] == read_mark(directory, last)
    await written(directory, Mark(Position(5, 0), 0))
    assert durable not in slots(directory)
