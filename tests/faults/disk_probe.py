"""How long the disk alone takes meanwhile: a thread that writes and syncs a few bytes, beside the
engine and on the same disk.

A wait that the disk explains says nothing of the engine. On a machine that shares its disk with
others, an fsync takes half a second now and then.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

PAUSE_SECONDS: Final = 0.005
SLOW_SECONDS: Final = 0.02
"""An fsync that is shorter is what one pays for durability."""


class DiskProbe:
    """Keeps when the disk was slow. Times are of the event loop."""

    def __init__(self, path: Path) -> None:
        self.slow: list[tuple[float, float]] = []
        """When a slow fsync began and ended."""
        self._path = path
        self._clock = asyncio.get_running_loop().time
        self._stopped = threading.Event()

    @property
    def longest(self) -> float:
        return max((ended - began for began, ended in self.slow), default=0.0)

    def held_up(self, since: float, until: float) -> float:
        """For how long of this time the disk was busy with one slow fsync or another."""
        return sum(max(0.0, min(ended, until) - max(began, since)) for began, ended in self.slow)

    def run(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            while not self._stopped.wait(PAUSE_SECONDS):
                began = self._clock()
                file.write(b"probe")
                os.fdatasync(file.fileno())
                if (ended := self._clock()) - began > SLOW_SECONDS:
                    self.slow.append((began, ended))

    def stop(self) -> None:
        self._stopped.set()


@asynccontextmanager
async def probing(directory: Path) -> AsyncIterator[DiskProbe]:
    """A probe of the disk that `directory` is on, for as long as the block lasts."""
    probe = DiskProbe(directory / "probe")
    running = asyncio.create_task(asyncio.to_thread(probe.run))
    try:
        yield probe
    finally:
        probe.stop()
        await running
