"""The auditor of a shard: is what it serves what its reservations and its journal say?

    copy, at the end of a batch ──► sums ──► the journal, walked again ──► entry by entry
                                    quick audits end here

1. The living state is copied in slices between batches (`Snapshotter.copy`), its digest taken.
2. Every counter of the copy is recomputed from the reservations (`engine.audit`).
3. The journal is walked up to the very record of the copy (`actors.retrace`).
4. on_hand is held against the sums of the movements, and, if the digests of the copy and of the
   walk differ, the two are compared entry by entry: findings name SKU, reservation and values.

An audit is made every so often by itself, and when somebody asks (`Audit`). It must not disturb who
is served: work comes in slices of a third of a millisecond, and after each comes a pause nine times
as long (as long as the slice, if somebody waits for the audit): a tenth of one core. One shard of a
host and of a journal's server is audited at a time, because an audit holds the state of its shard
twice more; quick audits, which hold it once more, have a turn of their own. Journal errors are
waited out; the end of the ownership ends the audit.

What is found is an alarm: a log entry, a metric, a line of `onhand status`. The shard goes on,
whatever it is. Damage in what is stored does not touch what is in memory, which every
acknowledgement rests on; but a recovery would stop there, so a snapshot is taken of a memory whose
sums are right, from which the next owner can start behind the damage. Of a memory that has drifted
nobody here knows better what it ought to answer; it is the operator's to decide, and to move the
shard is to recover it from the journal. So that this leads to the right values for as long as there
is room, such a memory is not written down: snapshots and trims are held back (`Snapshotter.hold`)
until an audit finds that memory and journal agree. An audit that cannot be completed says so, and
why; that is no finding, and no clean bill either.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from actors.inbox import Waiter
from actors.journal import Journal, JournalError
from actors.pace import TICK_SECONDS, Spend, paced
from actors.pending import NOT_DONE
from actors.retrace import OvertakenError, Retrace
from actors.snapshotter import Copy, Snapshotter
from engine import limits
from engine.audit import auditing
from engine.comparison import balancing, comparing
from engine.messages import Answer, AuditView, Status
from engine.placement import server_of
from engine.shard import Shard

_log = structlog.get_logger(__name__)


class Turns:
    """What the auditors of one host share: whose turn it is, and what they have done."""

    def __init__(self, servers: int = 1) -> None:
        """`servers`: on which the journal is; one that is down holds up its own shards' audits."""
        self._full = [asyncio.Lock() for _ in range(servers)]
        self._quick = [asyncio.Lock() for _ in range(servers)]
        """Who asks for a quick audit does not wait for a full one to end."""
        self.waiting = 0
        """How many wait for an audit that was asked for."""
        self.clean = 0
        self.drifted = 0
        self.incomplete = 0

    def full(self, shard: int) -> asyncio.Lock:
        """Whose turn it is among the shards that are on the same server as this one."""
        return self._full[server_of(shard, len(self._full))]

    def quick(self, shard: int) -> asyncio.Lock:
        """The same, of quick audits."""
        return self._quick[server_of(shard, len(self._quick))]


class Last(NamedTuple):
    """The newest complete look at a shard."""

    view: AuditView
    ended_at: float
    """In the loop's time."""
    seconds: float


class _Desk:
    """Those who wait for an audit to begin, and for the one under way."""

    def __init__(self) -> None:
        self.asked: list[tuple[Waiter, int]] = []
        self.told: list[tuple[Waiter, int]] = []
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The state is copied now: what was acknowledged before is in it."""
        self.told, self.asked = self.told + self.asked, []

    def answer(self, answer: Answer) -> int:
        """Answer those who wait for the audit that has ended; how many there were."""
        told, self.told = self.told, []
        for waiter, index in told:
            waiter.answer(index, answer)
        return len(told)

    def drop(self, is_late: Callable[[Waiter], bool]) -> int:
        """Answer those who can wait no longer; how many there were."""
        before = len(self.asked) + len(self.told)
        for waiter, index in (*self.asked, *self.told):
            if is_late(waiter):
                waiter.answer(index, NOT_DONE)
        self.asked = [each for each in self.asked if not is_late(each[0])]
        self.told = [each for each in self.told if not is_late(each[0])]
        return before - len(self.asked) - len(self.told)


class Auditor:
    """The audits of one owned shard."""

    def __init__(
        self,
        journal: Journal,
        shard: Shard,
        snapshotter: Snapshotter,
        turns: Turns,
        interval_seconds: float,
        poke: Callable[[], None],
    ) -> None:
        """`interval_seconds`: between audits that nobody asks for; 0 = there are none. `poke` makes
        a batch happen soon."""
        self._journal = journal
        self._shard = shard
        self._snapshotter = snapshotter
        self._turns = turns
        self._interval = interval_seconds
        self._poke = poke
        self._loop = asyncio.get_running_loop()
        self._due_at = self._loop.time() + interval_seconds
        self._quick, self._full = _Desk(), _Desk()
        self.last: Last | None = None

    @property
    def alarm(self) -> str:
        """The first thing that the newest audit has found; nothing if there was nothing."""
        return self.last.view.findings[0] if self.last and self.last.view.findings else ""

    # --- who asks ---

    def ask(self, waiter: Waiter, index: int, *, quick: bool) -> None:
        """Audit the shard as of the end of a batch to come."""
        desk = self._quick if quick else self._full
        if len(desk.asked) >= limits.SHARD_QUEUE_COMMANDS_MAX:
            waiter.answer(index, Answer(Status.OVERLOADED))
            return
        desk.asked.append((waiter, index))
        self._turns.waiting += 1
        self._start(desk)

    def tick(self, now: float) -> None:
        """Answer whoever waits past the deadline; begin what is due."""
        for desk in (self._quick, self._full):
            if desk.asked or desk.told:
                self._drop(desk, lambda waiter: waiter.deadline <= now)
        if self._interval and now >= self._due_at:
            self._start(self._full)

    def cancel(self) -> None:
        """Leave off: the shard is not ours any more, or goes down."""
        for desk in (self._quick, self._full):
            self._drop(desk, lambda _: True)
            if desk.task is not None:
                desk.task.cancel()

    async def stop(self) -> None:
        """Leave off, and wait until that is so."""
        tasks = [desk.task for desk in (self._quick, self._full) if desk.task is not None]
        self.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _drop(self, desk: _Desk, is_late: Callable[[Waiter], bool]) -> None:
        self._turns.waiting -= desk.drop(is_late)

    # --- one after the other ---

    def _start(self, desk: _Desk) -> None:
        if desk.task is None:
            work = self._quickly if desk is self._quick else self._fully
            desk.task = self._loop.create_task(self._serve(desk, work))
            desk.task.add_done_callback(lambda task: self._done(desk, task))

    def _done(self, desk: _Desk, task: asyncio.Task[None]) -> None:
        desk.task = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            _log.error("audit_failed", shard=self._shard.number, error=repr(error))
            self._skip(f"it failed: {error!r}")
        elif desk.asked:
            self._start(desk)

    async def _serve(self, desk: _Desk, work: Callable[[], Awaitable[AuditView | None]]) -> None:
        answer = NOT_DONE
        try:
            view = await work()
            if view is not None:
                answer = Answer(Status.OK, view)
        except JournalError as error:
            self._skip(f"{type(error).__name__}: {error}")
        finally:
            if answer is NOT_DONE:
                desk.begin()  # nobody waits for what is tried no more
            self._turns.waiting -= desk.answer(answer)

    async def _quickly(self) -> AuditView | None:
        async with self._turns.quick(self._shard.number):
            pace = _Pace(self._turns)
            copy = await self._copy(self._quick, pace)
            if copy is None:
                return None
            view = await self._sum_up(copy, pace.spend)
            if view.drift:
                self._snapshotter.hold()
            return view

    async def _fully(self) -> AuditView | None:
        async with self._turns.full(self._shard.number):
            began = self._loop.time()
            self._due_at = began + self._interval
            pace = _Pace(self._turns)
            copy = await self._copy(self._full, pace)
            if copy is None:
                return None
            view = await self._sum_up(copy, pace.spend)
            wrong = view.drift + await self._retrace(copy, view, pace)
            self._judge(view, wrong)
            now = self._loop.time()
            self._due_at = now + self._interval
            self._conclude(Last(view, now, now - began))
            return view

    def _judge(self, view: AuditView, wrong: int) -> None:
        """What memory is worth, of which so much was found `wrong`: whether it may be written down,
        or even should be, because what is stored is wrong instead."""
        if wrong:
            self._snapshotter.hold()
            return
        if view.complete:
            self._snapshotter.go_on()
        if view.drift and (view.complete or view.drift == view.damage):
            self._snapshotter.renew()
            self._poke()

    async def _copy(self, desk: _Desk, pace: "_Pace") -> Copy | None:
        copy = self._snapshotter.copy(desk.begin, pace.spend)
        self._poke()
        copied = await copy
        if copied is None:
            self._skip("what is in memory could not be copied")
        return copied

    # --- the parts of an audit ---

    async def _sum_up(self, copy: Copy, spend: Spend) -> AuditView:
        view = await paced(auditing(copy.state, self._shard.number), spend)
        view.epoch, view.sequence = copy.position
        view.digest = await paced(copy.state.digesting(), spend)
        view.checks = 1
        if view.digest != copy.digest:
            view.drift += 1
            view.findings.append("a state restored from this one has another digest")
        return view

    async def _retrace(self, copy: Copy, view: AuditView, pace: "_Pace") -> int:
        """Walk the journal, compare, and put it all into `view`. In how much memory differs from
        where the journal leads."""
        walk = Retrace(
            self._journal,
            self._shard.number,
            self._shard.shards,
            copy,
            self._snapshotter,
            pace.spend,
            pace.hurry,
        )
        try:
            view.complete = await walk.run()
        except OvertakenError as error:
            view.skipped = str(error)
        finally:
            walk.shard.state.seal()
        view.replayed = walk.records
        on_the_way = walk.drift.count
        if view.complete:
            await _compare(copy, walk, pace.spend)
            walk.checks += 1
        elif not view.skipped:
            view.skipped = "what is stored does not lead there"
        view.checks += walk.checks
        view.damage = walk.damage.count
        view.drift += walk.damage.count + walk.drift.count
        view.findings += walk.damage.texts + walk.drift.texts
        del view.findings[limits.AUDIT_FINDINGS_MAX :]
        return walk.drift.count - on_the_way

    def _conclude(self, last: Last) -> None:
        view, turns = last.view, self._turns
        self.last = last
        turns.drifted += view.drift > 0
        turns.clean += view.drift == 0 and view.complete
        said = {
            "shard": view.shard,
            "position": f"{view.epoch}-{view.sequence}",
            "records": view.replayed,
            "checks": view.checks,
            "seconds": round(last.seconds, 3),
        }
        if view.drift:
            _log.error(
                "drift", **said, drift=view.drift, damage=view.damage, findings=view.findings
            )
        elif view.complete:
            _log.info("audited", **said)
        if view.skipped:
            self._skip(view.skipped)

    def _skip(self, reason: str) -> None:
        self._turns.incomplete += 1
        _log.warning("audit_incomplete", shard=self._shard.number, reason=reason)


async def _compare(copy: Copy, walk: Retrace, spend: Spend) -> None:
    """Memory against the journal: first of all by digest."""
    await paced(balancing(copy.state, walk.ledger, walk.drift), spend)
    state = walk.shard.state
    if await paced(state.digesting(), spend) != copy.digest:
        before = walk.drift.count
        await paced(comparing(copy.state, state, walk.drift), spend)
        if walk.drift.count == before:
            walk.drift.add("the journal leads to another digest than memory has")


class _Pace:
    """Slices and pauses, in proportion to the work."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._entries = 0
        self._owed = 0.0
        """Pauses that were too short for the loop's clock."""
        self._hurried = False

    def hurry(self) -> None:
        """As if somebody waited."""
        self._hurried = True

    async def spend(self, entries: int) -> None:
        self._entries += entries
        slices, self._entries = divmod(self._entries, limits.AUDIT_SLICE_ENTRIES)
        if slices:
            hurried = self._hurried or self._turns.waiting
            pause = limits.AUDIT_HURRIED_SECONDS if hurried else limits.AUDIT_PAUSE_SECONDS
            self._owed += slices * pause
            pause, self._owed = (
                (self._owed, 0.0) if self._owed >= TICK_SECONDS else (0.0, self._owed)
            )
            await asyncio.sleep(pause)
