"""Which reservations a shard knew, and when.

A reservation is known from the moment at which its record was durable. When it is forgotten no
record says: some time between the last answer that rested on it and the first record after the end
of its window. In between it may be known or not. And if no record came before the next owner, whose
clock goes on from the last stamp, that one may know it again.
"""

from collections import defaultdict
from typing import NamedTuple


class Sight(NamedTuple):
    """From `at` on a reservation was known, was not, or (None) perhaps was."""

    at: int
    known: bool | None
    channel: str | None


class Sightings:
    """Of one shard."""

    def __init__(self) -> None:
        self._sights: dict[str, list[Sight]] = defaultdict(list)

    def appears(self, name: str, channel: str | None, perhaps_at: int, at: int) -> None:
        """It is known from `at` on, and perhaps before, if it was not."""
        sights = self._sights[name]
        if not sights or not sights[-1].known:
            sights += (Sight(perhaps_at, None, channel), Sight(at, True, channel))

    def fades(self, name: str, channel: str | None, perhaps_at: int, at: int) -> None:
        """Between these moments it was forgotten."""
        self._sights[name] += (Sight(perhaps_at, None, channel), Sight(at, False, None))

    def flickers(self, name: str, channel: str | None, perhaps_at: int, at: int) -> None:
        """Between these moments it may have been forgotten, but then it was known again."""
        self._sights[name] += (Sight(perhaps_at, None, channel), Sight(at, True, channel))

    def between(self, name: str, scope: str | None, start: int, end: int) -> set[bool]:
        """Whether it was known within `scope`, at any moment from `start` to `end`."""
        before = Sight(0, False, None)
        seen: list[Sight] = []
        for sight in self._sights.get(name, ()):
            if sight.at <= start:
                before = sight
            elif sight.at <= end:
                seen.append(sight)
        found: set[bool] = set()
        for sight in (before, *seen):
            visible = scope in (None, sight.channel)
            found |= {True, False} if sight.known is None else {sight.known and visible}
        return found
