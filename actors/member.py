"""A process of the engine as its coordinator knows it, and how long the coordinator waits for it.

    alive ──its connection ends, or it is silent──► down ──beats again──► alive
                                                      └──for too long──► killed, and started again

What it guarantees: time is counted only while the coordinator itself listens (`forgive`), and what
is known of a process is forgotten with it: whoever joins next is a new member, even under its name.
"""

from typing import NamedTuple

from actors.control import Channel, Join, MemberView


class Patience(NamedTuple):
    """How long the coordinator waits for what."""

    silent_seconds: float = 1.5
    frozen_host_seconds: float = 10.0
    frozen_gateway_seconds: float = 4.0
    gone_seconds: float = 3.0
    """For a host whose connection has ended to be back, started again where it was; one that was
    told to end is as one that is frozen, because nothing waits for it."""
    start_seconds: float = 10.0
    """For all hosts to join before the first placement."""
    drain_seconds: float = 10.0
    """For gateways, then for hosts, to stop in order."""


class Member:
    """One process that has joined."""

    __slots__ = (
        "alarms",
        "alive",
        "channel",
        "down_since",
        "follows",
        "heard",
        "in_order",
        "join",
        "left",
        "near",
        "sent",
        "servers",
        "version",
    )

    def __init__(self, join: Join, channel: Channel, now: float) -> None:
        self.join = join
        self.channel: Channel | None = channel
        self.heard = now
        self.alive = True
        self.alarms: dict[int, str] = {}
        """What audits have found in its shards."""
        self.servers: dict[int, str] = {}
        """Servers of the journal that it cannot ask, and why."""
        self.down_since: float | None = None
        """Since when it is frozen or gone, or has been killed for it; None while it is."""
        self.left = False
        self.in_order = False
        """It was told to end and come back."""
        self.near: list[int] = []
        """Shards that it could take over in a moment, although they are another's."""
        self.follows: list[int] | None = None
        """What it was told to keep up with; None = it is to be told, whatever it was: the process
        may be an old one that has connected again, and a shard that it claims is followed no
        more."""
        self.sent = 0
        self.version = 0

    def view(self, shards: list[int]) -> MemberView:
        """What operators see of it, which owns `shards`."""
        join = self.join
        return MemberView(
            *(join.kind, join.name, join.process.pid, join.node, join.address, join.http),
            self.alive,
            shards,
            sorted(self.near),
        )

    def forgive(self, late: float, now: float) -> None:
        """Nobody listened for the `late` seconds before `now`: they count neither as silence nor
        as time to come back. What was heard in them was heard now, and no later."""
        self.heard = min(now, self.heard + late)
        if self.down_since is not None:
            self.down_since = min(now, self.down_since + late)
