"""Backups and restorations: what was acknowledged comes back; what is damaged does not."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from threading import Event

import pytest

from actors.archive import Archive, Segment
from actors.archiver import Archiver
from actors.backup import BackupError, Manifest, back_up, verify
from actors.data_directory import DataDirectory
from actors.disk import Disk
from actors.installation import Installation, read_installation, write_installation
from actors.journal import BusyError, Entry, Journal, RedisJournal
from actors.marks import Marks, read_mark
from actors.memory_journal import MemoryStore
from actors.restoration import restore
from actors.standing_journal import UnreachableJournalError, connected, embedded, standing_journal
from engine import limits
from engine.codec import GENESIS, Position, decode_record
from engine.messages import Opened, Status
from engine.snapshot import SnapshotWriter, chunk_name
from tests.actors.servers import SERVERS, running
from tests.actors.trial import (
    FaultyJournal,
    Life,
    Trial,
    ownership,
    receive,
    replayed,
    reserve,
    timeless,
)

MEMORY_BYTES = 64 << 20
INSTALLATION = Installation("here", 1)


def silent(what: str, done: int, of: int) -> None:
    """Nobody watches."""


class Shop(Trial):
    """A trial whose archive and marks are in a data directory, as an engine's are."""

    def __init__(self, directory: Path, snapshot_bytes: int = 1_000, shards: int = 1) -> None:
        self.data = DataDirectory(directory)
        super().__init__(self.data.marks, shards)
        self.files = Archive(self.data.archive, None, Disk())
        self._snapshot_bytes = snapshot_bytes
        directory.mkdir(exist_ok=True)
        write_installation(directory, Installation("here", shards))

    def archiver(self) -> Archiver:
        return Archiver(Archive(self.data.archive, None, Disk()), self._snapshot_bytes)

    async def back_up(
        self, target: Path, journal: Journal | None = None, *, with_archive: bool = True
    ) -> Manifest:
        return await back_up(
            self.data,
            journal or self.journal(),
            target,
            with_archive=with_archive,
            version="9",
            progress=silent,
        )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "data")


@asynccontextmanager
async def restored(directory: Path) -> AsyncIterator[tuple[Shop, RedisJournal]]:
    """A restored installation, and its journal."""
    async with (
        embedded(directory / "redis", "always", MEMORY_BYTES) as server,
        connected(server.url) as journal,
    ):
        shop = Shop(directory)
        shop.wall_offset = 500 - int(asyncio.get_running_loop().time())
        yield shop, journal


def told(entries: list[Entry]) -> bytes:
    """The digest that the newest owner found when it came."""
    records = [decode_record(data, 0, position) for position, data in entries]
    opened = [event for each in records for event in each.events if isinstance(event, Opened)]
    return opened[-1].digest


async def bring_back(backup: Path, target: Path) -> Manifest:
    return await restore(backup, target, redis=(), memory_bytes=MEMORY_BYTES, progress=silent)


async def everything(journal: Journal) -> list[Entry]:
    """The stream of shard 0."""
    entries: list[Entry] = []
    after = Position(0, 0)
    while page := await journal.read(0, after, 256):
        entries += page
        after = page[-1].position
    return entries


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# --- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [0, 3, 8, 40])
@pytest.mark.parametrize("with_archive", [True, False])
def test_there_and_back(
    shop: Shop, tmp_path: Path, small_snapshots: None, batches: int, with_archive: bool
) -> None:
    """What is restored has the same records under the same ids, the same digest, and serves."""

    @timeless
    async def run() -> None:
        life = await shop.serve()
        await life.ask(receive(1_000))
        for number in range(batches):
            await life.ask(reserve(f"r{number}"))
            await asyncio.sleep(1)
        await shop.back_up(tmp_path / "backup", with_archive=with_archive)

    run()
    manifest = verify(tmp_path / "backup")
    [entry] = manifest.shards
    assert ("here", with_archive) == (manifest.cluster_id, manifest.archive)
    assert shop.last.position == entry.head

    async def bring() -> None:
        await bring_back(tmp_path / "backup", tmp_path / "new")
        assert INSTALLATION == read_installation(tmp_path / "new")
        mark = read_mark(tmp_path / "new" / "marks", 0)
        assert mark is not None
        assert (entry.head, shop.last.checksum) == mark
        async with restored(tmp_path / "new") as (other, journal):
            assert shop.store.entries() == await everything(journal)
            life = await other.serve(journal)
            assert shop.lived() == told(await everything(journal))
            for number in range(batches):
                answer = await life.ask(reserve(f"r{number}"))
                assert Status.REPLAYED is answer.status
            for number in range(60):
                await life.ask(reserve(f"s{number}"))
            await life.stop()
            assert 0 == other.archiver().errors

    asyncio.run(bring())


@timeless
async def test_the_snapshots_that_an_owner_keeps(
    shop: Shop, tmp_path: Path, small_snapshots: None
) -> None:
    """Both of them are saved, so that the restored one has an older way back as well."""
    generations = await shop.generations()
    await shop.back_up(tmp_path / "backup")
    saved = Archive(tmp_path / "backup" / "journal", None)

    assert generations == [each.position for each in saved.snapshots(0)]
    assert generations[0] == saved.segments(0)[0].first


@timeless
async def test_a_snapshot_that_only_older_records_know(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the newest is not whole, the one before is looked for as far back as records go."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 80)
    life = await shop.serve()
    await sell(life, 388)
    await life.stop()
    older, newest = sorted({each.snapshot for each in shop.store.records()})[-2:]
    assert [newest] * 64 == [each.snapshot for each in shop.store.records()[-64:]]
    await shop.journal().store(0, chunk_name(newest, 0), None)
    made = await shop.back_up(tmp_path / "backup")

    assert str(older) == made.shards[0].snapshot


@timeless
async def test_a_shard_without_a_journal(shop: Shop, tmp_path: Path) -> None:
    """An installation that has never served is saved as what it is."""
    made = await shop.back_up(tmp_path / "backup")

    assert made == verify(tmp_path / "backup")
    assert [(0, 0, 0)] == [(each.shard, each.epoch, each.records) for each in made.shards]


async def test_keys_come_along(shop: Shop, tmp_path: Path) -> None:
    """API keys are good in the restored installation, and readable by nobody else."""
    shop.data.keys.write_text("[]")
    await shop.back_up(tmp_path / "backup")
    await bring_back(tmp_path / "backup", tmp_path / "new")

    assert "[]" == (tmp_path / "new" / "keys.json").read_text()
    assert 0o600 == (tmp_path / "new" / "keys.json").stat().st_mode & 0o777


@pytest.mark.parametrize("name", SERVERS)
async def test_into_a_server_of_ones_own(
    shop: Shop, tmp_path: Path, small_snapshots: None, name: str
) -> None:
    """A server that is named by URL gets the journal; the data directory, the rest."""
    life = await shop.serve()
    for number in range(300):
        await life.ask(receive(1, f"sku-{number % 7}"))
    await life.stop()
    await shop.back_up(tmp_path / "backup")
    async with running(tmp_path / "server", name) as server:
        for first in (True, False):
            bringing = restore(
                tmp_path / "backup",
                tmp_path / ("new" if first else "newer"),
                redis=[server.url],
                memory_bytes=0,
                progress=silent,
            )
            if first:
                await bringing
                continue
            with pytest.raises(BackupError, match="is not empty: it is another's already"):
                await bringing
        async with connected(server.url) as journal:
            assert shop.store.entries() == await everything(journal)

    assert not (tmp_path / "new" / "redis").exists()
    assert not (tmp_path / "newer").exists()


# --- while it is served ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_in_the_midst_of_snapshots_and_trims(
    shop: Shop, tmp_path: Path, small_snapshots: None, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """However many are taken between any two reads, what is saved is of one moment, holds all that
    was acknowledged before, and nothing that its archive would contradict."""
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_BYTES", 600)
    random = Random(seed)

    @timeless
    async def run() -> None:
        life = await shop.serve()
        await sell(life, 30)
        journal = shop.journal()
        acknowledged = shop.last.position
        journal.before = Hold(journal, random)
        making = asyncio.create_task(shop.back_up(tmp_path / "backup", journal))
        while not making.done():
            await sell(life, random.randrange(1, 6))
            journal.thaw()
            await asyncio.sleep(0.001)
        made = await making
        [entry] = made.shards
        assert acknowledged <= entry.head <= shop.last.position
        await life.crash()

    run()
    archive, journal = (
        Archive(tmp_path / "backup" / kind, None) for kind in ("archive", "journal")
    )
    history = [each for each in shop.store.history[0] if each.position <= made_head(tmp_path)]
    there = [entry for each in archive.segments(0) for entry in archive.read(each)]
    stream = [entry for each in journal.segments(0) for entry in journal.read(each)]
    assert history == [*there, *(each for each in stream if each not in there)]

    async def bring() -> None:
        await bring_back(tmp_path / "backup", tmp_path / "new")
        async with restored(tmp_path / "new") as (other, journal):
            life = await other.serve(journal)
            await sell(life, 25)
            await life.stop()
            whole = [e for each in other.files.segments(0) for e in other.files.read(each)]
            assert GENESIS == whole[0].position

    asyncio.run(bring())


def made_head(tmp_path: Path) -> Position:
    return verify(tmp_path / "backup").shards[0].head


async def sell(life: Life, batches: int) -> None:
    for number in range(batches):
        answer = await life.ask(receive(1, f"sku-{number % 5}"))
        assert Status.OK is answer.status
        await asyncio.sleep(0.05)


class Hold:
    """Holds back some of the operations until the seller lets them go."""

    def __init__(self, journal: FaultyJournal, random: Random) -> None:
        self._journal = journal
        self._random = random

    def __call__(self, name: str) -> None:
        if self._random.random() < 0.3:
            self._journal.freeze()


class Late(FaultyJournal):
    """Something happens each time that the newest records were read."""

    def __init__(self, store: MemoryStore, change: Callable[[], Awaitable[None]]) -> None:
        super().__init__(store)
        self._change = change

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        found = await super().read(shard, after, count, newest=newest)
        if newest:
            await self._change()
        return found


@timeless
async def test_marks_go_on_meanwhile(shop: Shop, tmp_path: Path) -> None:
    """What is acknowledged, and marked, while the last record is being looked up is no sign of a
    journal that has gone back in time."""
    life = await shop.serve()
    await sell(life, 5)

    async def go_on() -> None:
        await sell(life, 1)
        marks = Marks(shop.data.marks)
        marks.note(0, shop.last.position, shop.last.checksum)
        await marks.write()

    acknowledged = shop.last.position
    made = await shop.back_up(tmp_path / "backup", Late(shop.store, go_on))

    assert acknowledged <= made.shards[0].head < shop.last.position
    await life.stop()


@timeless
async def test_the_archive_goes_on_meanwhile(shop: Shop, tmp_path: Path) -> None:
    """Records and snapshots that came after the last record of a backup are no part of it."""
    life = await shop.serve()
    await sell(life, 5)

    async def go_on() -> None:
        shop.files.add(0, shop.store.entries()[:3])
        await sell(life, 2)

    def archive(what: str, done: int, of: int) -> None:
        if what == "archives":
            position, checksum = shop.last.position, shop.last.checksum
            state = replayed(shop.store.records(), 0, 1).state
            writer = SnapshotWriter(state, 0, position, checksum)
            chunks = [chunk[1] for chunk in iter(writer.next_chunk, None)]
            shop.files.add(0, shop.store.entries())
            shop.files.keep(0, position, state.now, chunks)

    made = await back_up(
        *(shop.data, Late(shop.store, go_on), tmp_path / "backup"),
        with_archive=True,
        version="9",
        progress=archive,
    )

    copied = Archive(tmp_path / "backup" / "archive", None)
    assert shop.last.position == shop.files.snapshots(0)[-1].position > made.shards[0].head
    assert shop.files.segments(0)[:1] == [
        each._replace(path=shop.files.segments(0)[0].path) for each in copied.segments(0)
    ]
    assert [] == copied.snapshots(0)
    await life.stop()


@timeless
async def test_whoever_is_interrupted_leaves_nothing(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what a thread was writing at that moment is removed, and nothing is written after."""
    await shop.live(3)
    inside, go_on, add = Event(), Event(), Archive.add

    def slow(self: Archive, shard: int, entries: list[Entry], *, anew: bool = False) -> Segment:
        inside.set()
        assert go_on.wait(60)
        return add(self, shard, entries, anew=anew)

    monkeypatch.setattr(Archive, "add", slow)
    making = asyncio.create_task(shop.back_up(tmp_path / "backup"))
    await asyncio.to_thread(inside.wait, 60)
    making.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await making
    await asyncio.get_running_loop().shutdown_default_executor()

    assert {"data"} == names(tmp_path)


@timeless
async def test_a_server_that_is_silent_is_given_up(shop: Shop, tmp_path: Path) -> None:
    """A backup does not wait for ever, and leaves nothing."""
    await shop.live(3)

    class Silent(FaultyJournal):
        async def read(
            self, shard: int, after: Position, count: int, *, newest: bool = False
        ) -> list[Entry]:
            raise BusyError("no connection")

    with pytest.raises(BackupError, match="the journal is not to be had: no connection"):
        await shop.back_up(tmp_path / "backup", Silent(shop.store))
    assert {"data"} == names(tmp_path)


# --- what is refused -------------------------------------------------------------------------


@timeless
async def test_what_cannot_be_saved(shop: Shop, tmp_path: Path) -> None:
    """No installation, something there already, a journal that is damaged or has gone back in time:
    one line each, and nothing is left."""
    await shop.live(6)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(BackupError, match="there exists already"):
        await shop.back_up(tmp_path / "there")
    nobody = Shop(tmp_path / "nobody")
    (tmp_path / "nobody" / "installation.json").unlink()
    with pytest.raises(BackupError, match=f"there is no installation in {tmp_path / 'nobody'}"):
        await nobody.back_up(tmp_path / "backup")
    position, data = shop.store.entries()[4]
    shop.store.entries()[4] = Entry(position, data[:-1] + b"?")
    with pytest.raises(BackupError, match=f"shard 0, record {position}: checksum"):
        await shop.back_up(tmp_path / "backup")
    shop.store.entries()[4] = Entry(position, data)
    marks = Marks(shop.data.marks)
    marks.note(0, position, 7)
    await marks.write()
    with pytest.raises(BackupError, match=f"shard 0: record {position} of its journal is another"):
        await shop.back_up(tmp_path / "backup")
    marks.note(0, Position(7, 7), 7)
    await marks.write()
    with pytest.raises(BackupError, match=r"shard 0: its journal ends with .*, 7-7 was ack"):
        await shop.back_up(tmp_path / "backup")

    assert {"data", "there", "nobody"} == names(tmp_path)


@pytest.mark.parametrize("batches", [3, 60])
@timeless
async def test_the_journal_of_another_installation(
    shop: Shop, tmp_path: Path, small_snapshots: None, batches: int
) -> None:
    """A wrong --redis does not save a stranger's journal under this installation's name, whether
    that begins with its first record or with a snapshot."""
    other = Shop(tmp_path / "other")
    life = await other.serve(settings=ownership(cluster_id="there"))
    await sell(life, batches)
    await life.stop()

    with pytest.raises(BackupError, match="its journal is of installation there, this is here"):
        await shop.back_up(tmp_path / "backup", other.journal())
    write_installation(tmp_path / "other", Installation("there", 2))
    with pytest.raises(BackupError, match=r"shard 0: its journal is of 1 shards by .*, not of 2"):
        await other.back_up(tmp_path / "backup")

    assert {"data", "other"} == names(tmp_path)


@pytest.mark.parametrize("at", [20, 400])
@timeless
async def test_an_archive_that_is_damaged(
    shop: Shop, tmp_path: Path, small_snapshots: None, at: int
) -> None:
    """The file is named where it is, and so is the way to do without it."""
    await shop.live(60)
    path = max(shop.files.segments(0), key=lambda each: each.size).path
    data = path.read_bytes()
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

    with pytest.raises(BackupError, match=f"^{path}: .*; --no-archive leaves the archive out$"):
        await shop.back_up(tmp_path / "backup")
    await shop.back_up(tmp_path / "backup", with_archive=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup with everything in it."""
    directory = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 5)
        patch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 3)

        @timeless
        async def run() -> None:
            shop = Shop(directory / "data")
            shop.data.keys.write_text("[]")
            await shop.live(40)
            await shop.back_up(directory / "backup")

        run()
    return directory / "backup"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
async def test_a_damaged_file_is_named(
    saved: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Whichever file it is, nothing is written, and its name is said."""
    there = tree(saved).keys() - {"manifest.json"}
    assert len(there) > 8
    for name in there:
        shutil.copytree(saved, tmp_path / "backup")
        damage(tmp_path / "backup" / name)
        with pytest.raises(BackupError) as caught:
            await bring_back(tmp_path / "backup", tmp_path / "new")
        assert str(caught.value).startswith(f"{tmp_path / 'backup' / name}: ")
        shutil.rmtree(tmp_path / "backup")

    assert set() == names(tmp_path)


async def test_a_damaged_manifest(saved: Path, tmp_path: Path) -> None:
    """No byte of it can change unnoticed, unless it means the same."""
    backup = tmp_path / "backup"
    shutil.copytree(saved, backup)
    manifest = backup / "manifest.json"
    whole = manifest.read_bytes()
    for at in range(0, len(whole), 7):
        manifest.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BackupError, match=str(manifest)):
            verify(backup)
    manifest.unlink()
    with pytest.raises(BackupError, match=f"{backup} is no backup: there is no manifest.json"):
        verify(backup)


async def test_what_a_manifest_hides(saved: Path, tmp_path: Path) -> None:
    """A file too many, a shard too few, a format of the future."""
    backup = tmp_path / "backup"
    shutil.copytree(saved, backup)
    (backup / "journal" / "0" / "more").touch()
    with pytest.raises(BackupError, match="more: is not part of this backup"):
        verify(backup)
    (backup / "journal" / "0" / "more").unlink()
    whole = json.loads((backup / "manifest.json").read_bytes())
    (backup / "manifest.json").write_text(json.dumps(whole | {"format": 2}))
    with pytest.raises(BackupError, match="format 2, this engine reads 1"):
        verify(backup)


async def test_only_where_there_is_nothing(saved: Path, tmp_path: Path) -> None:
    """A directory that holds anything is left as it is; an empty one will do."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(BackupError, match="full exists already, and is not an empty directory"):
        await bring_back(saved, tmp_path / "full")
    assert {"full/file": b"mine"} == tree(tmp_path)
    (tmp_path / "empty").mkdir()
    await bring_back(saved, tmp_path / "empty")

    assert INSTALLATION == read_installation(tmp_path / "empty")


async def test_too_little_memory(saved: Path, tmp_path: Path) -> None:
    """What does not fit is not half restored."""
    with pytest.raises(BackupError, match="the backup does not fit into --maxmemory: OOM"):
        await restore(saved, tmp_path / "new", redis=(), memory_bytes=1, progress=silent)

    assert set() == names(tmp_path)


# --- where the journal is --------------------------------------------------------------------


async def test_the_server_of_an_engine_that_does_not_run(tmp_path: Path) -> None:
    """It is started for as long as it takes, and nobody else can start it meanwhile."""
    directory = DataDirectory(tmp_path)
    async with embedded(directory.redis, "always", MEMORY_BYTES):
        pass
    async with standing_journal(directory, ()) as journal:
        assert [] == await journal.read(0, Position(0, 0), 1)
        with pytest.raises(UnreachableJournalError, match="is in use by process"):
            async with standing_journal(DataDirectory(tmp_path), ()):
                pass
    directory.lock()
    directory.unlock()


async def test_the_server_of_an_engine_that_runs(tmp_path: Path) -> None:
    """It is asked where it is, whatever its fsync; the directory is not locked."""
    directory = DataDirectory(tmp_path)
    directory.lock()
    async with embedded(tmp_path / "redis", "everysec", MEMORY_BYTES) as server:
        place = directory.make_run_dir()
        (place / "redis.sock").symlink_to(server.url.removeprefix("unix://"))
        async with standing_journal(DataDirectory(tmp_path), ()) as journal:
            assert [] == await journal.read(0, Position(0, 0), 1)
    directory.unlock()


@pytest.mark.parametrize(
    ("redis", "said"),
    [
        ((), "has no server of its own; name the one that it uses with --redis"),
        (["redis://:secret@127.0.0.1:1/0"], "cannot use Redis at 127.0.0.1:1: "),
        (["redis://127.0.0.1:1/x"], "--redis: a Redis database is a number"),
    ],
)
async def test_a_server_that_cannot_be_asked(
    tmp_path: Path, redis: Sequence[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says why, without a password."""
    monkeypatch.setattr("actors.standing_journal.OPEN_SECONDS", 0.1)
    with pytest.raises(UnreachableJournalError) as caught:
        async with standing_journal(DataDirectory(tmp_path), redis):
            pass

    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert set() == names(tmp_path)
