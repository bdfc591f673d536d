"""Owners on a journal in memory, where faults are put anywhere and time passes by itself.

`timeless` runs a test on an event loop whose time jumps to the next timer as soon as everybody
waits: backoffs, deadlines and idle seconds cost nothing, and a wait for something that nobody will
ever do is an error at once. `RememberingStore` keeps what was ever appended, past every trim, so
that `lived` can say what a recovery must arrive at. `FaultyJournal` loses, on the way there or on
the way back, whichever operations it is told to.
"""

import asyncio
import functools
import selectors
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ParamSpec

from actors.archive import Archive
from actors.archiver import Archiver
from actors.claim import Floor, claim
from actors.clock import Clock
from actors.historian import Historian
from actors.journal import BusyError, Entry, Journal, LostError
from actors.marks import Marks
from actors.memory_disk import MemoryDisk
from actors.memory_journal import MemoryJournal, MemoryStore
from actors.owner import Owner
from actors.ownership import Ownership
from actors.phase import ENDED, Phase
from actors.recovery import Recovery
from actors.tally import Tally
from engine import limits
from engine.codec import Position, Record, decode_record
from engine.messages import (
    Answer,
    AnyAnswer,
    Command,
    Head,
    LineRequest,
    Opened,
    Receive,
    Reserve,
    Status,
)
from engine.shard import Shard
from engine.wire import decode_answer
from tests.actors.servers import eventually

P = ParamSpec("P")
START_SECONDS = 1_700_000_000
"""Of the wall clock, when a timeless loop begins."""


# --- time ------------------------------------------------------------------------------------


class _Jumping(selectors.SelectSelector):
    """Waits for no timer: it moves the loop's time there instead."""

    loop: "TimelessLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.loop.threads:
            return super().select(timeout)
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("everybody waits, and nobody will come")
        self.loop.now += timeout
        return ready


class TimelessLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everybody waits, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.threads = 0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        self.threads -= 1

    async def shutdown_default_executor(self) -> None:
        self.threads += 1
        await super().shutdown_default_executor()


def timeless(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run the test on a TimelessLoop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=TimelessLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


# --- the journal -----------------------------------------------------------------------------


class RememberingStore(MemoryStore):
    """A store that remembers what was trimmed, and what chunks there are."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[int, list[Entry]] = {}
        """Shard → all that was ever appended and not lost."""
        self.chunks = self._chunks

    def append(self, shard: int, position: Position, record: bytes, create: bool) -> None:
        super().append(shard, position, record, create)
        self.history.setdefault(shard, []).append(Entry(position, record))

    def forget(self, shard: int, position: Position) -> None:
        super().forget(shard, position)
        history = self.history[shard]
        del history[bisect_left(history, Entry(position, b"")) :]

    def entries(self, shard: int = 0) -> list[Entry]:
        """What stands in the stream."""
        return self._streams[shard].entries

    def records(self, shard: int = 0) -> list[Record]:
        """All that was ever appended, decoded."""
        return [decode_record(data, shard, where) for where, data in self.history[shard]]

    def positions(self, shard: int = 0) -> list[Position]:
        return [position for position, _ in self.entries(shard)]


REQUEST, REPLY, BUSY = "request", "reply", "busy"
"""What may be lost of an operation; or the server says that it did nothing."""


class FaultyJournal(MemoryJournal):
    """A connection that fails at the operations that `faults` names by their number, from 0."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.faults: dict[int, str] = {}
        self.operations: list[str] = []
        """The names of all operations so far."""
        self.before: Callable[[str], None] = lambda name: None
        """Called with its name when an operation is asked for."""

    def once(self, name: str, change: Callable[[], None]) -> None:
        """Call `change` when the next operation of that name is asked for."""

        def before(operation: str) -> None:
            if operation == name:
                self.before = lambda other: None
                change()

        self.before = before

    def fault_next(self, *faults: str) -> None:
        """What becomes of the next operations; nothing = they succeed."""
        self.faults = dict(enumerate(faults, len(self.operations)))

    def fault_last(self, fault: str) -> None:
        """What becomes of the operation that is being asked for: said by who looks on `before`."""
        self.faults[len(self.operations) - 1] = fault

    def _failing(self, name: str) -> str:
        number = len(self.operations)
        self.operations.append(name)
        self.before(name)
        fault = self.faults.get(number, "")
        if fault == REQUEST:
            raise LostError(f"the request of {name} {number} was lost")
        if fault == BUSY:
            raise BusyError(f"{name} {number} was not done")
        return fault

    def _check(self, run_id: str) -> None:
        """What was asked for under one run_id is not done under another."""
        if run_id != self.run_id:
            raise BusyError("another server process answers now")

    async def append(
        self, shard: int, position: Position, record: bytes, *, create: bool = False
    ) -> None:
        run_id = self.run_id
        fault = self._failing("append")
        self._check(run_id)
        await super().append(shard, position, record, create=create)
        _maybe_lose(fault)

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        fault = self._failing("read")
        entries = await super().read(shard, after, count, newest=newest)
        _maybe_lose(fault)
        return entries

    async def trim(self, shard: int, below: Position) -> int:
        run_id = self.run_id
        fault = self._failing("trim")
        self._check(run_id)
        removed = await super().trim(shard, below)
        _maybe_lose(fault)
        return removed

    async def store(self, shard: int, name: str, chunk: bytes | None) -> bool:
        run_id = self.run_id
        fault = self._failing("store" if chunk is not None else "delete")
        if chunk is None:
            self._check(run_id)
        stored = await super().store(shard, name, chunk)
        _maybe_lose(fault)
        return stored

    async def load(self, shard: int, name: str) -> bytes | None:
        fault = self._failing("load")
        chunk = await super().load(shard, name)
        _maybe_lose(fault)
        return chunk


def _maybe_lose(fault: str) -> None:
    if fault == REPLY:
        raise LostError("the reply was lost")


# --- owners ----------------------------------------------------------------------------------


class Caller:
    """One who asks one command, and sees what is answered."""

    def __init__(self, deadline: float = float("inf")) -> None:
        self.deadline = deadline
        self.answers: list[Answer] = []
        self.head: Head | None = None
        self._answered = asyncio.get_running_loop().create_future()

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        self.answers.append(decode_answer(answer))
        if not self._answered.done():
            self.head = head
            self._answered.set_result(self.answers[-1])

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        self.answer(index, answers[0], head)

    async def first(self) -> Answer:
        """The answer that counts."""
        answer: Answer = await asyncio.shield(self._answered)
        return answer

    @property
    def status(self) -> Status | None:
        """Of the answer that counts; None = there is none yet."""
        return self.answers[0].status if self.answers else None


class Life:
    """An owner, from its start to its end."""

    def __init__(self, owner: Owner, journal: Journal, floors: list[Floor]) -> None:
        self.owner = owner
        self.journal = journal
        self.task = asyncio.get_running_loop().create_task(owner.run(floors))

    def send(self, command: Command, seconds: float = float("inf")) -> Caller:
        """Put one command; it may be refused because the owner has ended."""
        caller = Caller(asyncio.get_running_loop().time() + seconds)
        if self.owner.phase in ENDED:
            caller.answer(0, self.owner.refusal())
        else:
            self.owner.submit(caller, 0, command)
        return caller

    async def ask(self, command: Command) -> Answer:
        return await self.send(command).first()

    async def go_on(self, batches: int) -> None:
        """So many batches, one a second, each about another SKU."""
        for number in range(batches):
            answer = await self.ask(receive(number + 1, f"sku-{number}"))
            assert Status.OK is answer.status
            await asyncio.sleep(1)

    async def idle(self, seconds: float) -> None:
        """Time passes, and the host looks after its owner."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(limits.TICK_SECONDS)
            self.owner.tick(loop.time())

    async def crash(self) -> None:
        """The process dies: nothing more is written, nobody is told."""
        if isinstance(self.journal, MemoryJournal):
            self.journal.freeze()
        self.task.cancel()
        await asyncio.wait([self.task])
        if self.owner.snapshotter is not None:
            await self.owner.snapshotter.stop()

    async def stop(self) -> None:
        """Leave in order."""
        self.owner.stop()
        await self.task

    async def settled(self) -> Phase:
        """Serving, or how it ended."""
        coming_up = (Phase.CLAIMING, Phase.RECOVERING)
        await eventually(lambda: self.owner.phase not in coming_up, 600)
        return self.owner.phase

    async def ended(self) -> Phase:
        await self.task
        return self.owner.phase


def ownership(shards: int = 1, *, cluster_id: str = "here", grace_us: int = 0) -> Ownership:
    return Ownership(
        shards,
        cluster_id,
        "host",
        limits.REMEMBERED_MAX,
        grace_us,
        limits.FINISHED_WINDOW_US,
        limits.RETURNS_WINDOW_US,
        limits.KEYS_WINDOW_US,
    )


class Trial:
    """A store, and the owners that come and go on it."""

    def __init__(self, directory: Path, shards: int = 1) -> None:
        self.store = RememberingStore()
        self.shards = shards
        self.directory = directory
        self.tally = Tally()
        self.wall_offset = 0
        self._nonces = 0
        self.disk = MemoryDisk()
        self.archive = Archive(Path("archive"), None, self.disk)
        self.archive_snapshot_bytes = limits.ARCHIVE_SNAPSHOT_BYTES

    def archiver(self) -> Archiver:
        """That of a new process."""
        return Archiver(Archive(Path("archive"), None, self.disk), self.archive_snapshot_bytes)

    def historian(self) -> Historian:
        """That of a new process."""
        return Historian(self.shards, self.archive)

    def journal(self) -> FaultyJournal:
        return FaultyJournal(self.store)

    def clock(self, stamp: int) -> Clock:
        loop = asyncio.get_running_loop()
        return Clock(
            stamp,
            wall=lambda: int((START_SECONDS + self.wall_offset + loop.time()) * 1e9),
            monotonic=lambda: int(loop.time() * 1e9),
        )

    def begin(
        self,
        journal: Journal | None = None,
        *,
        number: int = 0,
        floors: Iterable[Floor] = (),
        settings: Ownership | None = None,
        recovery: Recovery | None = None,
    ) -> Life:
        """Start an owner; it has not claimed yet when this returns."""
        journal = journal or self.journal()
        self._nonces += 1
        owner = Owner(
            number,
            settings or ownership(self.shards),
            journal,
            Marks(self.directory),
            self.clock,
            self.tally,
            self._nonces.to_bytes(16),
            lambda owner: None,
            recovery,
            archiver=self.archiver(),
            historian=self.historian(),
        )
        return Life(owner, journal, list(floors))

    async def serve(
        self,
        journal: Journal | None = None,
        *,
        number: int = 0,
        floors: Iterable[Floor] = (),
        settings: Ownership | None = None,
        recovery: Recovery | None = None,
    ) -> Life:
        """Start an owner, and wait until it serves."""
        life = self.begin(
            journal, number=number, floors=floors, settings=settings, recovery=recovery
        )
        assert Phase.SERVING is await life.settled(), life.owner.reason
        return life

    async def refused(
        self,
        journal: Journal | None = None,
        *,
        floors: Iterable[Floor] = (),
        settings: Ownership | None = None,
    ) -> str:
        """Start an owner that must not serve: why it does not. Whoever waits for it is told."""
        life = self.begin(journal, floors=floors, settings=settings)
        waiting = life.send(receive(1))
        assert Phase.FAILED is await life.settled(), life.owner.reason
        assert [Answer(Status.SHARD_STOPPED)] == waiting.answers
        assert Status.SHARD_STOPPED is life.send(receive(1)).status
        return life.owner.reason

    async def follow(self, journal: Journal | None = None) -> Recovery:
        """Somebody keeps up with the shard, and has read all there is."""
        recovery = ownership(self.shards).recovery(0, journal or self.journal())
        near = asyncio.Event()
        recovery.follow(near.set)
        await near.wait()
        return recovery

    async def live(self, batches: int) -> None:
        """A life of so many batches that ends in order."""
        life = await self.serve()
        await life.go_on(batches)
        await life.stop()

    async def generations(self) -> list[Position]:
        """Several snapshots are taken and announced: the two that are kept, older first."""
        await self.live(20)
        kept = sorted({record.snapshot for record in self.store.records()})[-2:]
        assert self.store.positions()[0] == kept[0]
        return kept

    async def claim(self, floors: Iterable[Floor] = ()) -> Entry:
        """Somebody claims the shard, and is never seen again."""
        return await claim(
            self.journal(),
            0,
            shards=self.shards,
            cluster_id="here",
            host="elsewhere",
            nonce=b"nonce",
            stamp=START_SECONDS,
            floors=floors,
        )

    @property
    def last(self) -> Record:
        """The record that the journal ends with."""
        return self.store.records()[-1]

    @property
    def opened(self) -> Opened:
        """The event with which the newest owner began to serve."""
        events = [event for record in self.store.records() for event in record.events]
        return [event for event in events if isinstance(event, Opened)][-1]

    def lived_before_the_claim(self) -> bytes:
        """The digest of all that stood before the newest claim."""
        records = self.store.records()
        claims = [number for number, each in enumerate(records) if not each.position.sequence]
        return replayed(records[: claims[-1]], 0, self.shards).digest()

    def lived(self, number: int = 0) -> bytes:
        """The digest of all that was ever appended."""
        return replayed(self.store.records(number), number, self.shards).digest()


def replayed(records: Iterable[Record], number: int, shards: int) -> Shard:
    """What the records add up to, without any snapshot."""
    shard = Shard(number, shards)
    for record in records:
        shard.replay(record.stamp, record.events)
    return shard


def receive(quantity: int, sku: str = "sku", location: str = "here") -> Receive:
    return Receive(sku, location, quantity)


def reserve(name: str, quantity: int = 1, sku: str = "sku", ttl_seconds: int = 600) -> Reserve:
    return Reserve(name, [LineRequest(sku, quantity)], ttl_seconds=ttl_seconds)
