"""What is trimmed off a shard's journal is in the archive, whatever fails on the way."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from actors.archive import Archive
from actors.archiver import Archiver, NotArchivedError, batches
from actors.disk import Disk
from actors.journal import Entry, Memory, RedisJournal
from actors.memory_disk import MemoryDisk
from actors.phase import Phase
from engine import limits
from engine.codec import GENESIS, START, Position, decode_record
from engine.messages import Audit, Status
from engine.shard import Shard
from engine.snapshot import SnapshotReader
from tests.actors.servers import SERVERS, running
from tests.actors.tenure import SKUS, tenure
from tests.actors.trial import REPLY, FaultyJournal, Life, Trial, receive, timeless

DAY_SECONDS = 86_400


def archived(archive: Archive, shard: int = 0) -> list[Entry]:
    return [entry for each in archive.segments(shard) for entry in archive.read(each)]


def check_whole(trial: Trial) -> None:
    """The archive and the stream together are all that was ever appended, and they overlap."""
    there = archived(trial.archive)
    stream = trial.store.entries()
    assert trial.store.history[0] == [*there, *(each for each in stream if each not in there)]
    assert stream[0] in there or stream[0].position == GENESIS


async def settle(life: Life) -> None:
    """Long enough for whatever was begun, and for one more try."""
    await life.idle(limits.ARCHIVE_RETRY_SECONDS + 2)


def trims(journal: FaultyJournal) -> int:
    return journal.operations.count("trim")


# --- the order of things ---------------------------------------------------------------------


@timeless
async def test_nothing_goes_that_is_not_archived(trial: Trial, small_snapshots: None) -> None:
    """At every moment the archive and the stream are the whole history, owner after owner."""
    for _ in range(4):
        journal = trial.journal()
        journal.before = lambda name: check_whole(trial) if trial.store.history else None
        life = await trial.serve(journal)
        await life.go_on(20)
        await life.stop()

    assert len(archived(trial.archive)) > 60
    assert START == trial.archive.segments(0)[0].before.position


@pytest.mark.parametrize("name", ["store", "append", "read", "load", "delete", "trim"])
@pytest.mark.parametrize("number", range(5))
def test_a_crash_at_any_step(trial: Trial, small_snapshots: None, name: str, number: int) -> None:
    """What was archived before a crash is not archived twice, and what was not is by the next."""

    @timeless
    async def run() -> None:
        trial.archive_snapshot_bytes = 1_000
        journal = trial.journal()
        life = await trial.serve(journal)

        def freeze(operation: str) -> None:
            if operation == name and journal.operations.count(name) > number:
                journal.freeze()

        journal.operations.clear()
        journal.before = freeze
        for _ in range(40):
            life.send(receive(1))
            await asyncio.sleep(1)
        await life.crash()
        check_whole(trial)
        life = await trial.serve()
        await life.go_on(20)
        await settle(life)
        check_whole(trial)
        assert len(trial.store.entries()) < 20

    run()


@timeless
async def test_the_replies_are_lost(trial: Trial, small_snapshots: None) -> None:
    """Reads and trims that are asked again change nothing."""
    journal = trial.journal()
    life = await trial.serve(journal)

    def fail(name: str) -> None:
        if name in ("read", "load", "trim") and len(journal.operations) % 3:
            journal.fault_last(REPLY)

    journal.before = fail
    await life.go_on(60)
    journal.before = lambda name: None
    await settle(life)

    check_whole(trial)
    assert len(archived(trial.archive)) > 40


@timeless
async def test_small_pages_and_segments(
    trial: Trial, small_snapshots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is archived at once is cut into segments that follow each other."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 60)
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_BYTES", 2_000)
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_BYTES", 500)
    life = await trial.serve()
    await life.go_on(200)
    segments = trial.archive.segments(0)

    check_whole(trial)
    assert len(segments) > 4
    assert all(1_000 < each.size < 4_000 for each in segments[:2])


@timeless
async def test_batches_overlap(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins with the last record of the one before, so that no claim can hide a gap."""
    monkeypatch.setattr(limits, "ARCHIVE_SEGMENT_BYTES", 400)
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_BYTES", 200)
    for _ in range(6):
        await trial.live(4)
    entries = trial.store.entries()
    found = [each async for each in batches(trial.journal(), 0, entries[-2].position)]

    assert len(found) > 3
    for one, other in pairwise(found):
        assert one[-1] == other[0]
    assert entries[:-1] == [*found[0][:1], *(each for batch in found for each in batch[1:])]


# --- an archive that fails -------------------------------------------------------------------


@timeless
async def test_a_full_disk(trial: Trial, small_snapshots: None) -> None:
    """The shard is served, nothing is trimmed, no snapshot is begun in vain; and it is made up for
    as soon as there is room."""
    journal = trial.journal()
    life = await trial.serve(journal)
    trial.disk.full = True
    with capture_logs() as logs:
        await life.go_on(60)
    failed = [each for each in logs if each["event"] == "archive_failed"]
    assert trial.store.history[0] == trial.store.entries()
    assert 0 == trims(journal)
    assert 60 / limits.ARCHIVE_RETRY_SECONDS - 4 <= len(failed) <= 60 / limits.ARCHIVE_RETRY_SECONDS
    assert "error" == failed[0]["log_level"]
    assert "OSError: [Errno 28] No space left on device" == failed[0]["error"]
    assert life.owner.snapshotter is not None
    assert 2 == life.owner.snapshotter.count
    assert 50 < life.owner.snapshotter.lag(asyncio.get_running_loop().time()) < 60

    trial.disk.full = False
    await settle(life)
    assert 0 == life.owner.snapshotter.lag(asyncio.get_running_loop().time())
    assert 1 <= trims(journal)
    check_whole(trial)
    await life.go_on(20)
    assert life.owner.snapshotter.count > 3


@pytest.mark.parametrize("broken", range(1, 8))
def test_a_disk_that_fails_for_a_while(trial: Trial, small_snapshots: None, broken: int) -> None:
    """Whichever call fails, nothing is lost and nothing is left over."""

    @timeless
    async def run() -> None:
        trial.archive_snapshot_bytes = 1_000
        life = await trial.serve()
        for _ in range(6):
            trial.disk.broken = broken
            await life.go_on(20)
            check_whole(trial)
        trial.disk.broken = 0
        await settle(life)

        check_whole(trial)
        assert len(trial.store.entries()) < 30
        assert [] == [path for path in trial.disk.files if path.suffix == ".new"]

    run()


@timeless
async def test_a_full_disk_and_then_another_owner(trial: Trial, small_snapshots: None) -> None:
    """Cleaning up after a recovery does not trim either, and is made up for as well."""
    life = await trial.serve()
    trial.disk.full = True
    await life.go_on(20)
    await life.crash()
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(20)
    assert trial.store.history[0] == trial.store.entries()
    assert 0 == trims(journal)

    trial.disk.full = False
    await settle(life)
    check_whole(trial)
    assert len(trial.store.entries()) < 40


@timeless
async def test_audits_go_on(trial: Trial, small_snapshots: None) -> None:
    """An archive that waits for its disk keeps nothing else waiting."""
    async with tenure(trial, 0) as host:
        trial.disk.full = True
        for number in range(20):
            await host.ask(receive(number + 1, SKUS[0]))
            await asyncio.sleep(1)
        asked = await host.ask(*[_audit()])

        assert Status.OK is asked[0].status
        assert await host.sample("onhand_archive_errors_total") > 1
        assert 0 == await host.sample("onhand_archive_segments_total")
        trial.disk.full = False
        await asyncio.sleep(limits.ARCHIVE_RETRY_SECONDS + 1)
        host.owner(0).tick(0.0)
        await asyncio.sleep(1)
        assert 0 < await host.sample("onhand_archive_segments_total")
        assert await host.sample("onhand_archive_bytes_total") > 500


def _audit() -> Audit:
    return Audit(0)


@timeless
async def test_memory_and_disk_are_full(trial: Trial, small_snapshots: None) -> None:
    """What would make room is not given up unarchived: callers are refused until there is some."""
    async with tenure(trial, 0) as host:
        trial.disk.full = True
        for number in range(20):
            await host.ask(receive(number + 1, SKUS[0]))
            await asyncio.sleep(1)
        host.journal.memory_is = Memory(97, 100)
        await asyncio.sleep(60)
        assert [Status.MEMORY_FULL] == await host.statuses(receive(1, SKUS[0]))
        assert trial.store.history[0] == trial.store.entries()
        assert 0 == trims(host.journal)
        errors = await host.sample("onhand_archive_errors_total")
        assert errors <= 2 * 80 / limits.ARCHIVE_RETRY_SECONDS, "no more often than that"

        trial.disk.full = False
        await asyncio.sleep(limits.ARCHIVE_RETRY_SECONDS + 2)
        assert trims(host.journal) >= 1
        check_whole(trial)
        host.journal.memory_is = Memory(10, 100)
        await asyncio.sleep(1)
        assert [Status.OK] == await host.statuses(receive(1, SKUS[0]))


@timeless
async def test_the_archive_of_another_installation(trial: Trial, small_snapshots: None) -> None:
    """It does not pass for one that has everything already."""
    await trial.live(30)
    other = Trial(trial.directory / "other")
    other.disk = trial.disk
    other.wall_offset = 1_000
    journal = other.journal()
    life = await other.serve(journal)
    with capture_logs() as logs:
        await life.go_on(30)
    failed = [each["error"] for each in logs if each["event"] == "archive_failed"]

    assert failed
    assert all("record 0-1: the journal has another" in each for each in failed)
    assert 0 == trims(journal)


@timeless
async def test_a_damaged_record_in_the_journal(trial: Trial, small_snapshots: None) -> None:
    """Damage that the living state does not share is told, kept, and not archived as if whole."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(3)
    position, data = trial.store.entries()[3]
    trial.store.entries()[3] = Entry(position, data[:-1] + b"?")
    with capture_logs() as logs:
        await life.go_on(30)
    failed = [each["error"] for each in logs if each["event"] == "archive_failed"]

    assert failed
    assert all(f"CorruptRecordError: shard 0, record {position}: " in each for each in failed)
    assert Phase.SERVING is life.owner.phase
    assert 0 == trims(journal)


@timeless
async def test_a_journal_that_went_back(trial: Trial) -> None:
    """What ends too early is not taken for archived."""
    life = await trial.serve()
    await life.go_on(5)
    through = trial.store.entries()[-1].position
    trial.store.forget(0, trial.store.entries()[4].position)

    with pytest.raises(NotArchivedError, match=f"ends with 1-2, not {through}"):
        await trial.archiver().keep_records(trial.journal(), 0, through)


# --- several owners, several machines --------------------------------------------------------


@pytest.mark.parametrize("reads", range(1, 5))
def test_a_late_archiver_harms_nobody(trial: Trial, small_snapshots: None, reads: int) -> None:
    """An owner that is frozen in the middle of archiving, and replaced, adds nothing wrong when it
    wakes up, wherever its successor has got to."""

    @timeless
    async def run() -> None:
        journal = trial.journal()
        life = await trial.serve(journal)
        await life.go_on(20)
        late = trial.archiver()
        slow = trial.journal()
        slow.before = lambda name: slow.freeze() if len(slow.operations) == reads else None
        through = trial.store.entries()[-1].position
        task = asyncio.create_task(late.keep_records(slow, 0, through))
        await asyncio.sleep(1)
        await life.go_on(30)
        await life.crash()
        life = await trial.serve()
        await life.go_on(30)
        slow.before = lambda name: None
        slow.thaw()
        await task
        await settle(life)

        check_whole(trial)
        for one, other in pairwise(trial.archive.segments(0)):
            assert one.after == other.before

    run()


@timeless
async def test_machines_with_directories_of_their_own(trial: Trial, small_snapshots: None) -> None:
    """A shard that was trimmed elsewhere meanwhile begins a new run, and says so."""
    first, second = MemoryDisk(), MemoryDisk()
    with capture_logs() as logs:
        for disk in (first, second, first):
            trial.disk = disk
            await trial.live(30)
    [gap] = [each for each in logs if each["event"] == "archive_gap"]
    here = archived(Archive(Path("archive"), None, first))
    there = archived(Archive(Path("archive"), None, second))

    assert "shard 0: the archive ends with " in gap["reason"]
    assert here == [each for each in trial.store.history[0] if each in here]
    assert set(here) & set(there)
    assert len(trial.store.entries()) < 20


# --- snapshots -------------------------------------------------------------------------------


@timeless
async def test_snapshots_now_and_then(trial: Trial, small_snapshots: None) -> None:
    """One is kept whenever enough journal lies behind the one before, and each can be gone on from
    with the records after it."""
    trial.archive_snapshot_bytes = 3_000
    life = await trial.serve()
    await life.go_on(200)
    kept = trial.archive.snapshots(0)
    records = trial.store.records()
    written = sum(len(each.record) for each in trial.store.history[0])

    assert 3 <= len(kept) <= written / 3_000
    for each in kept:
        shard = Shard(0, 1)
        reader = SnapshotReader(shard.state, 0, each.position)
        for chunk in trial.archive.chunks(each):
            reader.feed(chunk)
        assert each.stamp == shard.state.now
        for segment in trial.archive.segments(0):
            for position, data in trial.archive.read(segment):
                if position > each.position:
                    record = decode_record(data, 0, position)
                    shard.replay(record.stamp, record.events)
        other = Shard(0, 1)
        last = trial.archive.segments(0)[-1].last
        for record in records:
            if record.position <= last:
                other.replay(record.stamp, record.events)
        assert other.digest() == shard.digest()


@timeless
async def test_the_first_one_where_the_beginning_is_gone(
    trial: Trial, small_snapshots: None
) -> None:
    """An archive that came late has a snapshot soon: without one it would be good for nothing."""
    await trial.live(40)
    trial.disk.files.clear()
    life = await trial.serve()
    await life.go_on(20)

    assert 1 == len(trial.archive.snapshots(0))
    assert START != trial.archive.segments(0)[0].before.position


@timeless
async def test_a_snapshot_that_is_damaged_in_the_journal(
    trial: Trial, small_snapshots: None
) -> None:
    """It is told of, not archived, and deleted as it would have been."""
    trial.archive_snapshot_bytes = 1_000
    life = await trial.serve()
    await life.go_on(12)
    for key, data in list(trial.store.chunks.items()):
        if not key.endswith(":0"):
            trial.store.chunks[key] = data[:-1] + bytes([data[-1] ^ 1])
    with capture_logs() as logs:
        await life.go_on(60)
    failed = [each["error"] for each in logs if each["event"] == "archive_failed"]

    assert failed
    assert all(each.startswith("CorruptSnapshotError: shard 0, snapshot") for each in failed)
    assert trial.archive.snapshots(0)
    for each in trial.archive.snapshots(0):
        assert [*trial.archive.chunks(each)]
    assert len(trial.store.entries()) < 20


@timeless
async def test_an_older_file_that_is_damaged_in_the_archive(
    trial: Trial, small_snapshots: None
) -> None:
    """Records go on being archived, and the journal is trimmed; it is told of, every time."""
    trial.archive_snapshot_bytes = 1_000
    await trial.live(60)
    older = min(path for path in trial.disk.files if path.suffix == ".records")
    data = trial.disk.files[older]
    trial.disk.files[older] = data[:20] + bytes([data[20] ^ 1]) + data[21:]
    life = await trial.serve()
    with capture_logs() as logs:
        await life.go_on(60)
    failed = [each["error"] for each in logs if each["event"] == "archive_failed"]

    assert len(trial.store.entries()) < 20
    assert len(failed) > 1
    assert all(f"{older}: header: checksum" in each for each in failed)
    trial.disk.files[older] = data
    check_whole(trial)


# --- retention -------------------------------------------------------------------------------


@timeless
async def test_what_was_kept_long_enough_goes(trial: Trial, small_snapshots: None) -> None:
    """By the shard's own time; what is left can be replayed."""
    trial.archive_snapshot_bytes = 1_000
    archive = Archive(Path("archive"), 10 * DAY_SECONDS * limits.SECOND_US, trial.disk)
    archiver = Archiver(archive, trial.archive_snapshot_bytes)
    trial.archiver = lambda: archiver  # type: ignore[method-assign]
    life = await trial.serve()
    for _ in range(100):
        await life.go_on(3)
        await asyncio.sleep(DAY_SECONDS)
    segments, kept = archive.segments(0), archive.snapshots(0)
    days = (life.owner.shard.state.now - segments[0].first_stamp) / DAY_SECONDS / limits.SECOND_US

    assert 10 < days < 40
    assert kept[0].position == segments[0].before.position
    assert 0 == archiver.errors


# --- for real --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
async def test_on_a_real_server_and_a_real_disk(
    tmp_path: Path, small_snapshots: None, name: str
) -> None:
    """Two lives on one server: what was trimmed is in the files, and nothing is missing."""
    async with running(tmp_path / "server", name) as server:
        trial = Trial(tmp_path)
        archive = Archive(tmp_path / "archive", None, Disk())
        trial.archiver = lambda: Archiver(archive, 1_000)  # type: ignore[method-assign]
        stream: list[Entry] = []
        for number in range(2):
            journal = RedisJournal(server.url)
            await journal.open()
            life = await trial.serve(journal)
            async with asyncio.timeout(60):
                while len(archive.segments(0)) <= 3 * number + 3 or not archive.snapshots(0):
                    await life.ask(receive(1, f"sku-{number}"))
            await life.stop()
            stream = await everything(journal)
            await journal.close()
        there = archived(archive)
        positions = sorted({each.position for each in (*there, *stream)})

        assert stream[0] in there
        assert GENESIS == positions[0]
        for before, after in pairwise(positions):
            following = Position(before.epoch, before.sequence + 1)
            assert after in (following, Position(before.epoch + 1, 0))


async def everything(journal: RedisJournal) -> list[Entry]:
    """The whole stream."""
    return [each async for batch in batches(journal, 0, await last(journal)) for each in batch]


async def last(journal: RedisJournal) -> Position:
    [entry] = await journal.read(0, START, 1, newest=True)
    return entry.position
