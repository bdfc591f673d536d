"""Snapshots: the state of one moment, taken while the shard goes on.

A snapshot only bounds how much journal a recovery reads. It is cut between two batches, at the
position of the last acknowledged record, and then taken in slices between later batches: a bucket
or a SKU that is about to change is copied first, so every slice is of the moment of the cut. What
was already forgotten then is left out.

    chunk:  format u8 | shard u32 | epoch u64 | sequence u64 | number u32 | last u8
            | MessagePack [kind, entries] | checksum u32

The first chunk holds the settings, the stamp of the cut, the snapshot before this one, and the
checksum of the record it was cut at, with which the tail must link; a second, of few shards, what
is known of dedicated ones (`engine.dedications`). The digest of the whole is
journaled with the pointer (`SnapshotTaken`) after the last chunk is stored, and is checked by
whoever replays past it.

A digest is over entries as they were packed. So what an engine of the format before has written is
summed up as it stands, before it is packed as it is today (`engine.formats`).
"""

import struct
from collections.abc import Iterator
from typing import Final, TypeVar
from zlib import crc32

import msgspec

from engine import formats, limits
from engine.codec import START, Position
from engine.slices import Slices, drained
from engine.state import Settings, ShardState, digest_of, hash_entry, pack_sku

E = TypeVar("E")

CHUNK_HEADER: Final = struct.Struct(">BIQQIB")
_CHECKSUM: Final = struct.Struct(">I")
_HEAD, _SKUS, _RESERVATIONS, _KEYS, _DEDICATIONS = range(5)
_encode: Final = msgspec.msgpack.Encoder().encode
_Head = tuple[int, int, Position, msgspec.Raw]
_decode_kind: Final = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw]).decode
_decode_head: Final = msgspec.msgpack.Decoder(_Head).decode
_decode_settings: Final = msgspec.msgpack.Decoder(Settings).decode
_decode_bytes: Final = msgspec.msgpack.Decoder(bytes).decode
_decode_skus: Final = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_entries: Final = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode
_FILL_BYTES: Final = limits.SNAPSHOT_CHUNK_BYTES_MAX // 2
"""A chunk is closed once it holds this much; one entry may overshoot it."""

assert _FILL_BYTES + limits.EVENT_BYTES_MAX < limits.SNAPSHOT_CHUNK_BYTES_MAX


class CorruptSnapshotError(Exception):
    """The chunks are not the snapshot that was written: the shard must not be served."""


class UnknownSnapshotFormatError(CorruptSnapshotError):
    """The chunk is whole, and of a format that this engine does not read."""


def chunk_name(position: Position, number: int) -> str:
    """The name under which chunk `number` of the snapshot cut at `position` is stored."""
    return f"{position}:{number}"


def encode_chunk(
    shard: int, position: Position, number: int, last: bool, kind: int, entries: object
) -> bytes:
    """Chunk `number` of the snapshot cut at `position`."""
    head = CHUNK_HEADER.pack(formats.FORMAT, shard, *position, number, last)
    body = head + _encode((kind, entries))
    return body + _CHECKSUM.pack(crc32(body))


class SnapshotWriter:
    """Takes a snapshot of a living state, slice by slice.

    Create it between batches, when every event is acknowledged; then call `next_chunk` between
    later batches until it returns None. Only the newest writer of a state is of any use.
    """

    def __init__(
        self,
        state: ShardState,
        shard: int,
        position: Position,
        checksum: int,
        previous: Position = START,
        entries_max: int | None = None,
    ) -> None:
        """`position`, `checksum`: of the last acknowledged record; `previous`: the snapshot before
        this one, START if there is none; `entries_max`: of one chunk."""
        self._state = state
        self._shard = shard
        self.position = position
        self._now = state.now
        self._entries_max = entries_max or limits.SNAPSHOT_SLICE_ENTRIES_MAX
        self._settings = state.settings()
        self._total = hash_entry(b"head", b"", _encode(self._settings))
        self._dedications = state.dedications.pack()
        state.copying += 1
        state.copies = []
        self._copying = state.copying
        self._skus = state.skus.values()
        state.reservations.begin_copy()
        state.keys.begin_copy()
        self.chunks = 0
        self._slices = self._cut(checksum, previous)
        self._ahead: tuple[int, object] | None = next(self._slices)

    @property
    def digest(self) -> bytes:
        """Of the state at the cut, once `next_chunk` has returned None."""
        return digest_of(self._total)

    def next_chunk(self) -> tuple[str, bytes] | None:
        """The next chunk's name and bytes, or None when the last has been given."""
        if self._ahead is None:
            return None
        assert self._state.copying == self._copying, "a newer snapshot was begun"
        kind, entries = self._ahead
        self._ahead = next(self._slices, None)
        number, last = self.chunks, self._ahead is None
        self.chunks += 1
        data = encode_chunk(self._shard, self.position, number, last, kind, entries)
        return chunk_name(self.position, number), data

    def _cut(self, checksum: int, previous: Position) -> Iterator[tuple[int, object]]:
        yield _HEAD, (self._now, checksum, previous, self._settings)
        if self._dedications is not None:
            self._total += hash_entry(b"dedications", b"", self._dedications)
            yield _DEDICATIONS, self._dedications
        sized_skus = ((packed, len(packed)) for packed in self._packed_skus())
        for skus in _pieces(sized_skus, self._entries_max):
            yield _SKUS, skus
        for kind, source in ((_RESERVATIONS, self._reservations()), (_KEYS, self._keys())):
            sized = ((entry, len(entry[0]) + len(entry[1])) for entry in source)
            for entries in _pieces(sized, self._entries_max):
                yield kind, entries

    def _packed_skus(self) -> Iterator[bytes]:
        state = self._state
        for stock in self._skus:
            if stock.copied != self._copying:
                stock.copied = self._copying
                yield self._hashed_sku(pack_sku(stock))
            while state.copies:
                yield self._hashed_sku(state.copies.pop())
        while state.copies:
            yield self._hashed_sku(state.copies.pop())

    def _hashed_sku(self, packed: bytes) -> bytes:
        self._total += hash_entry(b"sku", b"", packed)
        return packed

    def _reservations(self) -> Iterator[tuple[str, bytes]]:
        state = self._state
        while (bucket := state.reservations.take_copy()) is not None:
            for name, packed in bucket.items():
                if not state.is_forgotten(packed, self._now):
                    self._total += hash_entry(b"reservation", name, packed)
                    yield name.decode(), packed

    def _keys(self) -> Iterator[tuple[str, bytes]]:
        state = self._state
        while (bucket := state.keys.take_copy()) is not None:
            for name, packed in bucket.items():
                if not state.is_key_forgotten(packed, self._now):
                    self._total += hash_entry(b"key", name, packed)
                    yield name.decode(), packed


def _pieces(sized: Iterator[tuple[E, int]], most: int) -> Iterator[list[E]]:
    """Entries with their sizes, as lists of bounded length and bytes."""
    piece: list[E] = []
    filled = 0
    for entry, size in sized:
        piece.append(entry)
        filled += size + 8
        if filled >= _FILL_BYTES or len(piece) >= most:
            yield piece
            piece, filled = [], 0
    if piece:
        yield piece


def check_chunk(data: bytes, shard: int, position: Position, number: int) -> bool:
    """Whether this, chunk `number` of the snapshot cut at `position`, is the last one.

    Raises CorruptSnapshotError, saying what is wrong, if it does not prove itself.
    """
    where = f"shard {shard}, snapshot {position}, chunk {number}"
    if len(data) < CHUNK_HEADER.size + _CHECKSUM.size:
        raise CorruptSnapshotError(f"{where}: {len(data)} bytes are too few")
    (checksum,), found = (
        _CHECKSUM.unpack(data[-_CHECKSUM.size :]),
        crc32(memoryview(data)[: -_CHECKSUM.size]),
    )
    if found != checksum:
        raise CorruptSnapshotError(f"{where}: checksum {checksum:08x}, bytes {found:08x}")
    form, of, epoch, sequence, there, last = CHUNK_HEADER.unpack_from(data)
    if (of, (epoch, sequence), there) != (shard, position, number):
        raise CorruptSnapshotError(
            f"{where}: holds chunk {there} of {epoch}-{sequence} of shard {of}"
        )
    if form not in formats.FORMATS:
        raise UnknownSnapshotFormatError(
            f"{where}: format {form}, this engine reads {formats.readable()}"
        )
    return bool(last)


class SnapshotReader:
    """Rebuilds a state from the chunks of one snapshot, fed in order."""

    def __init__(self, state: ShardState, shard: int, position: Position) -> None:
        """`state` is new; `position` is the snapshot's."""
        self._state = state
        self._shard = shard
        self.position = position
        self.chunks = 0
        self.complete = False
        self.checksum = 0
        """Of the record that the snapshot was cut at."""
        self.previous = START
        """The snapshot before this one, which is kept as well."""
        self._total = 0
        """Of the digest, as far as that is not the state's own."""
        self.format = 0
        """The number that it was written under."""

    def digest(self) -> bytes:
        """Of the complete snapshot, packed as it was written; before the state changes."""
        return drained(self.digesting())

    def digesting(self) -> Slices[bytes]:
        """The same in slices."""
        if self._is_older:
            return digest_of(self._total)
        return (yield from self._state.digesting())

    def feed(self, data: bytes) -> None:
        """Take the next chunk. Raises CorruptSnapshotError if it does not prove itself."""
        for _ in self.feeding(data):
            pass

    def feeding(self, data: bytes) -> Iterator[int]:
        """The same in slices: yields, after each, how many entries it had."""
        form, kind, raw = self._prove(data)
        try:
            for number, _ in enumerate(self._take(form, kind, raw), 1):
                if number % limits.AUDIT_SLICE_ENTRIES == 0:
                    yield limits.AUDIT_SLICE_ENTRIES
        except (msgspec.MsgspecError, UnicodeDecodeError, struct.error) as error:
            raise CorruptSnapshotError(f"{self._where()}: does not decode: {error}") from error
        self.chunks += 1

    def _where(self) -> str:
        return f"shard {self._shard}, snapshot {self.position}, chunk {self.chunks}"

    def _prove(self, data: bytes) -> tuple[formats.Format, int, msgspec.Raw]:
        last = check_chunk(data, self._shard, self.position, self.chunks)
        if self.complete:
            raise CorruptSnapshotError(f"{self._where()}: after the last one")
        form = self._form_of(data[0])
        self.complete = last
        try:
            return form, *_decode_kind(data[CHUNK_HEADER.size : -_CHECKSUM.size])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptSnapshotError(f"{self._where()}: does not decode: {error}") from error

    def _form_of(self, number: int) -> formats.Format:
        """What the format of that number means; all chunks of a snapshot are of one."""
        if self.format not in (0, number):
            raise CorruptSnapshotError(
                f"{self._where()}: format {number}, the chunks before are {self.format}"
            )
        self.format = number
        return formats.FORMATS[number]

    def _take(self, form: formats.Format, kind: int, raw: msgspec.Raw) -> Iterator[None]:
        """Put what the chunk holds into the state, and yield after each entry."""
        state = self._state
        if (kind == _HEAD) != (self.chunks == 0):
            raise CorruptSnapshotError(f"{self._where()}: of kind {kind}")
        if kind == _HEAD:
            state.now, self.checksum, self.previous, settings = _decode_head(raw)
            self._count(b"head", b"", bytes(settings))
            state.restore_settings(_decode_settings(form.settings(bytes(settings))))
        elif kind == _DEDICATIONS:
            packed = _decode_bytes(raw)
            self._count(b"dedications", b"", packed)
            state.put_dedications(packed)
            yield
        elif kind == _SKUS:
            for packed in _decode_skus(raw):
                self._count(b"sku", b"", packed)
                state.put_sku(form.sku(packed))
                yield
        elif kind == _RESERVATIONS:
            for name, packed in _decode_entries(raw):
                key = name.encode()
                self._count(b"reservation", key, packed)
                state.put_reservation(key, form.reservation(packed))
                yield
        elif kind == _KEYS:
            for name, packed in _decode_entries(raw):
                key = name.encode()
                self._count(b"key", key, packed)
                state.put_key(key, form.key(packed))
                yield
        else:
            raise CorruptSnapshotError(f"{self._where()}: of unknown kind {kind}")

    @property
    def _is_older(self) -> bool:
        return self.format != formats.FORMAT

    def _count(self, kind: bytes, name: bytes, packed: bytes) -> None:
        if self._is_older:
            self._total += hash_entry(kind, name, packed)
