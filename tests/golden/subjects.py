"""What is damaged, and who reads it. A subject serves what it holds, or refuses.

    Journal     records from the first one on, recovered by an owner who has a mark of the last
    Unmarked    the same, by one who has none
    Chunks      the newest of two snapshots beside the end of a journal, recovered by an owner
    Slots       the marks of a shard beside its journal, recovered by an owner
    Archived    a segment of the archive, or a snapshot in it, read

Each gives attempts: what was done to it, where, and a function that serves what is left.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from actors.archive import _SEGMENT, _SNAPSHOT, Archive
from actors.claim import Floor, claim
from actors.journal import Entry, chunk_key
from actors.marks import SLOT_BYTES, Marks, marks_path, read_mark, slot_offsets
from actors.memory_journal import MemoryJournal
from actors.recovery import Recovery
from engine.codec import Position, Record, checksum_of, decode_record, encode_record
from engine.messages import Opened
from engine.shard import Shard
from engine.snapshot import CHUNK_HEADER
from tests.actors.trial import RememberingStore
from tests.golden.damage import RESEALED, Piece, damages, layout, resealed
from tests.golden.editions import Edition, cut_of

RECORD_FIELDS: Final = [
    *(("format", 1), ("shard", 4), ("epoch", 8), ("sequence", 8)),
    *(("stamp", 8), ("previous", 4), ("pointer", 16)),
]
CHUNK_FIELDS: Final = [
    *(("format", 1), ("shard", 4), ("epoch", 8), ("sequence", 8), ("number", 4), ("last", 1))
]
REWRITTEN: Final = "rewritten, resealed"
SLOT_FIELDS: Final = [("magic", 8), ("shard", 4), ("epoch", 8), ("sequence", 8), ("checksum of", 4)]


class Attempt(NamedTuple):
    """Something was done to a region; `serve` gives what is served then, or raises."""

    damage: str
    region: str
    serve: Callable[[], object]


class Journal:
    """A journal of an edition; with the chunks beside it, if they are wanted."""

    def __init__(
        self, edition: Edition, name: str, runner: asyncio.Runner, *, chunks: bool = False
    ) -> None:
        facts = edition.manifest().journals[name]
        self.number, self.shards, self._cluster = facts.shard, facts.shards, facts.cluster_id
        self._runner = runner
        self.entries = edition.journal(name)
        self.chunks = dict(edition.chunks(name)) if chunks else {}
        last = self.entries[-1]
        self.floors = [Floor(last.position, checksum_of(last.record))]
        """What a mark says that was acknowledged."""
        self.whole = self.serve(self.entries, self.chunks, self.floors)

    def serve(self, entries: list[Entry], chunks: dict[str, bytes], floors: list[Floor]) -> object:
        """What an owner finds there: digest, place and checksum of the last record."""
        return self._runner.run(self._serve(entries, chunks, floors))

    async def _serve(
        self, entries: list[Entry], chunks: dict[str, bytes], floors: list[Floor]
    ) -> object:
        store = RememberingStore()
        for position, record in entries:
            store.append(self.number, position, record, create=True)
        store.chunks.update({chunk_key(self.number, name): data for name, data in chunks.items()})
        journal = MemoryJournal(store)
        ours = await claim(
            journal,
            self.number,
            shards=self.shards,
            cluster_id=self._cluster,
            host="host",
            nonce=b"nonce",
            stamp=1,
            floors=floors,
        )
        recovery = Recovery(journal, lambda: Shard(self.number, self.shards), self._cluster)
        found = await recovery.finish(ours, floors)
        return found.digest, found.last_position, found.last_checksum

    def attempts(self, random: Random, every: int) -> Iterator[Attempt]:
        """Damage to each record, then to their order; the last one has nothing that follows it."""
        for number, (_, record) in enumerate(self.entries):
            piece = Piece(record, layout(len(record), RECORD_FIELDS, "events"))
            for damage, region, data in damages(piece, random, every):
                if RESEALED in damage and number + 1 == len(self.entries):
                    region = "the last record"
                yield Attempt(damage, region, self._with(number, data))
        for number in range(len(self.entries)):
            yield from self._rearranged(number)
            yield Attempt(REWRITTEN, "all from a record on", self._left(self._rewritten(number)))

    def _with(self, number: int, data: bytes) -> Callable[[], object]:
        position, _ = self.entries[number]
        changed = [*self.entries]
        changed[number] = Entry(position, data)
        return self._left(changed)

    def _left(self, entries: list[Entry]) -> Callable[[], object]:
        return lambda: self.serve(entries, self.chunks, self.floors)

    def _rearranged(self, number: int) -> Iterator[Attempt]:
        entries = self.entries
        position, record = entries[number]
        if number + 1 < len(entries):
            left = entries[:number] + entries[number + 1 :]
            yield Attempt("dropped", "record", self._left(left))
        yield Attempt("dropped", "all from a record on", self._left(entries[:number]))
        yield Attempt("another shard's", "record", self._with(number, self._of_another(number)))
        yield Attempt("repeated", "record", self._repeated(number))
        if number + 1 < len(entries):
            after, following = entries[number + 1]
            swapped = [*entries]
            swapped[number : number + 2] = [Entry(position, following), Entry(after, record)]
            yield Attempt("swapped", "record", self._left(swapped))

    def _repeated(self, number: int) -> Callable[[], object]:
        """The same bytes once more, in the place of the next or after the last."""
        position, record = self.entries[number]
        if number + 1 < len(self.entries):
            return self._with(number + 1, record)
        after = Position(position.epoch, position.sequence + 1)
        return self._left([*self.entries, Entry(after, record)])

    def _rewritten(self, number: int) -> list[Entry]:
        """Another history from there on, in which every checksum and every link is right."""
        changed = self.entries[:number]
        now: dict[int, int] = {}
        """Checksums of the records that were rewritten, by what they were."""
        for position, data in self.entries[number:]:
            record = decode_record(data, self.number, position)
            data, now[record.checksum] = self._relinked(record, now, later=0 if now else 1)
            changed.append(Entry(position, data))
        return changed

    def _relinked(self, record: Record, now: dict[int, int], later: int) -> tuple[bytes, int]:
        """The record, `later` by so much, as it follows those that were rewritten."""
        for event in record.events:
            if isinstance(event, Opened):
                checksum = event.previous_checksum
                event.previous_checksum = now.get(checksum, checksum)
        previous = now.get(record.previous, record.previous)
        return encode_record(
            *(self.number, record.position, record.stamp + later, previous),
            *(record.snapshot, record.events),
        )

    def _of_another(self, number: int) -> bytes:
        position, data = self.entries[number]
        record = decode_record(data, self.number, position)
        return encode_record(self.number + 1, *record[1:6])[0]


class Unmarked(Journal):
    """The same, where no mark is left and nobody else remembers."""

    def __init__(self, edition: Edition, name: str, runner: asyncio.Runner) -> None:
        super().__init__(edition, name, runner)
        self.floors = []


class Chunks(Journal):
    """The newest snapshot beside a journal."""

    def __init__(self, edition: Edition, name: str, runner: asyncio.Runner) -> None:
        super().__init__(edition, name, runner, chunks=True)
        self.newest = max(map(cut_of, self.chunks))
        self.names = [name for name in self.chunks if cut_of(name) == self.newest]
        self.others = [name for name in self.chunks if cut_of(name) != self.newest]

    def attempts(self, random: Random, every: int) -> Iterator[Attempt]:
        """Damage to each chunk, then to which of them are there."""
        for name in self.names:
            piece = Piece(self.chunks[name], chunk_layout(self.chunks[name]))
            for damage, region, data in damages(piece, random, every):
                yield Attempt(damage, region, self._holding({name: data}))
        for number, name in enumerate(self.names):
            yield from self._misplaced(number, name)

    def _holding(self, changed: dict[str, bytes]) -> Callable[[], object]:
        return lambda: self.serve(self.entries, self.chunks | changed, self.floors)

    def _without(self, *names: str) -> Callable[[], object]:
        left = {name: data for name, data in self.chunks.items() if name not in names}
        return lambda: self.serve(self.entries, left, self.floors)

    def _misplaced(self, number: int, name: str) -> Iterator[Attempt]:
        data = self.chunks[name]
        yield Attempt("dropped", "chunk", self._without(name))
        yield Attempt("dropped", "chunk of either generation", self._without(name, self.others[0]))
        foreign = resealed(data[:1] + (self.number + 1).to_bytes(4) + data[5:])
        yield Attempt("another shard's", "chunk", self._holding({name: foreign}))
        older = self.chunks[self.others[min(number, len(self.others) - 1)]]
        yield Attempt("of the one before", "chunk", self._holding({name: older}))
        if number + 1 < len(self.names):
            following = self.names[number + 1]
            yield Attempt("repeated", "chunk", self._holding({following: data}))
            both = {name: self.chunks[following], following: data}
            yield Attempt("swapped", "chunk", self._holding(both))


class Slots:
    """The marks of a shard beside its journal: the last record, and in the other slot an older."""

    def __init__(self, journal: Journal, directory: Path) -> None:
        self._journal = journal
        self._directory = directory
        self._known: dict[tuple[Floor, ...], object] = {}
        for position, record in journal.entries[-2:]:
            marks = Marks(directory)
            marks.note(journal.number, position, checksum_of(record))
            marks.note(journal.number + 1, position, checksum_of(record))
            asyncio.run(marks.write())
        self._path = marks_path(directory)
        self._data = self._path.read_bytes()
        self.whole = self._serve()

    def _serve(self) -> object:
        """By what the file says; the journal itself is whole, so that need not be asked twice."""
        mark = read_mark(self._directory, self._journal.number)
        floors = [] if mark is None else [Floor(mark.position, mark.checksum)]
        known = self._known.get(tuple(floors))
        if known is None:
            journal = self._journal
            known = journal.serve(journal.entries, journal.chunks, floors)
            self._known[tuple(floors)] = known
        return known

    def _with(self, changed: dict[int, bytes], size: int | None = None) -> Callable[[], object]:
        """The file with slots overwritten; or shorter."""

        def serve() -> object:
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                for offset, data in changed.items():
                    os.pwrite(descriptor, data, offset)
                if size is not None:
                    os.ftruncate(descriptor, size)
                return self._serve()
            finally:
                for offset in changed:
                    os.pwrite(descriptor, self._slot(offset), offset)
                if size is not None:
                    os.pwrite(descriptor, self._data[size:], size)
                os.close(descriptor)

        return serve

    def _slot(self, offset: int) -> bytes:
        return self._data[offset : offset + SLOT_BYTES]

    def attempts(self, random: Random, every: int) -> Iterator[Attempt]:
        """Damage to one slot, to both, and to the file."""
        offsets = slot_offsets(self._journal.number)
        pieces = [Piece(self._slot(each), self._layout()) for each in offsets]
        for offset, piece in zip(offsets, pieces, strict=True):
            for damage, region, data in damages(piece, random, every):
                if damage != "cut off":
                    yield Attempt(damage, region, self._with({offset: data}))
        for one, other in zip(*(damages(each, random, every) for each in pieces), strict=False):
            if "cut off" not in (one.damage, other.damage) and one.damage == other.damage:
                changed = dict(zip(offsets, (one.data, other.data), strict=True))
                yield Attempt(f"{one.damage}, both slots", one.region, self._with(changed))
        for size in sorted({*random.choices(range(len(self._data)), k=64), 0, offsets[1]}):
            yield Attempt("cut off", "file", self._with({}, size))
        others = map(self._slot, slot_offsets(self._journal.number + 1))
        theirs = dict(zip(offsets, others, strict=True))
        for offset in offsets:
            yield Attempt("another shard's", "slot", self._with({offset: theirs[offset]}))
            yield Attempt("dropped", "slot", self._with({offset: bytes(SLOT_BYTES)}))
        yield Attempt("another shard's", "both slots", self._with(theirs))
        swapped = dict(zip(offsets, map(self._slot, reversed(offsets)), strict=True))
        yield Attempt("swapped", "both slots", self._with(swapped))

    @staticmethod
    def _layout() -> tuple[tuple[str, int], ...]:
        return layout(SLOT_BYTES, SLOT_FIELDS, "zeros")


class Archived:
    """A file of the archive, and what reads it."""

    def __init__(self, journal: Chunks, directory: Path, *, segment: bool) -> None:
        self._directory = directory
        self._shard = journal.number
        self._segment = segment
        archive = Archive(directory, None)
        if segment:
            self._path = archive.add(self._shard, journal.entries).path
            fields = _SEGMENT
        else:
            chunks = (journal.chunks[name] for name in journal.names)
            self._path = archive.keep(self._shard, journal.newest, 1, chunks).path
            fields = _SNAPSHOT
        self._data = self._path.read_bytes()
        end = len(self._data)
        self._regions = (
            *(("magic", 8), ("format", 9), ("shard", 13), ("position", 29)),
            *(("rest of the header", fields.size), ("header's checksum", fields.size + 4)),
            *(("body", end - 4), ("checksum", end)),
        )
        self.whole = self._serve()

    def _serve(self) -> object:
        archive = Archive(self._directory, None)
        if self._segment:
            segments = archive.segments(self._shard)
            return [entry for each in segments for entry in archive.read(each)]
        return [chunk for each in archive.snapshots(self._shard) for chunk in archive.chunks(each)]

    def _with(self, data: bytes) -> Callable[[], object]:
        def serve() -> object:
            self._path.write_bytes(data)
            try:
                return self._serve()
            finally:
                self._path.write_bytes(self._data)

        return serve

    def attempts(self, random: Random, every: int) -> Iterator[Attempt]:
        """Damage to the file. Who makes its last checksum right again still meets the others."""
        piece = Piece(self._data, self._regions)
        for damage, region, data in damages(piece, random, every):
            yield Attempt(damage, region, self._with(data))
        yield Attempt("goes on", "checksum", self._with(self._data + b"\0"))
        yield Attempt("twice", "file", self._with(self._data * 2))


def chunk_layout(data: bytes) -> tuple[tuple[str, int], ...]:
    assert sum(width for _, width in CHUNK_FIELDS) == CHUNK_HEADER.size
    return layout(len(data), CHUNK_FIELDS, "entries")
