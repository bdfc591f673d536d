"""The two containers that a shard's memory is made of.

Names in them are bytes: a dict that has only strings for keys looks at the strings themselves
wherever two fall on one slot, and each look is a trip to far memory; of other keys it keeps the
hashes by its side.

`BucketMap` spreads its entries over many small dicts: one large dict stops the world for a tenth
of a second and more whenever it resizes. It can be copied while it changes: `begin_copy` marks
every bucket, the first change to a marked bucket copies that bucket first, and `take_copy` hands
out the rest bucket by bucket, so a copy is of one moment and costs each batch little. Values are
immutable (`bytes`), which makes the shallow copy a true one; a map of objects that change, like the
SKUs, is not copied this way.

`TimeBuckets` keeps names by the second in which something is due. Entries are never removed early;
whoever takes one asks the record whether it is still true.
"""

import heapq
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from engine import limits

BUCKET_MASK: Final = limits.BUCKETS - 1
assert limits.BUCKETS & BUCKET_MASK == 0


V = TypeVar("V")


class BucketMap(Generic[V]):
    """bytes → V, in `limits.BUCKETS` dicts."""

    __slots__ = ("_copies", "buckets", "size", "uncopied")

    def __init__(self) -> None:
        self.buckets: list[dict[bytes, V]] = [{} for _ in range(limits.BUCKETS)]
        self.uncopied: set[int] = set()
        """Buckets that a copy has yet to take: `copy` one before it is changed."""
        self._copies: list[dict[bytes, V]] = []
        self.size = 0

    def get(self, key: bytes) -> V | None:
        return self.buckets[hash(key) & BUCKET_MASK].get(key)

    def put(self, key: bytes, value: V) -> V | None:
        """Set the value of `key`; the one that it had before."""
        number = hash(key) & BUCKET_MASK
        bucket = self.buckets[number]
        if self.uncopied and number in self.uncopied:
            self.copy(number)
        before = bucket.get(key)
        if before is None:
            self.size += 1
        bucket[key] = value
        return before

    def remove(self, key: bytes) -> None:
        """Remove `key`, which is there."""
        number = hash(key) & BUCKET_MASK
        if self.uncopied and number in self.uncopied:
            self.copy(number)
        del self.buckets[number][key]
        self.size -= 1

    def items(self) -> Iterator[tuple[bytes, V]]:
        for bucket in self.buckets:
            yield from bucket.items()

    def keys_of(self, number: int) -> list[bytes]:
        """The keys in one of the `limits.BUCKETS` dicts."""
        return list(self.buckets[number])

    def values(self) -> Iterator[V]:
        for bucket in self.buckets:
            yield from bucket.values()

    # --- a copy of one moment ---

    def begin_copy(self) -> None:
        """Start a copy of the map as it is now; an unfinished one is given up."""
        self.uncopied = set(range(limits.BUCKETS))
        self._copies = []

    def take_copy(self) -> dict[bytes, V] | None:
        """The next bucket of the copy, or None when all have been taken."""
        if not self._copies:
            if not self.uncopied:
                return None
            self.copy(next(iter(self.uncopied)))
        return self._copies.pop()

    def copy(self, number: int) -> None:
        """Copy a bucket now."""
        self.uncopied.discard(number)
        self._copies.append(self.buckets[number].copy())


class TimeBuckets:
    """Names by the second in which they fall due."""

    __slots__ = ("_buckets", "_seconds")

    def __init__(self) -> None:
        self._buckets: dict[int, list[bytes]] = {}
        self._seconds: list[int] = []

    def add(self, due: int, name: bytes) -> None:
        """`due` in µs."""
        self.names_of(due).append(name)

    def names_of(self, due: int) -> list[bytes]:
        """Where the names of that second are gathered, to be added to until the next `take`."""
        second = due // limits.SECOND_US
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = []
            heapq.heappush(self._seconds, second)
        return bucket

    def take(self, now: int, most: int) -> list[bytes]:
        """Up to `most` names out of the seconds up to that of `now` (µs), earliest first.

        A name of the current second may not be due yet: put it back with `add`.
        """
        taken: list[bytes] = []
        second = now // limits.SECOND_US
        while self._seconds and self._seconds[0] <= second and len(taken) < most:
            bucket = self._buckets[self._seconds[0]]
            room = most - len(taken)
            taken += bucket[-room:]
            del bucket[-room:]
            if not bucket:
                del self._buckets[heapq.heappop(self._seconds)]
        return taken

    def due(self, now: int) -> bool:
        """Whether `take` would give anything."""
        return bool(self._seconds) and self._seconds[0] <= now // limits.SECOND_US
