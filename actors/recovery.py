"""How a shard comes back: what its journal says, read from the newest snapshot to our claim.

    preload ── snapshot ── records … ── follow its owner ──┐
                                                           ├─ finish: what still stands ── records
    (nothing was read before) ─── snapshot ── records ─────┘   up to our claim ── `Recovered`

From the claim on every older owner's appends are refused, so what is read after it is all there
ever will be of theirs. Every record must prove itself and link with the one before; the journal
must reach every floor, a record that is known to be acknowledged, with the same checksum. What does
not is refused with the place and the reason: the shard stops, it never skips and never guesses.

What was read before the claim is a head start, never a verdict: the server may have gone back since
and be another's, or have been trimmed before we had read on. So it counts only if its last record
stands where it stood, and whatever is wrong with what follows is found, or not, by reading anew.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Set
from typing import Final, NamedTuple

import structlog

from actors.appender import FencedError, RegressedError
from actors.claim import Floor, GenesisError, check_identity
from actors.journal import Entry, Journal
from actors.reading import before, load, page_after, read
from engine import limits
from engine.codec import (
    GENESIS,
    START,
    CorruptRecordError,
    Position,
    Record,
    check_link,
    checksum_of,
    decode_record,
)
from engine.messages import Event, Opened, SnapshotBegun, SnapshotTaken
from engine.placement import HASH
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, chunk_name

_PAGE: Final = 64
"""Records that are read at once."""
UNTRUSTED: Final = (CorruptRecordError, CorruptSnapshotError, RegressedError, GenesisError)
"""What is wrong with a journal that a shard must not be served from."""
_USELESS: Final = (*UNTRUSTED, FencedError)
_log = structlog.get_logger(__name__)


class ClaimLostError(RegressedError):
    """The journal has lost our claim before anything rested on it: it may be made again."""


class Recovered(NamedTuple):
    """A shard as it was after the last record before our claim."""

    shard: Shard
    digest: bytes
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


class Recovery:
    """One shard, on its way back."""

    def __init__(self, journal: Journal, make_shard: Callable[[], Shard], cluster_id: str) -> None:
        self.progress = 0
        """Records and chunks read so far."""
        self.is_near = False
        """Whether all that stood in the journal was read once, since it was last read anew: little
        is left, as long as reading keeps pace with what is lived."""
        self._journal = journal
        self._make_shard = make_shard
        self._cluster_id = cluster_id
        self._replay: _Replay | None = None
        self._following: asyncio.Task[None] | None = None

    def follow(self, on_near: Callable[[], None]) -> None:
        """Read what there is, call `on_near`, and read whatever comes, until `leave` or `finish`.

        What cannot be followed is read anew, after a pause that doubles as long as that is so.
        """
        self._following = asyncio.create_task(self._follow(on_near))

    def leave(self) -> None:
        """Follow no more."""
        if self._following is not None:
            self._following.cancel()

    async def finish(self, ours: Entry, floors: Iterable[Floor]) -> Recovered:
        """The shard as of the last record before `ours`, our claim; the journal must reach
        `floors`.

        Raises CorruptRecordError, CorruptSnapshotError, RegressedError, ClaimLostError,
        GenesisError or FencedError.
        """
        wanted = list(floors)
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        if self._replay is not None:
            try:
                await self._check_head(self._replay)
                return await self._finish(self._replay, ours, wanted)
            except _USELESS as error:
                _log.warning("read_anew", reason=str(error))
        self._replay = await self._restore()
        return await self._finish(self._replay, ours, wanted)

    async def _follow(self, on_near: Callable[[], None]) -> None:
        pause = limits.FOLLOW_AGAIN_SECONDS
        while True:
            try:
                self._replay = self._replay or await self._restore()
                await self._read_on(self._replay, None)
                pause = limits.FOLLOW_AGAIN_SECONDS
                if not self.is_near:
                    self.is_near = True
                    on_near()
                await asyncio.sleep(limits.FOLLOW_SECONDS)
            except _USELESS as error:
                self._replay, self.is_near = None, False
                _log.info("read_anew", reason=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, limits.FOLLOW_AGAIN_SECONDS_MAX)

    async def _finish(self, replay: "_Replay", ours: Entry, floors: list[Floor]) -> Recovered:
        await self._read_on(replay, ours)
        await self._check_floors(replay, floors)
        state, number = replay.shard.state, replay.shard.number
        check_identity(
            number,
            (state.cluster_id, state.shards, state.hash),
            (self._cluster_id, replay.shard.shards, HASH),
        )
        return replay.recovered(await asyncio.to_thread(replay.shard.digest))

    async def _read_on(self, replay: "_Replay", claim: Entry | None) -> None:
        """Apply what stands after what was read: up to `claim`, or all there is."""
        number, count = replay.shard.number, _PAGE
        while page := await read(self._journal, number, replay.position, count):
            count = page_after(page, _PAGE)
            for entry in page:
                record = decode_record(entry.record, number, entry.position)
                if claim is not None and record.position == claim.position:
                    replay.arrive(record, claim)
                    return
                replay.take(record, len(entry.record))
                self.progress += 1
                await asyncio.sleep(0)  # others share this loop: heartbeats, other shards
        if claim is not None:
            raise ClaimLostError(f"shard {number}: our claim {claim.position} is gone")

    async def _check_head(self, replay: "_Replay") -> None:
        """What was read before the claim must stand where it stood."""
        number, position = replay.shard.number, replay.position
        if position == START:
            return
        found = await read(self._journal, number, before(position), 1)
        if not found or found[0].position != position:
            raise RegressedError(f"shard {number}: {position} is not there any more")
        if checksum_of(found[0].record) != replay.checksum:
            raise RegressedError(f"shard {number}: {position} is another's")

    async def _check_floors(self, replay: "_Replay", floors: list[Floor]) -> None:
        """Every floor is in what was read, unless a snapshot stands for it by now."""
        number = replay.shard.number
        for floor in floors:
            if floor.position < replay.cut:
                continue
            where = f"shard {number}, record {floor.position}"
            if floor.position > replay.position:
                raise RegressedError(
                    f"shard {number}: ends at {replay.position}, {floor.position} was acknowledged"
                )
            checksum = await self._checksum(replay, floor.position)
            if checksum is None:
                raise RegressedError(f"{where} was acknowledged, and is not there")
            if floor.checksum not in (None, checksum):
                raise RegressedError(
                    f"{where}: checksum {checksum:08x}, but {floor.checksum:08x} was acknowledged"
                )

    async def _checksum(self, replay: "_Replay", position: Position) -> int | None:
        """Of the record that stands there; None if there is none."""
        if position == replay.cut:
            return replay.cut_checksum
        found = await read(self._journal, replay.shard.number, before(position), 1)
        if not found or found[0].position != position:
            return None
        return checksum_of(found[0].record)

    # --- the newest snapshot that is whole ---

    async def _restore(self) -> "_Replay":
        """A shard as of the newest snapshot that is whole, or a new one.

        A record may point at a snapshot that was replaced while it was made, and a stream that was
        given back may point at chunks which were not. Then the snapshot before serves as well,
        since the journal reaches back to it; if it did not, the records would not link.
        """
        shard = self._make_shard()
        lost = {START}
        async for pointers in self._pointers(shard.number):
            for pointer in sorted(pointers - lost, reverse=True):
                reader = await self._read_snapshot(shard, pointer)
                if reader is not None:
                    return _Replay(shard, reader, await asyncio.to_thread(reader.digest), lost)
                lost.add(pointer)
                shard = self._make_shard()
        return _Replay(shard, None, None, lost)

    async def _pointers(self, number: int) -> AsyncIterator[set[Position]]:
        """The snapshots that records tell of: of the last records; and then, if these are not
        enough, of all."""
        newest = await read(self._journal, number, START, _PAGE, newest=True)
        yield _told(number, newest)
        found, after = set[Position](), START
        while page := await read(self._journal, number, after, _PAGE):
            found |= _told(number, page)
            after = page[-1].position
            await asyncio.sleep(0)
        yield found

    async def _read_snapshot(self, shard: Shard, pointer: Position) -> SnapshotReader | None:
        """The snapshot, read into `shard`; None if a chunk of it is missing."""
        reader = SnapshotReader(shard.state, shard.number, pointer)
        while not reader.complete:
            name = chunk_name(pointer, reader.chunks)
            data = await load(self._journal, shard.number, name)
            if data is None:
                _log.warning("chunk_missing", shard=shard.number, chunk=name)
                return None
            for _ in reader.feeding(data):
                await asyncio.sleep(0)  # see `_read_on`
            self.progress += 1
            await asyncio.sleep(0)
        return reader


def _told(number: int, entries: list[Entry]) -> set[Position]:
    return {decode_record(each.record, number, each.position).snapshot for each in entries}


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


class _Replay:
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
        self.cut_checksum = 0
        self._digest = digest
        self._lost = lost
        self._before: Record | None = None
        self._before_claim = (START, 0)
        self._generations: list[Position] = []
        self._chunks = 0
        self._records = self._events = self._written = 0
        self._begun: list[_Begun] = []
        if reader is not None:
            self.cut, self.cut_checksum = reader.position, reader.checksum
            self.position, self.checksum = self.cut, self.cut_checksum
            self._before = Record(
                shard.number, self.cut, shard.state.now, 0, START, [], self.cut_checksum
            )
            self._generations = [
                each for each in (reader.previous, reader.position) if each != START
            ]
            self._chunks = reader.chunks

    def take(self, record: Record, size: int) -> None:
        """The next record, of `size` bytes."""
        self._link(record)
        if record.position.sequence == 0:
            self._before_claim = self.position, self.checksum
        for event in record.events:
            self._check(event, record)
        self._apply(record)
        self._before = record
        self._records += 1
        self._events += len(record.events)
        self._written += size
        self.position, self.checksum = record.position, record.checksum
        for event in record.events:
            self._note(event, record)

    def arrive(self, record: Record, claim: Entry) -> None:
        """What stands where our claim stood; it must be that."""
        self._link(record)
        if record.checksum != checksum_of(claim.record):
            raise FencedError(f"shard {record.shard}: {record.position} is another's claim")

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

    def _apply(self, record: Record) -> None:
        try:
            self.shard.replay(record.stamp, record.events)
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
