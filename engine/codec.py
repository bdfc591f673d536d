"""Journal records: how events become bytes that prove themselves.

    format u8 | shard u32 | epoch u64 | sequence u64 | stamp u64 | previous u32
    | snapshot epoch u64 | snapshot sequence u64 | events | checksum u32

`previous` is the checksum of the record before in the same epoch (0 for record `<epoch>-0`, whose
writer cannot know what came last; record `<epoch>-1` says it in `Opened`). `checksum` is the crc32
of everything before it. The snapshot pointer names the newest snapshot that the stream announced,
(0, 0) if none. So a flipped bit, a missing, repeated or swapped record, or the journal of another
shard, is found by whoever reads on: Redis's append-only file has no checksum of its own.

Redis ids are `<epoch>-<sequence>`; those in the record must agree with the stream's.

How events stand in a record is the format's affair (`engine.formats`); all around them is the same
in every format.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from engine import formats, limits
from engine.formats import UndecodableError
from engine.messages import Event

_HEADER: Final = struct.Struct(">BIQQQIQQ")
_CHECKSUM: Final = struct.Struct(">I")
_BYTES_MIN: Final = _HEADER.size + _CHECKSUM.size
_encode: Final = msgspec.msgpack.Encoder().encode


encode_event: Final[Callable[[Event], bytes]] = _encode
"""One event as it stands in a record."""


class Position(NamedTuple):
    """A place in a shard's journal; compares in journal order."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"


START: Final = Position(0, 0)
"""Before every record; as a snapshot pointer: none."""
GENESIS: Final = Position(0, 1)


class Record(NamedTuple):
    """One batch of one shard, decoded and proven."""

    shard: int
    position: Position
    stamp: int
    previous: int
    snapshot: Position
    events: list[Event]
    checksum: int
    format: int = formats.FORMAT
    """The number that it was written under; its digests mean something only under that."""


class CorruptRecordError(Exception):
    """The bytes are not the record that was written: the shard must not be served."""


class UnknownFormatError(CorruptRecordError):
    """The record is whole, and of a format that this engine does not read."""


def encode_record(
    shard: int,
    position: Position,
    stamp: int,
    previous: int,
    snapshot: Position,
    events: Sequence[Event] | Sequence[bytes],
) -> tuple[bytes, int]:
    """The record and its checksum, which is the next record's `previous`.

    Events may come encoded already, one by one (`encode_event`).
    """
    number = formats.FORMAT
    head = _HEADER.pack(number, shard, *position, stamp, previous, *snapshot)
    encoded = [each if isinstance(each, bytes) else _encode(each) for each in events]
    body = head + formats.FORMATS[number].pack(encoded)
    checksum = crc32(body)
    return body + _CHECKSUM.pack(checksum), checksum


def decode_record(data: bytes, shard: int, position: Position) -> Record:
    """The record that stands at `position` of the journal of `shard`.

    Raises CorruptRecordError, saying what is wrong, if it does not prove itself.
    """
    record = skim_record(data, shard, position)
    try:
        form = formats.FORMATS[record.format]
        events = form.events(data[_HEADER.size : -_CHECKSUM.size])
    except UndecodableError as error:
        where = f"shard {shard}, record {position}"
        raise CorruptRecordError(f"{where}: events do not decode: {error}") from error
    return record._replace(events=events)


def skim_record(data: bytes, shard: int, position: Position) -> Record:
    """The record, proven like any other, but without its events: for who only passes it on.

    Raises CorruptRecordError, saying what is wrong, if it does not prove itself.
    """
    where = f"shard {shard}, record {position}"
    if len(data) < _BYTES_MIN:
        raise CorruptRecordError(f"{where}: {len(data)} bytes are too few for a record")
    if len(data) > limits.RECORD_BYTES_MAX:
        raise CorruptRecordError(f"{where}: {len(data)} bytes are too many for a record")
    checksum, found = checksum_of(data), crc32(memoryview(data)[: -_CHECKSUM.size])
    if found != checksum:
        raise CorruptRecordError(f"{where}: checksum {checksum:08x}, bytes {found:08x}")
    form, number, epoch, sequence, stamp, previous, *pointer = _HEADER.unpack_from(data)
    if (number, epoch, sequence) != (shard, *position):
        raise CorruptRecordError(f"{where}: holds record {epoch}-{sequence} of shard {number}")
    if form not in formats.FORMATS:
        raise UnknownFormatError(f"{where}: format {form}, this engine reads {formats.readable()}")
    return Record(shard, position, stamp, previous, Position(*pointer), [], checksum, form)


def glance(data: bytes, shard: int, position: Position, previous: int) -> tuple[int, int] | None:
    """The stamp and the checksum of a record that proves itself and follows `previous`; None if it
    does not, and `skim_record` or `check_link` say why. For who has very many to prove."""
    if not _BYTES_MIN <= len(data) <= limits.RECORD_BYTES_MAX:
        return None
    form, number, epoch, sequence, stamp, before, _, _ = _HEADER.unpack_from(data)
    checksum: int = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)[0]
    if before != previous or (epoch, sequence) != position or number != shard:
        return None
    if form not in formats.FORMATS or crc32(memoryview(data)[: -_CHECKSUM.size]) != checksum:
        return None
    return stamp, checksum


def checksum_of(data: bytes) -> int:
    """The checksum that ends an encoded record."""
    return int(_CHECKSUM.unpack(data[-_CHECKSUM.size :])[0])


def position_of(data: bytes) -> Position:
    """Where a record says that it stands; to be believed once it has proven itself there."""
    return Position(*_HEADER.unpack_from(data)[2:4]) if len(data) >= _HEADER.size else START


def check_link(before: Record | None, record: Record) -> None:
    """Raise CorruptRecordError unless `record` directly follows `before` in the journal.

    `before` None: `record` is the first that is read, and stands by itself.
    """
    if before is None:
        return
    here, there = record.position, before.position
    where = f"shard {record.shard}, record {here}"
    if here.sequence == 0:
        if here.epoch <= there.epoch:
            raise CorruptRecordError(f"{where}: a claim after {there}")
        return
    if here != (there.epoch, there.sequence + 1):
        raise CorruptRecordError(f"{where}: a gap, the record before is {there}")
    if record.previous != before.checksum:
        raise CorruptRecordError(
            f"{where}: follows checksum {record.previous:08x}, {there} has {before.checksum:08x}"
        )
