"""Who owns which shard, as far as the coordinator knows: pure bookkeeping, no sockets, no clock.

    orphan ──place──► assigned ──host reports owned──► owned
       ▲                 │  └──host reports failed──► failed (stays where it is, unserved)
       └── host dropped, or reports that it has the shard no longer (lost, or released) ──┘

What it guarantees: a shard is given to one live host at a time, and stays there for as long as that
host says anything about it, recovery included. Placement evens the shards out over the hosts that
are there; a death moves the dead host's shards, each to a host that has kept up with it, or else to
the one with the least, and no other. Every shard weighs as much as any, unless whoever asks knows
of some that weigh more. A shard that is to move is released first, and then placed where it was
bound for, if that host lives.
One that fails meanwhile stays: nobody could serve it elsewhere, and nothing waits for it.
A route exists only while somebody owns the shard, and the version grows with every change of any.

What it does not guarantee, and need not: that two processes never believe they own one shard. The
journal's claim decides that (`actors.owner`); this table is a cache of it, so what a host reports
counts, and an epoch that is older than one seen before does not.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import NamedTuple


class Phase(Enum):
    """Where a shard stands."""

    ORPHAN = "orphan"
    ASSIGNED = "assigned"
    OWNED = "owned"
    FAILED = "failed"


_NOBODY: Mapping[int, str] = {}
_ALIKE: Mapping[int, int] = {}
"""Weights: every shard's is 1."""
_MOVING = (Phase.ORPHAN, Phase.ASSIGNED)


class Grant(NamedTuple):
    """`host` is to claim `shard`, or to release it. Serials grow, and a report is about the grants
    up to one of them."""

    serial: int
    host: str
    shard: int


class Report(NamedTuple):
    """What one host says of its shards, having seen every grant up to `serial`."""

    serial: int
    owned: Mapping[int, int]
    """shard → epoch"""
    recovering: Mapping[int, int]
    """shard → how far it has come"""
    failed: Mapping[int, str]
    """shard → why it will not be served"""


class Slot:
    """What is known of one shard."""

    __slots__ = ("bound_for", "epoch", "host", "is_pinned", "phase", "progress", "reason", "serial")

    def __init__(self) -> None:
        self.phase = Phase.ORPHAN
        self.host = ""
        self.bound_for = ""
        """The host that it is to move to; empty = it is not to move."""
        self.is_pinned = False
        """Somebody wants it where it is, or is bound for: evening out leaves it there."""
        self.serial = 0
        self.epoch = 0
        """The newest that anybody has reported: it outlives the owner."""
        self.progress = 0
        self.reason = ""


class Assignment:
    """The table of all shards."""

    def __init__(self, shards: int) -> None:
        self.slots = [Slot() for _ in range(shards)]
        self.version = 0
        self._serial = 0

    def drop(self, host: str) -> list[int]:
        """`host` is dead or silent: what it had is nobody's."""
        lost = [shard for shard, slot in enumerate(self.slots) if slot.host == host]
        for shard in lost:
            self._orphan(self.slots[shard])
            self.slots[shard].is_pinned = False
        return lost

    def place(
        self,
        hosts: Iterable[str],
        near: Mapping[int, str] = _NOBODY,
        weights: Mapping[int, int] = _ALIKE,
    ) -> list[Grant]:
        """Give every orphan to the host that it was bound for, or else to the one that is `near`
        it, by shard; or else to the one of `hosts` that has the least. None, if no hosts."""
        loads = self._loads(hosts, weights)
        if not loads:
            return []
        grants = []
        for shard, slot in enumerate(self.slots):
            if slot.phase is Phase.ORPHAN:
                least = near.get(shard) or min(loads, key=loads.__getitem__)
                host = slot.bound_for if slot.bound_for in loads else least
                loads[host] = loads.get(host, 0) + weights.get(shard, 1)
                grants.append(self._grant(slot, shard, host))
        return grants

    def release(self, shard: int, host: str) -> Grant:
        """`shard`, which is owned, is to move to `host`: its owner is to release it first."""
        slot = self.slots[shard]
        assert slot.phase is Phase.OWNED, f"shard {shard} is {slot.phase.value}"
        self._serial += 1
        slot.serial, slot.bound_for = self._serial, host
        return Grant(self._serial, slot.host, shard)

    def pin(self, shard: int) -> None:
        """Leave `shard` at the host where it is to be now, as long as that lives."""
        self.slots[shard].is_pinned = True

    def again(self, host: str) -> list[Grant]:
        """What `host` was told and has not done yet: to claim, or where a shard is bound for
        another, to release it. It may not have heard."""
        grants = []
        for shard, slot in enumerate(self.slots):
            if slot.host == host and (slot.phase is Phase.ASSIGNED or slot.bound_for):
                self._serial += 1
                slot.serial = self._serial
                grants.append(Grant(self._serial, host, shard))
        return grants

    def uneven(
        self,
        hosts: Iterable[str],
        weights: Mapping[int, int] = _ALIKE,
        full: Collection[str] = (),
    ) -> tuple[int, str] | None:
        """A shard that had better be elsewhere, and where, which is no `full` host; None if all is
        even, or in motion.

        From who has the most that may move, to who has the least, if that has less than the other
        even afterwards: so whoever does as is said here, again and again, comes to an end.
        """
        if any(slot.phase in _MOVING or slot.bound_for for slot in self.slots):
            return None
        loads = self._loads(hosts, weights)
        least = min((host for host in loads if host not in full), key=loads.__getitem__, default="")
        if not least:
            return None
        for most in sorted(loads, key=loads.__getitem__, reverse=True):
            for shard in sorted(self._movable(most), key=lambda shard: shard in weights):
                if loads[most] - loads[least] > weights.get(shard, 1):
                    return shard, least
        return None

    def _movable(self, host: str) -> list[int]:
        """What may be taken from `host` to even out."""
        owned = self.shards_of(host, Phase.OWNED)
        return [shard for shard in owned if not self.slots[shard].is_pinned]

    def report(self, host: str, report: Report) -> bool:
        """Take `host` at its word; whether any route changed."""
        before = self.version
        for shard, epoch in report.owned.items():
            slot = self.slots[shard]
            if slot.host == host or (slot.phase is Phase.ORPHAN and epoch >= slot.epoch):
                self._owned(slot, host, epoch, report.serial)
        for shard, slot in enumerate(self.slots):
            if slot.host == host and shard not in report.owned:
                self._not_owned(slot, shard, report)
        return self.version != before

    def is_anothers(self, host: str, shard: int, epoch: int) -> bool:
        """Whether `host`, which thinks it owns `shard` under `epoch`, has been superseded."""
        slot = self.slots[shard]
        return epoch < slot.epoch or slot.host not in ("", host)

    def due_at(self, host: str) -> set[int]:
        """Shards that are not `host`'s yet, and will be in a moment."""
        return {
            shard
            for shard, slot in enumerate(self.slots)
            if slot.bound_for == host or (slot.host == host and slot.phase is Phase.ASSIGNED)
        }

    def routes(self) -> dict[int, tuple[int, str]]:
        """shard → (epoch, host), of those that are owned."""
        return {
            shard: (slot.epoch, slot.host)
            for shard, slot in enumerate(self.slots)
            if slot.phase is Phase.OWNED
        }

    def orphans(self) -> list[int]:
        return [shard for shard, slot in enumerate(self.slots) if slot.phase is Phase.ORPHAN]

    def count(self, phase: Phase) -> int:
        return sum(slot.phase is phase for slot in self.slots)

    def shards_of(self, host: str, phase: Phase | None = None) -> list[int]:
        """What `host` has; only what stands at `phase`, if that is given."""
        return [
            shard
            for shard, slot in enumerate(self.slots)
            if slot.host == host and phase in (None, slot.phase)
        ]

    def failures(self) -> dict[int, str]:
        """shard → why it is not served."""
        return {
            shard: slot.reason
            for shard, slot in enumerate(self.slots)
            if slot.phase is Phase.FAILED
        }

    def _loads(self, hosts: Iterable[str], weights: Mapping[int, int]) -> dict[str, int]:
        """What the shards of each of `hosts` weigh together."""
        loads = dict.fromkeys(sorted(hosts), 0)
        for shard, slot in enumerate(self.slots):
            if slot.host in loads:
                loads[slot.host] += weights.get(shard, 1)
        return loads

    def _grant(self, slot: Slot, shard: int, host: str) -> Grant:
        self._serial += 1
        slot.phase, slot.host, slot.serial = Phase.ASSIGNED, host, self._serial
        slot.progress, slot.reason, slot.bound_for = 0, "", ""
        return Grant(self._serial, host, shard)

    def _owned(self, slot: Slot, host: str, epoch: int, serial: int) -> None:
        if slot.phase is Phase.OWNED and slot.epoch == epoch:
            return
        if epoch < slot.epoch or (slot.phase is Phase.ASSIGNED and serial < slot.serial):
            return  # said before it had seen its newest grant
        slot.phase, slot.host, slot.epoch, slot.reason = Phase.OWNED, host, epoch, ""
        self.version += 1

    def _not_owned(self, slot: Slot, shard: int, report: Report) -> None:
        if report.serial < slot.serial:
            return  # said before it had seen the grant
        if shard in report.recovering:
            self._leave(slot, Phase.ASSIGNED)
            slot.progress = report.recovering[shard]
        elif shard in report.failed:
            self._leave(slot, Phase.FAILED)
            slot.reason, slot.bound_for = report.failed[shard], ""
        else:
            self._orphan(slot)

    def _leave(self, slot: Slot, phase: Phase) -> None:
        """The shard stays with its host, but is not served."""
        if slot.phase is Phase.OWNED:
            self.version += 1
        slot.phase = phase

    def _orphan(self, slot: Slot) -> None:
        self._leave(slot, Phase.ORPHAN)
        slot.host, slot.reason = "", ""
