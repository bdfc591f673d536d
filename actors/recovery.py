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
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Final

import structlog

from actors.appender import FencedError, RegressedError
from actors.claim import Floor, GenesisError, check_identity
from actors.journal import Entry, Journal
from actors.pace import Spend, paced
from actors.reading import before, load, page_after, read
from actors.replay import Recovered, Replay
from engine import limits
from engine.codec import (
    START,
    CorruptRecordError,
    Position,
    Record,
    checksum_of,
    decode_record,
)
from engine.placement import HASH
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, chunk_name

_PAGE: Final = 64
"""Records that are read at once, at most…"""
_PAGE_FIRST: Final = 16
"""…and before it is known how large they are."""
UNTRUSTED: Final = (CorruptRecordError, CorruptSnapshotError, RegressedError, GenesisError)
"""What is wrong with a journal that a shard must not be served from."""
_USELESS: Final = (*UNTRUSTED, FencedError)
_log = structlog.get_logger(__name__)


class ClaimLostError(RegressedError):
    """The journal has lost our claim, or what stood before it, before anything rested on it: it
    may be made again."""


class Recovery:
    """One shard, on its way back."""

    def __init__(
        self,
        journal: Journal,
        make_shard: Callable[[], Shard],
        cluster_id: str,
        pace: Spend | None = None,
    ) -> None:
        """`pace`: of following; of what somebody waits for there is none."""
        self.progress = 0
        """Records and chunks read so far."""
        self.is_near = False
        """Whether what stands in the journal is read here moments later."""
        self._journal = journal
        self._make_shard = make_shard
        self._cluster_id = cluster_id
        self._pace = pace or _no_pause
        self._replay: Replay | None = None
        self._following: asyncio.Task[None] | None = None
        self._halted = asyncio.Event()
        self._count = _PAGE_FIRST
        """Records that are read at once."""
        self._page: list[Entry] = []
        """Those that were read last."""

    def follow(self, on_near: Callable[[], None]) -> None:
        """Read what there is, call `on_near`, and read whatever comes, until `halt` or `leave`.

        What cannot be followed is read anew, after a pause that doubles as long as that is so.
        """
        self._following = asyncio.create_task(self._follow(on_near))

    def halt(self) -> None:
        """Read no further than the record that is being read, so that a claim which is made from
        now on is left to `finish`. A snapshot that is being read is read to its end, at once."""
        self._halted.set()

    def leave(self) -> None:
        """Follow no more, and forget what was read."""
        self.halt()
        if self._following is not None:
            self._following.cancel()
        self._drop()

    @property
    def is_proven(self) -> bool:
        """Whether what was read is the journal of this installation."""
        if self._replay is None or self._replay.position == START:
            return False
        try:
            self._check_identity(self._replay)
        except GenesisError:
            return False
        return True

    async def finish(self, ours: Entry, floors: Iterable[Floor]) -> Recovered:
        """The shard as of the last record before `ours`, our claim; the journal must reach
        `floors`.

        Raises CorruptRecordError, CorruptSnapshotError, RegressedError, ClaimLostError,
        GenesisError or FencedError.
        """
        self.halt()
        wanted = list(floors)
        if self._following is not None:
            await asyncio.wait([self._following])
        if self._replay is not None:
            try:
                return await self._finish(self._replay, ours, wanted, is_head_start=True)
            except _USELESS as error:
                _log.warning("read_anew", reason=str(error))
                self._drop()
        self._replay = await self._restore()
        return await self._finish(self._replay, ours, wanted, is_head_start=False)

    async def _finish(
        self, replay: Replay, ours: Entry, floors: list[Floor], *, is_head_start: bool
    ) -> Recovered:
        """`is_head_start`: it was read before the claim. Then it is not summed up either: that
        takes as long as all the rest, and nobody is served meanwhile."""
        page = await (self._read_after_head(replay) if is_head_start else self._read(replay))
        await self._arrive(replay, page, ours)
        await self._check_tail(replay, ours)
        await self._check_floors(replay, floors)
        self._check_identity(replay)
        digest = b""
        if not is_head_start:
            digest = await paced(replay.shard.state.digesting(), self._spend)
        self._replay = None
        return replay.recovered(digest)

    def _check_identity(self, replay: Replay) -> None:
        state, number = replay.shard.state, replay.shard.number
        check_identity(
            number,
            (state.cluster_id, state.shards, state.hash),
            (self._cluster_id, replay.shard.shards, HASH),
        )

    # --- to follow ---

    async def _follow(self, on_near: Callable[[], None]) -> None:
        pause = limits.FOLLOW_AGAIN_SECONDS
        while not self._halted.is_set():
            try:
                self._replay = self._replay or await self._restore()
                await self._catch_up(self._replay, on_near)
                pause = limits.FOLLOW_AGAIN_SECONDS
                await self._rest(limits.FOLLOW_SECONDS)
            except Exception as error:  # whatever it is must not end this unnoticed: it is repeated
                log = _log.info if isinstance(error, _USELESS) else _log.exception
                log("read_anew", reason=repr(error))
                self._drop()
                await self._rest(pause)
                pause = min(2 * pause, limits.FOLLOW_AGAIN_SECONDS_MAX)

    async def _catch_up(self, replay: Replay, on_near: Callable[[], None]) -> None:
        """Apply what stands after what was read, up to the end or until `halt`.

        Who takes long for that is not near any more: others live faster than this one reads.
        """
        loop, taken = asyncio.get_running_loop(), 0.0
        while page := await self._read(replay):
            began = loop.time()
            for entry in page:
                if self._halted.is_set():
                    return
                await self._take(replay, self._decode(replay, entry), len(entry.record))
            taken += loop.time() - began
            if taken > limits.FOLLOW_NEAR_SECONDS:
                self.is_near = False
        if not self.is_near and not self._halted.is_set():
            self.is_near = True
            on_near()

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until `halt`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._halted.wait()

    def _drop(self) -> None:
        """Forget what was read; its memory is free at once."""
        self.is_near = False
        if self._replay is not None:
            self._replay.shard.state.seal()
            self._replay = None

    async def _spend(self, entries: int) -> None:
        """Others share this loop: heartbeats, other shards."""
        await (_no_pause if self._halted.is_set() else self._pace)(entries)

    # --- records ---

    async def _arrive(self, replay: Replay, page: list[Entry], claim: Entry) -> None:
        """Apply what stands after what was read, beginning with `page`, up to `claim`."""
        while page:
            for entry in page:
                record = self._decode(replay, entry)
                if record.position == claim.position:
                    replay.arrive(record, claim)
                    return
                await self._take(replay, record, len(entry.record))
            page = await self._read(replay)
        raise ClaimLostError(f"shard {replay.shard.number}: our claim {claim.position} is gone")

    async def _check_tail(self, replay: Replay, claim: Entry) -> None:
        """What was read must stand before `claim` in one look at the journal.

        Between two looks the server may have gone back, and a claim whose answer was lost may have
        been made again, the very same, upon another past: claims do not say what stands before.
        """
        number = replay.shard.number
        wanted = [*replay.tail, (claim.position, checksum_of(claim.record))]
        seen = [(entry.position, checksum_of(entry.record)) for entry in self._page]
        if seen[-len(wanted) :] == wanted:
            return
        after, found = before(wanted[0][0]), list[tuple[Position, int]]()
        while len(found) < len(wanted):
            page = await read(self._journal, number, after, len(wanted) - len(found))
            found += [(entry.position, checksum_of(entry.record)) for entry in page]
            if not page:
                break
            after = page[-1].position
        if wanted[0][0] == replay.cut and found[:1] != wanted[:1]:
            del wanted[0]  # it is trimmed by now, and a snapshot stands for it
        if found[: len(wanted)] != wanted:
            raise ClaimLostError(f"shard {number}: what stood before {claim.position} is gone")

    async def _read_after_head(self, replay: Replay) -> list[Entry]:
        """The first records to come; what was read before the claim must stand where it stood."""
        number, position = replay.shard.number, replay.position
        if position == START:
            return await self._read(replay)
        page = await self._read(replay, before(position))
        if not page or page[0].position != position:
            raise RegressedError(f"shard {number}: {position} is not there any more")
        if checksum_of(page[0].record) != replay.checksum:
            raise RegressedError(f"shard {number}: {position} is another's")
        return page[1:] or await self._read(replay)

    async def _read(self, replay: Replay, after: Position | None = None) -> list[Entry]:
        """The records that stand after what was read, or after `after`; not too many at once."""
        after = replay.position if after is None else after
        page = await read(self._journal, replay.shard.number, after, self._count)
        if page:
            self._count = page_after(page, _PAGE)
            self._page = page
        return page

    def _decode(self, replay: Replay, entry: Entry) -> Record:
        return decode_record(entry.record, replay.shard.number, entry.position)

    async def _take(self, replay: Replay, record: Record, size: int) -> None:
        for entries in replay.taking(record, size):
            await self._spend(entries)
        self.progress += 1

    async def _check_floors(self, replay: Replay, floors: list[Floor]) -> None:
        """Every floor is in what was read, unless a snapshot stands for it by now."""
        number = replay.shard.number
        for floor in floors:
            if floor.position < replay.kept_from:
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

    async def _checksum(self, replay: Replay, position: Position) -> int | None:
        """Of the record that stands there; None if there is none."""
        known = replay.checksum_at(position)
        if known is not None:
            return known
        found = await read(self._journal, replay.shard.number, before(position), 1)
        if not found or found[0].position != position:
            return None
        return checksum_of(found[0].record)

    # --- the newest snapshot that is whole ---

    async def _restore(self) -> Replay:
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
                    digest = await paced(reader.digesting(), self._spend)
                    return Replay(shard, reader, digest, lost)
                lost.add(pointer)
                shard.state.seal()
                shard = self._make_shard()
        return Replay(shard, None, None, lost)

    async def _pointers(self, number: int) -> AsyncIterator[set[Position]]:
        """The snapshots that records tell of: of the last records; and then, if these are not
        enough, of all."""
        newest = await read(self._journal, number, START, _PAGE, newest=True)
        yield _told(number, newest)
        found, after = set[Position](), START
        while page := await read(self._journal, number, after, self._count):
            self._count = page_after(page, _PAGE)
            found |= _told(number, page)
            after = page[-1].position
            await self._spend(len(page))
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
            for entries in reader.feeding(data):
                await self._spend(entries)
            self.progress += 1
            await self._spend(1)
        return reader


async def _no_pause(entries: int) -> None:
    """One turn of the loop."""
    await asyncio.sleep(0)


def _told(number: int, entries: list[Entry]) -> set[Position]:
    return {decode_record(each.record, number, each.position).snapshot for each in entries}
