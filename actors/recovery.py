"""How a shard comes back: claim, then snapshot and tail, then `opened`.

    look ── claim <epoch>-0 ── snapshot ── records up to the claim ── opened <epoch>-1 ── serve
      │         │
      │         └ somebody else's: fenced
      └ no stream: genesis, unless a mark says that there was one

From the claim on every older owner's appends are refused, so what is read after it is all there
ever will be of theirs. Every record must prove itself and link with the one before; the journal
must reach every mark that anybody kept of it, with the same checksum. What does not is refused with
the place and the reason: the shard stops, it never skips and never guesses.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, NamedTuple

import structlog

from actors.appender import FencedError, RegressedError
from actors.archiver import Readable
from actors.journal import BusyError, Entry, Journal, LostError, MissingError, RefusedError
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
    encode_record,
)
from engine.messages import Claimed, Event, Genesis, Opened, SnapshotBegun, SnapshotTaken
from engine.placement import HASH
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, chunk_name

_PAGE: Final = 64
"""Records that are read at once."""
_BACKOFF_SECONDS: Final = 0.05
_LAST_SEQUENCE: Final = 2**63 - 1
_log = structlog.get_logger(__name__)


class GenesisError(Exception):
    """The journal is of another installation, or of one with another number of shards."""


class ClaimLostError(RegressedError):
    """The journal has lost our claim before anything rested on it: it may be made again."""


class Floor(NamedTuple):
    """A record that was acknowledged: the journal must reach it. `checksum` None = not known."""

    position: Position
    checksum: int | None


class Recovered(NamedTuple):
    """A shard as it was after the last record before our claim."""

    shard: Shard
    digest: bytes
    last_position: Position
    last_checksum: int
    generations: list[Position]
    """The snapshots that are kept, older first; it was restored from the last…"""
    chunks: int
    """…which has so many."""
    records: int
    events: int
    written: int
    """Bytes of the records that were replayed."""
    begun: list[Position]
    """Snapshots that were begun after the one it was restored from: nobody needs their chunks."""
    ends: dict[int, int]
    """Of each epoch after that snapshot, the sequence of its last record."""

    def has(self, position: Position) -> bool:
        """Whether it rests on the record at `position`, which was acknowledged. To be beyond it is
        not enough: a claim stands after all that was there, not after all that should have been."""
        if self.generations and position <= self.generations[-1]:
            return True
        return position.sequence <= self.ends.get(position.epoch, -1)


async def _read(
    journal: Readable, number: int, after: Position, count: int, *, newest: bool = False
) -> list[Entry]:
    """What the journal reads, once it answers."""
    while True:
        try:
            return await journal.read(number, after, count, newest=newest)
        except (BusyError, LostError):
            await asyncio.sleep(_BACKOFF_SECONDS)


async def _load(journal: Readable, number: int, name: str) -> bytes | None:
    """The chunk, once the journal answers."""
    while True:
        try:
            return await journal.load(number, name)
        except (BusyError, LostError):
            await asyncio.sleep(_BACKOFF_SECONDS)


async def check_installation(
    journal: Readable, number: int, *, shards: int, cluster_id: str
) -> None:
    """Raise GenesisError if the journal of shard `number` is not of this installation.

    Before the claim: whoever must not own a shard must not fence its owner either.
    """
    first = await _read(journal, number, START, 1)
    if not first:
        return
    record = decode_record(first[0].record, number, first[0].position)
    genesis = record.events[0] if record.events else None
    if isinstance(genesis, Genesis):
        found = (genesis.cluster_id, genesis.shards, genesis.hash)
    else:
        newest = await _newest(journal, number)
        pointer = record.snapshot if newest is None else newest.snapshot
        shard = Shard(number, shards)
        data = await _load(journal, number, chunk_name(pointer, 0))
        if data is None:
            return  # `recover` finds out what is missing
        SnapshotReader(shard.state, number, pointer).feed(data)
        found = (shard.state.cluster_id, shard.state.shards, shard.state.hash)
    _check_installation(number, found, (cluster_id, shards, HASH))


def _check_installation(
    number: int, found: tuple[str, int, str], ours: tuple[str, int, str]
) -> None:
    if found[1:] != ours[1:]:
        raise GenesisError(
            f"shard {number}: its journal is of {found[1]} shards by {found[2]}, not of"
            f" {ours[1]} by {ours[2]}"
        )
    if ours[0] and found[0] != ours[0]:
        raise GenesisError(
            f"shard {number}: its journal is of installation {found[0]}, this is {ours[0]}"
        )


async def claim(
    journal: Journal,
    number: int,
    *,
    shards: int,
    cluster_id: str,
    host: str,
    nonce: bytes,
    stamp: int,
    floors: Iterable[Floor],
) -> Entry:
    """Become the owner of shard `number`: our claim. Raises FencedError if another does.

    `nonce` is random and tells our claim from one that somebody else makes at the same moment.
    """
    await check_installation(journal, number, shards=shards, cluster_id=cluster_id)
    floors = list(floors)
    last = await _newest(journal, number)
    if last is None:
        if floors:
            raise RegressedError(
                f"shard {number}: no journal, though"
                f" {max(floor.position for floor in floors)} was acknowledged"
            )
        await _begin(journal, number, shards, cluster_id, stamp)
        last = await _newest(journal, number)
        if last is None:
            raise RegressedError(f"shard {number}: the journal was in use and is empty now")
    epoch = max([last.position.epoch, *(floor.position.epoch for floor in floors)]) + 1
    events: list[Event] = [Claimed(nonce, host)]
    position = Position(epoch, 0)
    ours = Entry(position, encode_record(number, position, stamp, 0, last.snapshot, events)[0])
    while True:
        try:
            await journal.append(number, position, ours.record)
        except BusyError:
            await asyncio.sleep(_BACKOFF_SECONDS)
            continue
        except (LostError, RefusedError) as error:
            found = await _read(journal, number, Position(epoch - 1, _LAST_SEQUENCE), 1)
            if not found and isinstance(error, LostError):
                continue
            if not found:
                raise RegressedError(f"shard {number}: the claim {position} is refused") from error
            if found[0] != ours:
                raise FencedError(f"shard {number}: {found[0].position} is another's") from None
        except MissingError as error:
            raise RegressedError(str(error)) from error
        return ours


async def _newest(journal: Readable, number: int) -> Record | None:
    entries = await _read(journal, number, START, 1, newest=True)
    return decode_record(entries[0].record, number, entries[0].position) if entries else None


async def _begin(journal: Journal, number: int, shards: int, cluster_id: str, stamp: int) -> None:
    """Write the first record of a new journal; somebody else may be first."""
    genesis: list[Event] = [Genesis(cluster_id, shards, HASH)]
    data, _ = encode_record(number, GENESIS, stamp, 0, START, genesis)
    while True:
        try:
            await journal.append(number, GENESIS, data, create=True)
        except BusyError:
            await asyncio.sleep(_BACKOFF_SECONDS)
            continue
        except LostError:
            if await _newest(journal, number) is None:
                continue
        except RefusedError:
            pass  # it is there: ours, sent twice, or another's of the same moment
        return


async def recover(
    journal: Journal,
    ours: Entry,
    make_shard: Callable[[], Shard],
    cluster_id: str,
    floors: Iterable[Floor],
    progress: Callable[[int], None],
) -> Recovered:
    """The shard as of the last record before `ours`, our claim.

    `progress` is told the number of records and chunks read so far. Raises CorruptRecordError,
    CorruptSnapshotError, RegressedError, ClaimLostError, GenesisError or FencedError.
    """
    shard, reader = await _restore_newest(journal, make_shard, progress)
    cut = None if reader is None else await asyncio.to_thread(reader.digest)
    replay = _Replay(shard, ours, list(floors), reader, cut)
    written = 0
    while not replay.done:
        page = await _read(journal, shard.number, replay.position, _PAGE)
        if not page:
            raise ClaimLostError(f"shard {shard.number}: our claim {ours.position} is gone")
        for entry in page:
            if not replay.done:
                replay.take(decode_record(entry.record, shard.number, entry.position))
                written += len(entry.record)
                await asyncio.sleep(0)  # others share this loop: heartbeats, other shards
        progress(replay.records)
    state = shard.state
    _check_installation(
        shard.number,
        (state.cluster_id, state.shards, state.hash),
        (cluster_id, shard.shards, HASH),
    )
    generations = [] if reader is None else [reader.previous, reader.position]
    progress(replay.records + 1)
    digest = await asyncio.to_thread(shard.digest)
    return Recovered(
        shard,
        digest,
        replay.position,
        replay.checksum,
        [each for each in generations if each != START],
        0 if reader is None else reader.chunks,
        replay.records,
        replay.events,
        written,
        replay.begun,
        replay.ends,
    )


async def _restore_newest(
    journal: Journal, make_shard: Callable[[], Shard], progress: Callable[[int], None]
) -> tuple[Shard, SnapshotReader | None]:
    """A shard as of the newest snapshot that is whole, or a new one.

    A claim may point at a snapshot that was replaced while it was made, and a stream that was given
    back may point at chunks which were not. Then the snapshot before serves as well, since the
    journal reaches back to it; if it did not, the records would not link.
    """
    shard = make_shard()
    tried = {START}
    async for pointers in _pointers(journal, shard.number):
        for pointer in sorted(pointers - tried, reverse=True):
            reader = await _restore(journal, shard, pointer, progress)
            if reader is not None:
                return shard, reader
            shard = make_shard()
        tried |= pointers
    return shard, None


async def _pointers(journal: Journal, number: int) -> AsyncIterator[set[Position]]:
    """The snapshots that records tell of: of the last records; and then, if these are not enough,
    of all."""
    newest = await _read(journal, number, START, _PAGE, newest=True)
    yield _told(number, newest)
    found, after = set[Position](), START
    while page := await _read(journal, number, after, _PAGE):
        found |= _told(number, page)
        after = page[-1].position
        await asyncio.sleep(0)
    yield found


def _told(number: int, entries: list[Entry]) -> set[Position]:
    return {decode_record(each.record, number, each.position).snapshot for each in entries}


async def _restore(
    journal: Journal, shard: Shard, pointer: Position, progress: Callable[[int], None]
) -> SnapshotReader | None:
    """The snapshot, read into `shard`; None if a chunk of it is missing."""
    reader = SnapshotReader(shard.state, shard.number, pointer)
    while not reader.complete:
        name = chunk_name(pointer, reader.chunks)
        data = await _load(journal, shard.number, name)
        if data is None:
            _log.warning("chunk_missing", shard=shard.number, chunk=name)
            return None
        reader.feed(data)
        progress(reader.chunks)
        await asyncio.sleep(0)
    return reader


class _Replay:
    """Applies records one by one, and checks what a recovery must check."""

    def __init__(
        self,
        shard: Shard,
        claim: Entry,
        floors: list[Floor],
        reader: SnapshotReader | None,
        digest: bytes | None,
    ) -> None:
        """`reader`: has restored `shard` from what has the digest `digest`; or both are None."""
        self._shard = shard
        self._claim = claim
        self._floors = sorted(floors, key=lambda floor: floor.position)
        self._before: Record | None = None
        self._before_claim = (START, 0)
        self._cut: tuple[Position, bytes] | None = None
        self.position = START
        self.checksum = 0
        self.records = self.events = 0
        self.begun: list[Position] = []
        self.ends: dict[int, int] = {}
        self.done = False
        if reader is not None:
            cut, checksum = reader.position, reader.checksum
            assert digest is not None
            self._cut = (cut, digest)
            self._before = Record(shard.number, cut, shard.state.now, 0, START, [], checksum)
            self._floors = [each for each in self._floors if each.position >= cut]
            self._reach(cut, checksum)

    def _reach(self, position: Position, checksum: int) -> None:
        """The state is that of `position`; every floor up to there must have been met."""
        self.position, self.checksum = position, checksum
        while self._floors and self._floors[0].position <= position:
            floor = self._floors.pop(0)
            where = f"shard {self._shard.number}, record {floor.position}"
            if floor.position < position:
                raise RegressedError(f"{where} was acknowledged, and is not there")
            if floor.checksum not in (None, checksum):
                raise RegressedError(
                    f"{where}: checksum {checksum:08x}, but {floor.checksum:08x} was acknowledged"
                )

    def take(self, record: Record) -> None:
        if self._before is None and record.position != GENESIS:
            raise CorruptRecordError(
                f"shard {record.shard}: begins with {record.position}, not with {GENESIS}"
            )
        check_link(self._before, record)
        self._check_moment(record)
        if record.position == self._claim.position:
            self._finish(record)
            return
        if record.position.sequence == 0:
            self._before_claim = self.position, self.checksum
        for event in record.events:
            self._check(event, record)
        self._apply(record)
        self._before = record
        self.ends[record.position.epoch] = record.position.sequence
        self.records += 1
        self.events += len(record.events)
        self._reach(record.position, record.checksum)

    def _check_moment(self, record: Record) -> None:
        """A snapshot is of no later moment than what its owner journaled next: its digest does not
        say when it was, and what is taken for older than it is would be forgotten early."""
        if self._cut is None or self._before is None or self._before.position != self._cut[0]:
            return
        cut, moment = self._cut[0], self._before.stamp
        if record.position.epoch == cut.epoch and record.stamp < moment:
            raise CorruptSnapshotError(
                f"shard {record.shard}, snapshot {cut}: of {moment} µs, but record"
                f" {record.position} after it of {record.stamp}"
            )

    def _apply(self, record: Record) -> None:
        try:
            self._shard.replay(record.stamp, record.events)
        except Exception as error:  # of whatever kind: it cannot be what was lived
            raise CorruptRecordError(
                f"shard {record.shard}, record {record.position}: does not apply: {error!r}"
            ) from error

    def _check(self, event: Event, record: Record) -> None:
        """What an event says about the journal itself must be so."""
        if isinstance(event, Opened):
            self._check_opened(event, record)
        if isinstance(event, SnapshotBegun):
            self.begun.append(record.position)
        if isinstance(event, SnapshotTaken) and self._cut is not None:
            position, digest = self._cut
            if (event.epoch, event.sequence) == position and event.digest != digest:
                raise CorruptSnapshotError(
                    f"shard {record.shard}, snapshot {position}: digest"
                    f" {digest.hex()}, {event.digest.hex()} was taken"
                )

    def _check_opened(self, event: Opened, record: Record) -> None:
        found = Position(event.previous_epoch, event.previous_sequence), event.previous_checksum
        if found != self._before_claim:
            position, checksum = self._before_claim
            raise CorruptRecordError(
                f"shard {record.shard}, record {record.position}: opened after {found[0]}"
                f" ({found[1]:08x}), but {position} ({checksum:08x}) stands before its claim"
            )

    def _finish(self, record: Record) -> None:
        if record.checksum != checksum_of(self._claim.record):
            raise FencedError(f"shard {record.shard}: {record.position} is another's claim")
        if self._floors:
            raise RegressedError(
                f"shard {record.shard}: ends at {self.position}, {self._floors[-1].position} was"
                " acknowledged"
            )
        self.done = True


def opened(
    recovered: Recovered,
    *,
    stamp: int,
    grace_us: int,
    finished_window_us: int = limits.FINISHED_WINDOW_US,
    returns_window_us: int = limits.RETURNS_WINDOW_US,
    keys_window_us: int = limits.KEYS_WINDOW_US,
) -> Opened:
    """The event with which a new ownership begins to serve."""
    return Opened(
        *recovered.last_position,
        recovered.last_checksum,
        recovered.digest,
        stamp,
        stamp + grace_us,
        finished_window_us,
        returns_window_us,
        keys_window_us,
    )
