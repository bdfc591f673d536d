"""One shard's journal, replayed on the naive model, command by command.

Every event is brought back to the command behind it; that command is executed on the model, in the
order of the events; what the model does must be what was journaled, and what it answers must be
what was answered. An answer without an effect must be right at some point of the batch it rests on:
before its first event, after any of them, or, if nothing happened for a while, at a later time.

    record ──► overdue ones expire ──► its groups of events, each some command's ──► later
                     │                      │                                          │
                     └──── answers that rest on the record and tell of no event ───────┘

A shard whose journal and model have parted is not replayed further: one sentence is enough.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from engine import limits
from engine.codec import GENESIS, START, CorruptRecordError, Position, Record, decode_record
from engine.messages import (
    Answer,
    AuditView,
    Buried,
    Claimed,
    Command,
    Commit,
    Committed,
    Event,
    Expired,
    Genesis,
    HandedOff,
    Opened,
    Passed,
    Release,
    ReservationView,
    Reserved,
    SetChannel,
    SetStock,
    ShortfallChanged,
    SnapshotBegun,
    SnapshotTaken,
    State,
    Status,
)
from engine.placement import HASH
from tests.engine.comparison import TELLING, ledger
from tests.engine.model_stock import Line
from tests.simulation.calls import MAKERS, Calls, name_of
from tests.simulation.deeds import Deed, deed, done, noticed, told
from tests.simulation.history import Given, History
from tests.simulation.quick_model import Before, QuickModel

OWNERS: Final = (Passed, SnapshotBegun, SnapshotTaken, HandedOff)
"""What an owner journals of its own accord, within or beside batches."""
CLOCK_SLACK: Final = 1.1
CLOCK_SLACK_US: Final = limits.SECOND_US
"""A host's clock runs at most so much ahead of the world's, since its last stamp."""


class Parted(Exception):
    """The journal and the model are not of the same shard any more; says why."""


class Sight(NamedTuple):
    """From `at` on a reservation was known, was not, or (None) perhaps was."""

    at: int
    known: bool | None
    channel: str | None


class Replay:
    """The journal of one shard, from its first record to its last."""

    def __init__(
        self,
        shard: int,
        history: History,
        calls: Calls,
        given: dict[Position, list[Given]],
        audits: dict[Position, list[Given]],
        stored_at: dict[Position, int],
    ) -> None:
        """`given`: the answers that rest on each record; `audits`: those that counted what there
        was as of it; `stored_at`: since when it was durable."""
        self.shard = shard
        self.model = QuickModel(shard, history.shards)
        self.violations: list[str] = []
        self.sights: dict[str, list[Sight]] = defaultdict(list)
        self.hosts: dict[int, str] = {}
        """Epoch → who claimed it."""
        self.records: list[Record] = []
        self._history = history
        self._calls = calls
        self._given = given
        self._audits = audits
        self._stored_at = stored_at
        self._begun: set[Position] = set()
        self._announced = {START}
        self._number = 0
        """Of the record at hand."""
        self._stamp = 0
        self._not_before = 0
        """The stamp of the record at hand was taken after this moment of the world."""
        self._ended: set[int] = set()
        """When windows ended of what is forgotten by now."""
        self._opened = (0, 0)
        """The stamp that the present owner began with, and a moment of the world before that."""
        self._served_at = 0
        """Since then answers have rested on the record before, or could."""
        self._pending: list[Given] = []
        self._answer = Answer(Status.OUTCOME_UNKNOWN)
        """What the model answered to the last command that had an effect."""

    def run(self) -> None:
        """Fill `violations`."""
        lineage = self._history.lineage.get(self.shard, [])
        try:
            self.records = list(self._proven(lineage))
            for number, record in enumerate(self.records):
                following = self.records[number + 1] if number + 1 < len(self.records) else None
                self._number = number
                self._take(record, following)
            self._check_ledger()
        except Parted as parting:
            self.violations.append(f"shard {self.shard}: {parting}")

    # --- records prove themselves ---

    def _proven(self, lineage: Sequence[tuple[Position, bytes]]) -> Iterator[Record]:
        before: Record | None = None
        for position, data in lineage:
            try:
                record = decode_record(data, self.shard, position)
            except CorruptRecordError as error:
                raise Parted(f"a record does not prove itself: {error}") from error
            self._link(before, record)
            yield record
            before = record

    def _link(self, before: Record | None, record: Record) -> None:
        """Each record follows the one before, or begins an epoch."""
        here = record.position
        if before is None:
            if here != GENESIS:
                raise Parted(f"its journal begins with {here}, not with {GENESIS}")
        elif here.sequence == 0:
            if here.epoch <= before.position.epoch:
                raise Parted(f"claim {here} stands after {before.position}")
        elif here != (before.position.epoch, before.position.sequence + 1):
            raise Parted(f"{here} stands after {before.position}")
        elif record.previous != before.checksum:
            raise Parted(f"{here} was written after another record than {before.position}")

    # --- one record ---

    def _take(self, record: Record, following: Record | None) -> None:
        sequence, events = record.position.sequence, record.events
        self._pending = list(self._given.get(record.position, ()))
        if record.position == GENESIS:
            self._check_genesis(events)
        elif sequence == 0:
            self._check_claim(record)
        elif sequence == 1:
            self._open(record)
            self._settle()
        else:
            self._check_stamp(record)
            self._check_clock(record)
            self._batch(record)
        if sequence:
            self._stamp = max(self._stamp, record.stamp)
        self._check_pointer(record)
        if self._pending:
            self._later(record, following)
        for given in self._pending:
            self.violations.append(self._never_right(record, given))
        self._not_before = self._stored_at.get(record.position, self._not_before)
        if sequence:
            self._served_at = self._not_before
        self._check_audits(record.position)

    def _check_genesis(self, events: list[Event]) -> None:
        if len(events) != 1 or not isinstance(events[0], Genesis):
            raise Parted(f"its first record tells of {events}")
        if (events[0].shards, events[0].hash) != (self._history.shards, HASH):
            raise Parted(f"its first record is of {events[0].shards} shards by {events[0].hash}")

    def _check_claim(self, record: Record) -> None:
        if len(record.events) != 1 or not isinstance(record.events[0], Claimed):
            raise Parted(f"{record.position} is no claim: {record.events}")
        self.hosts[record.position.epoch] = record.events[0].host

    def _open(self, record: Record) -> None:
        """Served from here on, under these settings; what was found is what stands there."""
        events, where = record.events, record.position
        if len(events) != 1 or not isinstance(events[0], Opened):
            raise Parted(f"{where} opens nothing: {events}")
        self._check_stamp(record)
        event = events[0]
        before = self.records[self._number - 2]
        found = (event.previous_epoch, event.previous_sequence, event.previous_checksum)
        if found != (*before.position, before.checksum):
            raise Parted(f"{where} says that {found[0]}-{found[1]} stands before its claim")
        if not record.stamp == event.opened_at <= event.grace_until:
            raise Parted(f"{where} was opened at {event.opened_at}, its stamp is {record.stamp}")
        self._opened = record.stamp, self._not_before
        self.model.opened(event.grace_until)
        self.model.finished_window_us = event.finished_window_us
        self.model.returns_window_us = event.returns_window_us
        self.model.keys_window_us = event.keys_window_us
        self._forget(record)

    def _check_stamp(self, record: Record) -> None:
        if record.stamp < self._stamp:
            raise Parted(f"{record.position} has stamp {record.stamp}, after {self._stamp}")

    def _check_clock(self, record: Record) -> None:
        """An owner's clock runs like the world's, as far as it matters."""
        stamp, at = self._opened
        ahead = record.stamp - stamp - CLOCK_SLACK_US
        elapsed = (self._at(record) - at) // 1_000
        if ahead > elapsed * CLOCK_SLACK:
            raise Parted(f"{record.position} has a stamp {ahead} µs on, after {elapsed} µs")

    def _check_pointer(self, record: Record) -> None:
        for event in record.events:
            if isinstance(event, SnapshotBegun):
                self._begun.add(record.position)
            elif isinstance(event, SnapshotTaken):
                taken = Position(event.epoch, event.sequence)
                if taken not in self._begun:
                    raise Parted(f"{record.position} tells of a snapshot, not begun at {taken}")
                self._announced.add(taken)
        if record.snapshot not in self._announced:
            raise Parted(f"{record.position} points at {record.snapshot}, no snapshot")

    def _batch(self, record: Record) -> None:
        """What fell due, then command after command; a pass alone is no batch."""
        if record.events and all(isinstance(event, Passed) for event in record.events):
            self._settle()
            return
        events: list[Event] = [each for each in record.events if not isinstance(each, OWNERS)]
        self._forget(record)
        swept = self._sweep(record, events)
        self._settle()
        for group in self._groups(events[swept:]):
            self._do(record, group)
            self._settle()

    def _forget(self, record: Record) -> None:
        model = self.model
        before = model.reservations
        ends = self._ends_of_windows()
        model.now = record.stamp
        if not ends or ends[0] > model.now:
            return
        model.forget()
        self._ended.update(end for end in ends if end <= model.now)
        at = self._at(record)
        for name in before.keys() - model.reservations.keys():
            self.sights[name] += (
                Sight(self._served_at, None, before[name].channel),
                Sight(at, False, None),
            )

    def _sweep(self, record: Record, events: list[Event]) -> int:
        """Expire what is overdue; how many events tell of it."""
        model, expected = self.model, list[Deed]()
        for name in model.overdue():
            before = model.noticed
            model.end(model.reservations[name], State.EXPIRED)
            model.notice()
            expected.append(("Expired", name))
            expected += [("ShortfallChanged", *short) for short in noticed(model, before)]
        found = told(events[: len(expected)], [])
        if found != expected:
            raise Parted(
                f"{record.position} begins with {found}, but at its stamp there fell due {expected}"
            )
        return len(expected)

    def _groups(self, events: list[Event]) -> Iterator[list[Event]]:
        """The events of one command each."""
        start = 0
        while start < len(events):
            end = self._after_shortfalls(events, start + 1)
            first = events[start]
            if isinstance(first, Reserved) and self._is_expired(first.reservation_id):
                follower = events[end] if end < len(events) else None
                if isinstance(follower, Committed):
                    end = self._after_shortfalls(events, end + 1)
            yield events[start:end]
            start = end

    @staticmethod
    def _after_shortfalls(events: list[Event], start: int) -> int:
        while start < len(events) and isinstance(events[start], ShortfallChanged):
            start += 1
        return start

    def _is_expired(self, name: str) -> bool:
        known = self.model.reservations.get(name)
        return known is not None and known.state is State.EXPIRED

    def _at(self, record: Record) -> int:
        """Since when the record has been durable."""
        return self._stored_at.get(record.position, 0)

    # --- one command that had an effect ---

    def _do(self, record: Record, group: list[Event]) -> None:
        """Find the command behind `group`, and execute it."""
        first = group[0]
        kind = MAKERS.get(type(first))
        if isinstance(first, Expired):
            raise Parted(f"{record.position} tells of {first}, which was not due")
        if kind is None:
            raise Parted(f"{record.position} tells of {first}, which is nobody's doing")
        if any(isinstance(event, Committed) for event in group):
            kind = Commit
        name = name_of(first, kind)
        problems: list[str] = []
        for given in self._doers(name, first):
            problem = self._try(given.command, group)
            if problem is None:
                self._check_given(record, given)
                return
            problems.append(problem)
        for command, is_doubtful in self._calls.unheard(first, kind, self._at(record)):
            if is_doubtful and problems:
                break
            problem = self._try(command, group)
            if problem is None:
                self._check_asked(record, command)
                return
            problems.append(problem)
        why = problems[0] if problems else "is nobody's doing"
        raise Parted(f"{record.position} tells of {group[:4]}, which {why}")

    def _doers(self, name: tuple[Any, ...], event: Event) -> list[Given]:
        """Answers that rest on this record and say that the command did something like `event`."""
        status = Status.UNKNOWN_RESERVATION if isinstance(event, Buried) else Status.OK
        return [
            given
            for given in self._pending
            if given.answer.status == status
            and type(given.command) is name[0]
            and name_of(given.command, name[0]) == name
        ]

    def _try(self, command: Command, group: list[Event]) -> str | None:
        """Execute `command`; why it cannot have done `group`, then it did nothing."""
        model = self.model
        before = model.save(command)
        answer = model.execute(command)
        problem = None
        if not self._has_effect(before, command, answer):
            problem = f"{command} cannot have done: the answer is {answer}"
        else:
            lines = before.copy.lines if before.copy is not None else list[Line]()
            main = [deed(event, lines) for event in group if not _is_shortfall(event)]
            shortfalls = [deed(event, lines) for event in group if _is_shortfall(event)]
            expected = done(model, before, command)
            if main + sorted(shortfalls) != expected:
                problem = f"{command} cannot have done: it does {expected}"
        if problem is None:
            self._answer = answer
        else:
            model.restore(before)
        return problem

    def _has_effect(self, before: Before, command: Command, answer: Answer) -> bool:
        if isinstance(command, SetStock) and answer.status is Status.OK:
            old, new = before.skus[command.sku], self.model.skus[command.sku]
            return old.version != new.version
        if isinstance(command, SetChannel) and answer.status is Status.OK:
            return before.channels.get(command.channel) != command.policy
        if isinstance(command, Release) and command.bury and before.touched is None:
            return answer.status is Status.UNKNOWN_RESERVATION
        return answer.status is Status.OK

    def _check_given(self, record: Record, given: Given) -> None:
        """The command was answered upon this very effect."""
        self._pending.remove(given)
        where = f"shard {self.shard}: {record.position}"
        if differs(self._answer, given.answer):
            self.violations.append(
                f"{where}: {given.command} was answered {given.answer}, right is {self._answer}"
            )
        stored_at = self._at(record)
        if given.arrived > stored_at:
            self.violations.append(
                f"{where} has the effect of {given.command}, which reached {given.host} only later"
            )
        self._check_asked(record, given.command)

    def _check_asked(self, record: Record, command: Command) -> None:
        """Somebody asked for it, and was not told that nothing was done."""
        self._see(record, command)
        doubt = self._calls.doubt(command, self._at(record))
        if doubt is not None:
            self.violations.append(
                f"shard {self.shard}: {record.position} has the effect of {command}, but {doubt}"
            )
        self._calls.spend(command)

    def _see(self, record: Record, command: Command) -> None:
        name = getattr(command, "reservation_id", None)
        known = self.model.reservations.get(name) if name is not None else None
        if name is not None and known is not None and known.request is not None:
            sights = self.sights[name]
            if not sights or not sights[-1].known:
                at = self._at(record)
                sights.append(Sight(at, True, known.channel))

    # --- answers without an effect ---

    def _settle(self) -> None:
        """Strike out what is right here."""
        if self._pending:
            self._pending = [given for given in self._pending if not self._is_right(given)]

    def _is_right(self, given: Given) -> bool:
        """Whether the command, asked here and now, is answered like that and does nothing."""
        if given.answer.status is Status.MEMORY_FULL:
            return True
        return not differs(self._ask(given.command), given.answer)

    def _ask(self, command: Command) -> Answer:
        """What the command would be answered here; an answer of no use if it would do something."""
        model = self.model
        if type(command) not in _CHANGING:
            return model.execute(command)
        before = model.save(command)
        answer = model.execute(command)
        if self._has_effect(before, command, answer):
            model.restore(before)
            return Answer(Status.OUTCOME_UNKNOWN)
        return answer

    def _later(self, record: Record, following: Record | None) -> None:
        """Strike out what is right later, before the next record: more may have been forgotten."""
        model = self.model
        latest = max(map(self._latest, self._pending))
        held = [each for each in model.reservations.values() if each.state is State.RESERVED]
        latest = min([latest, *(model.deadline(each) - 1 for each in held)])
        if following is not None and following.position.sequence:
            latest = min(latest, following.stamp)
        reservations, keys, now = model.reservations, model.keys, model.now
        for moment in self._ends_of_windows():
            if now < moment <= latest and self._pending:
                model.now = moment
                model.forget()
                self._settle()
        model.reservations, model.keys, model.now = reservations, keys, now

    def _latest(self, given: Given) -> int:
        """What the owner's clock can have shown when it gave this answer."""
        elapsed = max(0, given.at - self._not_before) // 1_000
        return self._stamp + int(elapsed * CLOCK_SLACK) + CLOCK_SLACK_US

    def _ends_of_windows(self) -> list[int]:
        model = self.model
        ends = {
            each.finished_at + model.window(each)
            for each in model.reservations.values()
            if each.finished_at is not None
        }
        return sorted(ends | {at + model.keys_window_us for _, at in model.keys.values()})

    @property
    def windows(self) -> list[int]:
        """When what was forgotten ceased to be remembered, and what is remembered will."""
        return sorted(self._ended | set(self._ends_of_windows()))

    def _never_right(self, record: Record, given: Given) -> str:
        where = f"shard {self.shard}: {given.host} answered {given.command} with {given.answer}"
        right = self._ask(given.command)
        if right.status is Status.OUTCOME_UNKNOWN:
            return f"{where} upon {record.position}, which has no such effect"
        return f"{where} upon {record.position}, where that is never right; at its end {right} is"

    # --- sums ---

    def _check_audits(self, position: Position) -> None:
        """What was counted as of this record, if an audit was."""
        for given in self._audits.get(position, ()):
            body = given.answer.body
            assert isinstance(body, AuditView)
            model = self.model
            expected = (*map(sum, model.totals()), 0, [])
            found = (body.on_hand, body.reserved, body.allocated, body.drift, body.findings)
            if found != expected:
                self.violations.append(
                    f"shard {self.shard}: an audit of {position} finds {found}, right is {expected}"
                )

    def _check_ledger(self) -> None:
        """On_hand follows from the events alone, and the shortfalls are those that were told."""
        expected = +ledger([event for record in self.records for event in record.events])
        found = {place: units for place, units in self.model.on_hands.items() if units}
        if found != expected:
            raise Parted(f"on_hand is {found}, but the movements add up to {dict(expected)}")

    # --- who was known ---

    def knew(self, name: str, scope: str | None, start: int, end: int) -> set[bool]:
        """Whether the shard knew the reservation, at any moment from `start` to `end`."""
        before = Sight(0, False, None)
        seen: list[Sight] = []
        for sight in self.sights.get(name, ()):
            if sight.at <= start:
                before = sight
            elif sight.at <= end:
                seen.append(sight)
        known = self.model.reservations.get(name)
        if known is not None and known.finished_at is not None:
            elapsed = int(max(0, end - self._not_before) // 1_000 * CLOCK_SLACK) + CLOCK_SLACK_US
            if known.finished_at + self.model.window(known) <= self._stamp + elapsed:
                seen.append(Sight(end, None, known.channel))
        found: set[bool] = set()
        for sight in (before, *seen):
            visible = scope in (None, sight.channel)
            found |= {True, False} if sight.known is None else {sight.known and visible}
        return found


_CHANGING: Final = frozenset(MAKERS.values())


def differs(expected: Answer, found: Answer) -> bool:
    """Whether an answer says anything that it should not: some refusals may say more or less."""
    if expected.status != found.status:
        return True
    binding = expected.status in TELLING or isinstance(found.body, ReservationView)
    return binding and expected.body != found.body


def _is_shortfall(event: Event) -> bool:
    return isinstance(event, ShortfallChanged)
