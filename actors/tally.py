"""What the owners of one host have done, in numbers."""

from bisect import bisect_left
from typing import Final

from actors.appender import Appender
from engine.messages import Command


class Tally:
    """Counters of one host's owners, written by them and read at scrape."""

    __slots__ = (
        "appended_bytes",
        "appends",
        "barriers",
        "batch",
        "batched",
        "elapsed",
        "ended",
        "opened",
        "opening",
        "outcomes",
        "resent",
        "retried",
        "seconds",
        "snapshots",
    )

    SECONDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
    BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    OPENING: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)

    def __init__(self) -> None:
        self.appends = 0
        self.appended_bytes = 0
        self.barriers = 0
        self.outcomes: dict[type[Command], list[int]] = {}
        """Per command, how often each status was answered."""
        self.seconds = [0] * (len(self.SECONDS) + 1)
        """Of appends, from the write to the acknowledgement."""
        self.elapsed = 0.0
        self.batch = [0] * (len(self.BATCH) + 1)
        self.batched = 0
        self.opened = [0] * (len(self.OPENING) + 1)
        """Of shards that came up, from the claim to the first batch."""
        self.opening = 0.0
        self.ended: dict[str, int] = {}
        """How often an owner ended in which way."""
        self.retried = self.resent = self.snapshots = 0
        """Of owners that have ended."""

    def came_up(self, seconds: float) -> None:
        """A shard is served from now on, after so long."""
        self.opening += seconds
        self.opened[bisect_left(self.OPENING, seconds)] += 1

    def appended(self, events: int, written: int, seconds: float) -> None:
        """A batch of so many events, in so many bytes, was acknowledged after so long."""
        self.appends += 1
        self.appended_bytes += written
        self.batched += events
        self.elapsed += seconds
        self.seconds[bisect_left(self.SECONDS, seconds)] += 1
        self.batch[bisect_left(self.BATCH, events)] += 1

    def inherit(self, how: str, appender: Appender | None, snapshots: int) -> None:
        """An owner has ended: what it counted must not be lost, or totals would shrink."""
        self.ended[how] = self.ended.get(how, 0) + 1
        self.snapshots += snapshots
        if appender is not None:
            self.retried += appender.retried
            self.resent += appender.resent
