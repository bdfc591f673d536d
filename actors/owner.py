"""The single writer of one shard: owns it, serves it batch by batch, or leaves.

    claiming ──► recovering ──► serving ──► leaving ──► released
        └─────────────┴────────────┴──► fenced | failed | broken

Batches form by themselves. While one append is in flight, commands gather; when it is acknowledged
its answers leave and what has gathered is the next batch. As a rule a batch leaves in a round, with
those of the host's other shards, and no coroutine is woken for it (`actors.rounds`); what goes
wrong on that way, and whatever needs more than an append, `_serve` sees to, which sleeps meanwhile.
 Commands are decided and applied before
their batch is appended and answered after it is acknowledged, so an answer never tells of what is
not durable. A batch without events needs no append, but a proof that the shard is still ours.

What fences us, or what the journal has lost, ends the owner: its memory is dropped with it, and
those who wait learn that the outcome is unknown. A bug (an exception out of the rules) does the
same: the journal is the truth, and the host recovers the shard from there.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

import structlog

from actors.appender import Appender, FencedError, RegressedError
from actors.archiver import Archiver
from actors.auditor import Auditor, Turns
from actors.claim import Floor, claim
from actors.clock import Clock
from actors.historian import Historian, Question
from actors.inbox import Inbox, Portion, Waiter
from actors.journal import Journal, JournalError
from actors.log import Sparing
from actors.marks import CorruptMarkError, Marks
from actors.open_batch import OpenBatch
from actors.ownership import Ownership
from actors.past import Moment
from actors.pending import NOT_DONE, OUTCOME_UNKNOWN
from actors.phase import ENDED, Phase
from actors.recovery import UNTRUSTED, ClaimLostError, Recovery
from actors.replay import Recovered
from actors.rounds import Rounds
from actors.snapshotter import Snapshotter
from actors.tally import Tally
from engine import limits
from engine.codec import START, Position, encode_event
from engine.messages import (
    Answer,
    Audit,
    Command,
    Detail,
    Event,
    Expired,
    GetStockAsOf,
    HandedOff,
    Head,
    ListMovements,
    MovedTo,
    Status,
)

_log = structlog.get_logger(__name__)
_sparing: Final = Sparing(_log, limits.LOG_LINES_PER_SECOND)


_UNTRUSTED: Final = (*UNTRUSTED, CorruptMarkError, JournalError)
_UNSENT: Final = JournalError("nothing was sent: there is nothing to be journaled")
_FAULTY: Final = Answer(
    Status.INVALID, Detail("the engine failed on this command, and did not do it; please report it")
)


class Owner:
    """One shard, from its claim until it is fenced, fails or is released."""

    def __init__(
        self,
        number: int,
        ownership: Ownership,
        journal: Journal,
        marks: Marks,
        clock_from: Callable[[int], Clock],
        tally: Tally,
        nonce: bytes,
        on_change: Callable[["Owner"], None],
        recovery: Recovery | None = None,
        archiver: Archiver | None = None,
        turns: Turns | None = None,
        historian: Historian | None = None,
        rounds: Rounds | None = None,
    ) -> None:
        """`clock_from` makes a clock that never goes back behind a stamp; `nonce` is random;
        `recovery` may have read the journal already; `archiver` gets what is trimmed; `turns` are
        shared by the owners of one host, and so are the `historian`, who answers what is asked
        about the past, and the `rounds` of one server."""
        self.number = number
        self.phase = Phase.CLAIMING
        self.reason = ""
        self.epoch = 0
        self.has_opened = False
        """Whether all that is known to be acknowledged was there when it opened."""
        self.proven_at = 0.0
        """When, in the loop's time, the journal last acknowledged that the shard is ours."""
        self._ownership = ownership
        self._recovery = recovery or ownership.recovery(number, journal)
        self.shard = ownership.make_shard(number)
        self.appender: Appender | None = None
        self.snapshotter: Snapshotter | None = None
        self.auditor: Auditor | None = None
        self.inbox = Inbox()
        self.in_flight: list[Portion] = []
        """What the open batch has taken."""
        self.taken = 0
        """Commands that were decided, so far."""
        self._ticked_at = 0.0
        self._tells_expiry = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)
        self._journal = journal
        self._marks = marks
        self._clock_from = clock_from
        self._clock = clock_from(0)
        self._tally = tally
        self._nonce = nonce
        self._on_change = on_change
        self._archiver = archiver
        self._turns = turns or Turns()
        self._historian = historian or Historian(ownership.shards)
        self._wake: asyncio.Future[None] | None = None
        self._stopping = False
        self._heir = ""
        self._prove_now = False
        self._seen_at = 0.0
        """When, in the loop's time, the end of the journal was last seen."""
        self._meetings: list[asyncio.Future[Moment]] = []
        """Who waits for the end of a batch."""
        self._batch = OpenBatch([])
        """The open one, or the last."""
        self._batch.is_decided = True
        self._rounds = rounds or Rounds()
        self._round: int | None = None
        """The one that we take part in; 0 = the next."""
        self._stranded: JournalError | None = None
        """Why the open batch did not come home from its round."""
        self._failure: Exception | None = None
        """The bug that the open batch has met in its round."""
        self._loop = asyncio.get_running_loop()

    # --- what the host calls ---

    def submit(self, waiter: Waiter, index: int, command: Command) -> None:
        """Queue one command; it is answered through `waiter`."""
        if isinstance(command, Audit):
            self._audit(waiter, index, command.quick)
        elif isinstance(command, GetStockAsOf | ListMovements) and not self._has_left(command.sku):
            self._look_back(waiter, index, command)
        else:
            self.put(Portion(waiter, index, [command]))

    def _has_left(self, sku: str) -> bool:
        """Whether the SKU lives in another shard. That nobody may be told before it is journaled,
        so the question is put among what the batches answer."""
        return sku in self.shard.state.dedications.dedicated

    def put(self, portion: Portion) -> None:
        """Queue commands; they are answered through their waiter."""
        self.inbox.put(portion)
        if self._round is None:
            self._hurry()

    def _hurry(self) -> None:
        """Something waits, and no round is on its way."""
        wake = self._wake
        if wake is None or wake.done():
            return
        if self._stranded is None and self._failure is None and self._may_join():
            self._join()
        else:
            wake.set_result(None)

    def _audit(self, waiter: Waiter, index: int, quick: bool) -> None:
        """Check the shard, beside its batches; answered through `waiter`."""
        if self.phase is not Phase.SERVING or self.auditor is None:
            waiter.answer(index, NOT_DONE)
            return
        self.auditor.ask(waiter, index, quick=quick)

    def _look_back(self, waiter: Waiter, index: int, question: Question) -> None:
        """Answer about the past, beside the batches; through `waiter`."""
        if self.phase is not Phase.SERVING:
            waiter.answer(index, NOT_DONE)
        else:
            self._historian.ask(self, waiter, index, question)

    def meet(self) -> asyncio.Future[Moment]:
        """The end of a batch that begins from now on; see `actors.historian`."""
        meeting: asyncio.Future[Moment] = self._loop.create_future()
        self._meetings.append(meeting)
        self.poke(prove=True)
        return meeting

    def poke(self, *, prove: bool = False) -> None:
        """Look for work that no command brings; `prove`: ask the journal if the shard is ours."""
        self._prove_now = self._prove_now or prove
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def tick(self, now: float) -> None:
        """Answer those whose deadline has passed; wake up for what is overdue."""
        if self.phase in ENDED:
            return
        for portion in self.in_flight:
            if portion.waiter.deadline <= now:
                if portion.waiter.deadline > self._ticked_at:
                    self._tell_late(portion, OUTCOME_UNKNOWN)
                portion.answer(OUTCOME_UNKNOWN)
        for portion in self.inbox.take_late(now):
            self._tell_late(portion, NOT_DONE)
            portion.answer(NOT_DONE)
        self._ticked_at = now
        if self.auditor is not None:
            self.auditor.tick(now)
        if self.snapshotter is not None:
            self.snapshotter.tick()
        if self.phase is Phase.SERVING:
            if self.shard.due(self._clock.now()):
                self.poke()
            if now - self.proven_at > limits.PROVE_SECONDS:
                self.poke(prove=True)

    def _tell_late(self, portion: Portion, answer: Answer) -> None:
        first = getattr(portion.commands[0], "reservation_id", None)
        _sparing.warn(
            "late",
            shard=self.number,
            commands=len(portion.commands),
            reservation_id=first,
            answer=answer.status.name.lower(),
        )

    def stop(self, heir: str = "") -> None:
        """Serve what is queued, then leave; commands that come later are another's: those of the
        host `heir`, if that is known. Whoever says it again need not know any more."""
        self._stopping, self._heir = True, heir or self._heir
        if self.phase is Phase.SERVING:
            self._turn(Phase.LEAVING)
        self.poke()

    # --- a life ---

    async def run(self, floors: list[Floor]) -> None:
        """Claim, recover, serve; returns when the owner has ended, `phase` and `reason` say how."""
        try:
            await self._come_up(floors)
            await self._serve()
            await self._hand_over()
            self._end(Phase.RELEASED, "released")
        except FencedError as error:
            self._end(Phase.FENCED, str(error))
        except _UNTRUSTED as error:
            reason = f"{type(error).__name__.removesuffix('Error')}: {error}"
            if self.phase is Phase.RECOVERING and await self._is_superseded():
                self._end(Phase.FENCED, reason)
            else:
                lost = isinstance(error, ClaimLostError)
                self._end(Phase.BROKEN if lost else Phase.FAILED, reason)
        except asyncio.CancelledError:
            self._end(Phase.RELEASED, "cancelled")
            raise
        except Exception as error:  # a bug in the rules must cost one shard's memory, not the host
            _log.exception("shard_broken", shard=self.number)
            self._end(Phase.BROKEN, f"{type(error).__name__}: {error}")
        if self.phase is Phase.RELEASED:
            await self._rest()

    async def _is_superseded(self) -> bool:
        """Whether a newer claim stands: what we have read may have been trimmed under us."""
        try:
            newest = await self._journal.read(self.number, START, 1, newest=True)
        except _UNTRUSTED:
            return False
        return bool(newest) and newest[0].position.epoch > self.epoch

    async def _come_up(self, floors: list[Floor]) -> None:
        ownership, began = self._ownership, monotonic()
        mark = self._marks.read(self.number)
        if mark is not None:
            floors = [*floors, Floor(mark.position, mark.checksum)]
        self._recovery.halt()
        run_id = self._journal.run_id
        claimed_at = self._clock.now()
        ours = await claim(
            self._journal,
            self.number,
            shards=ownership.shards,
            cluster_id=ownership.cluster_id,
            host=ownership.host,
            nonce=self._nonce,
            stamp=claimed_at,
            floors=floors,
            is_proven=self._recovery.is_proven,
        )
        self.epoch = ours.position.epoch
        self._turn(Phase.RECOVERING)
        found = await self._recovery.finish(ours, floors)
        self.shard = found.shard
        self._clock = self._clock_from(max(self.shard.state.now, claimed_at))
        pointer = found.generations[-1] if found.generations else START
        self.appender = Appender(
            self._journal,
            self.number,
            ours,
            found.last_position,
            found.last_checksum,
            pointer,
            run_id,
            partial(self._marks.read, self.number),
        )
        self._check_marks_again(found, self.appender)
        self._look_after(found, self.appender)
        stamp = self._clock.now()
        event = ownership.opened(found, stamp)
        self.shard.replay(stamp, [event])
        await self.appender.append(stamp, [event])
        self._check_marks_again(found, self.appender)
        self.has_opened = True
        self.proven_at = self._seen_at = self._loop.time()
        self._tally.came_up(monotonic() - began)
        self._turn(Phase.LEAVING if self._stopping else Phase.SERVING)
        _log.info(
            "shard_opened",
            shard=self.number,
            epoch=self.epoch,
            records=found.records,
            snapshot=str(pointer),
        )

    def _look_after(self, found: Recovered, appender: Appender) -> None:
        """Snapshots and audits of what was recovered."""
        self.snapshotter = Snapshotter(
            self._journal,
            self.shard,
            appender,
            found.generations,
            found.chunks,
            self.poke,
            self._archiver,
        )
        self.auditor = Auditor(
            self._journal,
            self.shard,
            self.snapshotter,
            self._turns,
            self._ownership.audit_interval_us / limits.SECOND_US,
            partial(self.poke, prove=True),
        )
        self.snapshotter.note(found.events, found.written)
        self.snapshotter.clean_up(found.begun)

    def _check_marks_again(self, found: Recovered, appender: Appender) -> None:
        """A claim may have waited for the journal, and the owner before gone on meanwhile: what it
        has marked until it was fenced must be there as well."""
        appender.check_marked()
        mark = self._marks.read(self.number)
        if mark is None or mark.position >= Position(self.epoch, 0):
            return
        if not found.has(mark.position):
            raise RegressedError(
                f"shard {self.number}: {mark.position} was acknowledged meanwhile, and is not there"
            )

    async def _serve(self) -> None:
        """See to what rounds leave: chores, proofs, and batches that did not come home."""
        assert self.snapshotter is not None
        while True:
            if self._failure is not None:
                raise self._failure
            if self._round is not None:
                await self._sleep()
            elif self._stranded is not None:
                await self._bring_home()
            elif not self.inbox and self._stopping:
                break  # chores are the next owner's
            elif self.inbox and self._may_join():
                self._join()
            elif self.inbox or self._has_chores():
                await self._alone()
            else:
                await self._sleep()

    async def _sleep(self) -> None:
        self._wake = self._loop.create_future()
        await self._wake
        self._wake = None

    async def _alone(self) -> None:
        """A batch outside of any round."""
        if self._loop.time() - self._seen_at > limits.PROVE_SECONDS:
            await self._look()
        self._open()
        await self._bring_home()

    async def _bring_home(self) -> None:
        """Journal the open batch, or prove that the shard is ours, and answer."""
        appender, failed = self.appender, self._stranded
        assert appender is not None
        self._stranded = None
        if not self._batch.encoded:
            await appender.prove()
            self._tally.barriers += 1
            self._close(appender.position)
            return
        first = appender.next  # a pass may follow in the same append
        stamp, before = self.shard.state.now, monotonic()  # uvloop's own time is in milliseconds
        entry = self._batch.entry or appender.entry(stamp, self._batch.encoded)
        self._note(await appender.carry_on(entry, stamp, failed), monotonic() - before)
        self._close(first)

    # --- rounds ---

    def _may_join(self) -> bool:
        """Whether the next batch needs nothing but an append."""
        assert self.appender is not None
        overdue = self._loop.time() - self._seen_at > limits.PROVE_SECONDS
        return self.appender.is_sure and not overdue

    def _join(self) -> None:
        self._round = 0
        self._rounds.join(self)

    def open_batch(self, number: int) -> None:
        """See Member."""
        self._round = number
        try:
            self._send_batch()
        except Exception as error:  # a bug in the rules: whoever runs this owner sees to it
            self._failure = error
            self._come_home()

    def _send_batch(self) -> None:
        appender = self.appender
        assert appender is not None
        if self.phase in ENDED or not self._may_join():
            self._come_home()
            return
        self._open()
        if not self._batch.encoded:
            self._stranded = _UNSENT
            self._come_home()
            return
        self._batch.entry = appender.entry(self.shard.state.now, self._batch.encoded)
        self._batch.sent_at = monotonic()
        self._journal.send(self.number, self._batch.entry, self._landed)

    def _landed(self, failed: JournalError | None) -> None:
        """What came of a batch that was sent in a round."""
        appender, entry = self.appender, self._batch.entry
        assert appender is not None
        assert entry is not None
        if self.phase in ENDED:
            self._come_home()
        elif failed is not None:
            self._stranded = failed
            self._come_home()
        else:
            appender.acknowledged(entry)
            self._note(len(entry.record), monotonic() - self._batch.sent_at)
            self._close(entry.position)
            self._come_home()

    def _come_home(self) -> None:
        """The round goes on without us; we may take part in the next one at once."""
        number, self._round = self._round, None
        assert number is not None
        trouble = self._failure or self._stranded
        if not trouble and self.phase is Phase.SERVING and self.inbox and self._may_join():
            self._join()
        else:
            self.poke()
        self._rounds.leave(number)

    def _hold(self, meetings: list[asyncio.Future[Moment]]) -> None:
        """Between two batches, everything acknowledged: say how things stand."""
        appender, snapshotter = self.appender, self.snapshotter
        assert appender is not None
        assert snapshotter is not None
        for meeting in meetings:
            if not meeting.done():  # whoever asked may have given up
                meeting.set_result(
                    Moment(
                        appender.position,
                        appender.checksum,
                        self._clock.now(),
                        snapshotter.generations,
                    )
                )

    def _has_chores(self) -> bool:
        assert self.snapshotter is not None
        return self._prove_now or self.snapshotter.is_waiting or self.shard.due(self._clock.now())

    def _execute(self) -> None:
        """Decide what is queued, up to the bounds of a batch; `in_flight` then waits for it."""
        shard, batch = self.shard, self._batch
        answers, encoded = batch.answers, batch.encoded
        encoded += map(encode_event, shard.events)
        if self._tells_expiry:
            batch.expired = _expired(shard.events)
        shard.events.clear()
        self.in_flight, commands = self._take()
        size = sum(map(len, encoded))
        shard.decide(commands, answers, encoded, size, self._tally.outcomes)
        if len(answers) < len(commands):
            self._put_back(len(commands) - len(answers))
        batch.is_decided = True
        self.taken += len(answers)

    def _take(self) -> tuple[list[Portion], list[Command]]:
        """The next portions, as many as a batch may have, and all of their commands."""
        inbox, now, taken = self.inbox, self._loop.time(), list[Portion]()
        commands: list[Command] = []
        while inbox and (room := limits.BATCH_COMMANDS_MAX - len(commands)) > 0:
            portion = inbox.take(room)
            if portion.waiter.deadline <= now:
                portion.answer(NOT_DONE)
            else:
                taken.append(portion)
                commands += portion.commands
        return taken, commands

    def _put_back(self, count: int) -> None:
        """The last so many commands in flight have no room in this batch."""
        while count:
            portion = self.in_flight.pop()
            kept = max(0, len(portion.commands) - count)
            head, rest = portion.split(kept)
            self.inbox.put_back(rest)
            count -= len(rest.commands)
            if kept:
                self.in_flight.append(head)

    def _open(self) -> None:
        """Begin a batch: decide what is queued, and what has to be journaled of it."""
        shard, snapshotter = self.shard, self.snapshotter
        assert snapshotter is not None
        self._prove_now = False
        self._batch, self._meetings = OpenBatch(self._meetings), []
        shard.begin(self._clock.now())
        self._execute()
        shard.close()
        announced = snapshotter.announce()
        if announced is not None:
            self._batch.encoded.append(encode_event(announced))

    def _close(self, position: Position) -> None:
        """The batch is journaled, at `position`, or proven to need no record after it: answer."""
        snapshotter = self.snapshotter
        assert snapshotter is not None
        self.proven_at = self._loop.time()
        head, answers = Head(self.number, *position), self._batch.answers
        waiting, self.in_flight = self.in_flight, []
        start = 0
        for waiter, index, commands in waiting:
            if len(commands) == 1:
                waiter.answer(index, answers[start], head)
            else:
                waiter.answer_all(index, answers[start : start + len(commands)], head)
            start += len(commands)
        snapshotter.after_batch()
        self._hold(self._batch.met)

    async def _look(self) -> None:
        """Now and then: the journal is still there, and ends as it should."""
        assert self.appender is not None
        self._seen_at = self._loop.time()
        await self.appender.look()

    def _note(self, written: int, elapsed: float) -> None:
        """For the record: so many bytes were journaled in so many seconds."""
        assert self.snapshotter is not None
        events = len(self._batch.encoded)
        self.snapshotter.note(events, written)
        self._tally.appended(events, written, elapsed)
        if elapsed >= self._ownership.slow_seconds:
            _sparing.warn(
                "slow_append", shard=self.number, seconds=round(elapsed, 3), events=events
            )
        for name in self._batch.expired:
            if _sparing.may("expired"):
                _sparing.say("debug", "expired", {"shard": self.number, "reservation_id": name})

    # --- the end ---

    async def _hand_over(self) -> None:
        """The last record tells readers of the journal who comes next; nothing depends on it.

        Nobody serves the shard from here until its heir does, so nothing is waited for."""
        if self.snapshotter is not None:
            self.snapshotter.cancel()
        if self._heir and self.appender is not None:
            await self.appender.append(self.shard.state.now, [HandedOff(self._heir)])

    async def _rest(self) -> None:
        """Audits and snapshots were told to leave off; the next owner has not waited for it."""
        if self.auditor is not None:
            await self.auditor.stop()
        if self.snapshotter is not None:
            await self.snapshotter.stop()

    def _turn(self, phase: Phase) -> None:
        self.phase = phase
        self._on_change(self)

    def _end(self, phase: Phase, reason: str) -> None:
        """Drop what is in memory and tell those who wait what is known."""
        self.phase, self.reason = phase, reason
        taken = self.snapshotter.count if self.snapshotter is not None else 0
        self._tally.inherit(phase.value, self.appender, taken)
        waiting, self.in_flight = self.in_flight, []
        if phase is Phase.BROKEN and not self._batch.is_decided:
            self._blame(waiting)
        for portion in waiting:
            portion.answer(OUTCOME_UNKNOWN)
        for portion in self.inbox.drain():
            portion.answer(self.refusal())
        if self.auditor is not None:
            self.auditor.cancel()
        if self.snapshotter is not None:
            self.snapshotter.cancel()
        self._historian.leave(self)
        self._recovery.leave()
        log = _log.info if phase is Phase.RELEASED else _log.warning
        log("shard_ended", shard=self.number, epoch=self.epoch, how=phase.value, reason=reason)
        self._on_change(self)

    def _blame(self, waiting: list[Portion]) -> None:
        """The rules failed on one command of a batch that was not appended: nothing of it was done,
        and that command must not be sent again."""
        number = 0
        for waiter, first, commands in waiting:
            for index in range(first, first + len(commands)):
                waiter.answer(index, _FAULTY if number == len(self._batch.answers) else NOT_DONE)
                number += 1

    def refusal(self) -> Answer:
        """The answer to commands once the owner has ended."""
        if self.phase is Phase.FAILED:
            return Answer(Status.SHARD_STOPPED)
        return Answer(Status.MOVED, MovedTo(self.number, self.epoch, ""))

    @property
    def progress(self) -> int:
        """Records and chunks read by the recovery so far."""
        return self._recovery.progress

    @property
    def journal(self) -> Journal:
        """Where its records are."""
        return self._journal

    @property
    def clock_error_seconds(self) -> float:
        """How far the wall clock was ahead of this shard's, when they were last compared."""
        return self._clock.error_us / limits.SECOND_US

    @property
    def is_idle(self) -> bool:
        """Whether all that was decided is acknowledged, and nothing waits to be decided."""
        return self._wake is not None and not self._wake.done()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def position(self) -> Position | None:
        """Of the last acknowledged record of our own."""
        return self.appender.position if self.appender is not None else None


def _expired(events: list[Event]) -> list[str]:
    """The reservations that these events end for want of time."""
    return [event.reservation_id for event in events if isinstance(event, Expired)]
