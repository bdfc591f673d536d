"""The time of one shard's journal: integer microseconds that never go back.

A shard opened by a new owner starts at the later of its last stamp and the wall clock, so that time
does not go back across hosts. From there on the monotonic clock counts, which no administrator and
no NTP daemon can set. Once a second it is compared with the wall clock and runs up to 0.5 ms per
second faster or slower until the two agree: what `adjtime` does, and far less than a deadline
notices. So a wall clock that jumps by an hour expires nothing early and holds nothing for long: a
jump of more than five seconds is counted, logged, and for the rest ignored but for that slew.

    opened: max(last stamp, wall) ──► + monotonic · (1 ± 0.0005)      a line, bent once a second

The monotonic clock stands still while a machine is suspended; afterwards that is such a jump, too.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from engine import limits

SLEW_US_PER_SECOND: Final = 500
STEP_US: Final = 5 * limits.SECOND_US
_INTERVAL_NS: Final = 1_000_000_000
"""Between two looks at the wall clock; also the unit of the rate."""
_log = structlog.get_logger(__name__)


class Clock:
    """`wall` and `monotonic` count nanoseconds, as `time.time_ns` and `time.monotonic_ns` do."""

    __slots__ = (
        "_base",
        "_look_at",
        "_monotonic",
        "_offset",
        "_rate",
        "_since",
        "_wall",
        "error_us",
        "steps",
    )

    def __init__(
        self,
        last_stamp: int = 0,
        *,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._since = monotonic()
        wall_us = wall() // 1_000
        self._base = max(last_stamp, wall_us)
        self._offset = wall_us - self._since // 1_000
        self._rate = limits.SECOND_US
        """Microseconds of ours in an interval of the monotonic clock."""
        self._look_at = self._since + _INTERVAL_NS
        self.error_us = wall_us - self._base
        """By how much the wall clock was ahead when it was last looked at."""
        self.steps = 0
        """How often the wall clock has jumped."""
        if -self.error_us > STEP_US:
            self._alarm(self.error_us)

    def now(self) -> int:
        """Microseconds since 1970; never less than before."""
        monotonic = self._monotonic()
        if monotonic >= self._look_at:
            self._look(monotonic)
        return self._base + (monotonic - self._since) * self._rate // _INTERVAL_NS

    def _look(self, monotonic: int) -> None:
        """Compare with the wall clock, and bend the line here."""
        elapsed = monotonic - self._since
        slewed = _INTERVAL_NS  # nobody may have asked for longer than it was to be slewed
        self._base += self._rate + (elapsed - slewed) // 1_000
        self._since, self._look_at = monotonic, monotonic + _INTERVAL_NS
        wall_us = self._wall() // 1_000
        offset = wall_us - monotonic // 1_000
        if abs(offset - self._offset) > STEP_US:
            self._alarm(offset - self._offset)
        self._offset = offset
        self.error_us = wall_us - self._base
        slew = max(-SLEW_US_PER_SECOND, min(SLEW_US_PER_SECOND, self.error_us))
        self._rate = limits.SECOND_US + slew

    def _alarm(self, by_us: int) -> None:
        self.steps += 1
        _log.warning("the wall clock jumped", by_seconds=by_us / limits.SECOND_US)
