"""The archive: what was added comes back, in order, proven; being late damages nothing."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.archive import Archive, ArchiveGapError, CorruptArchiveError, Kept, Segment
from actors.disk import Disk
from actors.journal import Entry
from engine.codec import START, CorruptRecordError, Position, decode_record, encode_record
from engine.messages import Claimed, Event, Genesis, Opened, Received
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, SnapshotWriter

SHARD = 3
DAY_US = 86_400_000_000


class Scribe:
    """Writes a journal as owners do."""

    def __init__(self, word: str = "sku") -> None:
        self.entries: list[Entry] = []
        self._word = word
        self._last, self._checksum, self._stamp = START, 0, 0
        self._put(Position(0, 1), [Genesis("here", 4, "crc32")])

    def _put(self, position: Position, events: list[Event]) -> None:
        self._stamp += DAY_US
        previous = self._checksum if position.sequence else 0
        record, checksum = encode_record(SHARD, position, self._stamp, previous, START, events)
        self.entries.append(Entry(position, record))
        self._last, self._checksum = position, checksum

    def claim(self) -> None:
        """A claim that may be nobody's."""
        self._put(Position(self._last.epoch + 1, 0), [Claimed(b"nonce", "host")])

    def open(self) -> None:
        """A claim, and the record that says what stands before it."""
        before = self._last, self._checksum
        self.claim()
        told = Opened(*before[0], before[1], b"digest", self._stamp, self._stamp, 1, 1, 1)
        self.go_on(told)

    def go_on(self, *events: Event) -> None:
        """One more record."""
        epoch, sequence = self._last
        made: list[Event] = [*events] or [Received(f"{self._word}-{sequence}", "here", 5, "", "")]
        self._put(Position(epoch, sequence + 1), made)


def journal(word: str = "sku") -> list[Entry]:
    """Three epochs of records, one of which nobody opened."""
    scribe = Scribe(word)
    for _ in range(2):
        scribe.open()
        for _ in range(8):
            scribe.go_on()
    scribe.claim()
    scribe.open()
    scribe.go_on()
    return scribe.entries


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty one."""
    return Archive(tmp_path, None)


def read(archive: Archive, shard: int = SHARD) -> list[Entry]:
    """All that it gives back."""
    return [entry for each in archive.segments(shard) for entry in archive.read(each)]


def read_chunks(archive: Archive) -> list[list[bytes]]:
    """The chunks of every snapshot that it has."""
    return [list(archive.chunks(each)) for each in archive.snapshots(SHARD)]


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def snapshot(entries: list[Entry], upto: int) -> tuple[Position, list[bytes]]:
    """The snapshot that is cut at `entries[upto]`."""
    shard = Shard(SHARD, 4)
    for position, data in entries[: upto + 1]:
        record = decode_record(data, SHARD, position)
        shard.replay(record.stamp, record.events)
    writer = SnapshotWriter(shard.state, SHARD, position, record.checksum)
    chunks = []
    while (chunk := writer.next_chunk()) is not None:
        chunks.append(chunk[1])
    return position, chunks


# --- what is added comes back ----------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_what_was_added_comes_back(tmp_path: Path, step: int) -> None:
    """However it is cut into segments, the same records come back, and the segments say which."""
    entries = journal()
    writer = Archive(tmp_path, None)
    added = [
        writer.add(SHARD, entries[number : number + step])
        for number in range(0, len(entries), step)
    ]
    archive = Archive(tmp_path, None)

    assert added == archive.segments(SHARD)
    assert entries == read(archive)
    for segment in added:
        there = [each for each in entries if segment.first <= each.position <= segment.last]
        records = [decode_record(data, SHARD, where) for where, data in there]
        assert (SHARD, len(there)) == (segment.shard, segment.records)
        assert (records[0].stamp, records[-1].stamp) == (segment.first_stamp, segment.last_stamp)
        assert sum(len(each.record) for each in there) == segment.size


def test_nothing_is_there_at_first(archive: Archive) -> None:
    """An archive of nothing is empty, not an error."""
    assert [] == archive.segments(SHARD)
    assert [] == archive.snapshots(SHARD)
    assert 0 == archive.prune(SHARD, DAY_US)


def test_shards_are_apart(archive: Archive) -> None:
    """What is of one shard is refused for another."""
    archive.add(SHARD, journal())

    assert [] == archive.segments(0)
    with pytest.raises(CorruptRecordError, match="holds record 0-1 of shard 3"):
        archive.add(0, journal())


def test_it_may_begin_anywhere(archive: Archive) -> None:
    """An installation that is older than its archive begins with what is left of its journal."""
    entries = journal()[5:]
    archive.add(SHARD, entries)

    assert entries == read(archive)
    assert Position(1, 3) == archive.segments(SHARD)[0].before.position


# --- again, and too late ---------------------------------------------------------------------


def test_the_same_again_is_the_same_file(archive: Archive, tmp_path: Path) -> None:
    """Adding is idempotent, also for one who has never seen the directory."""
    entries = journal()
    first = archive.add(SHARD, entries)
    before = files(tmp_path)

    assert first == archive.add(SHARD, entries)
    assert first == Archive(tmp_path, None).add(SHARD, entries[3:6])
    assert before == files(tmp_path)


@pytest.mark.parametrize("known", range(1, 24))
def test_of_an_overlap_only_what_is_new(archive: Archive, known: int) -> None:
    """The rest follows, wherever the seam is, also right behind a claim."""
    entries = journal()
    archive.add(SHARD, entries[:known])
    found = archive.add(SHARD, entries)

    assert (len(entries) - known) == found.records
    assert entries == read(archive)


@pytest.mark.parametrize("known", range(1, 23))
def test_a_gap_is_an_error(archive: Archive, tmp_path: Path, known: int) -> None:
    """Both ends are named, and nothing is written; a gap before a claim is seen by its `opened`."""
    entries = journal()
    archive.add(SHARD, entries[:known])
    before = files(tmp_path)
    if entries[known + 2 :][:1] and entries[known + 1].position.epoch == 3:
        return  # nobody opened: what stands before that claim is not said by anything

    with pytest.raises(ArchiveGapError) as caught:
        archive.add(SHARD, entries[known + 1 :])

    assert f"ends with {entries[known - 1].position}" in str(caught.value)
    assert f"begins with {entries[known + 1].position}" in str(caught.value)
    assert before == files(tmp_path)


def test_a_new_run_after_a_gap(archive: Archive) -> None:
    """What is before the gap stays, but is not what `segments` promise."""
    entries = journal()
    archive.add(SHARD, entries[:5])
    archive.keep(SHARD, *_kept_at(entries, 3))
    archive.add(SHARD, entries[7:10], anew=True)
    archive.add(SHARD, entries[9:])

    assert entries[7:] == read(archive)
    assert [] == archive.snapshots(SHARD)


def _kept_at(entries: list[Entry], upto: int) -> tuple[Position, int, list[bytes]]:
    position, chunks = snapshot(entries, upto)
    return position, (upto + 1) * DAY_US, chunks


def test_another_journal_is_refused(archive: Archive, tmp_path: Path) -> None:
    """An archive that was left over does not pass for one that has everything already."""
    archive.add(SHARD, journal("theirs"))
    before = files(tmp_path)

    with pytest.raises(CorruptArchiveError, match=r"record 1-2: the journal has another"):
        archive.add(SHARD, journal("ours"))
    with pytest.raises(CorruptArchiveError, match=r"record 4-2: the journal has another"):
        archive.add(SHARD, journal("ours")[-1:])
    assert before == files(tmp_path)


def test_a_journal_that_branches_off_is_refused(archive: Archive, tmp_path: Path) -> None:
    """Where the seam was just read, a record that does not follow is damage, not a gap."""
    theirs, ours = journal("theirs"), journal("ours")
    archive.add(SHARD, theirs[:4])

    with pytest.raises(CorruptRecordError, match=r"record 1-3: follows checksum"):
        archive.add(SHARD, [theirs[3], ours[4]])
    with pytest.raises(ArchiveGapError, match=r"record 1-3: follows checksum"):
        archive.add(SHARD, ours[4:])
    assert 1 == len(files(tmp_path))


def test_records_that_do_not_link_are_refused(archive: Archive, tmp_path: Path) -> None:
    """A damaged or missing record of the journal is not archived as if it were whole."""
    entries = journal()
    position, data = entries[4]
    for damaged in (
        [*entries[:4], *entries[5:]],
        [*entries[:4], entries[5], entries[4], *entries[6:]],
        [*entries[:4], Entry(position, data[:-1] + b"?"), *entries[5:]],
    ):
        with pytest.raises(CorruptRecordError):
            archive.add(SHARD, damaged)
    assert {} == files(tmp_path)


def test_two_who_add_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who stood still between looking and writing finds the name taken, and adds the rest."""
    entries = journal()
    late, quick = Archive(tmp_path, None), Archive(tmp_path, None)
    late.add(SHARD, entries[:4])
    quick.add(SHARD, entries[:4])
    link = os.link

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        quick.add(SHARD, entries[4:9])
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    found = late.add(SHARD, entries[4:12])

    assert entries[:12] == read(late)
    assert entries[9].position == found.first
    assert [4, 5, 3] == [each.records for each in late.segments(SHARD)]


def test_one_who_is_late_has_nothing_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replaced owner that wakes up with old records leaves everything as it is."""
    entries = journal()
    late, quick = Archive(tmp_path, None), Archive(tmp_path, None)
    quick.begin_keep(SHARD, entries[0].position, 0).discard()
    link = os.link

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        quick.add(SHARD, entries[:9])
        quick.add(SHARD, entries[9:])
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    late.add(SHARD, entries[:4])

    assert entries == read(late)
    assert {each.path.name for each in quick.segments(SHARD)} == set(files(tmp_path))


def test_what_another_has_written_is_made_to_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds it there may trim the journal now, and does not know whether its name lasts."""
    Archive(tmp_path, None).add(SHARD, journal())
    synced: list[Path] = []
    monkeypatch.setattr(Disk, "sync", lambda disk, directory: synced.append(directory))
    Archive(tmp_path, None).add(SHARD, journal())

    assert [tmp_path / str(SHARD)] == synced


# --- faults of the disk ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "call"), [(Disk, "append"), (os, "fsync"), (os, "link"), (tempfile, "mkstemp")]
)
def test_a_full_disk_leaves_nothing(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, call: str
) -> None:
    """Whatever fails, the error is told, no file is left, and the next try succeeds."""
    entries = journal()
    archive.add(SHARD, entries[:4])
    before = files(tmp_path)

    def fail(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(where, call, fail)
        with pytest.raises(OSError, match="No space left"):
            archive.add(SHARD, entries)
        with pytest.raises(OSError, match="No space left"):
            archive.keep(SHARD, *_kept_at(entries, 3))
    assert before == files(tmp_path)
    archive.add(SHARD, entries)
    assert entries == read(archive)


def test_leftovers_are_swept_away(archive: Archive, tmp_path: Path) -> None:
    """What a killed writer left is no segment, and goes when the next one comes."""
    (tmp_path / str(SHARD)).mkdir()
    (tmp_path / str(SHARD) / "xyz.new").write_bytes(b"half")
    assert [] == archive.segments(SHARD)
    archive.add(SHARD, journal())

    assert ["0000000000-00000000000000000001.records"] == list(files(tmp_path))


def test_a_draft_that_was_swept_away_is_not_published(tmp_path: Path) -> None:
    """Whoever sweeps under a living writer makes it fail, not write half a file."""
    position, chunks = snapshot(journal(), 9)
    slow = Archive(tmp_path, None).begin_keep(SHARD, position, 7)
    Archive(tmp_path, None).begin_keep(SHARD, position, 7).discard()

    with pytest.raises(FileNotFoundError):
        slow.put(chunks[0])
    assert {} == files(tmp_path)


# --- damage ----------------------------------------------------------------------------------


def _damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    for at in range(len(data)):
        for bit in (0, 7):
            yield (
                f"bit {bit} of byte {at}",
                bytes((*data[:at], data[at] ^ 1 << bit, *data[at + 1 :])),
            )
    for size in range(len(data)):
        yield f"cut to {size}", data[:size]
    yield "longer", data + b"?"


def test_every_damage_to_a_segment_is_found(tmp_path: Path) -> None:
    """Flipped anywhere, cut anywhere, continued: refused by the file's name, with a reason."""
    entries = journal()
    path = Archive(tmp_path, None).add(SHARD, entries[:6]).path
    whole = path.read_bytes()
    for damage, data in _damages(whole):
        path.write_bytes(data)
        with pytest.raises(CorruptArchiveError) as caught:
            read(Archive(tmp_path, None))
        assert str(caught.value).startswith(f"{path}: "), damage


def test_every_damage_to_a_snapshot_is_found(tmp_path: Path) -> None:
    """The same for chunks."""
    kept = Archive(tmp_path, None).keep(SHARD, *_kept_at(journal(), 5))
    whole = kept.path.read_bytes()
    for damage, data in _damages(whole):
        kept.path.write_bytes(data)
        with pytest.raises(CorruptArchiveError) as caught:
            read_chunks(Archive(tmp_path, None))
        assert str(caught.value).startswith(f"{kept.path}: "), damage


def test_what_is_given_before_the_damage_is_right(archive: Archive) -> None:
    """Records before the damage may be used: each was proven."""
    entries = journal()
    segment = archive.add(SHARD, entries)
    data = segment.path.read_bytes()
    segment.path.write_bytes(data[:-40] + bytes(36) + data[-4:])
    given: list[Entry] = []
    with pytest.raises(CorruptArchiveError):
        given.extend(archive.read(segment))

    assert entries[: len(given)] == given


def test_a_file_in_the_wrong_place_is_refused(archive: Archive, tmp_path: Path) -> None:
    """Renamed, or put into another shard's directory, it is not believed."""
    segment = archive.add(SHARD, journal())
    (tmp_path / "0").mkdir()
    segment.path.rename(tmp_path / "0" / segment.path.name)

    with pytest.raises(CorruptArchiveError, match="is that of 0-1 of shard 3"):
        archive.segments(0)


def test_a_missing_segment_ends_the_run(archive: Archive) -> None:
    """What is before a hole is not offered as if it led to what is behind it."""
    entries = journal()
    for number in range(0, 12, 3):
        archive.add(SHARD, entries[number : number + 3])
    archive.segments(SHARD)[1].path.unlink()

    assert entries[6:12] == read(archive)


def test_damage_to_old_segments_stops_no_new_ones(tmp_path: Path) -> None:
    """The journal is trimmed on, whatever has happened to the files of last year."""
    entries = journal()
    archive = Archive(tmp_path, None)
    archive.add(SHARD, entries[:4])
    archive.add(SHARD, entries[4:8])
    archive.segments(SHARD)[0].path.write_bytes(b"?")

    assert entries[8].position == Archive(tmp_path, None).add(SHARD, entries[7:]).first


# --- snapshots -------------------------------------------------------------------------------


def test_a_kept_snapshot_comes_back(archive: Archive, tmp_path: Path) -> None:
    """Chunk by chunk as it was, and listed oldest first."""
    entries = journal()
    position, chunks = snapshot(entries, 9)
    kept = archive.keep(SHARD, position, 7, chunks)
    archive.keep(SHARD, *_kept_at(entries, 4))

    assert Kept(SHARD, position, 7, kept.path, kept.path.stat().st_size) == kept
    assert [entries[4].position, position] == [each.position for each in archive.snapshots(SHARD)]
    assert chunks == list(Archive(tmp_path, None).chunks(kept))
    reader = SnapshotReader(Shard(SHARD, 4).state, SHARD, position)
    for chunk in archive.chunks(kept):
        reader.feed(chunk)
    assert reader.complete


def test_a_snapshot_is_kept_once(archive: Archive, tmp_path: Path) -> None:
    """The same again leaves the same file."""
    kept = archive.keep(SHARD, *_kept_at(journal(), 9))
    before = files(tmp_path)

    assert kept == archive.keep(SHARD, *_kept_at(journal(), 9))
    assert before == files(tmp_path)


def test_a_snapshot_that_is_not_whole_is_not_kept(archive: Archive, tmp_path: Path) -> None:
    """Damaged, too short, too long, of another place: refused, and nothing is left."""
    entries = journal()
    position, chunks = snapshot(entries, 9)
    wrong = [chunks[:-1], [*chunks, chunks[-1]], chunks[1:], [chunks[0][:-1], *chunks[1:]], []]
    for some in wrong:
        with pytest.raises(CorruptSnapshotError):
            archive.keep(SHARD, position, 7, some)
    with pytest.raises(CorruptSnapshotError):
        archive.keep(SHARD, entries[8].position, 7, chunks)
    assert {} == files(tmp_path)


# --- retention -------------------------------------------------------------------------------


def filled(directory: Path, retention_us: int | None, at: int = 2) -> tuple[Archive, list[Entry]]:
    """One record a day, three to a segment, and in each second segment a snapshot of one."""
    entries = journal()
    archive = Archive(directory, retention_us)
    for number in range(0, len(entries), 3):
        archive.add(SHARD, entries[number : number + 3])
        if number % 6 == 3:
            archive.keep(SHARD, *_kept_at(entries, number + at))
    return archive, entries


@pytest.mark.parametrize("day", range(30))
@pytest.mark.parametrize("at", range(3))
def test_what_is_kept_can_be_replayed(tmp_path: Path, day: int, at: int) -> None:
    """Everything within the retention stays, and a snapshot before it, or the very beginning;
    wherever in its segment the snapshot was cut."""
    archive, entries = filled(tmp_path, 5 * DAY_US, at)
    gone = archive.prune(SHARD, day * DAY_US)
    left, kept = archive.segments(SHARD), archive.snapshots(SHARD)

    assert {each.path.name for each in left} | {each.path.name for each in kept} == set(
        files(tmp_path)
    )
    assert entries[len(entries) - len(read(archive)) :] == read(archive)
    assert min(left[0].first_stamp, day * DAY_US) <= max(DAY_US, (day - 5) * DAY_US + DAY_US)
    if left[0].before.position != START:
        assert left[0].before.position <= kept[0].position < left[0].last
        assert gone >= 1
        assert kept[0].stamp <= (day - 5) * DAY_US
        assert [] == [each for each in kept[1:] if each.stamp <= (day - 5) * DAY_US]


def test_for_ever(tmp_path: Path) -> None:
    """Without a retention nothing goes."""
    archive, _ = filled(tmp_path, None)
    before = files(tmp_path)

    assert 0 == archive.prune(SHARD, 10_000 * DAY_US)
    assert before == files(tmp_path)


def test_pruned_while_it_is_read(tmp_path: Path) -> None:
    """Whoever has begun to read a segment reads it to its end; one that is gone is named, and not
    called damaged."""
    archive, entries = filled(tmp_path, 5 * DAY_US)
    first, second = archive.segments(SHARD)[:2]
    reading = archive.read(first)
    begun = [next(reading)]
    archive.prune(SHARD, 40 * DAY_US)

    assert entries[:3] == [*begun, *reading]
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{second.path}'"):
        list(archive.read(second))


def test_what_was_pruned_is_in_the_journal_again(tmp_path: Path) -> None:
    """Its server has come back without a trim; it is the same journal if the records join."""
    archive, entries = filled(tmp_path, 5 * DAY_US)
    archive.prune(SHARD, 40 * DAY_US)
    before = archive.segments(SHARD)[0].before.position
    assert before > entries[1].position
    joint = next(number for number, each in enumerate(entries) if each.position == before)

    assert entries[-1].position == archive.add(SHARD, entries).last
    assert before < archive.add(SHARD, entries[: joint + 1]).last
    other = [
        *entries[:joint],
        Entry(before, entries[joint].record[:-1] + b"?"),
        *entries[joint + 1 :],
    ]
    for strange in (other, entries[:joint]):
        with pytest.raises(CorruptArchiveError, match=f"{before} was pruned"):
            archive.add(SHARD, strange)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_disk_that_does_not_read(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A bad sector is damage; to have no descriptor left is none."""
    archive.add(SHARD, journal())
    [segment] = archive.segments(SHARD)

    def fail(disk: Disk, path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Disk, "open", fail)
    error = CorruptArchiveError if number == errno.EIO else OSError
    with pytest.raises(error, match=os.strerror(number)):
        list(archive.read(segment))


def test_an_older_file_is_damaged(tmp_path: Path) -> None:
    """That is no concern of who adds what follows, or adds once more what is there."""
    _, entries = filled(tmp_path, None)
    archive = Archive(tmp_path, None)
    older, newer = sorted((tmp_path / str(SHARD)).glob("*.records"))[-2:]
    older.write_bytes(bytes([older.read_bytes()[0] ^ 1]) + older.read_bytes()[1:])

    assert newer == archive.add(SHARD, entries[-1:]).path
    with pytest.raises(CorruptArchiveError, match=f"{older}: header: checksum"):
        archive.segments(SHARD)


def test_segments_and_snapshots_are_values(archive: Archive) -> None:
    """What is listed twice is equal: whoever asks may compare."""
    archive.add(SHARD, journal())

    assert archive.segments(SHARD) == archive.segments(SHARD)
    assert isinstance(archive.segments(SHARD)[0], Segment)
