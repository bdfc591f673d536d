"""Which shards are hot: each takes most of what its host, which is busy, does for anybody.

    beats ──► rates, smoothed ──► busy host, one shard has most of it, for HOT_SECONDS ──► hot
                                  hot ──► takes hardly any of a core, for COLD_SECONDS ──► cold

On the day of a sale one SKU, and so one shard, takes what a host can do, and whatever else is on
that host waits for it. The hot shard cannot be divided, but it can be alone: then it is the only
one that waits, and has the whole host. What follows from that is `actors.balance`'s to say.

What it guarantees: nothing is hot that only looks so for a moment, is alone in a host that idles,
or gets a handful of commands while its host is busy with something else. What was hot stays so
through a lull: cold shards that came back at every one would move for ever, from lull to rush.

What beats carry are totals that only grow, so one that is lost costs nothing. A total of commands
is that of one owner: under another epoch it is counted from where it is found. A host's CPU is that
of the thread which runs its event loop, because it is that loop which is full at one core; archives
and disks have threads of their own.

Pure: times are arguments, in seconds.
"""

from collections.abc import Mapping
from math import exp
from typing import Final

HOT_BUSY: Final = 0.7
"""Part of a core from which on a host is busy. Above it queues grow fast; and what else there is on
the machine may keep a loop that is never idle from getting all of a core."""
HOT_SHARE: Final = 0.5
"""Part of its host's commands of which a hot shard has more: there is one such shard at most."""
HOT_RATE: Final = 250.0
"""Commands a second of which a hot shard has more. A core does some ten thousand, so a host that is
busy over so few is busy with something else, which would not go away with its other shards."""
HOT_SECONDS: Final = 10.0
"""A burst is over by then; a sale is not."""
COLD_BUSY: Final = 0.2
"""Part of a core of which a shard that ceases to be hot takes less. What has just become hot takes
0.35 or more, also when it is alone afterwards, so that moving others away never cools it down."""
COLD_SECONDS: Final = 300.0
ROOM_BUSY: Final = 0.5
"""Part of a core up to which a host has room for what leaves another."""
SMOOTH_SECONDS: Final = 5.0
"""What was so long ago counts a third of what is now."""
SAMPLE_SECONDS: Final = 0.1
"""Beats come in pairs when something has changed; over less than this no rate says anything."""


class _Count:
    """Commands of one shard under one owner."""

    __slots__ = ("epoch", "rate", "total")

    def __init__(self, epoch: int, total: int) -> None:
        self.epoch = epoch
        self.total = total
        self.rate = 0.0


class _Host:
    """What one host has said of itself, up to `heard`."""

    __slots__ = ("busy", "counts", "heard", "spent")

    def __init__(self, heard: float, spent: float) -> None:
        self.heard = heard
        self.spent = spent
        self.busy = 0.0
        self.counts: dict[int, _Count] = {}

    def hear(
        self, now: float, spent: float, owned: Mapping[int, int], taken: Mapping[int, int]
    ) -> None:
        seconds = now - self.heard
        weight = 1.0 - exp(-seconds / SMOOTH_SECONDS)
        busy = min(1.0, (spent - self.spent) / seconds)
        self.busy += weight * (busy - self.busy)
        self.heard, self.spent = now, spent
        before, self.counts = self.counts, {}
        for shard, epoch in owned.items():
            total = taken.get(shard, 0)
            count = before.get(shard)
            if count is None or count.epoch != epoch:
                self.counts[shard] = _Count(epoch, total)
                continue
            count.rate += weight * ((total - count.total) / seconds - count.rate)
            count.total = total
            self.counts[shard] = count

    def share(self, shard: int) -> float:
        """Of its commands."""
        every = sum(each.rate for each in self.counts.values())
        return self.counts[shard].rate / every if every else 0.0

    def is_hot(self, shard: int) -> bool:
        count = self.counts[shard]
        return self.busy >= HOT_BUSY and count.rate > HOT_RATE and self.share(shard) > HOT_SHARE

    def is_cold(self, shard: int) -> bool:
        return self.busy * self.share(shard) < COLD_BUSY


class Heat:
    """Of all hosts, as the coordinator hears of it."""

    def __init__(self) -> None:
        self.hot: set[int] = set()
        """Shards, as of the last look."""
        self._hosts: dict[str, _Host] = {}
        self._turning: dict[int, float] = {}
        """Since when each shard looks as if it were hot, or, of those that are, cold."""

    def hear(
        self,
        host: str,
        now: float,
        spent: float,
        owned: Mapping[int, int],
        taken: Mapping[int, int],
    ) -> None:
        """`host` has used `spent` seconds of a core, owns shards under epochs, and each of these
        owners has taken so many commands, all since they began."""
        known = self._hosts.get(host)
        if known is None or spent < known.spent:
            known = self._hosts[host] = _Host(now, spent)
            known.counts = {
                shard: _Count(epoch, taken.get(shard, 0)) for shard, epoch in owned.items()
            }
        elif now - known.heard >= SAMPLE_SECONDS:
            known.hear(now, spent, owned, taken)

    def forget(self, host: str) -> None:
        """`host` is gone, or another process has its name."""
        self._hosts.pop(host, None)

    def look(self, now: float) -> set[int]:
        """Shards that are hot now."""
        where, turning = self._where(), self._turning
        self._turning = {}
        for shard in where.keys() | self.hot:
            if self._turns(shard, where.get(shard)):
                since = turning.get(shard, now)
                limit = COLD_SECONDS if shard in self.hot else HOT_SECONDS
                if now - since >= limit:
                    self.hot ^= {shard}
                else:
                    self._turning[shard] = since
        return self.hot

    def _turns(self, shard: int, host: _Host | None) -> bool:
        """Whether `shard`, which `host` has, looks other than it was held to be."""
        if shard in self.hot:
            return host is None or host.is_cold(shard)
        return host is not None and host.is_hot(shard)

    def share(self, shard: int) -> float:
        """The part that `shard` has of its host's commands; 0 if nobody has it."""
        host = self._where().get(shard)
        return 0.0 if host is None else host.share(shard)

    def full(self) -> set[str]:
        """Hosts that have no room for what leaves another."""
        return {name for name, host in self._hosts.items() if host.busy > ROOM_BUSY}

    def _where(self) -> dict[int, _Host]:
        """shard → the host that has it; of two that say so, the one that was heard last."""
        hosts = sorted(self._hosts.values(), key=lambda host: host.heard)
        return {shard: host for host in hosts for shard in host.counts}
