"""Long work in slices, on an event loop that others are served on.

    work, a slice ──► spend(entries) ──► others have their turn ──► the next slice

A slice is `limits.AUDIT_SLICE_ENTRIES` entries or events, a third of a millisecond. Whoever drives
`Slices` says with `spend` how much it has looked at, and what comes of that is the caller's choice:
one turn of the loop for those who are waited for, or a pause. `SharedPace` is the pause of all who
follow shards on one host. They take turns at one budget, because sixty of them that each let
others go on after a third of a millisecond would still keep everybody waiting for twenty.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from engine import limits
from engine.slices import Slices

T = TypeVar("T")
Spend = Callable[[int], Awaitable[None]]
"""Called after a slice of work with its entries; returns when the next may begin."""
TICK_SECONDS: Final = 0.001
"""Of an event loop's clock: shorter pauses are saved up."""


async def paced(slices: Slices[T], spend: Spend) -> T:
    """All of the work, with pauses: its result."""
    while True:
        try:
            entries = next(slices)
        except StopIteration as end:
            result: T = end.value
            return result
        await spend(entries)


class SharedPace:
    """As much work a second as leaves half a core to those who are served here, if anybody is."""

    def __init__(self, is_serving: Callable[[], bool]) -> None:
        self._is_serving = is_serving
        self._loop = asyncio.get_running_loop()
        self._paid_until = 0.0
        """When, in the loop's time, all that was worked is paid for."""

    async def spend(self, entries: int) -> None:
        """Returns when it is time for more."""
        if not self._is_serving():
            await asyncio.sleep(0)
            return
        now = self._loop.time()
        self._paid_until = max(self._paid_until, now) + entries * limits.FOLLOW_ENTRY_SECONDS
        pause = self._paid_until - now
        await asyncio.sleep(pause if pause >= TICK_SECONDS else 0)
