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

from collections.abc import Iterator
from typing import Any, Final

from engine.codec import GENESIS, Position, Record
from engine.messages import (
    Answer,
    AuditView,
    Buried,
    Command,
    Commit,
    Committed,
    Event,
    Expired,
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
    StockAsOf,
)
from tests.engine.comparison import TELLING, ledger
from tests.engine.model_stock import Line
from tests.simulation.calls import MAKERS, Arrivals, Calls, name_of
from tests.simulation.deeds import Deed, deed, done, noticed, told
from tests.simulation.history import Given, History
from tests.simulation.lineage import Lineage, PartedError, at_least, at_most
from tests.simulation.prints import looks_like
from tests.simulation.quick_model import Before, QuickModel
from tests.simulation.sightings import Sightings

OWNERS: Final = (Passed, SnapshotBegun, SnapshotTaken, HandedOff)
"""What an owner journals of its own accord, within or beside batches."""


class Replay:
    """The journal of one shard, from its first record to its last."""

    def __init__(
        self,
        shard: int,
        history: History,
        calls: Calls,
        arrivals: Arrivals,
        given: dict[Position, list[Given]],
        audits: dict[Position, list[Given]],
        stored_at: dict[Position, int],
        settled_at: dict[Position, int],
    ) -> None:
        """`given`: the answers that rest on each record; `audits`: those that say what
        there was as of it; `stored_at`: when it was durable; `settled_at`: since when for good."""
        self.shard = shard
        self.model = QuickModel(shard, history.shards)
        self._lossy = history.lossy
        self.violations: list[str] = []
        entries = history.lineage.get(shard, [])
        self.lineage = Lineage(
            *(shard, history.shards, entries, stored_at, settled_at),
            *(history.settings, history.wall_us),
        )
        self._sightings = Sightings()
        self._calls = calls
        self._arrivals = arrivals
        self._given = given
        self._audits = audits
        self._stamp = 0
        """The latest, of those who served."""
        self._stamped_after = 0
        """That moment for the record before."""
        self._at = 0
        """When the record at hand was durable…"""
        self._closed_by = 0
        """…and the latest moment at which a command came whose effect it tells of."""
        self._not_before = 0
        """The stamp of the record at hand was taken after this moment of the world."""
        self._ended: set[int] = set()
        """When windows ended of what is forgotten by now."""
        self._served_at = 0
        """Since then answers have rested on the record before, or could."""
        self._pending: list[Given] = []
        self._answer = Answer(Status.OUTCOME_UNKNOWN)
        """What the model answered to the last command that had an effect."""

    def run(self) -> None:
        """Fill `violations`."""
        try:
            records = self.lineage.prove()
            for number, record in enumerate(records):
                self._take(record, records[number + 1] if number + 1 < len(records) else None)
            self._check_ledger()
        except PartedError as parting:
            self.violations.append(f"shard {self.shard}: {parting}")

    # --- one record ---

    def _take(self, record: Record, following: Record | None) -> None:
        sequence = record.position.sequence
        self._pending = list(self._given.get(record.position, ()))
        self._at = self.lineage.at(record)
        self.lineage.take(record)
        self._closed_by = self.lineage.closed_by(record)
        if sequence and record.stamp <= self._stamp:  # a pass says no more than the record before
            self._not_before = self._stamped_after
        self._stamp = max(self._stamp, record.stamp) if sequence else self._stamp
        if sequence == 0:
            self._overlook()
        elif sequence == 1 and record.position != GENESIS:
            self._open(record)
            self._settle()
        elif sequence > 1:
            self._batch(record)
        if self._pending:
            self._later(record, following)
        for given in self._pending:
            self.violations.append(self._never_right(record, given))
        self._stamped_after, self._not_before = self._not_before, self._at
        if sequence:
            self._served_at = self._not_before
        for given in self._audits.get(record.position, ()):
            self._check_account(record, given)

    def _overlook(self) -> None:
        """The owner before may have forgotten what the next one will know."""
        model, latest = self.model, self._stamp + at_most(self._at - self._stamped_after)
        for name, known in model.reservations.items():
            if known.finished_at is None or known.request is None:
                continue
            if known.finished_at + model.window(known) <= latest:
                self._sightings.flickers(name, known.channel, self._served_at, self._at)

    def _open(self, record: Record) -> None:
        """Served from here on, under these settings."""
        for event in record.events:
            if isinstance(event, Opened):
                self.model.opened(event.grace_until)
                self.model.finished_window_us = event.finished_window_us
                self.model.returns_window_us = event.returns_window_us
                self.model.keys_window_us = event.keys_window_us
        self._forget(record)

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
        at = self.lineage.at(record)
        for name in before.keys() - model.reservations.keys():
            self._sightings.fades(name, before[name].channel, self._served_at, at)

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
            raise PartedError(
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

    # --- one command that had an effect ---

    def _do(self, record: Record, group: list[Event]) -> None:
        """Find the command behind `group`, and execute it."""
        first = group[0]
        kind = MAKERS.get(type(first))
        if isinstance(first, Expired):
            raise PartedError(f"{record.position} tells of {first}, which was not due")
        if kind is None:
            raise PartedError(f"{record.position} tells of {first}, which is nobody's doing")
        if any(isinstance(event, Committed) for event in group):
            kind = Commit
        name = name_of(first, kind)
        problems: list[str] = []
        doers = self._doers(name, first)
        for given in doers:
            problem = self._try(given.command, group, given.answer)
            if problem is None:
                self._check_given(record, given)
                return
            problems.append(problem)
        for command, is_doubtful in self._unheard(record, first, kind):
            if is_doubtful and problems:
                break
            if doers and not self._is_one_more(record, command, doers):
                continue
            problem = self._try(command, group)
            if problem is None:
                self._check_asked(record, command)
                return
            problems.append(problem)
        for given in doers:
            if self._try(given.command, group) is None:
                self._check_given(record, given)
                return
        why = problems[0] if problems else "is nobody's doing"
        raise PartedError(f"{record.position} tells of {group[:4]}, which {why}")

    def _unheard(
        self, record: Record, event: Event, kind: type[Command]
    ) -> list[tuple[Command, bool]]:
        """Commands of which no answer says that they did `event`, the likely ones first; last those
        of which it is in doubt that they were asked for, or reached the owner unrefused."""
        host = self.lineage.hosts.get(record.position.epoch, "")
        found = [
            (command, is_doubtful or not self._arrivals.may_have(host, command, self._closed_by))
            for command, is_doubtful in self._calls.unheard(event, kind, self.shard, self._at)
        ]
        return sorted(found, key=lambda each: (each[1], not looks_like(each[0], event)))

    def _is_one_more(self, record: Record, command: Command, doers: list[Given]) -> bool:
        """Whether the owner had got `command` more often than it has answered it upon this very
        record."""
        host = self.lineage.hosts.get(record.position.epoch, "")
        equal = self._calls.equal
        answered = sum(equal(given.command) == equal(command) for given in doers)
        return self._arrivals.count(host, command, self._closed_by) > answered

    def _doers(self, name: tuple[Any, ...], event: Event) -> list[Given]:
        """Answers that rest on this record and say that the command did something like `event`.

        Whoever came only when the batch was closed did nothing: it found things as it wanted them.
        """
        status = Status.UNKNOWN_RESERVATION if isinstance(event, Buried) else Status.OK
        doers = [
            given
            for given in self._pending
            if given.answer.status == status
            and given.arrived <= self._closed_by
            and type(given.command) is name[0]
            and name_of(given.command, name[0]) == name
        ]
        return sorted(doers, key=lambda given: not looks_like(given.command, event))

    def _try(self, command: Command, group: list[Event], said: Answer | None = None) -> str | None:
        """Execute `command`; why it cannot have done `group` and been answered as `said`, then it
        did nothing."""
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
            elif said is not None and differs(answer, said):
                problem = f"{command} cannot have done: it is answered {answer}"
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
            return before.channels.get(command.channel) != self.model.channels[command.channel]
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
        self._check_asked(record, given.command)

    def _check_asked(self, record: Record, command: Command) -> None:
        """Somebody asked for it, and was not told that nothing was done."""
        self._see(record, command)
        doubt = self._calls.doubt(command, self.lineage.at(record))
        if doubt is not None:
            self.violations.append(
                f"shard {self.shard}: {record.position} has the effect of {command}, but {doubt}"
            )
        self._calls.spend(command)
        host = self.lineage.hosts.get(record.position.epoch, "")
        if not self._arrivals.may_have(host, command, self._closed_by):
            self.violations.append(
                f"shard {self.shard}: {record.position} has the effect of {command}, but all that"
                f" {host} got of it by {record.stamp} it has refused"
            )

    def _see(self, record: Record, command: Command) -> None:
        name = getattr(command, "reservation_id", None)
        known = self.model.reservations.get(name) if name is not None else None
        if name is not None and known is not None and known.request is not None:
            lineage = self.lineage
            at, settled_at = lineage.at(record), lineage.settled_at(record)
            self._sightings.appears(name, known.channel, at, settled_at)

    # --- answers without an effect ---

    def _settle(self, moment: int = 0) -> None:
        """Strike out what is right here: at a point of the batch, or at a later `moment`."""
        if self._pending:
            self._pending = [
                given
                for given in self._pending
                if not (self._can_be(given, moment) and self._is_right(given))
            ]

    def _can_be(self, given: Given, moment: int) -> bool:
        """Whether the answer can have been made in the batch itself, or then."""
        if not moment:
            return given.arrived <= self._at
        return self._earliest(given) <= moment <= self._latest(given)

    def _earliest(self, given: Given) -> int:
        """What the owner's clock showed at least when the command had reached it."""
        return self._stamp + at_least(given.arrived - self._at)

    def _is_right(self, given: Given) -> bool:
        """Whether the command, asked here and now, is answered like that and does nothing."""
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
        """Strike out what is right after the batch and before the next record, by when more may
        have been forgotten."""
        model = self.model
        held = [each for each in model.reservations.values() if each.state is State.RESERVED]
        end = min([model.deadline(each) - 1 for each in held], default=self._stamp << 1)
        if following is not None and following.position.sequence:
            end = min(end, following.stamp)
        moments = {*map(self._earliest, self._pending), *self._ends_of_windows()}
        reservations, keys, now = model.reservations, model.keys, model.now
        for moment in sorted(moments):
            if self._stamp <= moment <= end and self._pending:
                model.now = moment
                model.forget()
                self._settle(moment)
        model.reservations, model.keys, model.now = reservations, keys, now

    def _latest(self, given: Given) -> int:
        """What the owner's clock can have shown when it gave this answer."""
        return self._stamp + at_most(given.at - self._not_before)

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

    def _check_account(self, record: Record, given: Given) -> None:
        """What an audit counted as of this record, or the stock of a SKU as of it."""
        body, model = given.answer.body, self.model
        expected: object
        found: object
        if isinstance(body, AuditView):
            drift, findings = body.drift, body.findings
            if self._lossy:  # what is stored may lack something; memory may not
                drift, findings = drift - body.damage, []
            expected = (*map(sum, model.totals()), 0, [])
            found = (body.on_hand, body.reserved, body.allocated, drift, findings)
        else:
            assert isinstance(body, StockAsOf)
            sku = body.stock.sku
            expected = (record.stamp, model.stock_view(sku) if sku in model.skus else None)
            found = (body.time, body.stock)
        if found != expected:
            self.violations.append(
                f"shard {self.shard}: {given.host} says {found} of {record.position}, right is"
                f" {expected}"
            )

    def _check_ledger(self) -> None:
        """On_hand follows from the events alone, and the shortfalls are those that were told."""
        expected = +ledger([event for record in self.lineage.records for event in record.events])
        found = {place: units for place, units in self.model.on_hands.items() if units}
        if found != expected:
            raise PartedError(f"on_hand is {found}, but the movements add up to {dict(expected)}")

    # --- who was known ---

    def knew(self, name: str, scope: str | None, start: int, end: int) -> set[bool]:
        """Whether the shard knew the reservation, at any moment from `start` to `end`."""
        found = self._sightings.between(name, scope, start, end)
        known = self.model.reservations.get(name)
        if known is not None and known.finished_at is not None:
            window_end = known.finished_at + self.model.window(known)
            if window_end <= self._stamp + at_most(end - self._stamped_after):
                return found | {False}
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
