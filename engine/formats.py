"""Formats: the number that every record and every chunk begins with, and what each number means.

    reads   1 … N      `FORMATS`, a table: what a format's bytes are in this engine's memory
    writes      N      `FORMAT`, in every record and every chunk
    refuses what is newer, by number

One number covers what lies in the journal's server: records, chunks of snapshots, and the digest,
which is over packed entries and so means something only beside the format they were packed in. The
frame around them is the same in every format, for ever: the number is the first byte, the header
after it says shard, position, stamp, link and pointer, and the last four bytes are the crc32 of
all before. So whoever does not know a format still knows damage from what is merely newer, and can
say which record of whom it is that it cannot read.

The number says whose reader it takes to get the content right. It rises when an older reader would
misread; a field at the end of an event that an older reader may drop without being wrong (a note:
who, why) needs no new number, and is listed in `NOTES`. Parts of the state are exact: there an
unknown field is an error. FORMATS.md has the whole rule, and the order of an upgrade.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, get_args

import msgspec

from engine.messages import Event

FORMAT: Final = 1
"""What this engine writes. A number is read for one release before it is written."""

NOTES: Final = frozenset(
    f"{event}.by"
    for event in ("Received", "Adjusted", "Counted", "Transferred", "StockSet", "ChannelSet")
)
"""Fields that were added to an event under a number that was in use: state does not know them."""

_KINDS: Final = frozenset(each.__struct_config__.tag for each in get_args(Event))
_decode_events: Final = msgspec.msgpack.Decoder(list[Event]).decode
_decode_kinds: Final = msgspec.msgpack.Decoder(list[list[Any]]).decode


class UndecodableError(Exception):
    """Bytes that are not what their format says; the message says why."""


class Format(NamedTuple):
    """What the bytes of one format are in this engine's memory.

    The last four turn entries of a snapshot as that format packed them into the packing of today.
    """

    pack: Callable[[Sequence[bytes]], bytes]
    """Events, encoded one by one, as they stand in a record."""
    events: Callable[[bytes], list[Event]]
    """The inverse. Raises UndecodableError."""
    settings: Callable[[bytes], bytes]
    sku: Callable[[bytes], bytes]
    reservation: Callable[[bytes], bytes]
    key: Callable[[bytes], bytes]


def unchanged(packed: bytes) -> bytes:
    """Of an entry that is packed today as it was then."""
    return packed


def pack_array(encoded: Sequence[bytes]) -> bytes:
    """A MessagePack array of what is encoded already."""
    length = len(encoded)
    if length < 16:
        head = bytes((0x90 | length,))
    elif length < 1 << 16:
        head = b"\xdc" + length.to_bytes(2)
    else:
        head = b"\xdd" + length.to_bytes(4)
    return b"".join((head, *encoded))


def unpack_events(packed: bytes) -> list[Event]:
    """A MessagePack array of events, fields that are unknown at the end of one left out."""
    try:
        return _decode_events(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UndecodableError(_newer(packed) or str(error)) from error


def _newer(packed: bytes) -> str:
    """What a newer engine must have written, if that is why events do not decode."""
    try:
        kinds = {event[0] for event in _decode_kinds(packed) if event}
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        return ""  # something else than events: what the typed decoder says is to the point
    unknown = sorted(kind for kind in kinds - _KINDS if isinstance(kind, int))
    return f"events of kind {unknown}, which only a newer engine knows" if unknown else ""


FORMATS: Final[dict[int, Format]] = {
    1: Format(pack_array, unpack_events, unchanged, unchanged, unchanged, unchanged),
}
"""What this engine reads. It only grows: an archive keeps what is years old."""


def readable() -> str:
    """The numbers of the formats that this engine reads, in words."""
    return " and ".join(map(str, sorted(FORMATS)))
