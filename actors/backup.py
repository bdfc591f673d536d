"""A backup: an installation as of one moment per shard, in a directory that proves itself.

    manifest.json       what there is: every file's size and SHA-256, every shard's last record
    installation.json   its id, and its number of shards
    keys.json           API keys, hashed; if there are any
    journal/<shard>/    snapshots, and the journal from the older to its end (see `actors.archive`)
    archive/<shard>/    what the archive held of the time before; if it was asked for

**Of one moment per shard.** The last record of a shard is looked up first: whatever was
acknowledged before the backup began stands there or earlier. The snapshots are the newest that this
record knows of and the one before, as an owner keeps them, and the journal is read from its first
record up to this one and no further, so what is restored is what a recovery would have found at
that moment. Shards decide by themselves: there is nothing that several would have to agree on.

Nor is it a backup of anything else: the journal must be that of the installation in the data
directory, and must reach as far as the mark that was there before the last record was looked up.

**While it is served.** Only reads are asked of the server. Snapshots and trims go on meanwhile: if
a chunk or a record is gone when it is asked for, that shard is begun again, with what is there now.
The archive is read after the journal, and only up to its last record: what was trimmed in between
is in there by then, and a future that the backup does not have is not.

**Whole or not at all.** Everything is written under a temporary name, proven as `verify` will prove
it, synced, and renamed. The marks of the restored installation are the last records themselves.
"""

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from actors.archive import Archive, ArchiveGapError, CorruptArchiveError, Segment
from actors.archiver import JournalEndsError, Readable, batches, copy_snapshot
from actors.claim import GenesisError, check_installation
from actors.data_directory import DataDirectory
from actors.fresh_directory import UnfitTargetError, fresh_directory, to_end
from actors.installation import Installation, InstallationError, read_installation
from actors.journal import BusyError, Entry, JournalError, LostError
from actors.marks import CorruptMarkError, Mark, read_mark
from actors.patience import patiently
from engine import limits
from engine.codec import (
    GENESIS,
    START,
    CorruptRecordError,
    Position,
    checksum_of,
    decode_record,
    skim_record,
)
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader

T = TypeVar("T")
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
INSTALLATION: Final = "installation.json"
KEYS: Final = "keys.json"
JOURNAL: Final = "journal"
ARCHIVE: Final = "archive"
_ATTEMPTS: Final = 10
"""For one shard to be read without being trimmed under our hands."""
_NEWEST: Final = 64
"""As many of its last records tell which snapshots there are; a recovery looks at as many."""
_WITHOUT: Final = "--no-archive leaves the archive out"
SILENCE_SECONDS: Final = 60.0
"""A server that has not answered for so long is given up."""


class BackupError(Exception):
    """It cannot be made, or is not to be trusted; the message is one line for the operator."""


class ShardEntry(Struct, frozen=True):
    """What a backup has of one shard."""

    shard: int
    epoch: int
    sequence: int
    """Of the last record; both 0 = the shard has no journal yet."""
    checksum: int
    snapshot: str
    """Where the snapshot was cut; 0-0 = the journal begins with the first record of all."""
    records: int
    stamp: int
    """Of the last record, in microseconds."""

    @property
    def head(self) -> Position:
        return Position(self.epoch, self.sequence)


class FileEntry(Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Manifest(Struct, frozen=True):
    format: int
    made: str
    version: str
    cluster_id: str
    shards: list[ShardEntry]
    files: list[FileEntry]
    archive: bool
    sha256: str = ""
    """Of this manifest, without this field."""
    dedicated: int | UnsetType = UNSET
    """How many of the shards, the last ones, are dedicated, if any: whoever does not know of those
    takes this manifest for damaged."""

    def sealed(self) -> "Manifest":
        bare = msgspec.json.encode(msgspec.structs.replace(self, sha256=""))
        return msgspec.structs.replace(self, sha256=hashlib.sha256(bare).hexdigest())

    @property
    def size(self) -> int:
        return sum(each.size for each in self.files)


Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and of how much; 0 = nobody knows."""


# --- making one ------------------------------------------------------------------------------


async def back_up(
    directory: DataDirectory,
    journal: Readable,
    target: Path,
    *,
    with_archive: bool,
    version: str,
    progress: Progress,
) -> Manifest:
    """Write a backup to `target`, which is not there yet, or empty. Raises BackupError."""
    installation = _installation(directory)
    try:
        with fresh_directory(target) as fresh:
            maker = _Maker(directory, _Heard(journal), fresh.path, installation)
            shards = []
            for done, shard in enumerate(_in_order(installation)):
                progress("shards", done, installation.total)
                shards.append(await maker.shard(shard))
            shards.sort(key=attrgetter("shard"))
            for entry in shards if with_archive else ():
                progress("archives", entry.shard, installation.total)
                await to_end(partial(maker.archive, entry))
            made = await to_end(partial(maker.finish, shards, with_archive, version))
            progress("verifying", 0, 0)
            await asyncio.to_thread(_verify_fresh, fresh.path, directory)
            await to_end(fresh.publish)
    except UnfitTargetError as error:
        raise BackupError(str(error)) from error
    except OSError as error:
        raise BackupError(f"cannot write the backup: {error}") from error
    return made


def _in_order(installation: Installation) -> Iterator[int]:
    """Dedicated shards before the hashed ones. Each is read at a moment of its own, and one that
    has stock has it because its hashed shard had declared that; so what is read of that one, later,
    has the declaration. The other way round a backup could have a SKU's stock without it."""
    yield from range(installation.shards, installation.total)
    yield from range(installation.shards)


def _verify_fresh(fresh: Path, directory: DataDirectory) -> None:
    """Verify it. What is wrong with the copy of an archived file is wrong with the file."""
    try:
        verify(fresh)
    except BackupError as error:
        copied, said = str(fresh / ARCHIVE), str(error)
        if copied not in said:
            raise
        said = said.replace(copied, str(directory.archive))
        raise BackupError(f"{said}; {_WITHOUT}") from error


def _installation(directory: DataDirectory) -> Installation:
    try:
        found = read_installation(directory.path)
    except InstallationError as error:
        raise BackupError(str(error)) from error
    if found is None:
        raise BackupError(f"there is no installation in {directory.path}")
    return found


class _MovedError(Exception):
    """What was being read was trimmed or deleted meanwhile."""


class _Heard:
    """The journal, given up when it has not answered for long enough."""

    def __init__(self, journal: Readable) -> None:
        self._journal = journal
        self._silent_since: float | None = None

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        """See Journal. Raises JournalError."""
        return await self._ask(self._journal.read(shard, after, count, newest=newest))

    async def load(self, shard: int, name: str) -> bytes | None:
        """See Journal. Raises JournalError."""
        return await self._ask(self._journal.load(shard, name))

    async def _ask(self, asked: Awaitable[T]) -> T:
        try:
            found = await asked
        except (BusyError, LostError) as error:
            now = asyncio.get_running_loop().time()
            if self._silent_since is None:
                self._silent_since = now
            if now > self._silent_since + SILENCE_SECONDS:
                raise JournalError(f"the journal is not to be had: {error}") from error
            raise
        self._silent_since = None
        return found


class _Maker:
    """Writes one backup, part by part."""

    def __init__(
        self, directory: DataDirectory, journal: Readable, fresh: Path, installation: Installation
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._fresh = fresh
        self._installation = installation

    async def shard(self, shard: int) -> ShardEntry:
        """A snapshot, and the journal to its end. Raises BackupError."""
        known = self._installation
        try:
            await check_installation(
                self._journal, shard, shards=known.shards, cluster_id=known.cluster_id
            )
            return await self._again_and_again(shard)
        except (
            *(CorruptRecordError, CorruptSnapshotError, CorruptArchiveError),
            *(CorruptMarkError, GenesisError, JournalError),
        ) as error:
            raise BackupError(str(error)) from error

    async def _again_and_again(self, shard: int) -> ShardEntry:
        """Begin again while it is trimmed under our hands."""
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                return await self._shard(shard)
            except _MovedError as error:
                reason = str(error)
            await asyncio.to_thread(shutil.rmtree, self._fresh / JOURNAL / str(shard), True)
        raise BackupError(f"shard {shard}: cannot be read, {_ATTEMPTS} times in a row: {reason}")

    async def _shard(self, shard: int) -> ShardEntry:
        archive = Archive(self._fresh / JOURNAL, None)
        mark = read_mark(self._directory.marks, shard)  # before the head, which it then is not past
        newest = await patiently(partial(self._journal.read, shard, START, _NEWEST, newest=True))
        records = [decode_record(each.record, shard, each.position) for each in newest]
        head = records[0].position if records else START
        _check_mark(mark, shard, head)
        if not records:
            return ShardEntry(shard, 0, 0, 0, str(START), 0, 0)
        snapshot = await self._snapshot(archive, shard, {each.snapshot for each in records})
        await self._records(archive, shard, head, mark)
        segments = archive.segments(shard)
        if snapshot == START:
            pointers = await asyncio.to_thread(_pointers, archive, segments)
            snapshot = await self._snapshot(archive, shard, pointers)
        if not segments:
            raise _MovedError(f"nothing is left up to {head}")
        oldest = min((each.position for each in archive.snapshots(shard)), default=START)
        if segments[0].first > max(oldest, GENESIS):
            raise _MovedError(f"begins with {segments[0].first}, its snapshot is {snapshot}")
        if segments[-1].after[:2] != (head, records[0].checksum):
            raise _MovedError(f"ends with {segments[-1].last}, not with {head}")
        count = sum(each.records for each in segments)
        stamp = records[0].stamp
        return ShardEntry(shard, *head, records[0].checksum, str(snapshot), count, stamp)

    async def _snapshot(self, archive: Archive, shard: int, pointers: set[Position]) -> Position:
        """The newest that is whole; START if none is, or there was none."""
        for each in sorted(pointers - {START}, reverse=True):
            if await copy_snapshot(archive, self._journal, shard, each):
                await self._snapshot_before(archive, shard, each)
                return each
        return START

    async def _snapshot_before(self, archive: Archive, shard: int, snapshot: Position) -> None:
        """The older one as well, if it is there: it may have been given up for want of memory."""
        scratch = Shard(shard, limits.SHARDS_MAX)
        reader = SnapshotReader(scratch.state, shard, snapshot)
        for kept in archive.snapshots(shard):
            reader.feed(await asyncio.to_thread(next, archive.chunks(kept)))
        if reader.previous != START:
            await copy_snapshot(archive, self._journal, shard, reader.previous)

    async def _records(
        self, archive: Archive, shard: int, through: Position, mark: Mark | None
    ) -> None:
        try:
            async for batch in batches(self._journal, shard, through):
                _check_marked(mark, shard, batch)
                await to_end(partial(archive.add, shard, batch))
        except (ArchiveGapError, CorruptRecordError, JournalEndsError) as error:
            # trimmed between two pages; or damaged, which is still so the next time
            raise _MovedError(str(error)) from error

    def archive(self, entry: ShardEntry) -> None:
        """What the archive has up to the last record of the backup."""
        source = Archive(self._directory.archive, None)
        target = self._fresh / ARCHIVE / str(entry.shard)
        target.mkdir(parents=True)
        try:
            segments = source.segments(entry.shard)
            kept = source.snapshots(entry.shard)
        except CorruptArchiveError as error:
            raise BackupError(f"{error}; {_WITHOUT}") from error
        paths = [each.path for each in segments if each.last <= entry.head]
        paths += [each.path for each in kept if each.position <= entry.head]
        for path in paths:
            try:
                shutil.copyfile(path, target / path.name)
            except FileNotFoundError:
                continue  # pruned meanwhile, as are those before it: they are no part of the run

    def finish(self, shards: list[ShardEntry], with_archive: bool, version: str) -> Manifest:
        """The small files, and the manifest of it all."""
        for path in (self._directory.path / INSTALLATION, self._directory.keys):
            if path.exists():
                shutil.copyfile(path, self._fresh / path.name)
        files = [_entry(self._fresh, path) for path in _walk(self._fresh)]
        made = Manifest(
            FORMAT,
            datetime.now(UTC).isoformat(timespec="seconds"),
            version,
            self._installation.cluster_id,
            shards,
            files,
            with_archive,
            dedicated=self._installation.dedicated or UNSET,
        ).sealed()
        text = msgspec.json.format(msgspec.json.encode(made), indent=2)
        (self._fresh / MANIFEST).write_bytes(text + b"\n")
        return made


def _check_mark(mark: Mark | None, shard: int, head: Position) -> None:
    """A journal that has gone back in time is not worth a backup."""
    if mark is not None and mark.position > head:
        raise BackupError(
            f"shard {shard}: its journal ends with {head}, {mark.position} was acknowledged"
        )


def _check_marked(mark: Mark | None, shard: int, entries: list[Entry]) -> None:
    """Nor is one that has gone on elsewhere since."""
    for position, record in entries:
        if mark is not None and mark.position == position and mark.checksum != checksum_of(record):
            raise BackupError(
                f"shard {shard}: record {position} of its journal is another than was acknowledged"
            )


def _pointers(archive: Archive, segments: list[Segment]) -> set[Position]:
    """The snapshots that any of the records knows of."""
    return {
        skim_record(record, segment.shard, position).snapshot
        for segment in segments
        for position, record in archive.read(segment)
    }


def _walk(directory: Path) -> Iterator[Path]:
    """Every file below, in order."""
    yield from sorted(path for path in directory.rglob("*") if not path.is_dir())


def _entry(directory: Path, path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path.relative_to(directory).as_posix(), path.stat().st_size, digest)


# --- proving one -----------------------------------------------------------------------------


def verify(directory: Path) -> Manifest:
    """What is in a backup, every byte of it proven. Raises BackupError naming what is not."""
    try:
        manifest = _read_manifest(directory)
        _check_files(directory, manifest)
        for entry in manifest.shards:
            _check_shard(directory, entry)
            if manifest.archive:
                _check_archive(directory, entry)
    except (CorruptArchiveError, CorruptSnapshotError) as error:
        raise BackupError(str(error)) from error
    except OSError as error:
        raise BackupError(f"cannot read the backup: {error}") from error
    return manifest


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BackupError(f"{directory} is no backup: there is no {MANIFEST}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupError(f"{path}: cannot be read: {error}") from error
    if found.format != FORMAT:
        raise BackupError(f"{path}: format {found.format}, this engine reads {FORMAT}")
    if found.sealed() != found:
        raise BackupError(f"{path}: its SHA-256 is not {found.sha256}")
    if [each.shard for each in found.shards] != list(range(len(found.shards))):
        raise BackupError(f"{path}: not every shard is in it")
    return found


def _check_files(directory: Path, manifest: Manifest) -> None:
    there = {path.relative_to(directory).as_posix(): path for path in _walk(directory)}
    there.pop(MANIFEST, None)
    for entry in manifest.files:
        path = there.pop(entry.path, None)
        if path is None:
            raise BackupError(f"{directory / entry.path}: is missing")
        found = _entry(directory, path)
        if found.size != entry.size:
            raise BackupError(f"{path}: {found.size} bytes, {entry.size} were written")
        if found.sha256 != entry.sha256:
            raise BackupError(f"{path}: SHA-256 {found.sha256}, {entry.sha256} was written")
    for path in there.values():
        raise BackupError(f"{path}: is not part of this backup")


def _check_shard(directory: Path, entry: ShardEntry) -> None:
    """The records lead without a gap from the snapshot, or the very first one, to the last."""
    archive = Archive(directory / JOURNAL, None)
    segments = archive.segments(entry.shard)
    where = f"{directory}: shard {entry.shard}"
    if not segments:
        if entry.head != START:
            raise BackupError(f"{where}: no journal, {entry.head} was its end")
        return
    snapshots = _check_snapshots(archive, entry)
    for segment in segments:
        for position, record in archive.read(segment):
            if snapshots.get(position, checksum_of(record)) != checksum_of(record):
                raise BackupError(f"{where}: its snapshot {position} is not of that record")
    if segments[-1].after[:2] != (entry.head, entry.checksum):
        raise BackupError(f"{where}: ends with {segments[-1].last}, not with {entry.head}")
    oldest = min(snapshots, default=START)
    if segments[0].first > max(oldest, GENESIS):
        raise BackupError(f"{where}: begins with {segments[0].first}, its snapshot is {oldest}")


def _check_snapshots(archive: Archive, entry: ShardEntry) -> dict[Position, int]:
    """Where they were cut, and the checksums of the records there."""
    checksums = {}
    for kept in archive.snapshots(entry.shard):
        shard = Shard(entry.shard, limits.SHARDS_MAX)
        reader = SnapshotReader(shard.state, entry.shard, kept.position)
        for chunk in archive.chunks(kept):
            reader.feed(chunk)
        checksums[kept.position] = reader.checksum
    newest = max(checksums, default=START)
    if entry.snapshot != str(newest):
        raise BackupError(f"shard {entry.shard}: snapshot {entry.snapshot} is missing")
    return checksums


def _check_archive(directory: Path, entry: ShardEntry) -> None:
    archive = Archive(directory / ARCHIVE, None)
    for segment in archive.segments(entry.shard):
        _exhaust(archive, segment)
    for kept in archive.snapshots(entry.shard):
        for _ in archive.chunks(kept):
            pass


def _exhaust(archive: Archive, segment: Segment) -> None:
    for _ in archive.read(segment):
        pass
