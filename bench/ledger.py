"""What the generator knows of every reservation that it named: five bytes each.

    sent ──OK──► held ──► committing ──OK──► committed
     │             │          └─ refused ──► held
     │             ├────► releasing ──OK──► released
     └─ refused    └─ (a brief one) ──► left to expire

Between a request and its answer stands the mark of what is not known, so an answer that never comes
leaves the truth behind: *sent*, *committing*, *releasing*. From the marks, and nothing else, the
audit derives what the engine has to hold.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from random import Random
from typing import Final

import msgspec

from engine.messages import Status


class Mark(IntEnum):
    """Where a reservation stands, as far as its buyer knows."""

    SENT = 0
    REFUSED = 1
    HELD = 2
    BRIEF = 3
    """Held for a moment, and left to expire."""
    COMMITTING = 4
    COMMITTED = 5
    RELEASING = 6
    RELEASED = 7
    EXPIRED = 8


class Entry(msgspec.Struct, array_like=True):
    """One reservation of a sample."""

    number: int
    sku: int
    mark: Mark


class Group(msgspec.Struct, array_like=True):
    """How many reservations of one SKU bear the same mark."""

    sku: int
    mark: Mark
    count: int


_DONE: Final = (Status.OK, Status.REPLAYED)


def _marks(done: Mark, refused: Mark, unknown: Mark) -> bytes:
    """The mark that each status leads to."""
    table = bytearray([refused]) * 256
    for status in _DONE:
        table[status] = done
    table[Status.OUTCOME_UNKNOWN] = unknown
    table[Status.RESERVATION_EXPIRED] = Mark.EXPIRED
    return bytes(table)


RESERVED: Final = _marks(Mark.HELD, Mark.REFUSED, Mark.SENT)
RESERVED_BRIEFLY: Final = _marks(Mark.BRIEF, Mark.REFUSED, Mark.SENT)
COMMITTED: Final = _marks(Mark.COMMITTED, Mark.HELD, Mark.COMMITTING)
RELEASED: Final = _marks(Mark.RELEASED, Mark.HELD, Mark.RELEASING)


class Ledger:
    """Reservations by number; the hot path writes, the audit reads."""

    def __init__(self) -> None:
        self.skus: Final = array("I")
        self.marks = bytearray()

    def open(self, skus: Sequence[int]) -> int:
        """Reservations of these SKUs are about to be sent: the number of the first."""
        first = len(self.marks)
        self.skus.extend(skus)
        self.marks += bytes(len(skus))
        return first

    def answer(self, first: int, statuses: bytes, table: bytes) -> None:
        """The reserves numbered from `first` were answered."""
        self.marks[first : first + len(statuses)] = statuses.translate(table)

    def groups(self) -> list[Group]:
        """How many reservations there are, by SKU and mark."""
        counts = Counter(zip(self.skus, self.marks, strict=True))
        return [Group(sku, Mark(mark), count) for (sku, mark), count in counts.items()]

    def sample(self, size: int, random: Random) -> list[Entry]:
        """At most `size` reservations, chosen evenly."""
        count = len(self.marks)
        numbers = random.sample(range(count), min(size, count))
        return [Entry(number, self.skus[number], Mark(self.marks[number])) for number in numbers]
