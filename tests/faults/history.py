"""What every client did and was told: the only witness against the engine.

An attempt is one command, sent once. Its status is None if its connection ended or its answer never
came: like OUTCOME_UNKNOWN it may have taken effect, may yet, or never will. Nothing is left out, so
that what the engine holds in the end can be held against all of it (`tests.faults.checker`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import inf
from typing import NamedTuple

from engine.messages import Command, Head, Receive, Reserve, Status

UNKNOWN = (None, Status.OUTCOME_UNKNOWN)
DONE = (Status.OK, Status.REPLAYED)
UNAVAILABLE = frozenset(
    {
        Status.NOT_DONE,
        Status.OUTCOME_UNKNOWN,
        Status.OVERLOADED,
        Status.MEMORY_FULL,
        Status.MOVED,
        Status.SHARD_STOPPED,
    }
)


class Attempt(NamedTuple):
    """Times are of the event loop; `direct`: sent to a host, not to a gateway."""

    command: Command
    shard: int
    direct: bool
    sent: float
    answered: float
    """inf = never."""
    status: Status | None
    head: Head | None

    @property
    def done(self) -> bool:
        return self.status in DONE


class History:
    """Every attempt of every client, over all engines that served them."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def __len__(self) -> int:
        return len(self.attempts)

    def record(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def since(self, moment: float) -> Iterator[Attempt]:
        """Those that were sent after `moment`."""
        return (each for each in self.attempts if each.sent >= moment)

    def reservations(self) -> dict[str, list[Attempt]]:
        """The attempts about each reservation, in the order in which they were sent."""
        found: dict[str, list[Attempt]] = {}
        for each in self.attempts:
            name = getattr(each.command, "reservation_id", None)
            if name is not None:
                found.setdefault(name, []).append(each)
        for attempts in found.values():
            attempts.sort(key=lambda each: each.sent)
        return found

    def received(self) -> dict[str, list[Attempt]]:
        """The attempts under each key of a movement."""
        found: dict[str, list[Attempt]] = {}
        for each in self.attempts:
            if isinstance(each.command, Receive):
                assert each.command.key is not None, "every movement has a name here"
                found.setdefault(each.command.key, []).append(each)
        return found

    def skus(self) -> list[str]:
        return sorted(
            {each.command.sku for each in self.attempts if isinstance(each.command, Receive)}
        )

    def acknowledged(self) -> int:
        return sum(each.done for each in self.attempts)

    def unknown(self) -> int:
        return sum(each.status in UNKNOWN for each in self.attempts)


def statuses(attempts: Iterable[Attempt]) -> dict[str, int]:
    """How often clients heard what."""
    counts = Counter(
        "cut_off" if each.status is None else each.status.name.lower() for each in attempts
    )
    return dict(counts.most_common())


def first_success(attempts: Iterable[Attempt], shards: Iterable[int], after: float) -> float:
    """Seconds from `after` to the first success, on one of `shards`, of what was sent since."""
    wanted = set(shards)
    answered = (
        each.answered
        for each in attempts
        if each.sent >= after and each.shard in wanted and each.done
    )
    return min(answered, default=inf) - after


def all_served(attempts: Iterable[Attempt], shards: Iterable[int], after: float) -> float:
    """Seconds from `after` until every one of `shards` has had a success."""
    attempts = list(attempts)
    return max(first_success(attempts, [shard], after) for shard in shards)


def longest_gap(attempts: Iterable[Attempt], after: float) -> float:
    """The longest time without any success, from `after` to the last one."""
    moments = sorted(each.answered for each in attempts if each.done and each.answered > after)
    return max((late - early for early, late in pairwise([after, *moments])), default=inf)


def longest_wait(attempts: Iterable[Attempt]) -> float:
    """The longest that anybody who was answered has waited."""
    return max((each.answered - each.sent for each in attempts if each.answered < inf), default=0.0)


def names(attempts: Iterable[Attempt]) -> set[str]:
    """The reservations that these attempts would make."""
    return {each.command.reservation_id for each in attempts if isinstance(each.command, Reserve)}
