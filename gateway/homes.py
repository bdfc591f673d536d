"""Where commands belong: SKUs have a shard, and reservations a home that is to be found.

A minted id is a UUID of version 8: 48 bits of milliseconds, so that ids of one time lie together,
12 bits of home, 62 random bits. Nobody is told off for an id of another shape, or for a UUID that
merely looks like ours: what is read out of an id is a hint, and a wrong hint costs a search.

The memory is bounded and forgets the oldest first, a generation at a time: no dict in it ever
grows beyond GENERATION_ENTRIES, and forgetting one is a pause of about a millisecond.
"""

import uuid
from typing import Final

from engine import limits
from engine.messages import (
    ABOUT_SKU,
    UNKNOWN_HOME,
    Audit,
    Bind,
    Command,
    Dedicate,
    GetBinding,
    GetChannel,
    ListChannels,
    ListReservations,
    ListShortfalls,
    ListStock,
    Reserve,
    SetChannel,
    Settle,
    Unbind,
)
from engine.placement import shard_of

RANDOM_BYTES: Final = 8
GENERATIONS: Final = 4
GENERATION_ENTRIES: Final = 32_768

_ABOUT_SHARD: Final = (
    SetChannel,
    GetChannel,
    ListShortfalls,
    ListStock,
    ListReservations,
    Audit,
    Bind,
    Unbind,
    Settle,
    GetBinding,
    ListChannels,
)
_VERSION: Final = 8
_UUID_CHARS: Final = 36
_HEX: Final = frozenset("0123456789abcdef")
_HOME_BITS: Final = 12
_TIME_MASK: Final = (1 << 48) - 1
_RANDOM_MASK: Final = (1 << 62) - 1

assert limits.SHARDS_MAX <= 1 << _HOME_BITS
assert GENERATIONS * GENERATION_ENTRIES <= limits.BUCKET_ENTRIES_MAX


def sku_of(command: Command) -> str | None:
    """The SKU that decides where the command belongs, if one does."""
    if isinstance(command, Reserve):
        lines = command.lines
        if len(lines) == 1:
            return lines[0].sku
        return min((line.sku for line in lines), key=str.encode)
    return getattr(command, "sku", None) if type(command) in ABOUT_SKU else None


def shard_for(command: Command, shards: int, total: int = 0) -> int:
    """The shard that the command itself says, of a SKU the hashed one; UNKNOWN_HOME if it says
    none, or none of the `total` that there are."""
    if (sku := sku_of(command)) is not None:
        return shard_of(sku, shards)
    if isinstance(command, Dedicate):
        return shard_of(command.sku, shards)
    if isinstance(command, _ABOUT_SHARD):
        return command.shard if command.shard < (total or shards) else UNKNOWN_HOME
    return UNKNOWN_HOME


def mint(home: int, now_ms: int, random_bytes: bytes) -> str:
    """A new reservation id that lives at shard `home`; `random_bytes` are RANDOM_BYTES of them."""
    assert 0 <= home < limits.SHARDS_MAX
    assert len(random_bytes) == RANDOM_BYTES
    value = (now_ms & _TIME_MASK) << 80 | _VERSION << 76 | home << 64 | 0b10 << 62
    return str(uuid.UUID(int=value | (int.from_bytes(random_bytes) & _RANDOM_MASK)))


def home_in(reservation_id: str) -> int:
    """The home that a minted id names; UNKNOWN_HOME for every other id."""
    if len(reservation_id) != _UUID_CHARS or reservation_id[13:15] != "-8":
        return UNKNOWN_HOME
    home = reservation_id[15:18]
    return int(home, 16) if _HEX.issuperset(home) else UNKNOWN_HOME


class DedicatedMemory:
    """The dedicated shards of SKUs, as their hashed shards have said. A SKU that is missing costs a
    way more; none is ever wrong, because what was declared stays so.

    There are no more of them than shards, so nothing that is true is ever forgotten.
    """

    __slots__ = ("_shards",)

    def __init__(self) -> None:
        self._shards: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._shards)

    def learn(self, sku: str, shard: int) -> None:
        if len(self._shards) >= limits.SHARDS_MAX:
            self._shards.clear()  # of another life of the engine, or not true
        self._shards[sku] = shard

    def recall(self, sku: str) -> int:
        """The SKU's dedicated shard, or UNKNOWN_HOME."""
        return self._shards.get(sku, UNKNOWN_HOME)

    def forget(self) -> None:
        self._shards.clear()


class HomeMemory:
    """The homes of reservations that were seen lately."""

    __slots__ = ("_generations",)

    def __init__(self) -> None:
        self._generations: list[dict[str, int]] = [{} for _ in range(GENERATIONS)]

    def __len__(self) -> int:
        return sum(map(len, self._generations))

    def learn(self, reservation_id: str, home: int) -> None:
        """Remember a home, unless the id says it itself."""
        if home_in(reservation_id) == home:
            return
        newest = self._generations[0]
        newest[reservation_id] = home
        if len(newest) >= GENERATION_ENTRIES:
            self._generations.insert(0, {})
            self._generations.pop()

    def recall(self, reservation_id: str) -> int:
        """The home that was learned last, or UNKNOWN_HOME."""
        for generation in self._generations:
            home = generation.get(reservation_id)
            if home is not None:
                return home
        return UNKNOWN_HOME
