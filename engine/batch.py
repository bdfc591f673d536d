"""The open batch of a shard: the state it is decided against, and the events it has made.

Rules read the state and call `do` with an event, which applies it at once: the next command of the
batch is decided against what this one left. What is here is what all rules need.
"""

import re
from typing import Final

import msgspec
from xxhash import xxh3_64_digest

from engine import limits
from engine.messages import (
    Answer,
    DedicatedTo,
    Detail,
    Event,
    ShortfallChanged,
    Status,
)
from engine.placement import is_dedicated, shard_of
from engine.state import ShardState
from engine.stock import SkuStock

_ID: Final = re.compile(limits.ID_PATTERN[1:-1]).fullmatch
_NAMES_MAX: Final = 10_000
_encode: Final = msgspec.msgpack.Encoder().encode


def fingerprint(content: object) -> bytes:
    """8 bytes of a request's content as it was sent: XXH3, 64 bits. It tells a caller's mistake
    from a repetition; whoever wanted to deceive it could only deceive himself."""
    return xxh3_64_digest(_encode(content))


def invalid(message: str) -> Answer:
    return Answer(Status.INVALID, Detail(message))


class Batch:
    """The batch that is open, for all rules of one shard."""

    __slots__ = ("_names", "_remembered_max", "events", "number", "shards", "state")

    def __init__(self, number: int, shards: int, state: ShardState, remembered_max: int) -> None:
        self.number = number
        self.shards = shards
        self.state = state
        self.events: list[Event] = []
        self._remembered_max = remembered_max
        self._names: set[str] = set()
        """Strings that have been seen to be ids; a cache, bounded."""

    @property
    def is_dedicated(self) -> bool:
        """Whether this shard is for one SKU."""
        return is_dedicated(self.number, self.shards)

    def elsewhere(self, sku: str) -> Answer | None:
        """Why a SKU that is not known here has no business here, if it has none."""
        if self.is_dedicated:
            if sku != self.state.dedications.bound:
                return invalid(f"shard {self.number} is dedicated, and not to this SKU")
            return None if self.state.dedications.settled else Answer(Status.NOT_DONE)
        if shard_of(sku, self.shards) != self.number:
            return invalid(f"the SKU is not of shard {self.number}")
        lives = self.state.dedications.dedicated.get(sku)
        return None if lives is None else Answer(Status.DEDICATED, DedicatedTo(sku, lives))

    def do(self, event: Event) -> None:
        """Apply `event` and note it."""
        self.state.apply(event)
        self.events.append(event)
        if self.state.changed_shortfalls:
            self._make_shortfalls_known()

    def is_full(self) -> bool:
        """Whether no further reservation or key can be remembered."""
        state = self.state
        return state.reservations.size + state.keys.size >= self._remembered_max

    @property
    def room_left(self) -> int:
        """How many more reservations and keys can be remembered."""
        state = self.state
        return self._remembered_max - state.reservations.size - state.keys.size

    def is_id(self, name: str) -> bool:
        """Whether `name`, which is likely to come again, is an id."""
        if name in self._names:
            return True
        if _ID(name) is None:
            return False
        if len(self._names) >= _NAMES_MAX:
            self._names.clear()
        self._names.add(name)
        return True

    def may_use_key(self, key: str) -> Answer | None:
        """Why a key that is new cannot be remembered, if it cannot."""
        if not self.is_id(key):
            return invalid("key is not an id")
        return Answer(Status.MEMORY_FULL) if self.is_full() else None

    def room(self, stock: SkuStock | None, more: dict[str, int]) -> Answer | None:
        """Why `more` units (by location) of a SKU, None = a new one, cannot be put there together,
        if they cannot."""
        known = stock.locations if stock is not None else {}
        fresh = [name for name in more if name not in known]
        if not all(map(self.is_id, fresh)):
            return invalid("location is not an id")
        if len(known) + len(fresh) > limits.LOCATIONS_MAX:
            return invalid(f"a SKU has at most {limits.LOCATIONS_MAX} locations")
        for name, quantity in more.items():
            place = known.get(name)
            if quantity and (place.on_hand if place else 0) + quantity > limits.QUANTITY_MAX:
                return Answer(Status.QUANTITY_OVERFLOW)
        return None

    def _make_shortfalls_known(self) -> None:
        changed, self.state.changed_shortfalls = self.state.changed_shortfalls, []
        for stock, name in changed:
            place = stock.place(name)
            short = max(0, -place.available)
            if short != place.short:
                self.do(ShortfallChanged(stock.sku, name, short))


def is_id(name: str) -> bool:
    """Whether `name`, which is not likely to come again, is an id.

    Letters, digits and dashes, of which most are made, are told without the pattern.
    """
    if name.isascii() and name.replace("-", "0").isalnum():
        return len(name) <= limits.ID_CHARS_MAX
    return _ID(name) is not None
