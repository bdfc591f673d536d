"""One shard's end of the journal: appends in order, each exactly once, or not at all.

    append ──acknowledged──► next
       │ busy ──► the same bytes again
       │ lost or refused ──► look at the last record
       │                        ├─ our own batch: it stands
       │                        ├─ the one before: send the same bytes again
       │                        ├─ an older one: Redis went back in time; resend the ring, in order
       │                        └─ a newer epoch, or no stream: stop
       └─ another server process: look first, then append

At most one append is on its way, and a batch that has its position never changes, so whichever
copy of it arrives first is the same. What is read back from a server process that is new counts
only once it has taken a further append: it may not have made durable what it merely remembered.

A server process that went back in time may also have forgotten the claim that fenced us, and even
that another had our epoch before us. So whoever finds a new one asks the marks first whether
anything was acknowledged that is not ours.

The ring keeps recent acknowledged records as long as their bytes fit. If Redis comes back without
them (an older copy, a failover, a torn tail), they are sent again, under their own ids; if the ring
does not reach back that far, the shard stops.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from actors.journal import (
    BusyError,
    Entry,
    Journal,
    JournalError,
    LostError,
    MissingError,
    RefusedError,
)
from actors.marks import Mark
from engine import limits
from engine.codec import Position, checksum_of, encode_record
from engine.messages import Event, Passed

_BACKOFF_FIRST: Final = 0.01
_BACKOFF_MAX: Final = 0.5


class FencedError(Exception):
    """A newer epoch owns the shard: append nothing, answer nothing, leave."""


class RegressedError(Exception):
    """The journal has lost what was acknowledged, and it cannot be given back."""


class Appender:
    """The writing end of an opened shard."""

    def __init__(
        self,
        journal: Journal,
        shard: int,
        claim: Entry,
        before: Position,
        before_checksum: int,
        pointer: Position,
        run_id: str,
        marked: Callable[[], Mark | None] = lambda: None,
    ) -> None:
        """`claim`: our own, the last record; `before`: the record before it and its checksum;
        `pointer`: newest snapshot; `run_id`: of the server process before the claim was made;
        `marked`: the newest record that is known to be acknowledged, whoever wrote it."""
        self._journal = journal
        self._shard = shard
        self.position = claim.position
        """Of the last acknowledged record."""
        self.checksum = checksum_of(claim.record)
        self.pointer = pointer
        self._run_id = run_id
        self._marked = marked
        self._ring: deque[Entry] = deque([claim])
        self._ring_bytes = len(claim.record)
        self._before_ring = (before, before_checksum)
        """The record after which the ring has everything."""
        self.resent = 0
        self.retried = 0

    @property
    def next(self) -> Position:
        """Where the next record will stand."""
        return Position(self.position.epoch, self.position.sequence + 1)

    async def append(self, stamp: int, events: Sequence[Event] | Sequence[bytes]) -> int:
        """Journal one batch; returns, with its bytes, when it is acknowledged.

        Raises FencedError or RegressedError, after which this object is of no more use.
        """
        return await self.carry_on(self.entry(stamp, events), stamp)

    def entry(self, stamp: int, events: Sequence[Event] | Sequence[bytes]) -> Entry:
        """The next record: of one batch."""
        position = self.next
        record, _ = encode_record(self._shard, position, stamp, self.checksum, self.pointer, events)
        return Entry(position, record)

    @property
    def is_sure(self) -> bool:
        """Whether the server process is the one that acknowledged our last record: the next may be
        sent to it without a look."""
        return self._journal.run_id == self._run_id

    async def carry_on(self, entry: Entry, stamp: int, failed: JournalError | None = None) -> int:
        """Journal what `entry` gave, which was sent once already if that has `failed`. Returns and
        raises as `append` does."""
        read_back = await self._place(entry, failed)
        self.acknowledged(entry)
        if read_back:
            await self.append(stamp, [Passed()])
        return len(entry.record)

    async def look(self) -> None:
        """See that the stream ends with our last records. Raises as `append` does.

        Ids alone do not tell: nothing stands after our last record in a stream that has vanished,
        and one that somebody has begun anew takes our next.
        """
        newest, run_id = await self._newest(2)
        if run_id != self._run_id or newest[0].position != self.position:
            await self._look(None)
            return
        if checksum_of(newest[0].record) != self.checksum:
            raise FencedError(f"shard {self._shard}: another's {self.position} stands for ours")
        if len(newest) == 2 and checksum_of(newest[1].record) != self._checksum_before:
            raise RegressedError(
                f"shard {self._shard}: another's {newest[1].position} stands before {self.position}"
            )

    @property
    def _checksum_before(self) -> int:
        """Of the record before the last."""
        return checksum_of(self._ring[-2].record) if len(self._ring) > 1 else self._before_ring[1]

    async def prove(self) -> None:
        """Prove that nobody has claimed the shard up to now. Raises as `append` does."""
        while True:
            if self._journal.run_id != self._run_id:
                await self._look(None)
            try:
                newer = await self._journal.read(self._shard, self.position, 1)
            except (BusyError, LostError):
                await self._look(None)
                continue
            if newer:
                raise FencedError(f"shard {self._shard}: {newer[0].position} stands after ours")
            if self._journal.run_id == self._run_id:
                return

    async def _place(self, entry: Entry, failed: JournalError | None) -> bool:
        """Get `entry` into the stream. Whether a new server process only gave it back to us."""
        delay = _BACKOFF_FIRST
        while True:
            if failed is None and self._journal.run_id != self._run_id and await self._look(entry):
                return True
            try:
                failure, failed = failed, None
                if failure is not None:
                    raise failure
                await self._journal.append(self._shard, entry.position, entry.record)
            except BusyError:
                self.retried += 1
                await asyncio.sleep(delay)
                delay = min(2 * delay, _BACKOFF_MAX)
            except (LostError, RefusedError) as error:
                self.retried += 1
                run_id = self._run_id
                if await self._look(entry):
                    return self._run_id != run_id
                if isinstance(error, RefusedError) and self._run_id == run_id:
                    raise RegressedError(
                        f"shard {self._shard}: {entry.position} is refused, though it is next"
                    ) from error
            except MissingError as error:
                raise RegressedError(str(error)) from error
            else:
                return False

    async def _look(self, sent: Entry | None) -> bool:
        """See where the stream ends and bring it to where we are. Whether `sent` stands."""
        refused: tuple[Position, str] | None = None
        while True:
            [last], run_id = await self._newest(1)
            if run_id != self._run_id:
                self.check_marked()
            if sent is not None and last == sent:
                self._run_id = run_id
                return True
            if last.position > self.position:
                raise FencedError(f"shard {self._shard}: {last.position} stands after ours")
            self._recognise(last)
            if last.position == self.position:
                self._run_id = run_id
                return False
            if refused == (last.position, run_id):
                raise RegressedError(
                    f"shard {self._shard}: what follows {last.position} is refused"
                )
            if not await self._give_back(last.position, run_id):
                refused = last.position, run_id

    def check_marked(self) -> None:
        """Raise FencedError if something is known to have been acknowledged after our last record,
        or in its stead: a server that went back in time may have forgotten by whom we were fenced,
        and who had our epoch before us."""
        mark = self._marked()
        if mark is None:
            return
        ours = self._known.get(mark.position, mark.checksum) == mark.checksum
        if mark.position > self.position or not ours:
            raise FencedError(
                f"shard {self._shard}: another's {mark.position} was acknowledged, though it is"
                " gone"
            )

    async def _newest(self, count: int) -> tuple[list[Entry], str]:
        """The stream's last entries, newest first, and the server process that said so.

        There is at least one, or RegressedError.
        """
        delay = _BACKOFF_FIRST
        while True:
            run_id = self._journal.run_id
            try:
                entries = await self._journal.read(self._shard, self.position, count, newest=True)
            except (BusyError, LostError):
                await asyncio.sleep(delay)
                delay = min(2 * delay, _BACKOFF_MAX)
                continue
            if self._journal.run_id != run_id:
                continue
            if not entries:
                raise RegressedError(f"shard {self._shard}: the journal is gone")
            return entries, run_id

    def _recognise(self, last: Entry) -> None:
        """Raise RegressedError unless `last` is a record that we know, and after which the ring
        has everything: it may stand where one of ours stood and be another's."""
        known = self._known
        if last.position not in known:
            raise RegressedError(
                f"shard {self._shard}: the journal ends at {last.position}, {self.position} was"
                f" acknowledged, and the ring begins after {self._before_ring[0]}"
            )
        if checksum_of(last.record) != known[last.position]:
            raise FencedError(f"shard {self._shard}: another's {last.position} stands for ours")

    @property
    def _known(self) -> dict[Position, int]:
        """The checksums of the records that the ring has, and of the one before it."""
        known = {each.position: checksum_of(each.record) for each in self._ring}
        known.update([self._before_ring])
        return known

    async def _give_back(self, last: Position, run_id: str) -> bool:
        """Resend what the ring holds after `last` to that server process, and to no other: it may
        end elsewhere. False if it was refused. Whoever calls looks again."""
        for entry in [each for each in self._ring if each.position > last]:
            if self._journal.run_id != run_id:
                break
            try:
                await self._journal.append(self._shard, entry.position, entry.record)
            except LostError:
                break
            except BusyError:
                await asyncio.sleep(_BACKOFF_MAX)
                break
            except RefusedError:
                return False
            except MissingError as error:
                raise RegressedError(str(error)) from error
            self.resent += 1
        return True

    def acknowledged(self, entry: Entry) -> None:
        """What `entry` gave stands in the journal."""
        self.position, self.checksum = entry.position, checksum_of(entry.record)
        self._ring.append(entry)
        self._ring_bytes += len(entry.record)
        while self._ring_bytes > limits.RING_BYTES_MAX and len(self._ring) > 1:
            oldest = self._ring.popleft()
            self._ring_bytes -= len(oldest.record)
            self._before_ring = (oldest.position, checksum_of(oldest.record))
