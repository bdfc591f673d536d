"""What ought to move for the sake of the load: as many shards to each host, a hot one alone.

    every host as many ──► but what is hot weighs more than all others together
                               tell: such a move is proposed; an operator makes it
                               move: it is made, one at a time, like any that evens out

What it guarantees: it comes to rest. Each move takes weight from who has more to who has less, and
by less than the difference, so that the sum of the squares of the loads falls with every one; and
the weights are those of `actors.heat`, which change once in minutes. A hot shard's weight is one
more than all shards together: so everything else leaves its host, whichever its number and however
many there are, the hot shard itself stays where it is, and nothing comes to it. What is pinned
stays; a hot shard among pinned ones, or beside another hot one, is what moves then.

Nothing moves for heat's sake to a host that is busy itself. If all are, the sale has outgrown them,
and who would move shards about then only adds to the load.

Under `tell` loads are evened out by number, as ever, but that nothing is given to the host of a hot
shard: what an operator has just moved away from there would come back.
"""

from collections.abc import Collection
from typing import NamedTuple

from actors.assignment import Assignment
from actors.config import HotShards
from actors.control import HotShard, Proposal
from actors.heat import Heat


class Advice(NamedTuple):
    """What is to be done, and what is to be told."""

    move: tuple[int, str] | None
    """A shard, and where it is to go."""
    hot: list[HotShard]
    proposal: Proposal | None
    """A move for an operator to make."""

    def tells_more_than(self, before: "Advice") -> bool:
        """Whether anything but shares, which change all the time, is other than `before`."""
        return self._heads() != before._heads() or self.proposal != before.proposal

    def _heads(self) -> list[tuple[int, str, bool]]:
        return [(each.shard, each.host, each.is_alone) for each in self.hot]


AT_EASE = Advice(None, [], None)


class Balance:
    """Over one table of shards."""

    def __init__(self, assignment: Assignment, hot_shards: HotShards) -> None:
        """`hot_shards`: whether moves for the sake of hot ones are made or told of."""
        self.heat = Heat()
        self._assignment = assignment
        self._makes_moves = hot_shards == "move"

    @property
    def weights(self) -> dict[int, int]:
        """Of the shards that weigh more than one, as all others do."""
        return dict.fromkeys(self.heat.hot, len(self._assignment.slots) + 1)

    def look(self, now: float, hosts: Collection[str]) -> Advice:
        """What is best at `now`, `hosts` being those that are to have shards."""
        hot = self.heat.look(now)
        table = self._assignment
        if not hot:
            return Advice(table.uneven(hosts), [], None)
        told = [self._tell(shard) for shard in sorted(hot) if table.slots[shard].host]
        wanted = table.uneven(hosts, self.weights, self.heat.full())
        if self._makes_moves:
            return Advice(wanted, told, None)
        move = table.uneven(hosts, dict.fromkeys(hot, 1), {each.host for each in told})
        proposal = Proposal(*wanted) if wanted is not None and move is None else None
        return Advice(move, told, proposal)

    def _tell(self, shard: int) -> HotShard:
        host = self._assignment.slots[shard].host
        is_alone = len(self._assignment.shards_of(host)) == 1
        return HotShard(shard, host, round(self.heat.share(shard), 3), is_alone)
