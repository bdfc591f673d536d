"""Processes that are to end in order and come back: pure bookkeeping, no sockets, no clock.

    wanted ──► a host's shards move away, one by one ──► told to end ──► joins anew: done
       │         (a gateway has none)                       └── not in time ──► killed ──► …
       └── it dies by itself, or nobody else is there to take its shards ──► no longer wanted

What it guarantees: nobody is refused for a restart. A host ends when its shards are elsewhere, and
is never the last one; a gateway when it has answered what it has, and another is there. Whoever did
not hear, or cannot end in order, is killed, again and again, until its successor has joined.

It says what comes next (`Step`); the coordinator does it.
"""

from collections.abc import Mapping
from enum import Enum

from actors.assignment import Assignment, Phase
from actors.control import Kind
from actors.member import Member
from actors.moves import Moves


class Step(Enum):
    """What a restart comes to next."""

    WAIT = "wait"
    MOVE = "move"
    """A shard of the host is to go elsewhere: `Restarts.leaver`."""
    END = "end"
    """It can be told to end."""
    KILL = "kill"
    STAY = "stay"
    """It is needed where it is: the restart is off."""
    GONE = "gone"
    """It has ended by itself: the restart is off."""


class Restarts:
    """Who is to restart, and since when they have been told."""

    def __init__(
        self,
        members: Mapping[str, Member],
        assignment: Assignment,
        moves: Moves,
        drain_seconds: float,
    ) -> None:
        """The tables are the coordinator's; `drain_seconds`: for who was told to end."""
        self._members = members
        self._assignment = assignment
        self._moves = moves
        self._drain_seconds = drain_seconds
        self._told: dict[str, float | None] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._told

    def names(self) -> list[str]:
        return list(self._told)

    def want(self, name: str) -> str | None:
        """Have the process `name` restart. What is in the way, or None: it is under way."""
        member = self._members.get(name)
        if member is None or not member.alive:
            return f"there is no {name}, or it says nothing"
        kind = member.join.kind
        others = [
            each
            for other, each in self._members.items()
            if each.alive and each.join.kind is kind and other not in {name, *self._told}
        ]
        if not others:
            return f"there is no {kind.name.lower()} beside {name}"
        self._told.setdefault(name, None)
        return None

    def told(self, name: str, now: float) -> None:
        """It was told to end, or is being killed, at `now`."""
        self._told[name] = now

    def has_told(self, name: str) -> bool:
        """Whether it is of no more use to anybody."""
        return self._told.get(name) is not None

    def forget(self, name: str) -> None:
        """It is back, or stays."""
        self._told.pop(name, None)

    def step(self, name: str, now: float, *, is_needed: bool) -> Step:
        """What comes next for `name`; `is_needed`: no other host could take its shards."""
        member, told_at = self._members[name], self._told[name]
        is_host = member.join.kind is Kind.HOST
        if not member.alive:
            return Step.GONE
        if told_at is not None:
            return Step.KILL if now - told_at > self._drain_seconds else Step.WAIT
        if is_host and is_needed:
            return Step.STAY
        if not is_host:
            return Step.END
        if shards := self._assignment.shards_of(name, Phase.OWNED):
            is_moving = bool(self._moves) or any(map(self._is_leaving, shards))
            return Step.WAIT if is_moving else Step.MOVE
        return Step.END

    def leaver(self, name: str) -> int:
        """The shard that is to go elsewhere next; there is one."""
        return self._assignment.shards_of(name, Phase.OWNED)[0]

    def _is_leaving(self, shard: int) -> bool:
        return self._assignment.slots[shard].bound_for != ""
