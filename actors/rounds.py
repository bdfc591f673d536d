"""Rounds: the shards of a host begin their batches together, for the sake of one fsync.

    joined ──the round before is home──► every shard opens its batch, all leave in one write
                                            │
                                            └─ the last one is home: the next round begins

A server that syncs after every turn of its loop does so once for all the records that it was sent
together. Shards that go each at their own pace meet there by chance only: then every fsync is for
one or two of them, and all wait for it.

Nobody waits for a straggler for long: a round that is not home after `limits.ROUND_SECONDS_MAX` is
not waited for any more; whoever was in it takes part again when he is back.
"""

import asyncio
from typing import Protocol

from engine import limits


class Member(Protocol):
    """An owner, or whoever else takes part."""

    def open_batch(self, number: int) -> None:
        """Round `number` begins: send a batch. Once it is home, or will not be by itself, `leave`
        is called with that number, exactly once."""


class Rounds:
    """Those of one server, in one process. One event loop only."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._joined: list[Member] = []
        self._number = 0
        """Of the round that is out, or was last."""
        self._out = 0
        """How many of its members are not home."""
        self._began_at = 0.0
        self._soon = False

    def join(self, member: Member) -> None:
        """Take part in the next round, which begins as soon as there is none out."""
        self._joined.append(member)
        if not self._out and not self._soon:
            self._begin_soon()

    def leave(self, number: int) -> None:
        """A member of round `number` is home."""
        if number != self._number:
            return
        self._out -= 1
        if not self._out and self._joined and not self._soon:
            self._begin_soon()

    def tick(self, now: float) -> None:
        """Wait no longer for a round that is out for too long. `now` in the loop's time."""
        late = now - self._began_at > limits.ROUND_SECONDS_MAX
        if self._out and late and self._joined and not self._soon:
            self._begin_soon()

    def _begin_soon(self) -> None:
        """With whoever joins in this turn of the event loop."""
        self._soon = True
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._soon = False
        joined, self._joined = self._joined, []
        self._number = number = self._number + 1
        self._out = len(joined)
        self._began_at = self._loop.time()
        for member in joined:
            member.open_batch(number)
