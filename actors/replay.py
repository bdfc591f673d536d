"""A shard's records, applied one by one from a snapshot or the first on, and what each must prove.

    snapshot, or nothing ── record ─ record ─ claim ─ opened ─ … ──► `arrive`: our claim

Each must link with the one before; each `opened` must say what stands before its claim; the
announcement of the snapshot that all began with must bear its digest. What does not is refused with
the place and the reason, and the replay is of no more use: it never skips and never guesses. On the
way it counts what the next owner has to know of the snapshots that are kept.

A record is applied in slices, because whoever follows a shard may serve others on the same loop.
"""

from collections import deque
from collections.abc import Set
from typing import Final, NamedTuple

from actors.appender import FencedError
from actors.journal import Entry
from engine import limits
from engine.codec import (
    GENESIS,
    START,
    CorruptRecordError,
    Position,
    Record,
    check_link,
    checksum_of,
)
from engine.messages import Event, HandedOff, Opened, SnapshotBegun, SnapshotTaken
from engine.shard import Shard
from engine.slices import Slices
from engine.snapshot import CorruptSnapshotError, SnapshotReader

_RECENT_MAX: Final = 256
"""Records whose checksums a replay remembers: floors are among the last ones, as a rule."""


class Recovered(NamedTuple):
    """A shard as it was after the last record before our claim."""

    shard: Shard
    digest: bytes
    """Empty if it was not summed up."""
    last_position: Position
    last_checksum: int
    generations: list[Position]
    """The snapshots that are kept, older first…"""
    chunks: int
    """…the last of which has so many; 0 = it is not known."""
    records: int
    """Replayed since the newest of them…"""
    events: int
    written: int
    """…and their bytes."""
    begun: list[Position]
    """Snapshots that were begun after the newest: nobody needs their chunks."""
    handed_over_at: int
    """The stamp with which the owner before left in order; 0 = it did not."""
    ends: dict[int, int]
    """Of each epoch that was replayed, the sequence of its last record."""

    def has(self, position: Position) -> bool:
        """Whether it rests on the record at `position`, which was acknowledged. To be beyond it is
        not enough: a claim stands after all that was there, not after all that should have been."""
        if self.generations and position <= self.generations[-1]:
            return True
        return position.sequence <= self.ends.get(position.epoch, -1)


class _Begun(NamedTuple):
    """A snapshot that was begun, and what had been replayed by then."""

    position: Position
    records: int
    events: int
    written: int

    def since(self, other: "_Begun") -> "_Begun":
        """Counted from `other`."""
        position, records, events, written = self
        return _Begun(
            position, records - other.records, events - other.events, written - other.written
        )


class Replay:
    """Applies records one by one, and checks what a recovery must check."""

    def __init__(
        self,
        shard: Shard,
        reader: SnapshotReader | None,
        digest: bytes | None,
        lost: Set[Position],
    ) -> None:
        """`reader`: has restored `shard` from what has the digest `digest`; or both are None.
        `lost`: snapshots that are not whole, whatever records say of them."""
        self.shard = shard
        self.position = START
        self.checksum = 0
        self.cut = START
        """Of the snapshot that all began with."""
        self._recent: deque[tuple[Position, int]] = deque(maxlen=_RECENT_MAX)
        """Places and checksums of the last records."""
        self._digest = digest
        self._lost = lost
        self._before: Record | None = None
        self._before_claim = (START, 0)
        self._generations: list[Position] = []
        self._chunks = 0
        self._records = self._events = self._written = 0
        self._begun: list[_Begun] = []
        self._handed_over_at = 0
        self._ends: dict[int, int] = {}
        if reader is not None:
            self.cut = self.position = reader.position
            self.checksum = reader.checksum
            self._recent.append((self.cut, self.checksum))
            self._before = Record(
                shard.number, self.cut, shard.state.now, 0, START, [], self.checksum
            )
            self._generations = [
                each for each in (reader.previous, reader.position) if each != START
            ]
            self._chunks = reader.chunks

    def taking(self, record: Record, size: int) -> Slices[None]:
        """The next record, of `size` bytes, in slices: all of them, or all is of no more use."""
        self._link(record)
        if record.position.sequence == 0:
            self._before_claim = self.position, self.checksum
        for event in record.events:
            self._check(event, record)
        yield from self._applying(record)
        self._before = record
        self._ends[record.position.epoch] = record.position.sequence
        self._records += 1
        self._events += len(record.events)
        self._written += size
        self.position, self.checksum = record.position, record.checksum
        self._recent.append((self.position, self.checksum))
        is_last_word = any(isinstance(event, HandedOff) for event in record.events)
        self._handed_over_at = record.stamp if is_last_word else 0
        for event in record.events:
            self._note(event, record)

    def arrive(self, record: Record, claim: Entry) -> None:
        """What stands where our claim stood; it must be that."""
        self._link(record)
        if record.checksum != checksum_of(claim.record):
            raise FencedError(f"shard {record.shard}: {record.position} is another's claim")

    @property
    def kept_from(self) -> Position:
        """Before it, the journal may have been trimmed: snapshots stand for that."""
        return max(self.cut, self._generations[0]) if len(self._generations) == 2 else self.cut

    def checksum_at(self, position: Position) -> int | None:
        """Of the record that was read there; None if it was not, or too long ago.

        Each record bears the checksum of the one before, so whoever finds the last one where it
        stood need not ask for those before.
        """
        return next((checksum for each, checksum in self._recent if each == position), None)

    @property
    def tail(self) -> list[tuple[Position, int]]:
        """Place and checksum of the last record that says what stands before it, and of the claims
        after it, which do not."""
        found: list[tuple[Position, int]] = []
        for position, checksum in reversed(self._recent):
            found.insert(0, (position, checksum))
            if position.sequence:
                break
        return found

    def recovered(self, digest: bytes) -> Recovered:
        """What came of it; `digest`: of the shard."""
        return Recovered(
            self.shard,
            digest,
            self.position,
            self.checksum,
            self._generations,
            self._chunks,
            self._records,
            self._events,
            self._written,
            [each.position for each in self._begun],
            self._handed_over_at,
            self._ends,
        )

    def _link(self, record: Record) -> None:
        if self._before is None and record.position != GENESIS:
            raise CorruptRecordError(
                f"shard {record.shard}: begins with {record.position}, not with {GENESIS}"
            )
        check_link(self._before, record)
        self._check_moment(record)

    def _check_moment(self, record: Record) -> None:
        """A snapshot is of no later moment than what its owner journaled next: its digest does not
        say when it was, and what is taken for older than it is would be forgotten early."""
        if self._digest is None or self._before is None or self._before.position != self.cut:
            return
        moment = self._before.stamp
        if record.position.epoch == self.cut.epoch and record.stamp < moment:
            raise CorruptSnapshotError(
                f"shard {record.shard}, snapshot {self.cut}: of {moment} µs, but record"
                f" {record.position} after it of {record.stamp}"
            )

    def _applying(self, record: Record) -> Slices[None]:
        events, size = record.events, limits.AUDIT_SLICE_ENTRIES
        try:
            for first in range(0, max(1, len(events)), size):
                piece = events[first : first + size]
                self.shard.replay(record.stamp, piece)
                yield 1 + len(piece)
        except Exception as error:  # of whatever kind: it cannot be what was lived
            raise CorruptRecordError(
                f"shard {record.shard}, record {record.position}: does not apply: {error!r}"
            ) from error

    def _check(self, event: Event, record: Record) -> None:
        """What an event says about the journal itself must be so."""
        if isinstance(event, Opened):
            self._check_opened(event, record)
        if isinstance(event, SnapshotTaken) and (event.epoch, event.sequence) == self.cut:
            self._check_digest(event.digest, record)

    def _check_digest(self, taken: bytes, record: Record) -> None:
        if self._digest is not None and taken != self._digest:
            raise CorruptSnapshotError(
                f"shard {record.shard}, snapshot {self.cut}: digest"
                f" {self._digest.hex()}, {taken.hex()} was taken"
            )

    def _check_opened(self, event: Opened, record: Record) -> None:
        found = Position(event.previous_epoch, event.previous_sequence), event.previous_checksum
        if found != self._before_claim:
            position, checksum = self._before_claim
            raise CorruptRecordError(
                f"shard {record.shard}, record {record.position}: opened after {found[0]}"
                f" ({found[1]:08x}), but {position} ({checksum:08x}) stands before its claim"
            )

    def _note(self, event: Event, record: Record) -> None:
        """Snapshots that come and go while we read."""
        if isinstance(event, SnapshotBegun):
            counts = self._records, self._events, self._written
            self._begun.append(_Begun(record.position, *counts))
        elif isinstance(event, SnapshotTaken):
            taken = Position(event.epoch, event.sequence)
            if taken in self._lost:
                return
            if taken > (self._generations[-1] if self._generations else START):
                self._generations = [*self._generations[-1:], taken]
                self._chunks = event.chunks
            for begun in self._begun:
                if begun.position == taken:
                    self._begin_at(begun)
            self._begun = [each for each in self._begun if each.position > taken]

    def _begin_at(self, begun: _Begun) -> None:
        """From now on, count from there."""
        _, records, events, written = begun
        self._records -= records
        self._events -= events
        self._written -= written
        self._begun = [
            _Begun(
                each.position, each.records - records, each.events - events, each.written - written
            )
            for each in self._begun
        ]
