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
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from actors.appender import FencedError, RegressedError
from actors.journal import BusyError, Entry, Journal, LostError, RefusedError
from engine import limits
from engine.codec import (
    GENESIS,
    START,
    CorruptRecordError,
    Position,
    Record,
    check_link,
    decode_record,
    encode_record,
)
from engine.messages import Claimed, Event, Genesis, Opened, SnapshotTaken
from engine.placement import HASH
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, chunk_name

_PAGE: Final = 64
"""Records that are read at once."""
_BACKOFF_SECONDS: Final = 0.05
_LAST_SEQUENCE: Final = 2**63 - 1


class GenesisError(Exception):
    """The journal is of another installation, or of one with another number of shards."""


class Floor(NamedTuple):
    """A record that was acknowledged: the journal must reach it. `checksum` None = not known."""

    position: Position
    checksum: int | None


class Recovered(NamedTuple):
    """A shard as it was after the last record before our claim."""

    shard: Shard
    claim: Record
    last_position: Position
    last_checksum: int
    generations: list[Position]
    """The snapshots that are kept, older first; it was restored from the last."""
    records: int


async def _read(
    journal: Journal, number: int, after: Position, count: int, *, newest: bool = False
) -> list[Entry]:
    """What the journal reads, once it answers."""
    while True:
        try:
            return await journal.read(number, after, count, newest=newest)
        except (BusyError, LostError):
            await asyncio.sleep(_BACKOFF_SECONDS)


async def _load(journal: Journal, number: int, name: str) -> bytes | None:
    """The chunk, once the journal answers."""
    while True:
        try:
            return await journal.load(number, name)
        except (BusyError, LostError):
            await asyncio.sleep(_BACKOFF_SECONDS)


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
) -> Record:
    """Become the owner of shard `number`: our claim's record. Raises FencedError if another does.

    `nonce` is random and tells our claim from one that somebody else makes at the same moment.
    """
    floors = list(floors)
    last = await _newest(journal, number)
    if last is None:
        if floors:
            raise RegressedError(
                f"shard {number}: no journal, though {max(floors).position} was acknowledged"
            )
        await _begin(journal, number, shards, cluster_id, stamp)
        last = await _newest(journal, number)
        assert last is not None
    epoch = max([last.position.epoch, *(floor.position.epoch for floor in floors)]) + 1
    position = Position(epoch, 0)
    events: list[Event] = [Claimed(nonce, host)]
    data, _ = encode_record(number, position, stamp, 0, last.snapshot, events)
    while True:
        try:
            await journal.append(number, position, data)
        except BusyError:
            await asyncio.sleep(_BACKOFF_SECONDS)
            continue
        except (LostError, RefusedError):
            found = await _read(journal, number, Position(epoch - 1, _LAST_SEQUENCE), 1)
            if not found:
                continue
            if found[0] != (position, data):
                raise FencedError(f"shard {number}: {found[0].position} is another's") from None
        return decode_record(data, number, position)


async def _newest(journal: Journal, number: int) -> Record | None:
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
    claim: Record,
    shard: Shard,
    floors: Iterable[Floor],
    progress: Callable[[int], None],
) -> Recovered:
    """Bring `shard`, which is new, to the last record before `claim`.

    `progress` is told the number of records and chunks read so far. Raises CorruptRecordError,
    CorruptSnapshotError, RegressedError or GenesisError.
    """
    replay = _Replay(shard, claim, list(floors))
    pointer = await _newest_pointer(journal, claim)
    generations: list[Position] = []
    if pointer != START:
        reader = await _restore(journal, shard, pointer, progress)
        generations = [each for each in (reader.previous, pointer) if each != START]
        replay.restored(reader, pointer)
    while not replay.done:
        page = await _read(journal, shard.number, replay.position, _PAGE)
        if not page:
            raise RegressedError(f"shard {shard.number}: our claim {claim.position} is gone")
        for entry in page:
            if not replay.done:
                replay.take(decode_record(entry.record, shard.number, entry.position))
        progress(replay.records)
        await asyncio.sleep(0)
    return replay.result(generations)


async def _newest_pointer(journal: Journal, claim: Record) -> Position:
    """The newest snapshot that the stream announced before our claim."""
    entries = await _read(journal, claim.shard, START, 2, newest=True)
    records = [decode_record(each.record, claim.shard, each.position) for each in entries]
    return max(record.snapshot for record in [claim, *records])


async def _restore(
    journal: Journal, shard: Shard, pointer: Position, progress: Callable[[int], None]
) -> SnapshotReader:
    reader = SnapshotReader(shard.state, shard.number, pointer)
    while not reader.complete:
        name = chunk_name(pointer, reader.chunks)
        data = await _load(journal, shard.number, name)
        if data is None:
            raise CorruptSnapshotError(f"shard {shard.number}: chunk {name} is missing")
        reader.feed(data)
        progress(reader.chunks)
        await asyncio.sleep(0)
    return reader


class _Replay:
    """Applies records one by one, and checks what a recovery must check."""

    def __init__(self, shard: Shard, claim: Record, floors: list[Floor]) -> None:
        self._shard = shard
        self._claim = claim
        self._floors = floors
        self._before: Record | None = None
        self._cut: tuple[Position, bytes] | None = None
        self._before_claim = (START, 0)
        self.position = START
        self.checksum = 0
        self.records = 0
        self.done = False

    def restored(self, reader: SnapshotReader, pointer: Position) -> None:
        self.position, self.checksum = pointer, reader.checksum
        self._cut = (pointer, self._shard.digest())
        self._before = Record(self._shard.number, pointer, 0, 0, START, [], reader.checksum)

    def take(self, record: Record) -> None:
        if self._before is None and record.position != GENESIS:
            raise CorruptRecordError(
                f"shard {record.shard}: begins with {record.position}, not with {GENESIS}"
            )
        check_link(self._before, record)
        if record.position == self._claim.position:
            self._finish(record)
            return
        if record.position.sequence == 0:
            self._before_claim = self.position, self.checksum
        for event in record.events:
            self._check(event, record)
        self._shard.replay(record.stamp, record.events)
        self._before = record
        self.position, self.checksum = record.position, record.checksum
        self.records += 1
        for floor in self._floors:
            if floor.position == record.position and floor.checksum not in (None, self.checksum):
                raise RegressedError(
                    f"shard {record.shard}, record {record.position}: checksum"
                    f" {self.checksum:08x}, but {floor.checksum:08x} was acknowledged"
                )

    def _check(self, event: Event, record: Record) -> None:
        """What an event says about the journal itself must be so."""
        if isinstance(event, Opened):
            self._check_opened(event, record)
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
        if record.checksum != self._claim.checksum:
            raise FencedError(f"shard {record.shard}: {record.position} is another's claim")
        lowest = max((f.position for f in self._floors), default=START)
        if self.position < lowest:
            raise RegressedError(
                f"shard {record.shard}: ends at {self.position}, {lowest} was acknowledged"
            )
        self.done = True

    def result(self, generations: list[Position]) -> Recovered:
        state, shard = self._shard.state, self._shard
        if (state.shards, state.hash) != (shard.shards, HASH):
            raise GenesisError(
                f"shard {shard.number}: its journal is of {state.shards} shards by"
                f" {state.hash}, not of {shard.shards} by {HASH}"
            )
        return Recovered(
            shard,
            self._claim,
            self.position,
            self.checksum,
            generations,
            self.records,
        )


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
        recovered.shard.digest(),
        stamp,
        stamp + grace_us,
        finished_window_us,
        returns_window_us,
        keys_window_us,
    )
