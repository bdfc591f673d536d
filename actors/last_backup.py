"""When the newest backup of a data directory was made: whoever makes one leaves a note in it.

    onhand backup ──proven, in its place──► backed-up ◄──asked at each scrape── gateways

The backup itself may be anywhere, and is not looked for. Until there has been one, what counts is
since when there is anything to back up: the installation.
"""

import time
from pathlib import Path
from typing import Final

from actors.data_directory import DataDirectory
from actors.installation import FILE
from engine.messages import Sample

NOTE: Final = "backed-up"


def note_backup(directory: DataDirectory, at: float) -> None:
    """A backup is whole that was begun `at` that time. Raises OSError."""
    note = directory.path / NOTE
    fresh = note.with_suffix(".new")
    fresh.write_text(f"{at:.0f}\n", encoding="ascii")
    fresh.replace(note)


def backup_age(path: Path, now: float | None = None) -> list[Sample]:
    """Seconds since the newest backup of the data directory at `path` was begun, or since the
    installation was; nothing if neither can be told."""
    now = time.time() if now is None else now
    try:
        began = float((path / NOTE).read_text(encoding="ascii"))
    except (OSError, ValueError):  # none yet, or a note that somebody else has written
        try:
            began = (path / FILE).stat().st_mtime
        except OSError:
            return []
    return [Sample("onhand_backup_age_seconds", [], max(0.0, now - began))]
