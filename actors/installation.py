"""What an installation is for ever: its id, and into how many shards it is divided.

Both stand in the journal's genesis, and beside it in the data directory, so that a different
`--shards` is refused before anything is claimed: a shard that is not there yet would otherwise be
begun, and every SKU would be looked for in the wrong place.

If the data directory is new and the journal is not (it was moved, or restored elsewhere), the
journal is taken at its word: its shards are those that have a stream.
"""

import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from actors.journal import Journal
from engine import limits
from engine.codec import START, CorruptRecordError, decode_record
from engine.messages import Genesis

_FILE: Final = "installation.json"


class InstallationError(Exception):
    """The settings do not fit what is there; the message is one line for the operator."""


class Installation(Struct, frozen=True):
    cluster_id: str
    shards: int


def read_installation(directory: Path) -> Installation | None:
    """What the directory says; None if it says nothing. Raises InstallationError."""
    path = directory / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Installation)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise InstallationError(f"cannot read {path}: {error}") from error


async def find_installation(
    directory: Path, journal: Journal, shards: int, fresh_id: str
) -> Installation:
    """What this installation is; made now, with `fresh_id`, if there is none yet.

    Raises InstallationError if it has another number of shards, and what the journal raises.
    """
    found = read_installation(directory)
    if found is None:
        found = await _in_journal(journal, shards) or Installation(fresh_id, shards)
        write_installation(directory, found)
    if found.shards != shards:
        raise InstallationError(
            f"--shards is {shards}, but the data in {directory} is in {found.shards} shards,"
            " which cannot change"
        )
    return found


async def _in_journal(journal: Journal, shards: int) -> Installation | None:
    """What a journal says that we have no file for; None if it is empty."""
    first = await journal.read(0, START, 1)
    last = await journal.read(shards - 1, START, 1)
    beyond = shards < limits.SHARDS_MAX and await journal.read(shards, START, 1)
    if bool(first) != bool(last) or beyond:
        raise InstallationError(
            f"--shards is {shards}, but the journal is of another number of shards"
        )
    if not first:
        return None
    try:
        events = decode_record(first[0].record, 0, first[0].position).events
    except CorruptRecordError:
        events = []  # the shard will say so itself
    genesis = next((event for event in events if isinstance(event, Genesis)), None)
    return Installation(genesis.cluster_id if genesis else "", shards)


def write_installation(directory: Path, installation: Installation) -> None:
    """Let the directory say it from now on."""
    path = directory / _FILE
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(installation))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
