"""A machine that hosts may be placed on: whether all is there that they need, asked beforehand.

    onhand up ──Needs──► examine(), on every machine of the Ray cluster ──Machine──► unfit()?

What it guarantees: where an engine has come up over several machines, each that hosts were placed
on had an engine that reads what the others write, reached the very servers that keep the journal
(and not others at the same address: `localhost` is another on every machine; one of several that is
down is waited for by its own shards, there as here), and could write into a data directory that is
of no other installation. What is amiss is said in one line, with the machine's address, instead of
by a host that ends and is started again for ever; that machine gets no host until it has joined Ray
anew, or the engine is started again.

An archive of its own keeps no machine away, since all is served without: `shares_archive` says who
has one, by a file that is there for the moment of the question and that everybody ought to see.

It is asked once, at the start. A machine that comes later shows by the hosts that run there.
"""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from msgspec import Struct
from msgspec.structs import replace

from actors.config import Settings
from actors.data_directory import DataDirectory, DataDirectoryError
from actors.installation import (
    Installation,
    InstallationError,
    read_installation,
    write_installation,
)
from actors.journal import JournalError, RedisJournal
from actors.redis_wire import Target
from engine.formats import FORMAT, FORMATS

JOURNAL_SECONDS: Final = 3.0


class Needs(Struct, frozen=True):
    """What every machine must have. `settings` as they travel to every process."""

    settings: bytes
    run_ids: list[str]
    """Of the journal's servers, as this machine knows them; "" = it does not answer here either."""
    writes: int = FORMAT
    reads: int = max(FORMATS)
    witness: str = ""
    """Name of a file that is in the archive now, as this machine sees it."""

    @staticmethod
    async def of(settings: Settings) -> "Needs":
        """As things are here."""
        found = await _run_ids(settings, settings.redis)
        return Needs(settings.encode(), [each if isinstance(each, str) else "" for each in found])

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def answering(self, urls: Sequence[str]) -> list[str]:
        """Those of them that lead to a server that answers."""
        return [url for url, run_id in zip(urls, self.run_ids, strict=True) if run_id]


class Machine(Struct, frozen=True):
    """What one of them has."""

    run_ids: list[str]
    """Of those of the journal's servers that were asked for."""
    writes: int
    reads: int
    problem: str = ""
    """Why the rest could not be found out."""
    shares_archive: bool = False
    """Whether it sees the witness."""


def examine(needs: bytes) -> bytes:
    """Look around on this machine: an encoded `Machine`. Runs as a task of Ray's."""
    run_ids: list[str] = []
    problem, shares = "", False
    try:
        asked = msgspec.msgpack.decode(needs, type=Needs)
        settings = Settings.decode(asked.settings)
        _claim(settings)
        shares = (DataDirectory(settings.data_path).archive / asked.witness).is_file()
        for found in uvloop.run(_run_ids(settings, asked.answering(settings.redis))):
            if isinstance(found, JournalError):
                raise found
            run_ids.append(found)
    except msgspec.MsgspecError as error:
        problem = f"its engine is of another version, which cannot read the settings: {error}"
    except OSError as error:
        problem = f"cannot use {error.filename}: {error.strerror}"
    except (InstallationError, JournalError) as error:
        problem = str(error)
    return msgspec.msgpack.encode(Machine(run_ids, FORMAT, max(FORMATS), problem, shares))


def unfit(needs: Needs, answer: bytes | Exception) -> str | None:
    """Why a machine that has answered this cannot run hosts; None if it can."""
    if isinstance(answer, Exception):
        last = str(answer).strip().splitlines()[-1:]
        return f"cannot run this engine; is it installed there? ({''.join(last)})"
    machine = msgspec.msgpack.decode(answer, type=Machine)
    if machine.problem:
        return machine.problem
    if machine.run_ids != [each for each in needs.run_ids if each]:
        return "--redis leads to other servers there than here; name them as every machine does"
    if machine.reads < needs.writes or needs.reads < machine.writes:
        return (
            f"its engine writes format {machine.writes} and reads up to {machine.reads}, this one"
            f" writes {needs.writes} and reads up to {needs.reads}; see FORMATS.md"
        )
    return None


@contextmanager
def witness(archive: Path) -> Iterator[str]:
    """The name of a file that is in `archive` for as long as the block lasts. Raises
    DataDirectoryError."""
    try:
        archive.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".witness-", dir=archive)
    except OSError as error:
        raise DataDirectoryError(f"cannot use {archive}: {error.strerror}") from error
    os.close(descriptor)
    try:
        yield Path(name).name
    finally:
        Path(name).unlink(missing_ok=True)


def shares_archive(answer: bytes | Exception) -> bool:
    """Whether a machine that has answered this keeps its archive where the others do."""
    if isinstance(answer, Exception):
        return False
    return msgspec.msgpack.decode(answer, type=Machine).shares_archive


def _claim(settings: Settings) -> None:
    """The data directory of this machine is this installation's. Raises InstallationError."""
    directory = DataDirectory(settings.data_path)
    directory.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = Installation(settings.cluster_id, settings.shards, settings.servers, settings.dedicated)
    found = read_installation(directory.path)
    if found is None or found.dedicated < mine.dedicated:
        if found is not None and replace(found, dedicated=mine.dedicated) != mine:
            raise InstallationError(f"{directory.path} there is of another installation")
        write_installation(directory.path, mine)
    elif found != mine:
        raise InstallationError(f"{directory.path} there is of another installation")


async def _run_ids(settings: Settings, urls: Sequence[str]) -> list[str | JournalError]:
    """Of the servers behind these, as this machine reaches them; or why it does not."""
    return await asyncio.gather(*(_run_id(url, settings) for url in urls))


async def _run_id(url: str, settings: Settings) -> str | JournalError:
    journal = RedisJournal(url, fsync=settings.fsync)
    try:
        await journal.open(JOURNAL_SECONDS)
        return journal.run_id
    except JournalError as error:
        return JournalError(f"cannot use Redis at {Target.parse(url)}: {error}")
    finally:
        await journal.close()
