"""Damage: every way in which bytes on a disk may turn into other bytes, told by region.

A `Piece` is what carries a checksum of its own: a record, a chunk, a slot, a file. Its regions have
names, so that a table can say where the damage was.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NamedTuple
from zlib import crc32

RESEALED: Final = "resealed"
"""In the name of what only somebody can do who means to."""


class Piece(NamedTuple):
    """Bytes, and what lies where: pairs of a region's name and its end."""

    data: bytes
    regions: tuple[tuple[str, int], ...]

    def region(self, offset: int) -> str:
        return next(name for name, end in self.regions if offset < end)


class Damaged(NamedTuple):
    damage: str
    region: str
    data: bytes


def layout(size: int, fields: list[tuple[str, int]], rest: str) -> tuple[tuple[str, int], ...]:
    """Regions: fields with their sizes, then `rest`, then a checksum of four bytes."""
    regions, end = [], 0
    for name, width in fields:
        end += width
        regions.append((name, end))
    return (*regions, (rest, size - 4), ("checksum", size))


def xor(data: bytes, bits: int, at: int) -> bytes:
    """`data` with the bits of `bits` flipped, the lowest of them being bit number `at`."""
    width = len(data)
    return (int.from_bytes(data, "little") ^ (bits << at)).to_bytes(width, "little")


def resealed(data: bytes) -> bytes:
    """With a checksum that is right again, as only somebody can make it who means to."""
    return data[:-4] + crc32(data[:-4]).to_bytes(4)


def single(piece: Piece, every: int, seal: Callable[[bytes], bytes] | None) -> Iterator[Damaged]:
    """Single bits, each `every`th; `seal`: makes the checksum right again."""
    size = len(piece.data) - (4 if seal else 0)
    for bit in range(size * every % 8, size * 8, every):
        data = xor(piece.data, 1, bit)
        region = piece.region(bit // 8)
        yield Damaged(f"bit, {RESEALED}" if seal else "bit", region, seal(data) if seal else data)


def several(piece: Piece, random: Random, times: int) -> Iterator[Damaged]:
    """Two bits anywhere, and bursts of up to 32 bits."""
    bits = len(piece.data) * 8
    for _ in range(times):
        one, other = random.sample(range(bits), 2)
        data = xor(xor(piece.data, 1, one), 1, other)
        yield Damaged("two bits", "anywhere", data)
        width = random.randint(2, 32)
        burst = random.getrandbits(width) | 1 | 1 << (width - 1)
        at = random.randrange(bits - width)
        yield Damaged("burst", "anywhere", xor(piece.data, burst, at))


def cut(piece: Piece, every: int) -> Iterator[Damaged]:
    """Every length that is too short."""
    for length in range(0, len(piece.data), every):
        yield Damaged("cut off", piece.region(length), piece.data[:length])


def damages(
    piece: Piece, random: Random, every: int, *, seal: Callable[[bytes], bytes] | None = resealed
) -> Iterator[Damaged]:
    """All of these; `every`: of single bits, one of so many."""
    yield from single(piece, every, None)
    if seal is not None:
        yield from single(piece, every, seal)
    yield from several(piece, random, max(1, len(piece.data) * 8 // every // 8))
    yield from cut(piece, max(1, every // 8))
