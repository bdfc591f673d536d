"""Moves that wait until the shard's next host has read nearly all of it: pure bookkeeping.

    wanted ──► its next host follows it ──► near ──► its owner is to release it (`Assignment`)
       └── the next host is gone, or takes too long ──► given up: the shard stays where it is

So a move costs the shard the moments between its owner's last record and its next owner's first,
however much there is of it.
"""

from collections.abc import Iterable
from typing import NamedTuple


class _Move(NamedTuple):
    host: str
    until: float


class Moves:
    """Shards that are wanted elsewhere, and where."""

    def __init__(self) -> None:
        self._moves: dict[int, _Move] = {}

    def __len__(self) -> int:
        return len(self._moves)

    def want(self, shard: int, host: str, until: float) -> None:
        """Have `shard` at `host`; given up at `until`, in seconds."""
        self._moves[shard] = _Move(host, until)

    def to(self, host: str) -> set[int]:
        """Shards that `host` is to follow for this."""
        return {shard for shard, move in self._moves.items() if move.host == host}

    def take(self, host: str, near: Iterable[int]) -> list[int]:
        """Shards that may be released now, because `host` is near them; they wait no more."""
        ready = sorted(self.to(host) & set(near))
        for shard in ready:
            del self._moves[shard]
        return ready

    def forget(self, host: str) -> None:
        """`host` is gone."""
        for shard in self.to(host):
            del self._moves[shard]

    def give_up(self, now: float) -> dict[int, str]:
        """Those that took too long: shard → host."""
        late = {shard: move.host for shard, move in self._moves.items() if move.until <= now}
        for shard in late:
            del self._moves[shard]
        return late

    def drop(self, shard: int) -> None:
        """Whatever was wanted of `shard` is settled in another way."""
        self._moves.pop(shard, None)
