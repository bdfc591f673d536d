"""What an installation is for ever: its id, its shards, and on how many servers its journal is.

Id and shards stand in the journal's genesis, all of it on each of the servers (`actors.seat`), and
beside the journal in the data directory, so that a different `--shards`, or servers that are
missing, swapped or another installation's, are refused before anything is claimed: a shard that is
not found would otherwise be begun, and every SKU would be looked for in the wrong place.

    nothing anywhere ──► each server is told who it is ──► installation.json ──► hosts may claim

If the data directory is new and the journal is not (it was moved, or restored elsewhere), the
servers are taken at their word; a single one that is older than that word is known by its streams.
A start that was interrupted before the file was written is taken up, because nothing has been
claimed.

Dedicated shards are an exception to "for ever": there may be more of them at each start. What the
file says is the least that there are, so none that was ever claimed is forgotten.

A server that does not answer after the first start stops its own shards and nothing else, but one
that answers and does not know who it is stops the engine from coming up at all.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from actors.archiver import Readable
from actors.journal import Entry, JournalError
from actors.journal_servers import Seated, Servers, seats_of
from actors.seat import Seat, SeatError
from engine import limits
from engine.codec import START, CorruptRecordError, decode_record
from engine.messages import Genesis

FILE: Final = "installation.json"


class InstallationError(Exception):
    """The settings do not fit what is there; the message is one line for the operator."""


class Installation(Struct, frozen=True):
    cluster_id: str
    shards: int
    servers: int = 1
    dedicated: int = 0
    """Shards beside those `shards`, each for one SKU; they may become more."""

    @property
    def total(self) -> int:
        """How many shards there are, hashed and dedicated."""
        return self.shards + self.dedicated

    def seats(self) -> list[Seat]:
        """What each of its servers ought to say of itself."""
        return seats_of(self.cluster_id, self.servers, self.shards)


def read_installation(directory: Path) -> Installation | None:
    """What the directory says; None if it says nothing. Raises InstallationError."""
    path = directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Installation)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise InstallationError(f"cannot read {path}: {error}") from error


async def find_installation(
    directory: Path,
    servers: Sequence[Seated | JournalError],
    shards: int,
    fresh_id: str,
    dedicated: int = 0,
) -> Installation:
    """What this installation is; made now, with `fresh_id`, if there is none yet.

    `servers`: in their order; or why one cannot be asked, which a new installation cannot do
    without; `dedicated`: at least as many dedicated shards. Raises InstallationError if it is
    another than the settings say, and what the journal raises.
    """
    found = read_installation(directory)
    if found is not None:
        _check(found, directory, shards, len(servers))
    there = {number: each for number, each in enumerate(servers) if not isinstance(each, Exception)}
    for each in servers:
        if isinstance(each, JournalError) and (found is None or not there):
            raise each
    said = {number: await each.said() for number, each in there.items()}
    if found is not None:
        await _settle(there, said, found, await _may_be_told(there, found))
        if dedicated > found.dedicated:
            found = replace(found, dedicated=dedicated)
            write_installation(directory, found)
        return found
    found = await _unwritten(list(there.values()), said, shards, dedicated, fresh_id)
    if found.servers > 1 and None in said.values():
        await _check_empty(Servers(list(there.values())), found.total)
    await _settle(there, said, found, bool(found.cluster_id))
    await _check_nothing_beyond(Servers(list(there.values())), found)
    write_installation(directory, found)
    return found


def _check(found: Installation, directory: Path, shards: int, servers: int) -> None:
    if found.shards != shards:
        raise InstallationError(
            f"--shards is {shards}, but the data in {directory} is in {found.shards} shards,"
            " which cannot change"
        )
    if found.servers != servers:
        raise InstallationError(
            f"the journal of {directory} is on {found.servers} servers, but --redis names"
            f" {servers}; `onhand backup` and `onhand restore` spread it over others"
        )


async def _unwritten(
    servers: list[Seated],
    said: dict[int, bytes | None],
    shards: int,
    dedicated: int,
    fresh_id: str,
) -> Installation:
    """What an installation is that we have no file for."""
    fresh = Installation(fresh_id, shards, len(servers), dedicated)
    for number, words in said.items():
        if words is not None:
            cluster_id = _understood(servers[number], words).cluster_id
            return replace(fresh, cluster_id=cluster_id)
    if len(servers) == 1:
        known = await _in_journal(servers[0], shards, fresh.total)
        return fresh if known is None else replace(fresh, cluster_id=known)
    return fresh


def _understood(server: Seated, words: bytes) -> Seat:
    try:
        return Seat.decode(words)
    except SeatError as error:
        raise InstallationError(f"{server.address}: {error}") from error


async def _may_be_told(there: dict[int, Seated], found: Installation) -> bool:
    """Whether a server without a word is known to be ours by what else it has."""
    if found.servers > 1 or 0 not in there:
        return False
    first = await there[0].read(0, START, 1)
    return bool(first) and _cluster_id(first[0]) == found.cluster_id


async def _settle(
    there: dict[int, Seated],
    said: dict[int, bytes | None],
    installation: Installation,
    may_be_told: bool,
) -> None:
    """Each server that is there is the one it was named as; or is told now that it is."""
    for number, server in there.items():
        seat, words = installation.seats()[number], said[number]
        if words is None and may_be_told:
            await server.tell(seat)
            words = await server.said()
        try:
            seat.check(words)
        except SeatError as error:
            raise InstallationError(f"{server.address}: {error}") from error


async def _check_empty(servers: Servers[Seated], shards: int) -> None:
    """Nobody has ever claimed anything here."""
    for shard in range(shards):
        if await servers.read(shard, START, 1):
            raise InstallationError(
                f"{servers.of(shard).address}: there is a journal of shard {shard} already, but not"
                f" all of the {len(servers.journals)} servers know which they are"
            )


async def _check_nothing_beyond(servers: Servers[Seated], found: Installation) -> None:
    """No dedicated shard is forgotten by whoever has lost the file that knows how many there are.

    They are claimed together, so if there are more, the next one is there.
    """
    if found.total < limits.SHARDS_MAX and await servers.read(found.total, START, 1):
        raise InstallationError(
            f"--dedicated is {found.dedicated}, but there is a journal of shard {found.total}:"
            " it was more"
        )


async def _in_journal(journal: Readable, shards: int, total: int) -> str | None:
    """Whose a journal is that we have no file for; None if it is empty."""
    first = await journal.read(0, START, 1)
    last = await journal.read(shards - 1, START, 1)
    beyond = total < limits.SHARDS_MAX and await journal.read(total, START, 1)
    if bool(first) != bool(last) or beyond:
        raise InstallationError(
            f"--shards is {shards}, but the journal is of another number of shards"
        )
    return _cluster_id(first[0]) if first else None


def _cluster_id(first: Entry) -> str:
    """As the genesis of shard 0 has it; empty if that is not there any more."""
    try:
        events = decode_record(first.record, 0, first.position).events
    except CorruptRecordError:
        return ""  # the shard will say so itself
    return next((event.cluster_id for event in events if isinstance(event, Genesis)), "")


def write_installation(directory: Path, installation: Installation) -> None:
    """Let the directory say it from now on."""
    path = directory / FILE
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(installation))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
