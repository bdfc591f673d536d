"""What the owners of one host have done, in numbers."""

from typing import Final

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
        "outcomes",
        "seconds",
    )

    SECONDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
    BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

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
