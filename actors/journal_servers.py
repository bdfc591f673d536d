"""The journal's servers, for one who speaks to all of them: each shard is asked where it is.

Which shard is on which server follows from the two numbers (`engine.placement.server_of`), in every
process alike, and `actors.seat` is why nobody can be wrong about the second. A host has connections
of its own to each of them; this is for those who come from outside: the start of an engine, a
backup, a restoration.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Generic, Protocol, TypeVar

from actors.archiver import Readable
from actors.config import Fsync
from actors.journal import Entry, JournalError, RedisJournal, ServerSettingsError
from actors.seat import Seat
from engine.codec import Position
from engine.placement import server_of

J = TypeVar("J", bound=Readable)


class Seated(Readable, Protocol):
    """A journal on one server, which knows which one it is."""

    @property
    def address(self) -> str:
        """Where it is, in words."""

    async def said(self) -> bytes | None:
        """What the server says of itself; see `actors.seat`."""

    async def tell(self, seat: Seat) -> None:
        """Let it say this of itself from now on, unless it says something already."""


class Servers(Generic[J]):
    """One journal for each server, in their order; to be read as if they were one."""

    def __init__(self, journals: Sequence[J]) -> None:
        assert journals, "a journal is somewhere"
        self.journals = journals

    def of(self, shard: int) -> J:
        """The journal that has this shard."""
        return self.journals[server_of(shard, len(self.journals))]

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        """See Journal."""
        return await self.of(shard).read(shard, after, count, newest=newest)

    async def load(self, shard: int, name: str) -> bytes | None:
        """See Journal."""
        return await self.of(shard).load(shard, name)


def seats_of(cluster_id: str, servers: int, shards: int) -> list[Seat]:
    """What the servers of an installation ought to say of themselves."""
    return [Seat(cluster_id, servers, number, shards) for number in range(servers)]


async def look_for(
    urls: Iterable[str], fsync: Fsync, seconds: float, stack: AsyncExitStack
) -> list[RedisJournal | JournalError]:
    """A connection to each, or why there is none. They are closed with `stack`.

    Raises ServerSettingsError if one is not set up as a journal, and ValueError for a bad URL.
    """
    journals = [RedisJournal(url, fsync=fsync) for url in urls]
    for journal in journals:
        stack.push_async_callback(journal.close)
    opened = await asyncio.gather(
        *(journal.open(seconds) for journal in journals), return_exceptions=True
    )
    found: list[RedisJournal | JournalError] = []
    for journal, outcome in zip(journals, opened, strict=True):
        if outcome is None:
            found.append(journal)
        elif isinstance(outcome, JournalError) and not isinstance(outcome, ServerSettingsError):
            found.append(JournalError(f"cannot use Redis at {journal.address}: {outcome}"))
        else:
            raise outcome
    return found
