"""The journal in memory: the same promises for tests and trials, and nothing on disk.

A `MemoryStore` is the server; each `MemoryJournal` is one owner's connection to it, so that several
owners can contend for one shard. One conformance suite runs over this and over real servers.

What goes wrong in real life can be made to happen here, and only that:

    journal.freeze() / thaw()    operations wait before they reach the store: a stopped owner
    journal.lose_replies = 3     the next three appends are stored, and raise LostError
    journal.lose_requests = 3    the next three appends are not stored, and raise LostError
    store.busy = "LOADING …"     appends and chunks raise BusyError until it is None again
    store.limit = 100_000        and FullError while so many bytes of them are there
    store.restart()              another process serves the same data: a new run_id
    store.forget(0, position)    and it has gone back in time, to before `position`
    store.drop(0)                a stream vanishes

A waiting operation belongs to the run_id that it was asked under, as in `RedisJournal`.
"""

import asyncio
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from actors.journal import (
    BusyError,
    Done,
    Entry,
    FullError,
    JournalError,
    LostError,
    MissingError,
    RefusedError,
    check_append,
    chunk_key,
)
from actors.seat import Seat
from engine import limits
from engine.codec import START, Position


@dataclass
class _Stream:
    entries: list[Entry] = field(default_factory=list)
    last: Position = START
    """The largest position so far; trimming does not lower it."""


def _position(entry: Entry) -> Position:
    return entry.position


class MemoryStore:
    """What the journals of all owners share."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._chunks: dict[str, bytes] = {}
        self._starts = 1
        self.said: bytes | None = None
        """See `actors.seat`."""
        self.busy: str | None = None
        self.limit: int | None = None

    @property
    def used(self) -> int:
        """Bytes of all entries and chunks."""
        streams = self._streams.values()
        entries = sum(len(each.record) for stream in streams for each in stream.entries)
        return entries + sum(map(len, self._chunks.values()))

    @property
    def run_id(self) -> str:
        """Of the process that serves now."""
        return f"memory-{self._starts}"

    def restart(self) -> None:
        """Another process serves the same data."""
        self._starts += 1

    def forget(self, shard: int, position: Position) -> None:
        """The entries from `position` on were never written."""
        stream = self._streams[shard]
        del stream.entries[bisect_left(stream.entries, position, key=_position) :]
        stream.last = stream.entries[-1].position if stream.entries else START

    def drop(self, shard: int) -> None:
        """The stream is gone."""
        del self._streams[shard]

    def append(self, shard: int, position: Position, record: bytes, create: bool) -> None:
        self.check_room()
        stream = self._streams.get(shard)
        if stream is None:
            if not create:
                raise MissingError(f"the journal of shard {shard} is gone")
            stream = self._streams[shard] = _Stream()
        if position <= stream.last:
            raise RefusedError(f"shard {shard}: {position} is not larger than {stream.last}")
        stream.last = position
        stream.entries.append(Entry(position, record))

    def read(self, shard: int, after: Position, count: int, newest: bool) -> list[Entry]:
        stream = self._streams.get(shard, _Stream())
        if newest:
            return stream.entries[: -count - 1 : -1]
        start = bisect_right(stream.entries, after, key=_position)
        return stream.entries[start : start + count]

    def trim(self, shard: int, below: Position) -> int:
        stream = self._streams.get(shard, _Stream())
        end = bisect_left(stream.entries, below, key=_position)
        del stream.entries[:end]
        return end

    def store(self, key: str, chunk: bytes | None) -> bool:
        if chunk is None:
            return self._chunks.pop(key, None) is not None
        self.check_room()
        if key in self._chunks:
            return False
        self._chunks[key] = chunk
        return True

    def load(self, key: str) -> bytes | None:
        return self._chunks.get(key)

    def check_room(self) -> None:
        if self.busy is not None:
            raise BusyError(self.busy)
        if self.limit is not None and self.used >= self.limit:
            raise FullError("OOM command not allowed when used memory > 'maxmemory'")


class MemoryJournal:
    """One owner's view of a store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._moving = asyncio.Event()
        self._moving.set()
        self.lose_replies = 0
        self.lose_requests = 0
        self.waiting = 0
        """Operations that wait for `thaw`."""
        self.trouble: JournalError | None = None
        self.address = "memory"
        self._sending: dict[asyncio.Task[None], None] = {}

    @property
    def run_id(self) -> str:
        """See Journal."""
        return self._store.run_id

    def freeze(self) -> None:
        """Hold back every operation from now on."""
        self._moving.clear()

    def thaw(self) -> None:
        """Let everything go on."""
        self._moving.set()

    async def append(
        self, shard: int, position: Position, record: bytes, *, create: bool = False
    ) -> None:
        """See Journal."""
        check_append(shard, position, record)
        await self._turn_of(self.run_id)
        if self.lose_requests:
            self.lose_requests -= 1
            raise LostError("the request was lost")
        self._store.append(shard, position, record, create)
        if self.lose_replies:
            self.lose_replies -= 1
            raise LostError("the reply was lost")

    def send(self, shard: int, entry: Entry, done: Done) -> None:
        """See Journal."""
        task = asyncio.get_running_loop().create_task(self._send(shard, entry, done))
        self._sending[task] = None
        task.add_done_callback(self._sending.pop)

    async def _send(self, shard: int, entry: Entry, done: Done) -> None:
        try:
            await self.append(shard, *entry)
        except JournalError as error:
            done(error)
        else:
            done(None)

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        """See Journal."""
        assert 0 < count <= limits.JOURNAL_READ_ENTRIES_MAX, f"{count} entries"
        await self._turn()
        return self._store.read(shard, after, count, newest)

    async def trim(self, shard: int, below: Position) -> int:
        """See Journal."""
        await self._turn_of(self.run_id)
        return self._store.trim(shard, below)

    async def store(self, shard: int, name: str, chunk: bytes | None) -> bool:
        """See Journal."""
        key = chunk_key(shard, name)
        assert chunk is None or 0 < len(chunk) <= limits.SNAPSHOT_CHUNK_BYTES_MAX
        if chunk is None:
            await self._turn_of(self.run_id)
        else:
            await self._turn()
        return self._store.store(key, chunk)

    async def load(self, shard: int, name: str) -> bytes | None:
        """See Journal."""
        key = chunk_key(shard, name)
        await self._turn()
        return self._store.load(key)

    async def said(self) -> bytes | None:
        """What the store says of itself."""
        await self._turn()
        return self._store.said

    async def tell(self, seat: Seat) -> None:
        """Let it say this, unless it says something already."""
        await self._turn()
        self._store.said = self._store.said or seat.encode()

    async def _turn(self) -> None:
        """Like a real server, answer no earlier than in the next turn of the loop."""
        self.waiting += 1
        try:
            await asyncio.sleep(0)
            await self._moving.wait()
        finally:
            self.waiting -= 1

    async def _turn_of(self, run_id: str) -> None:
        """The same, but of that server process, and of no other."""
        await self._turn()
        if run_id != self.run_id:
            raise BusyError("another server process answers now")
