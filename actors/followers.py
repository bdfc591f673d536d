"""Shards of other hosts that this one keeps up with, to take them over in a moment.

    wanted ──► read: snapshot, records ──► near: what is written there is read here moments later
                                             │ assigned to us
                                             └──► taken: our claim finishes what was begun

To follow reads another's journal, and never writes: the owner does not notice. It costs this host
the memory that owning the shard would cost, and the time to apply what the owner lives. All of them
share one pace (`actors.pace`), so that those who are served here notice little of it either.
"""

from collections.abc import Callable, Iterable

from actors.recovery import Recovery


class Followers:
    """The recoveries of one host that no claim has finished yet."""

    def __init__(self, make: Callable[[int], Recovery], on_near: Callable[[], None]) -> None:
        """`make` gives a shard's recovery; `on_near` is called when one has caught up."""
        self._make = make
        self._on_near = on_near
        self._recoveries: dict[int, Recovery] = {}

    def follow(self, shards: Iterable[int]) -> None:
        """Follow these from now on, and no others."""
        wanted = set(shards)
        for shard in self._recoveries.keys() - wanted:
            self._recoveries.pop(shard).leave()
        for shard in sorted(wanted - self._recoveries.keys()):
            recovery = self._recoveries[shard] = self._make(shard)
            recovery.follow(self._on_near)

    def near(self) -> list[int]:
        """Shards that were caught up with, and are followed since."""
        return [shard for shard, recovery in self._recoveries.items() if recovery.is_near]

    def take(self, shard: int) -> Recovery | None:
        """What has been read of the shard, which is ours now; None if it was not followed."""
        return self._recoveries.pop(shard, None)
