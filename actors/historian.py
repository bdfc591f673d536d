"""Answers questions about the past of a host's shards, beside their batches.

    asked ──► queued ──► its turn ──► a moment of the shard ──► replayed ──► answered
      └ too many: OVERLOADED    └ the deadline, or the shard's end: NOT_DONE, at any time

A question is answered from what is kept (`actors.past`), never from the living state, so that the
same question about the same record has the same answer for ever, whoever owns the shard. It rests
on acknowledged records alone: its *moment* is the end of a batch that began after it was asked, so
the owner has just proven that the shard is still its own, and it ends at what was acknowledged
then. A time is answered for only if it lies before that moment: no later record of this owner can
be stamped so early. (A successor whose clock is behind could, by as much as it is behind. The
position that comes with every answer is exact.)

A question may replay a lot. So a host answers one at a time, in slices between which everybody
else on its loop has a turn, and has few of them waiting: of each server that the journal is on, so
that one which is down keeps nobody waiting for the others. A list of movements is not lost at its
deadline: it ends a little earlier, with what was found and the place from where to go on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from math import inf
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from actors.archive import AnyArchive, CorruptArchiveError
from actors.inbox import Waiter
from actors.journal import Journal
from actors.past import Moment, NotKeptError, Past, VanishedError
from actors.pending import NOT_DONE
from engine import limits
from engine.chain import Link
from engine.codec import GENESIS, START, CorruptRecordError, Position, Record
from engine.history import Movements, Replay
from engine.messages import (
    Answer,
    Detail,
    GetStockAsOf,
    Head,
    LedgerEntry,
    LedgerPage,
    ListMovements,
    Status,
    StockAsOf,
)
from engine.placement import server_of
from engine.snapshot import CorruptSnapshotError
from engine.state import InvariantError

Question = GetStockAsOf | ListMovements
_Answered = tuple[Answer, Head | None]
_DAMAGE: Final = (CorruptRecordError, CorruptSnapshotError, CorruptArchiveError, InvariantError)
_TRIES: Final = 5
"""How often a question begins anew because what it was reading was trimmed under it."""
_SHARE: Final = 0.8
"""Of the time to its deadline that a list of movements uses before it leaves with what it has."""
IsLate = Callable[[Position, int], bool]
"""Whether a record at that position, of that time, comes after the moment that was asked for."""
_encode: Final = msgspec.msgpack.Encoder().encode
_log = structlog.get_logger(__name__)


class Subject(Protocol):
    """The owner of a shard, as far as its past is concerned."""

    @property
    def number(self) -> int:
        """The shard."""

    @property
    def journal(self) -> Journal:
        """Where its records are."""

    def meet(self) -> Awaitable[Moment]:
        """The end of a batch that begins from now on."""


class RefusedError(Exception):
    """The question has no answer."""

    def __init__(self, status: Status, why: str = "") -> None:
        super().__init__(status, why)
        self.answer = Answer(status, Detail(why[: limits.TEXT_CHARS_MAX]) if why else None)


class _Asked(NamedTuple):
    """A question that was not answered yet."""

    subject: Subject
    waiter: Waiter
    place: int
    """Of the answer, in the request."""


class Historian:
    """The questions that one host is asked."""

    def __init__(self, shards: int, archive: AnyArchive | None = None, servers: int = 1) -> None:
        self._shards = shards
        self._archive = archive
        self._asked: dict[asyncio.Task[_Answered], _Asked] = {}
        self._turns = [asyncio.Lock() for _ in range(servers)]
        self.answered = self.refused = self.damaged = 0
        self.replayed = 0
        """Records."""

    def ask(self, subject: Subject, waiter: Waiter, index: int, question: Question) -> None:
        """Put one question; it is answered through `waiter`, at its deadline at the latest."""
        turn = self._turn_of(subject)
        if sum(self._turn_of(each.subject) is turn for each in self._asked.values()) >= (
            limits.HISTORY_QUEUE_MAX
        ):
            self.refused += 1
            waiter.answer(index, Answer(Status.OVERLOADED))
            return
        deadline = None if waiter.deadline == inf else waiter.deadline
        task = asyncio.get_running_loop().create_task(self._attend(subject, question, deadline))
        self._asked[task] = _Asked(subject, waiter, index)
        task.add_done_callback(self._done)

    def _turn_of(self, subject: Subject) -> asyncio.Lock:
        return self._turns[server_of(subject.number, len(self._turns))]

    def leave(self, subject: Subject) -> None:
        """The owner has ended: whoever asked about its shard may ask the next one."""
        for task, asked in self._asked.items():
            if asked.subject is subject:
                task.cancel()

    def _done(self, task: asyncio.Task[_Answered]) -> None:
        _, waiter, place = self._asked.pop(task)
        answer, head = (NOT_DONE, None) if task.cancelled() else task.result()
        self.answered += 1
        waiter.answer(place, answer, head)

    async def _attend(
        self, subject: Subject, question: Question, deadline: float | None
    ) -> _Answered:
        try:
            async with asyncio.timeout_at(deadline), self._turn_of(subject):
                return await self._answer(subject, question, deadline)
        except TimeoutError:
            return NOT_DONE, None
        except _DAMAGE as error:
            self.damaged += 1
            _log.error("history_damaged", shard=subject.number, reason=str(error))
            return _refusal(Status.HISTORY_DAMAGED, str(error)), None
        except OSError as error:  # no file descriptor is left, or the disk has gone: no damage yet
            _log.error("history_unreadable", shard=subject.number, reason=str(error))
            return NOT_DONE, None
        except Exception:  # a bug costs the question, which must not be asked again and again
            _log.exception("history_failed", shard=subject.number)
            return _refusal(Status.HISTORY_DAMAGED, "the engine failed on this"), None

    async def _answer(
        self, subject: Subject, question: Question, deadline: float | None
    ) -> _Answered:
        for _ in range(_TRIES):
            moment = await subject.meet()
            past = Past(subject.journal, subject.number, self._shards, self._archive, moment)
            head = Head(subject.number, *moment.head)
            try:
                if isinstance(question, GetStockAsOf):
                    return Answer(Status.OK, await self._stock_as_of(past, question)), head
                return Answer(Status.OK, await self._movements(past, question, deadline)), head
            except RefusedError as refused:
                return refused.answer, head
            except NotKeptError as error:
                return _refusal(Status.HISTORY_NOT_KEPT, str(error)), head
            except VanishedError as error:
                _log.info("history_asked_anew", shard=subject.number, reason=str(error))
        return NOT_DONE, None

    # --- stock as of a moment ---

    async def _stock_as_of(self, past: Past, question: GetStockAsOf) -> StockAsOf:
        is_late = _end_of(past.moment, question)
        replay = await past.begin(lambda position, time: not is_late(position, time))
        await self._replay(past, replay, is_late, question.position)
        if question.position is not None and replay.position != question.position:
            raise RefusedError(
                Status.UNKNOWN_RECORD,
                f"there is no record {Position(*question.position)}; {replay.position} is the last"
                " before it",
            )
        stock = replay.shard.state.skus.get(question.sku)
        if stock is None:
            raise RefusedError(Status.UNKNOWN_SKU, f"it was not known yet after {replay.position}")
        return StockAsOf(*replay.position, replay.time, stock.view())

    async def _replay(
        self, past: Past, replay: Replay, is_late: IsLate, last: tuple[int, int] | None
    ) -> None:
        """Go on up to the last record that is not late; what is after `last` is not looked at."""
        slice_ = _Slice()
        while replay.position != last and (page := await past.page(replay)):
            for entry in page:
                if last is not None and entry.position > last:
                    return
                record, link = past.prove(replay, entry)
                if is_late(record.position, record.stamp):
                    return
                replay.apply(record, link)
                self.replayed += 1
                await slice_.spend(record)

    # --- movements ---

    async def _movements(
        self, past: Past, question: ListMovements, deadline: float | None
    ) -> LedgerPage:
        after, since, until = question.after, question.since, question.until
        if after is not None and after[:2] > past.moment.head:
            raise RefusedError(Status.NOT_YET, _head(past.moment))
        loop, leave_at = asyncio.get_running_loop(), inf
        if deadline is not None:
            leave_at = loop.time() + _SHARE * (deadline - loop.time())
        if after is not None:
            replay = await past.begin(lambda position, time: position < after[:2])
        elif since is not None:
            replay = await past.begin(lambda position, time: time < since)
        else:
            replay = await past.earliest()
        page = _Page(question, replay.position)
        slice_ = _Slice()
        while entries := await past.page(replay):
            for entry in entries:
                record, link = past.prove(replay, entry)
                if until is not None and record.stamp > until:
                    return page.close(replay)
                page.take(replay, record, link)
                self.replayed += 1
                if page.is_full:
                    return page.close(replay)
                await slice_.spend(record)
            if loop.time() > leave_at and replay.position > (after or START)[:2]:
                return page.close(replay, is_early=True)
        return page.close(replay)


class _Slice:
    """Work on the event loop that lets others have their turn every so often."""

    def __init__(self) -> None:
        self._events = 0

    async def spend(self, record: Record) -> None:
        self._events += 1 + len(record.events)
        if self._events >= limits.HISTORY_SLICE_EVENTS:
            self._events = 0
            await asyncio.sleep(0)


class _Page:
    """A page of movements while it fills."""

    def __init__(self, question: ListMovements, begins: Position) -> None:
        self._question = question
        self._movements = Movements(question.sku, question.scope)
        self._begins = begins
        self._entries: list[LedgerEntry] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        wanted = self._question.limit
        return len(self._entries) >= wanted or self._bytes >= limits.HISTORY_PAGE_BYTES_MAX

    def take(self, replay: Replay, record: Record, link: Link) -> None:
        """Go on to `record`, and list what it did."""
        after, since = self._question.after or (*START, 0), self._question.since or 0
        if record.position < after[:2] or max(replay.time, record.stamp) < since:
            replay.apply(record, link)
            return
        for entry in self._movements.apply(replay, record, link):
            is_new = self._question.after is None or _place(entry) > after
            if is_new and not self.is_full:
                self._entries.append(entry)
                self._bytes += len(_encode(entry))

    def close(self, replay: Replay, *, is_early: bool = False) -> LedgerPage:
        """The page; `is_early`: there was no time to go on."""
        following = None
        if self.is_full:
            following = _place(self._entries[-1])
        elif is_early:
            following = (*replay.position, limits.COUNTER_MAX)
        return LedgerPage(self._entries, following, *replay.position, self._begins)


def _place(entry: LedgerEntry) -> tuple[int, int, int]:
    return entry.epoch, entry.sequence, entry.number


def _end_of(moment: Moment, question: GetStockAsOf) -> IsLate:
    """What comes after the moment that is asked for. Raises RefusedError if that is to come yet."""
    time, position = question.time, question.position
    if position is not None and time is None:
        if position > moment.head:
            raise RefusedError(Status.NOT_YET, _head(moment))
        if position < GENESIS:
            raise RefusedError(Status.UNKNOWN_RECORD, f"the first record of all is {GENESIS}")
        return lambda where, stamp: where > position
    if time is None or position is not None:
        raise RefusedError(Status.INVALID, "either a time or a position")
    if time >= moment.now:
        now = datetime.fromtimestamp(moment.now / limits.SECOND_US, UTC)
        raise RefusedError(Status.NOT_YET, f"the shard's time is {now.isoformat()}")
    return lambda where, stamp: stamp > time


def _head(moment: Moment) -> str:
    return f"the last acknowledged record is {moment.head}"


def _refusal(status: Status, why: str) -> Answer:
    return RefusedError(status, why).answer
