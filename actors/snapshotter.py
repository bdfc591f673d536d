"""Takes snapshots of one shard beside its batches, announces them, and then trims the journal.

    due ──► cut, between two batches ──► chunks stored ──► announced in the journal, acknowledged
                                                             │
            two generations are kept ◄── trim to the older ◄─┘

The pointer is journaled only after every chunk is stored, and the journal is trimmed only after the
pointer is acknowledged, so there is a whole way back at every moment. The announcing record carries
the new pointer itself. Chunks are deleted by exact name, and only those of generations below the
older of the two that are kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Final, TypeVar

import structlog

from actors.appender import Appender
from actors.journal import BusyError, Journal, LostError
from engine import limits
from engine.codec import START, Position
from engine.messages import SnapshotTaken
from engine.shard import Shard
from engine.snapshot import SnapshotReader, SnapshotWriter, chunk_name

T = TypeVar("T")
_BACKOFF_SECONDS: Final = 0.2
_log = structlog.get_logger(__name__)


class Snapshotter:
    """The snapshots of one owned shard."""

    def __init__(
        self,
        journal: Journal,
        shard: Shard,
        appender: Appender,
        generations: list[Position],
        on_taken: Callable[[], None],
    ) -> None:
        """`generations`: the snapshots that are kept, older first; `on_taken` is called when a
        snapshot waits to be announced."""
        self._journal = journal
        self._shard = shard
        self._appender = appender
        self._generations = generations
        self._on_taken = on_taken
        self._task: asyncio.Task[None] | None = None
        self._bytes = 0
        self._events = 0
        self._wanted = False
        self._run_id = ""
        """Of the server process that took the chunks of `taken`."""
        self._acknowledged: Position | None = None
        self.taken: SnapshotTaken | None = None
        """A complete snapshot that waits to be announced."""
        self.count = 0

    def note(self, events: int, written: int) -> None:
        """A batch was journaled."""
        self._events += events
        self._bytes += written

    def want(self) -> None:
        """Take a snapshot soon: the journal's server is filling up."""
        self._wanted = self._wanted or self._bytes >= limits.SNAPSHOT_AT_LEAST_BYTES

    def after_batch(self) -> None:
        """Between two batches, every event acknowledged: the moment to cut."""
        if self._acknowledged is not None:
            self._start(self._trim(self._acknowledged))
            self._acknowledged = None
            return
        due = self._wanted or (
            self._bytes >= limits.SNAPSHOT_AFTER_BYTES
            or self._events >= max(limits.SNAPSHOT_AFTER_EVENTS, self._shard.state.remembered)
        )
        if due and self._task is None and self.taken is None:
            self._bytes = self._events = 0
            self._wanted = False
            appender = self._appender
            writer = SnapshotWriter(
                self._shard.state,
                self._shard.number,
                appender.position,
                appender.checksum,
                self._generations[-1] if self._generations else START,
            )
            self._start(self._store(writer, self._journal.run_id))

    def announce(self) -> SnapshotTaken | None:
        """The event to journal with this batch, if a snapshot is complete."""
        taken, self.taken = self.taken, None
        if taken is not None and self._run_id != self._journal.run_id:
            self._wanted = True  # that server process may have lost the chunks
            return None
        if taken is not None:
            self._appender.pointer = Position(taken.epoch, taken.sequence)
            self._acknowledged = self._appender.pointer
        return taken

    def cancel(self) -> None:
        """Leave off: the shard is not ours any more, or goes down."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Leave off, and wait until that is so."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("snapshot_failed", shard=self._shard.number, error=repr(task.exception()))

    def clean_up(self) -> None:
        """After a recovery: delete what the owner before had no time to delete."""
        if len(self._generations) == 2:
            self._start(self._forget_before(self._generations[0]))

    async def _forget_before(self, older: Position) -> None:
        shard = Shard(self._shard.number, self._shard.shards)
        data = await self._patiently(
            partial(self._journal.load, shard.number, chunk_name(older, 0))
        )
        if data is not None:
            reader = SnapshotReader(shard.state, shard.number, older)
            reader.feed(data)
            if reader.previous != START:
                await self._delete(reader.previous)
        await self._patiently(partial(self._journal.trim, shard.number, older))

    async def _store(self, writer: SnapshotWriter, run_id: str) -> None:
        while (chunk := writer.next_chunk()) is not None:
            name, data = chunk
            await self._patiently(partial(self._journal.store, self._shard.number, name, data))
            await asyncio.sleep(0)
        self._run_id = run_id
        self.taken = SnapshotTaken(*writer.position, writer.chunks, writer.digest)
        self.count += 1
        self._on_taken()
        _log.info(
            "snapshot_taken",
            shard=self._shard.number,
            position=str(writer.position),
            chunks=writer.chunks,
        )

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, once the journal answers; all that is asked here may be repeated."""
        while True:
            try:
                return await ask()
            except (BusyError, LostError):
                await asyncio.sleep(_BACKOFF_SECONDS)

    async def _trim(self, pointer: Position) -> None:
        """The pointer is acknowledged: keep it and the one before, and the journal back to that."""
        self._generations.append(pointer)
        while len(self._generations) > 2:
            await self._delete(self._generations.pop(0))
        older = self._generations[0]
        if len(self._generations) == 2:
            removed = await self._patiently(partial(self._journal.trim, self._shard.number, older))
            _log.info(
                "journal_trimmed", shard=self._shard.number, below=str(older), records=removed
            )

    async def _delete(self, generation: Position) -> None:
        """Delete the chunks of a generation, by exact name, as far as they go."""
        number = 0
        while await self._remove(chunk_name(generation, number)):
            number += 1

    async def _remove(self, name: str) -> bool:
        """Whether there was such a chunk; what was lost on the way may have removed it."""
        lost = False
        while True:
            try:
                return await self._journal.store(self._shard.number, name, None) or lost
            except BusyError:
                await asyncio.sleep(_BACKOFF_SECONDS)
            except LostError:
                lost = True
                await asyncio.sleep(_BACKOFF_SECONDS)
