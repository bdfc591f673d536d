"""Takes snapshots of one shard beside its batches, announces them, and then trims the journal.

    due ──► begun, in the journal ──► cut, at that record ──► chunks stored
                                                                │
     two generations are kept ◄── trim to the older ◄── announced, acknowledged

The pointer is journaled only after every chunk is stored, and the journal is trimmed only after the
pointer is acknowledged, so there is a whole way back at every moment. The announcing record carries
the new pointer itself. Whoever recovers the shard finds in the journal what was begun and not
announced, and deletes it: nothing else knows those names.

A server that goes back in time may take the newest snapshots with it. So nothing older is given up
before the newest was seen to be whole, and never on another server process than the one that has
shown it. If it is not whole it counts for nothing, and the next one is taken at once.

Chunks are deleted by exact name, and only those of generations below the older of the two that are
kept. They go from the last to the first, as they came from the first to the last: those that are
there have the numbers from 0 on at every moment, and whoever is interrupted can be followed.

A third generation needs memory while the two before are still there. If the server has none left,
what was stored of it goes, then the older of the two and the journal before the newer; the next one
then finds that room. Until it is announced there is one generation, with all of its journal. The
same is given up when the server is so full that not even a snapshot may be begun: an append that
waits for memory would wait for ever, and with it whatever follows it.

What goes is archived before, if there is an archive: no record is trimmed that is not on its disk.
While the archive fails, because its disk is full or something is damaged, the shard is served, no
new snapshot is begun (it would take memory, and give none back), and it is tried again. If that
lasts until the journal's server is full as well, new work is refused, and in the end all writing,
until the archive has room. To trim nevertheless would let the shard live on at the price of a part
of its history, which nothing could ever give back; to refuse costs sales, but only while an
operator has not made room, which the log and `onhand_archive_errors_total` ask for from the first
failure on, when the server is hardly more than half full.

A memory of which an audit says that it is not what the journal leads to is not written down: with
the next snapshot the wrong values would be what every later owner begins with, and with the one
after it the records that lead to the right ones would be gone. So snapshots and trims are held back
until an audit finds memory and journal agree, and no longer than until the server refuses new work
for want of room: an operator has that long to move the shard.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Final, NamedTuple, TypeVar

import structlog

from actors.appender import Appender
from actors.archiver import Archiver, NotArchivedError
from actors.journal import FullError, Journal
from actors.pace import Spend
from actors.patience import patiently
from engine import limits
from engine.codec import START, Position, decode_record
from engine.messages import SnapshotBegun, SnapshotTaken
from engine.shard import Shard
from engine.snapshot import (
    CorruptSnapshotError,
    SnapshotReader,
    SnapshotWriter,
    check_chunk,
    chunk_name,
)
from engine.state import ShardState

T = TypeVar("T")
_NO_ROOM_SECONDS: Final = 10.0
"""Before a snapshot is tried again for which there was no memory, and none to be made."""
_log = structlog.get_logger(__name__)


class Copy(NamedTuple):
    """A state of one moment, rebuilt beside the living one."""

    state: ShardState
    position: Position
    """Of the last acknowledged record then…"""
    checksum: int
    digest: bytes
    """…and the digest of the living state."""
    run_id: str
    """Of the server process that had acknowledged it."""


class _NotWholeError(Exception):
    """The server does not have all of the newest snapshot."""


class _ChangedError(Exception):
    """Another server process answers than the one that has shown the newest snapshot, or there is
    a newer one."""


class Snapshotter:
    """The snapshots of one owned shard."""

    def __init__(
        self,
        journal: Journal,
        shard: Shard,
        appender: Appender,
        generations: list[Position],
        chunks: int,
        on_waiting: Callable[[], None],
        archiver: Archiver | None = None,
    ) -> None:
        """`generations`: the snapshots that are kept, older first, the last of which has so many
        `chunks`; `on_waiting` is called when a batch is needed for something to go on; None
        archives nothing."""
        self._journal = journal
        self._shard = shard
        self._appender = appender
        self._generations = generations
        self._chunks = chunks
        """Of the newest of these; 0 = it is not known."""
        self._on_waiting = on_waiting
        self._archiver = archiver
        self._forgotten = START
        """What is before this is gone, or goes."""
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._bytes = 0
        """Journaled since the newest snapshot was cut…"""
        self._cut_bytes = 0
        """…and before that, since the one before…"""
        self._trimmable = limits.SNAPSHOT_AT_LEAST_BYTES if generations else 0
        """…of which so much goes with the next; after a recovery, who knows: it is worth a try."""
        self._stored = 0
        """Bytes of the newest snapshot."""
        self._begun_at = self._loop.time()
        self._not_before = 0.0
        self._events = 0
        self._wanted = False
        self._held = False
        """Nothing is snapshotted or trimmed: what is in memory may be wrong."""
        self._run_id = ""
        """Of the server process that took the chunks of `taken`."""
        self._may_relieve = True
        """Since the newest snapshot was announced, nothing has been given up yet."""
        self._relief: asyncio.Task[None] | None = None
        """Beside `_task`, which may wait for the memory that this one frees."""
        self._unsettled = False
        """More is there than two generations and the journal back to the older, because it is not
        archived yet…"""
        self._settle_at = 0.0
        """…which is tried again then…"""
        self._unsettled_since = 0.0
        """…and was so first then."""
        self._begun: Position | None = None
        """Where the record of this batch will stand, that says that a snapshot is begun there."""
        self._acknowledged: SnapshotTaken | None = None
        self._asked: deque[tuple[Callable[[], None], Spend, asyncio.Future[Copy | None]]] = deque()
        """Who waits for a copy of his own."""
        self._has_ended = False
        self.taken: SnapshotTaken | None = None
        """A complete snapshot that waits to be announced."""
        self.count = 0

    def note(self, events: int, written: int) -> None:
        """A batch was journaled."""
        self._events += events
        self._bytes += written

    def copy(self, on_cut: Callable[[], None], spend: Spend) -> asyncio.Future[Copy | None]:
        """A copy of the state as of the end of a batch to come, for which somebody must care;
        `on_cut` is called then, and `spend` sets the pace. None: there will be none."""
        copy: asyncio.Future[Copy | None] = self._loop.create_future()
        if self._has_ended:
            copy.set_result(None)
        else:
            self._asked.append((on_cut, spend, copy))
        return copy

    def tick(self) -> None:
        """Wake up to settle what is due."""
        if self._must_settle:
            self._on_waiting()

    @property
    def generations(self) -> list[Position]:
        """The snapshots that are kept, and are not being given up: two at most, older first."""
        return [each for each in self._generations[-2:] if each >= self._forgotten]

    @property
    def debt(self) -> tuple[int, int]:
        """Events and bytes journaled since the newest snapshot was begun: about what a recovery
        would have to replay."""
        return self._events, self._bytes

    def lag(self, now: float) -> float:
        """For how many seconds what may be trimmed has waited for that."""
        return now - self._unsettled_since if self._unsettled else 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether a batch is needed for something to go on."""
        asked = bool(self._asked) and self._task is None
        return self.taken is not None or asked or self._must_settle

    @property
    def _must_settle(self) -> bool:
        return self._unsettled and self._task is None and self._loop.time() >= self._settle_at

    def want(self, full: bool) -> bool:
        """Take a snapshot soon, because the journal's server is filling up, or is full. Whether it
        helps: this one, or the one after it, must free more than it costs to write."""
        if self._held and not full:
            return False
        if self._held:
            self._held = False
            _log.error("snapshots_despite_drift", shard=self._shard.number)
        worth = max(limits.SNAPSHOT_AT_LEAST_BYTES, self._stored // 4)
        stale = full and self._loop.time() - self._begun_at > limits.SNAPSHOT_RENEW_SECONDS
        self._wanted = self._wanted or stale or self._bytes + self._trimmable >= worth
        return self._wanted

    def renew(self) -> None:
        """Take a snapshot soon, because what is stored is damaged, and memory is not."""
        self._wanted = True

    def hold(self) -> None:
        """Write nothing of this memory down, and trim nothing: it may be wrong."""
        if not self._held:
            self._held = True
            _log.warning("snapshots_held", shard=self._shard.number)

    def go_on(self) -> None:
        """It is right: as usual again."""
        if self._held:
            self._held = False
            _log.info("snapshots_go_on", shard=self._shard.number)
            self.tick()

    def announce(self) -> SnapshotBegun | SnapshotTaken | None:
        """The event to journal with this batch, if a snapshot is complete or due."""
        taken, self.taken = self.taken, None
        if taken is None:
            return self._begin()
        position = Position(taken.epoch, taken.sequence)
        # A server that is another one may have lost some of the chunks.
        if self._held or self._run_id != self._journal.run_id:
            self._wanted = True
            self._start(self._delete(position, taken.chunks))
            return None
        self._appender.pointer, self._acknowledged = position, taken
        return taken

    def _begin(self) -> SnapshotBegun | None:
        due = self._wanted or (
            self._bytes >= limits.SNAPSHOT_AFTER_BYTES
            or self._events >= max(limits.SNAPSHOT_AFTER_EVENTS, self._shard.state.remembered)
        )
        if not due or self._held or self._unsettled or self._task is not None:
            return None
        if self._not_before > self._loop.time():
            return None
        self._cut_bytes, self._bytes, self._events = self._bytes, 0, 0
        self._begun_at = self._loop.time()
        self._wanted = False
        epoch, sequence = self._appender.position
        self._begun = Position(epoch, sequence + 1)
        return SnapshotBegun()

    def after_batch(self) -> None:
        """Between two batches, every event acknowledged: the moment to cut, or to trim."""
        begun, self._begun = self._begun, None
        acknowledged, self._acknowledged = self._acknowledged, None
        if acknowledged is not None:
            self._start(self._trim(acknowledged))
        elif begun == self._appender.position:
            self._start(self._store(self._cut(), self._journal.run_id))
        elif begun is not None:
            self._wanted = True  # a pass stands after it
        elif self.taken is not None:
            return  # what comes of it is next
        elif self._asked and self._task is None:
            on_cut, spend, copy = self._asked.popleft()
            on_cut()
            living = self._shard.state
            tallies = dict(living.shortfalls), list(living.counts)
            cut = self._cut(limits.AUDIT_SLICE_ENTRIES), self._appender.checksum
            self._start(self._rebuild(*cut, self._journal.run_id, tallies, spend, copy))
        elif self._must_settle:
            self._start(self._settle())

    def _cut(self, entries_max: int | None = None) -> SnapshotWriter:
        appender = self._appender
        return SnapshotWriter(
            self._shard.state,
            self._shard.number,
            appender.position,
            appender.checksum,
            self._generations[-1] if self._generations else START,
            entries_max,
        )

    def cancel(self) -> None:
        """Leave off: the shard is not ours any more, or goes down."""
        self._has_ended = True
        for task in self._tasks():
            task.cancel()
        while self._asked:
            _tell(self._asked.popleft()[2], None)

    async def stop(self) -> None:
        """Leave off, and wait until that is so."""
        tasks = self._tasks()
        self.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [each for each in (self._task, self._relief) if each is not None]

    async def _rebuild(
        self,
        writer: SnapshotWriter,
        checksum: int,
        run_id: str,
        tallies: tuple[dict[tuple[str, str], int], list[int]],
        spend: Spend,
        asked: asyncio.Future[Copy | None],
    ) -> None:
        """Build a second state from a snapshot that is not stored, beside batches. What a snapshot
        does not hold, since it follows from the rest, the copy has as the living state had it."""
        copy, number = None, self._shard.number
        try:
            state = ShardState()
            state.seal()
            reader = SnapshotReader(state, number, writer.position)
            while (chunk := writer.next_chunk()) is not None:
                reader.feed(chunk[1])
                await (asyncio.sleep(0) if self._wanted else spend(2 * limits.AUDIT_SLICE_ENTRIES))
            state.shortfalls, state.counts = tallies
            copy = Copy(state, writer.position, checksum, writer.digest, run_id)
        finally:
            _tell(asked, copy)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._done)

    def relieve(self) -> None:
        """The server has no memory left: give up what can be given up without writing anything."""
        may = self._may_relieve and self._loop.time() >= self._settle_at
        if self._relief is None and self._generations and may:
            self._may_relieve = False
            self._relief = self._loop.create_task(self._relieve())
            self._relief.add_done_callback(self._done)

    async def _relieve(self) -> None:
        freed = await self._give_up_older()
        _log.warning("older_snapshot_given_up", shard=self._shard.number, freed=freed)

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if self._relief is task:
            self._relief = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("snapshot_failed", shard=self._shard.number, error=repr(task.exception()))
        if self.is_waiting:
            self._on_waiting()

    def clean_up(self, begun: list[Position]) -> None:
        """After a recovery: delete what the owners before had no time to delete, and what they had
        no time to finish."""
        if begun or len(self._generations) == 2:
            self._start(self._clean_up(begun))

    async def _clean_up(self, begun: list[Position]) -> None:
        for each in begun:
            await self._delete(each, await self._count(each))
        if len(self._generations) < 2:
            return
        older = self._generations[0]
        if await self.drop_if_given_up(older):
            return
        before = await self._before(older)
        if before != START and older in self._generations:
            self._generations.insert(0, before)
        await self._settle()

    async def drop_if_given_up(self, older: Position) -> bool:
        """Whether the older of two generations, both from the owners before, is not whole any more:
        one of them has given it up, perhaps not to its end, and perhaps just now, because it does
        not know of us yet. Then it counts for nothing, and what is left of it goes."""
        chunks = await self._count(older)
        if await self._is_whole(older, chunks):
            return False
        if older in self._generations:
            self._generations.remove(older)
            _log.warning("older_snapshot_was_given_up", shard=self._shard.number, older=str(older))
        await self._delete(older, chunks)
        return True

    async def _is_whole(self, generation: Position, chunks: int) -> bool:
        """Whether the last of these chunks is the last one of the snapshot, or damaged: it is there
        then, and an audit tells."""
        data = await self._load(generation, chunks - 1) if chunks else None
        try:
            return data is not None and check_chunk(
                data, self._shard.number, generation, chunks - 1
            )
        except CorruptSnapshotError:
            return True

    async def _before(self, generation: Position) -> Position:
        """The snapshot before this one, START if there was none."""
        shard = Shard(self._shard.number, self._shard.shards)
        data = await self._load(generation, 0)
        if data is None:
            return START
        reader = SnapshotReader(shard.state, shard.number, generation)
        reader.feed(data)
        return reader.previous

    async def _store(self, writer: SnapshotWriter, run_id: str) -> None:
        stored = 0
        try:
            while (chunk := writer.next_chunk()) is not None:
                name, data = chunk
                await patiently(partial(self._journal.store, self._shard.number, name, data))
                stored += len(data)
                await asyncio.sleep(0)
        except FullError:
            await self._make_room(writer)
            return
        self._stored, self._run_id = stored, run_id
        self.taken = SnapshotTaken(*writer.position, writer.chunks, writer.digest)
        self.count += 1
        self._on_waiting()
        _log.info(
            "snapshot_taken",
            shard=self._shard.number,
            position=str(writer.position),
            chunks=writer.chunks,
        )

    async def _make_room(self, writer: SnapshotWriter) -> None:
        """There is no memory for this snapshot: give it up, and the older of the others for it."""
        await self._delete(writer.position, writer.chunks)
        self._bytes += self._cut_bytes
        _log.warning("no_memory_for_a_snapshot", shard=self._shard.number)
        if await self._give_up_older():
            self._wanted = True
        else:
            self._not_before = self._loop.time() + _NO_ROOM_SECONDS

    async def _give_up_older(self) -> bool:
        """Keep the newest snapshot only, and the journal back to that. Whether that gave room."""
        if not self._generations:
            return False
        try:
            return await self._forget_before(self._generations[-1]) > 0
        except NotArchivedError:
            self._may_relieve = True
            self._settle_at = self._loop.time() + limits.ARCHIVE_RETRY_SECONDS
            return False
        except _NotWholeError:
            return False

    async def _trim(self, taken: SnapshotTaken) -> None:
        """Its pointer is acknowledged: keep it and the one before, and the journal back to that."""
        self._generations.append(Position(taken.epoch, taken.sequence))
        self._chunks = taken.chunks
        self._may_relieve = True
        self._trimmable = self._cut_bytes
        await self._settle()

    async def _settle(self) -> None:
        """Keep two generations, and the journal back to the older; or try again later."""
        unsettled = len(self._generations) > 1
        if unsettled and not self._unsettled:
            self._unsettled_since = self._loop.time()
        self._unsettled = unsettled
        if not unsettled:
            return
        self._settle_at = self._loop.time() + limits.ARCHIVE_RETRY_SECONDS
        if self._held:
            return
        older = self._generations[-2]
        try:
            await self._forget_before(older)
        except (NotArchivedError, _NotWholeError):
            return
        self._unsettled, self._settle_at = False, 0.0
        _log.info("journal_trimmed", shard=self._shard.number, below=str(older))
        if self._archiver is not None:
            await self._archiver.prune(self._shard.number, self._shard.state.now)

    async def _forget_before(self, keep: Position) -> int:
        """Archive, and then delete, the generations before `keep`, and the journal before it. How
        many chunks and records are gone. Raises NotArchivedError and _NotWholeError."""
        while True:
            run_id = self._journal.run_id
            try:
                await self._look_at_newest(run_id)
                await self._look_at_end(keep, run_id)
                return await self._forget(keep, run_id)
            except _ChangedError:
                continue

    async def _look_at_newest(self, run_id: str) -> None:
        """Raise _NotWholeError unless this server process has all of the newest snapshot. Then
        that is as good as none, and the next one is wanted."""
        if not self._generations:
            raise _NotWholeError
        newest, wanted = self._generations[-1], self._chunks
        chunks = wanted and await self._count(newest)
        if [newest] != self._generations[-1:]:
            raise _ChangedError  # a newer one was announced meanwhile, or this one was found out
        if chunks and chunks == wanted:
            return
        self._unsettled, self._wanted = False, True
        if wanted:
            self._generations.pop()
            self._chunks = 0
            if self._appender.pointer == newest:
                self._appender.pointer = self._generations[-1] if self._generations else START
            _log.warning("snapshot_lost", shard=self._shard.number, position=str(newest))
            await self._delete(newest, chunks, run_id)
        raise _NotWholeError

    async def _look_at_end(self, keep: Position, run_id: str) -> None:
        """Raise _NotWholeError unless the journal, as this server process has it, leads to `keep`
        or a later snapshot. One that went back may have all chunks, but not the record that tells
        of them: to who comes next it would begin with a gap. Raises _ChangedError as well."""
        number = self._shard.number
        newest = partial(self._journal.read, number, START, 1, newest=True)
        for entry in await patiently(partial(self._ask_of, run_id, newest)):
            if decode_record(entry.record, number, entry.position).snapshot >= keep:
                return
        raise _NotWholeError

    async def _forget(self, keep: Position, run_id: str) -> int:
        """The same, on one server process. Raises _ChangedError as well."""
        number = self._shard.number
        older = [each for each in self._generations if each < keep]
        if self._archiver is not None:
            await self._archiver.keep_records(self._journal, number, keep)
            for each in older:
                await self._archiver.keep_snapshot(self._journal, number, each)
        self._forgotten = max(self._forgotten, keep)
        gone = 0
        for each in older:
            chunks = await self._count(each)
            await self._delete(each, chunks, run_id)
            if each in self._generations:
                self._generations.remove(each)
            gone += chunks
        trim = partial(self._journal.trim, number, keep)
        return gone + await patiently(partial(self._ask_of, run_id, trim))

    async def _delete(self, generation: Position, chunks: int, run_id: str | None = None) -> None:
        """Delete the chunks of a generation by exact name, last to first; with `run_id`, on that
        server process only. Raises _ChangedError if another one answers."""
        for number in reversed(range(chunks)):
            name = chunk_name(generation, number)
            ask = partial(self._journal.store, self._shard.number, name, None)
            await patiently(ask if run_id is None else partial(self._ask_of, run_id, ask))

    async def _ask_of(self, run_id: str, ask: Callable[[], Awaitable[T]]) -> T:
        if self._journal.run_id != run_id:
            raise _ChangedError
        return await ask()

    async def _count(self, generation: Position) -> int:
        """How many chunks there are of a generation: those from number 0 on."""
        there, missing = 0, 1  # so many are there; so many are not
        while await self._has(generation, missing - 1):
            there, missing = missing, 2 * missing
        while missing - there > 1:
            middle = (there + missing) // 2
            if await self._has(generation, middle - 1):
                there = middle
            else:
                missing = middle
        return there

    async def _has(self, generation: Position, number: int) -> bool:
        return await self._load(generation, number) is not None

    async def _load(self, generation: Position, number: int) -> bytes | None:
        name = chunk_name(generation, number)
        return await patiently(partial(self._journal.load, self._shard.number, name))


def _tell(copy: asyncio.Future[Copy | None], result: Copy | None) -> None:
    if not copy.done():  # who asked may have left off
        copy.set_result(result)
