"""A search for a reservation whose home nobody knows: every host is asked about all of its shards.

    one shard knows it                        → that is its home
    none, and every shard was asked           → there is no such reservation
    two or more                               → the id names two reservations; which, we cannot say
    none, and some shard was not heard from   → not known yet; ask again, or say so
    none, and all not heard from have stopped → not known, and asking again helps nobody
    hosts say that the key may not ask        → neither may it do what it has come for

One hit counts even while another shard is silent: two homes need a caller who uses one id for two
different requests, and one broken shard must not take the commits of all the others with it. A host
that is silent has half of the time that the caller has left; the other half is for the hit.
"""

from collections.abc import Callable, Set
from enum import Enum

from engine.messages import Answer, Homes, Status


class Verdict(Enum):
    FOUND = "found"
    ABSENT = "absent"
    AMBIGUOUS = "ambiguous"
    UNKNOWN = "unknown"
    STOPPED = "stopped"
    FORBIDDEN = "forbidden"


class Search:
    """Collects the answers of `hosts` hosts, then calls `done` with itself."""

    __slots__ = ("_awaited", "_done", "asked", "forbidden", "homes")

    def __init__(self, hosts: int, done: Callable[["Search"], None]) -> None:
        self.homes: set[int] = set()
        self.asked: set[int] = set()
        self.forbidden = False
        self._awaited = hosts
        self._done = done

    def hear(self, answer: Answer) -> None:
        """One host has answered, or will not."""
        if answer.status is Status.OK and isinstance(answer.body, Homes):
            self.homes.update(answer.body.shards)
            self.asked.update(answer.body.asked)
        elif answer.status is Status.FORBIDDEN:
            self.forbidden = True
        self._awaited -= 1
        if self._awaited == 0:
            self._done(self)

    def verdict(self, shards: int, stopped: Set[int] = frozenset()) -> Verdict:
        """What follows, in an installation of so many shards, of which these have stopped."""
        if self.forbidden:
            return Verdict.FORBIDDEN
        if len(self.homes) > 1:
            return Verdict.AMBIGUOUS
        if self.homes:
            return Verdict.FOUND
        silent = set(range(shards)) - self.asked
        if not silent:
            return Verdict.ABSENT
        return Verdict.STOPPED if silent <= stopped else Verdict.UNKNOWN
