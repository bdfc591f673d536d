"""What an owner is told of the installation and its host, and what follows from it."""

from math import inf
from typing import NamedTuple

from actors.journal import Journal
from actors.pace import Spend
from actors.recovery import Recovery
from actors.replay import Recovered
from engine import limits
from engine.messages import Opened
from engine.shard import Shard


class Ownership(NamedTuple):
    """The same for all owners of one host."""

    shards: int
    cluster_id: str
    host: str
    remembered_max: int
    grace_us: int
    finished_window_us: int
    returns_window_us: int
    keys_window_us: int
    audit_interval_us: int = 0
    """Between audits that nobody asks for; 0 = there are none."""
    slow_seconds: float = inf
    """An append that takes so long is logged."""

    def make_shard(self, number: int) -> Shard:
        """The shard before its first record."""
        return Shard(number, self.shards, self.remembered_max)

    def recovery(self, number: int, journal: Journal, pace: Spend | None = None) -> Recovery:
        """The shard's way back from its journal, not begun; `pace` is that of following."""
        return Recovery(journal, lambda: self.make_shard(number), self.cluster_id, pace)

    def opened(self, found: Recovered, stamp: int) -> Opened:
        """The event with which a new owner begins to serve what it has recovered."""
        return Opened(
            *found.last_position,
            found.last_checksum,
            found.digest,
            stamp,
            stamp + self._grace_us(found, stamp),
            self.finished_window_us,
            self.returns_window_us,
            self.keys_window_us,
        )

    def _grace_us(self, found: Recovered, stamp: int) -> int:
        """As much as nobody was served, or rather more.

        After a crash nobody knows how long that was. An orderly handover says when it began; a
        shard that is moved all the time would otherwise hardly let any hold expire.
        """
        if not found.handed_over_at:
            return self.grace_us
        away = stamp - found.handed_over_at
        return min(self.grace_us, max(limits.HANDOVER_GRACE_US, away))
