"""Where the numbers of all SKUs of a shard lie: rows of eight, in one flat array.

    on hand │ reserved │ allocated │ safety stock │ version │ physical version │ place │ copied

A row is a SKU at one location, 64 bytes in one piece. A shard knows a hundred thousand SKUs, and
buyers ask for them at random: as objects each costs a dozen trips to far memory, as a row one.

A SKU's first row bears its name, and is all that most of them have; `more` has its further rows,
one for each further location. What few SKUs have at all lies beside: pools, and shortfalls that
were made known. `PLACE` is the number of the location's name, shifted by two bits that say whether
there is more to be looked at: MORE and POOLS. Whoever finds neither has seen everything.

Rows are never removed, so a row's number is as good as its name for as long as the process lives.
Row 0 is nobody's: 0 stands for "none".
"""

from array import array
from typing import Final

ROW: Final = 8
ON_HAND, RESERVED, ALLOCATED, SAFETY_STOCK, VERSION, PHYSICAL_VERSION, PLACE, COPIED = range(ROW)
MORE: Final = 1
"""The SKU has further locations."""
POOLS: Final = 2
"""Pools of the SKU were set."""
FLAGS: Final = MORE | POOLS
PLACE_SHIFT: Final = 2
_EMPTY: Final = array("q", bytes(8 * ROW))


class Counters:
    """The rows of one shard."""

    __slots__ = ("_places", "more", "names", "numbers", "places", "pools", "shorts")

    def __init__(self) -> None:
        self.numbers = array("q", _EMPTY)
        self.names = [""]
        """By row, the SKU; "" for a further location of one."""
        self.places: list[str] = []
        """By number, the name of a location."""
        self._places: dict[str, int] = {}
        self.more: dict[int, list[int]] = {}
        """By a SKU's row, its further ones."""
        self.pools: dict[int, dict[str, int]] = {}
        """By a SKU's row, units that each pool still ring-fences. What comes back is added to what
        was set meanwhile, so this may be more than anybody may set, but no more than that and all
        units that are promised: to cut it off would lose them for the pool, and no counter is near
        its end."""
        self.shorts: dict[int, int] = {}
        """By row, the shortfall that was last made known, unless that is 0."""

    def add(self, name: str, location: str) -> int:
        """A new row; its number. `name` "" = a further location of a SKU that is known."""
        row = len(self.names)
        self.names.append(name)
        self.numbers.extend(_EMPTY)
        self.numbers[row * ROW + PLACE] = self._number_of(location) << PLACE_SHIFT
        return row

    def place(self, row: int) -> str:
        """The name of the row's location."""
        return self.places[self.numbers[row * ROW + PLACE] >> PLACE_SHIFT]

    def flag(self, row: int, flag: int) -> None:
        self.numbers[row * ROW + PLACE] |= flag

    def _number_of(self, location: str) -> int:
        number = self._places.get(location)
        if number is None:
            number = self._places[location] = len(self.places)
            self.places.append(location)
        return number
