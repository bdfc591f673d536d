"""The journal walked once more, beside the shard that made it: does it lead to what is served?

    older snapshot ──► record ─ record ─ claim ─ opened ─ … ─ record of the copy ──► the same?
       every chunk proven        every record proven and linked     │
                                                                    └ its checksum, and the digest

A recovery reads what is stored only after something has died, which is a bad moment to find that it
does not prove itself. So this reads it while its owner is alive. It starts where the journal starts
(at the older of the two snapshots that are kept, or at the first record), shares nothing with the
owner but the rules and which snapshots there are, and checks what a recovery would, and more: each
`opened` and each announced snapshot on the way bears the digest of the state that its owner had
(but for the `opened` of one that took over what it had followed: nobody waits for a sum then);
the last record bears the checksum that the owner remembers; and a naive ledger adds the movements
up beside the replay. A snapshot that is not walked through is proven chunk by chunk all the same.

What is found wrong in what is stored is *damage*, a finding. But the shard goes on meanwhile: it
may trim the journal below our feet, its server may be replaced by one that has gone back in time,
and the shard may be another's by now. Then nothing follows from what is missing: OvertakenError.

Digests cost a pass over the whole state. Those on the way are taken only as often as the records in
between cost as much, and at the newest `opened` in any case, so that a shard that has changed hands
a hundred times is no hundred times as dear.
"""

from collections.abc import Callable
from itertools import count
from typing import Final

from actors.journal import Entry, Journal
from actors.pace import Spend, paced
from actors.patience import patiently
from actors.reading import page_after
from actors.snapshotter import Copy, Snapshotter
from engine import formats, limits
from engine.audit import Findings
from engine.codec import (
    GENESIS,
    START,
    CorruptRecordError,
    Position,
    Record,
    check_link,
    decode_record,
)
from engine.ledger import Ledger
from engine.messages import Event, Opened, SnapshotBegun, SnapshotTaken
from engine.shard import Shard
from engine.snapshot import (
    CorruptSnapshotError,
    SnapshotReader,
    check_chunk,
    chunk_name,
)

_PAGE: Final = 64
_CUTS_MAX: Final = 8
_TRIES: Final = 3
"""Of ways that are trimmed while they are walked."""


class OvertakenError(Exception):
    """What is not there, or not so, may rightly be gone: nothing can be said."""


class _TrimmedError(OvertakenError):
    """There may be another way."""


class DamageError(Exception):
    """What is stored does not prove itself, or does not lead to what is served."""


class Retrace:
    """One walk along the journal of a shard, up to the record of a copy."""

    def __init__(
        self,
        journal: Journal,
        number: int,
        shards: int,
        copy: Copy,
        snapshotter: Snapshotter,
        spend: Spend,
        hurry: Callable[[], None],
    ) -> None:
        """`hurry` is called when the journal is trimmed faster than it is walked."""
        self._journal = journal
        self._number = number
        self._shards = shards
        self._copy = copy
        self._snapshotter = snapshotter
        self._spend = spend
        self._hurry = hurry
        self.shard = Shard(number, shards)
        """As the journal has it, once `run` has returned True."""
        self.ledger = Ledger()
        self.damage = Findings()
        """What of that is stored does not prove itself."""
        self.drift = Findings()
        """Where it does, but an owner had another state."""
        self.records = 0
        self.checks = 0

    async def run(self) -> bool:
        """Walk, on the longest way there is and if need be on the next; whether one led to the end.

        Raises OvertakenError, and JournalError if the journal says what it never should.
        """
        for _ in range(_TRIES):
            try:
                return await self._walk(self._snapshotter.generations)
            except _TrimmedError:
                self._hurry()
                self.damage, self.drift = Findings(), Findings()
        raise OvertakenError("the journal was trimmed meanwhile, again and again")

    async def _walk(self, kept: list[Position]) -> bool:
        generations = [each for each in kept if each <= self._copy.position]
        if kept and not generations:
            raise OvertakenError("the journal was trimmed beyond the copy meanwhile")
        ways = generations if len(generations) == 2 else [START, *generations]
        for number, way in enumerate(ways):
            try:
                await _Walk(self, way).go()
            except (DamageError, CorruptRecordError, CorruptSnapshotError) as error:
                await self._doubt(kept)
                last = number == len(ways) - 1
                if way != START or last or await self._begins_with_genesis():
                    self.damage.add(str(error))
                continue
            for each in generations:
                if each > way:
                    await self._prove(each, kept)
            return True
        return False

    async def _begins_with_genesis(self) -> bool:
        """Whether a way from the first record ought to have been there."""
        first = await self.read(START, 1)
        return bool(first) and first[0].position == GENESIS

    async def _doubt(self, kept: list[Position]) -> None:
        """Something is missing, or not so. Raises OvertakenError if that may be as it should be."""
        newest = await patiently(lambda: self._journal.read(self._number, START, 1, newest=True))
        if self._journal.run_id != self._copy.run_id:
            raise OvertakenError("another process answers for the journal's server meanwhile")
        if newest and newest[0].position.epoch > self._copy.position.epoch:
            raise OvertakenError("the shard has another owner meanwhile")
        if self._snapshotter.generations != kept:
            raise _TrimmedError("the journal was trimmed meanwhile")
        theirs = len(kept) == 2 and kept[1].epoch < self._copy.position.epoch
        if theirs and await self._snapshotter.drop_if_given_up(kept[0]):
            raise _TrimmedError("an owner before had given up a snapshot, and trimmed the journal")

    async def _prove(self, generation: Position, kept: list[Position]) -> None:
        """Read a snapshot that no way led through."""
        try:
            for number in count():
                data = await self.load(generation, number)
                await self._spend(limits.AUDIT_SLICE_ENTRIES)
                if check_chunk(data, self._number, generation, number):
                    return
        except (DamageError, CorruptSnapshotError) as error:
            await self._doubt(kept)
            self.damage.add(str(error))

    # --- what is stored ---

    async def load(self, generation: Position, number: int) -> bytes:
        """A chunk that must be there."""
        name = chunk_name(generation, number)
        data = await patiently(lambda: self._journal.load(self._number, name))
        if data is None:
            raise DamageError(f"shard {self._number}, snapshot {generation}: no chunk {number}")
        return data

    async def read(self, after: Position, count: int) -> list[Entry]:
        return await patiently(lambda: self._journal.read(self._number, after, count))

    @property
    def target(self) -> Copy:
        return self._copy

    @property
    def spend(self) -> Spend:
        return self._spend


class _Walk:
    """One way, from a snapshot or from the first record."""

    def __init__(self, retrace: Retrace, start: Position) -> None:
        self._retrace = retrace
        self._start = start
        self._target = retrace.target
        retrace.shard.state.seal()
        retrace.shard = self._shard = Shard(retrace.shard.number, retrace.shard.shards)
        retrace.ledger = self._ledger = Ledger()
        self._before: Record | None = None
        self._before_claim: tuple[Position, int, bytes | None] = START, 0, None
        """The last record before the newest claim, its checksum, and the digest there."""
        self._cuts: dict[Position, bytes] = {}
        """Where snapshots were begun, and the digest there."""
        self._work = 0
        """Events since the last digest."""
        self._page_records = _PAGE

    async def go(self) -> None:
        """Raises DamageError, CorruptRecordError or CorruptSnapshotError where the way ends."""
        if self._start != START:
            await self._restore()
        position = self._start
        while position < self._target.position:
            page = await self._retrace.read(position, self._page_records)
            if not page:
                raise DamageError(
                    f"shard {self._shard.number}: the journal ends at {position},"
                    f" {self._target.position} was acknowledged"
                )
            self._page_records = page_after(page, _PAGE)
            for entry in page:
                if position < self._target.position:
                    await self._take(entry)
                    position = entry.position
        self._check_head(position)
        self._shard.replay(self._target.state.now, [])  # time may have passed without any event

    async def _restore(self) -> None:
        reader = SnapshotReader(self._shard.state, self._shard.number, self._start)
        while not reader.complete:
            data = await self._retrace.load(self._start, reader.chunks)
            for entries in reader.feeding(data):
                await self._retrace.spend(entries)
            await self._retrace.spend(1)
        for entries in self._ledger.start(self._shard.state):
            await self._retrace.spend(entries)
        self._before = Record(self._shard.number, self._start, 0, 0, START, [], reader.checksum)
        same = reader.format == formats.FORMAT
        self._cuts[self._start] = await self._digest() if same else reader.digest()

    async def _take(self, entry: Entry) -> None:
        record = decode_record(entry.record, self._shard.number, entry.position)
        if self._before is None and record.position != GENESIS:
            raise CorruptRecordError(
                f"shard {record.shard}: begins with {record.position}, not with {GENESIS}"
            )
        check_link(self._before, record)
        if record.position.sequence == 0:
            await self._note_claim(record)
        for event in record.events:
            self._check(event, record)
        await self._apply(record)
        self._retrace.records += 1
        self._before = record
        if any(isinstance(event, SnapshotBegun) for event in record.events) and self._is_worth_it():
            self._cuts[record.position] = await self._digest()
            if len(self._cuts) > _CUTS_MAX:
                del self._cuts[min(self._cuts)]

    async def _apply(self, record: Record) -> None:
        """Replay the record, and enter it into the ledger."""
        events, size = record.events, limits.AUDIT_SLICE_ENTRIES
        for first in range(0, max(1, len(events)), size):
            piece = events[first : first + size]
            try:
                self._shard.replay(record.stamp, piece)
                for event in piece:
                    self._ledger.take(event)
            except Exception as error:  # whatever events that never were do to the rules
                raise DamageError(
                    f"shard {record.shard}, record {record.position}: does not apply:"
                    f" {type(error).__name__}: {error}"
                ) from error
            self._work += len(piece)
            await self._retrace.spend(1 + len(piece))

    # --- digests on the way ---

    def _is_worth_it(self) -> bool:
        state = self._shard.state
        return self._work >= state.remembered + state.skus.size

    async def _digest(self) -> bytes:
        self._work = 0
        return await paced(self._shard.state.digesting(), self._retrace.spend)

    async def _note_claim(self, claim: Record) -> None:
        """The one who claims has recovered what stands before: nothing else, and no later time."""
        before = self._before
        assert before is not None, "a way does not begin with a claim"
        wanted = claim.position.epoch == self._target.position.epoch or self._is_worth_it()
        digest = await self._digest() if wanted else None
        self._before_claim = before.position, before.checksum, digest

    def _check(self, event: Event, record: Record) -> None:
        """What an event says about the journal and the state must be so."""
        where = f"shard {record.shard}, record {record.position}"
        if isinstance(event, Opened):
            position, checksum, digest = self._before_claim
            found = Position(event.previous_epoch, event.previous_sequence)
            if (found, event.previous_checksum) != (position, checksum):
                raise DamageError(
                    f"{where}: opened after {found} ({event.previous_checksum:08x}), but"
                    f" {position} ({checksum:08x}) stands before its claim"
                )
            if event.digest:  # or it was not summed up
                self._compare(f"{where}: opened", record, event.digest, digest)
        elif isinstance(event, SnapshotTaken):
            cut = Position(event.epoch, event.sequence)
            taken = self._cuts.pop(cut, None)
            if cut == self._start and event.digest != taken:
                raise DamageError(f"{where}: snapshot {cut} is not what was taken")
            self._compare(f"{where}: snapshot {cut}", record, event.digest, taken)

    def _compare(self, where: str, record: Record, said: bytes, found: bytes | None) -> None:
        """A digest of another format is over other bytes."""
        if found is not None and record.format == formats.FORMAT:
            self._retrace.checks += 1
            if said != found:
                text = f"{where} with digest {said.hex()}, the replay has {found.hex()}"
                self._retrace.drift.add(text)

    def _check_head(self, position: Position) -> None:
        """What the owner remembers of its last record is what stands there."""
        target, before = self._target, self._before
        assert before is not None
        self._retrace.checks += 1
        if (position, before.checksum) != (target.position, target.checksum):
            raise DamageError(
                f"shard {self._shard.number}: ends with {position} ({before.checksum:08x}),"
                f" {target.position} ({target.checksum:08x}) was acknowledged"
            )
