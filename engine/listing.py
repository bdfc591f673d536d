"""A map's entries in the order of their ids, page by page, while the map changes.

The maps of a shard are spread by a hash that is another one in every process, and nothing keeps
them sorted: that would cost every reserve, for the sake of whoever exports once a day. So the ids
are sorted when the first page is asked for, a bounded number per page, so that no batch waits long;
until all are, pages are empty and only say where to go on. From then on each page merges what it
needs out of the sorted buckets.

Where a page ends is an id, and all that whoever asks has to know. A page that is asked of an owner
who has begun no listing there (another one by now, or the same page once more) begins one after
that id: dearer, but no other answer. A row is as its entry stands when the page is made. What was
there when the listing began, and stays, is listed once; what came in between may be missing.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from engine import limits
from engine.maps import BucketMap

V = TypeVar("V")
Row = TypeVar("Row")


class Page(NamedTuple, Generic[Row]):
    """Rows, and the id after which to go on; None = that was all."""

    rows: list[Row]
    next: str | None


V_co = TypeVar("V_co", covariant=True)


class Source(Protocol[V_co]):
    """What is listed."""

    def get(self, key: str, /) -> V_co | None: ...

    def keys_of(self, number: int) -> list[str]:
        """One of `limits.BUCKETS` parts of its ids."""
        ...


class ByText(Generic[V]):
    """A map whose names are bytes, with strings for names."""

    def __init__(self, named: BucketMap[V]) -> None:
        self._named = named

    def get(self, key: str) -> V | None:
        return self._named.get(key.encode())

    def keys_of(self, number: int) -> list[str]:
        return [name.decode() for name in self._named.keys_of(number)]


class _Listing(Generic[V]):
    """The ids of a map that come after `after`, in order."""

    __slots__ = ("_runs", "_unsorted", "after", "asked_at", "ids")

    def __init__(self, after: str) -> None:
        self.after = after
        """The last id that was looked at."""
        self.asked_at = 0
        """When a page was last asked for, in µs."""
        self.ids: Iterator[str] = iter(())
        """Those that follow, once all are sorted."""
        self._unsorted = list(range(limits.BUCKETS))
        self._runs: list[list[str]] = []

    def prepare(self, source: Source[V]) -> bool:
        """Sort some more ids; whether all are sorted."""
        room = limits.LISTING_SORTED_MAX
        while self._unsorted and room > 0:
            ids = source.keys_of(self._unsorted.pop())
            self._runs.append(sorted([each for each in ids if each > self.after]))
            room -= len(ids) + 1
            if not self._unsorted:
                self.ids = heapq.merge(*self._runs)
        return not self._unsorted


class Listings(Generic[V]):
    """The listings of one map that have begun: the last few of them, for few ask at once."""

    def __init__(self, source: Source[V]) -> None:
        self._source = source
        self._begun: list[_Listing[V]] = []

    def __len__(self) -> int:
        return len(self._begun)

    def page(
        self,
        after: str,
        most: int,
        now: int,
        show: Callable[[str, V], Row | None],
        width: Callable[[Row], int],
    ) -> Page[Row]:
        """The rows after `after`: up to `most` of what `show` shows (None = it is left out), fewer
        if they get wide or much is left out. "" = from the first id on. `now` in µs."""
        listing = self._go_on(after, now)
        if not listing.prepare(self._source):
            return Page([], after)
        rows: list[Row] = []
        room = limits.LISTING_WIDTH_MAX
        for looked, name in enumerate(listing.ids, 1):
            listing.after = name
            value = self._source.get(name)
            row = None if value is None else show(name, value)
            if row is not None:
                rows.append(row)
                room -= width(row)
            if len(rows) == most or room <= 0 or looked == limits.LISTING_LOOKED_MAX:
                return Page(rows, name)
        self._begun.remove(listing)
        return Page(rows, None)

    def _go_on(self, after: str, now: int) -> _Listing[V]:
        """The newest listing that has come to `after`, or one that begins there."""
        lately = [each for each in self._begun if now - each.asked_at < limits.LISTING_US]
        there = [each for each in lately if each.after == after]
        listing = there[-1] if there else _Listing[V](after)
        listing.asked_at = now
        others = [each for each in lately if each is not listing]
        self._begun = [*others, listing][-limits.LISTINGS_MAX :]
        return listing
