"""What the records of a journal say of the journal itself.

Each proves itself, and follows the one before or begins an epoch with a claim. The first is of this
installation; an opening says what stood before its claim; stamps never go back, and do not run away
from the world's time; a snapshot is announced where it was begun, and pointed at once announced.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

from engine.codec import GENESIS, START, CorruptRecordError, Position, Record, decode_record
from engine.limits import HANDOVER_GRACE_US
from engine.messages import Claimed, Genesis, HandedOff, Opened, SnapshotBegun, SnapshotTaken
from engine.placement import HASH

_E = TypeVar("_E", Claimed, Genesis, Opened)
CLOCK_SLACK: Final = 0.001
CLOCK_SLACK_US: Final = 1_000
"""By how much the clock of a host runs faster or slower than the world's, and may be off."""


class PartedError(Exception):
    """The journal and what it should be have parted; says where."""


def at_most(elapsed_ns: int) -> int:
    """What a host's clock counts in such a time, in microseconds, at the most."""
    return int(max(0, elapsed_ns) // 1_000 * (1 + CLOCK_SLACK)) + CLOCK_SLACK_US


def at_least(elapsed_ns: int) -> int:
    """What it counts at the least."""
    return max(0, int(elapsed_ns // 1_000 * (1 - CLOCK_SLACK)) - CLOCK_SLACK_US)


class Lineage:
    """The journal of one shard, record by record."""

    def __init__(
        self,
        shard: int,
        shards: int,
        entries: Sequence[tuple[Position, bytes]],
        stored_at: dict[Position, int],
        settled_at: dict[Position, int],
        settings: tuple[int, int, int, int] | None = None,
        wall_us: int | None = None,
    ) -> None:
        """`stored_at`: when each record was durable; `settled_at`: since when for good; the others
        as in a history."""
        self.shard = shard
        self.records: list[Record] = []
        """Those that have been taken."""
        self.hosts: dict[int, str] = {}
        """Epoch → who claimed it."""
        self._shards = shards
        self._entries = entries
        self._stored_at = stored_at
        self._settled_at = settled_at
        self._settings = settings
        self._wall_us = wall_us
        self._begun: set[Position] = set()
        self._announced = {START}
        self._stamp = 0
        self._opened = (0, 0)
        """The stamp that the present owner began with, a moment of the world before that…"""
        self._opened_by = 0
        """…and one after it."""

    def prove(self) -> list[Record]:
        """Every record, proven and linked to the one before."""
        proven: list[Record] = []
        for position, data in self._entries:
            try:
                record = decode_record(data, self.shard, position)
            except CorruptRecordError as error:
                raise PartedError(f"a record does not prove itself: {error}") from error
            _link(proven[-1] if proven else None, record)
            proven.append(record)
        return proven

    def at(self, record: Record) -> int:
        """When the record was durable."""
        return self._stored_at.get(record.position, 0)

    def settled_at(self, record: Record) -> int:
        """Since when it has been, without having been lost again."""
        return self._settled_at.get(record.position, 0)

    def take(self, record: Record) -> None:
        """The next record is this."""
        sequence = record.position.sequence
        if record.position == GENESIS:
            self._check_genesis(record)
        elif sequence == 0:
            self._check_claim(record)
        elif sequence == 1:
            self._check_opened(record)
        else:
            self._check_clock(record)
        self._check_snapshots(record)
        if sequence:
            if record.stamp < self._stamp:
                raise PartedError(
                    f"{record.position} has stamp {record.stamp}, after {self._stamp}"
                )
            self._stamp = record.stamp
        self.records.append(record)

    def _check_genesis(self, record: Record) -> None:
        event = _only(record, Genesis)
        if (event.shards, event.hash) != (self._shards, HASH):
            raise PartedError(f"{GENESIS} is of {event.shards} shards by {event.hash}")

    def _check_claim(self, record: Record) -> None:
        self.hosts[record.position.epoch] = _only(record, Claimed).host

    def _check_opened(self, record: Record) -> None:
        event, where = _only(record, Opened), record.position
        before = self.records[-2]
        found = (event.previous_epoch, event.previous_sequence, event.previous_checksum)
        if found != (*before.position, before.checksum):
            raise PartedError(f"{where} says that {found[0]}-{found[1]} stands before its claim")
        if not record.stamp == event.opened_at <= event.grace_until:
            raise PartedError(
                f"{where} was opened at {event.opened_at}, its stamp is {record.stamp}"
            )
        windows = event.finished_window_us, event.returns_window_us, event.keys_window_us
        settings = event.grace_until - event.opened_at, *windows
        if self._settings is not None and settings != self._settings_after(before, record.stamp):
            raise PartedError(f"{where} has settings {settings}, they are {self._settings}")
        if self._wall_us is not None:
            latest = max(self._stamp, self._wall_us + at_most(self.at(record)))
            if record.stamp > latest:
                raise PartedError(f"{where} has stamp {record.stamp}, no clock shows {latest} yet")
        self._opened, self._opened_by = (record.stamp, self.at(self.records[-1])), self.at(record)

    def _settings_after(self, before: Record, opened_at: int) -> tuple[int, ...]:
        """What an owner is to serve under, `before` being the record that it found at the end: the
        grace is for as long as nobody served, which an orderly handover tells."""
        assert self._settings is not None
        grace, *windows = self._settings
        if any(isinstance(event, HandedOff) for event in before.events):
            grace = min(grace, max(HANDOVER_GRACE_US, opened_at - before.stamp))
        return grace, *windows

    def closed_by(self, record: Record) -> int:
        """The latest moment at which a command may have come that has an effect in this record of
        the present owner: when its clock showed the stamp, but not after the record was durable."""
        elapsed_us = record.stamp - self._opened[0] + CLOCK_SLACK_US
        return min(self.at(record), self._opened_by + int(elapsed_us / (1 - CLOCK_SLACK)) * 1_000)

    def _check_clock(self, record: Record) -> None:
        stamp, at = self._opened
        ahead, elapsed = record.stamp - stamp, self.at(record) - at
        if ahead > at_most(elapsed):
            raise PartedError(f"{record.position} has a stamp {ahead} µs on, after {elapsed} ns")

    def _check_snapshots(self, record: Record) -> None:
        for event in record.events:
            if isinstance(event, SnapshotBegun):
                self._begun.add(record.position)
            elif isinstance(event, SnapshotTaken):
                taken = Position(event.epoch, event.sequence)
                if taken not in self._begun:
                    raise PartedError(
                        f"{record.position} tells of a snapshot, not begun at {taken}"
                    )
                self._announced.add(taken)
        if record.snapshot not in self._announced:
            raise PartedError(f"{record.position} points at {record.snapshot}, no snapshot")


def _link(before: Record | None, record: Record) -> None:
    """Each record follows the one before, or begins an epoch."""
    here = record.position
    if before is None:
        if here != GENESIS:
            raise PartedError(f"its journal begins with {here}, not with {GENESIS}")
    elif here.sequence == 0:
        if here.epoch <= before.position.epoch:
            raise PartedError(f"claim {here} stands after {before.position}")
    elif here != (before.position.epoch, before.position.sequence + 1):
        raise PartedError(f"{here} stands after {before.position}")
    elif record.previous != before.checksum:
        raise PartedError(f"{here} was written after another record than {before.position}")


def _only(record: Record, kind: type[_E]) -> _E:
    """The one event of a record that may have no other."""
    events = record.events
    if len(events) != 1 or not isinstance(events[0], kind):
        raise PartedError(f"{record.position} should have {kind.__name__}, and has {events}")
    return events[0]
