"""Commands that save an installation elsewhere, and bring it back: backup, restore."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from actors.config import DATA_DIR_DEFAULT, MAXMEMORY_BYTES_DEFAULT
from actors.data_directory import DataDirectory
from actors.edition import installed_version
from actors.last_backup import note_backup
from actors.log import only_warnings
from gateway.command_line_engine import FailedError, say_json
from gateway.command_line_server import Redis, memory_bytes, run_to_end

if TYPE_CHECKING:
    from actors.backup import Manifest

Json = Annotated[bool, Parameter(negative=(), help="Print the result as JSON.")]
_PATIENCE_SECONDS: Final = 2.0
"""What takes no longer shows no progress."""


class _Shown:
    """Says on stderr how far it is, once it takes longer than one likes to wait."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last >= _PATIENCE_SECONDS:
            self._last = now
            print(f"{what}: {done} of {of}" if of else what, file=sys.stderr)


def backup(
    *,
    to: Path,
    data_dir: Annotated[Path, Parameter(help="Where the engine keeps everything.")] = Path(
        DATA_DIR_DEFAULT
    ),
    redis: Redis = (),
    archive: bool = True,
    json: Json = False,
) -> int:
    """Copy everything that an engine keeps into a new directory, while it serves or not.

    Whatever was acknowledged before it began is in it. It is read back and proven before it gets
    its name. For example:

        onhand backup --data-dir /srv/onhand --to /mnt/backups/monday

    Parameters
    ----------
    to
        The directory to make; it must not be there yet.
    redis
        URL of the server that keeps the journal, if it is not the engine's own; once for each.
    archive
        Take the archive of what was trimmed off the journal, too.
    """
    from actors.backup import BackupError, back_up
    from actors.standing_journal import UnreachableJournalError, standing_journal

    directory, began = DataDirectory(data_dir), time.time()

    async def make() -> "Manifest":
        async with standing_journal(directory, redis) as journal:
            return await back_up(
                directory,
                journal,
                to,
                with_archive=archive,
                version=installed_version(),
                progress=_Shown(),
            )

    try:
        with only_warnings():
            made = run_to_end(make())
    except (BackupError, UnreachableJournalError) as error:
        raise FailedError(str(error)) from error
    try:
        note_backup(directory, began)
    except OSError as error:
        print(f"the backup is whole, but {data_dir} cannot note it: {error}", file=sys.stderr)
    _say(made, to, "backed up to", json)
    return 0


def restore(
    backup: Path,
    /,
    *,
    data_dir: Path,
    redis: Redis = (),
    maxmemory: str = f"{MAXMEMORY_BYTES_DEFAULT >> 20}mb",
    json: Json = False,
) -> int:
    """Make an installation of a backup, where there is none yet; `onhand up` then serves it.

    The backup is proven before anything is written. For example:

        onhand restore /mnt/backups/monday --data-dir /srv/onhand

    Parameters
    ----------
    backup
        What `onhand backup` has made.
    data_dir
        The new data directory: not there yet, or empty.
    redis
        URL of an empty server that is to keep the journal; given several times, its shards are
        spread over all of them. If not given, a server of our own.
    maxmemory
        Of the server of our own.
    """
    from actors.backup import BackupError
    from actors.restoration import restore as bring_back

    memory = memory_bytes(maxmemory)
    work = bring_back(backup, data_dir, redis=redis, memory_bytes=memory, progress=_Shown())
    try:
        with only_warnings():
            made = run_to_end(work)
    except BackupError as error:
        raise FailedError(str(error)) from error
    _say(made, data_dir, "restored to", json)
    return 0


def _say(manifest: "Manifest", where: Path, what: str, json: bool) -> None:
    records = sum(each.records for each in manifest.shards)
    found: dict[str, Any] = {
        "directory": str(where.absolute()),
        "cluster_id": manifest.cluster_id,
        "made": manifest.made,
        "records": records,
        "bytes": manifest.size,
        "archive": manifest.archive,
        "shards": msgspec.to_builtins(manifest.shards),
    }
    if json:
        say_json(found)
        return
    print(
        f"{records:,} records of {len(manifest.shards)} shards,"
        f" {manifest.size / 1e6:,.1f} MB, {what} {found['directory']}"
    )


def register(app: App) -> None:
    """Make them commands of `app`."""
    app.command(backup, name="backup")
    app.command(restore, name="restore")
