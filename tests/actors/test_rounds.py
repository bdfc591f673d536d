"""Rounds: who joins goes together, and nobody waits long for a straggler."""

import asyncio

from actors.rounds import Rounds
from engine import limits


class Shard:
    """Takes part, and comes home when it is told to."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.numbers: list[int] = []

    def open_batch(self, number: int) -> None:
        self.numbers.append(number)

    def come_home(self, *, again: bool = False) -> None:
        if again:
            self.rounds.join(self)
        self.rounds.leave(self.numbers[-1])


async def test_a_round_begins_when_the_one_before_is_home() -> None:
    """Those who join in one turn go together, those who come later in the next round."""
    rounds = Rounds()
    first, second, third = (Shard(rounds) for _ in range(3))
    rounds.join(first)
    rounds.join(second)
    assert [] == first.numbers
    await asyncio.sleep(0)
    assert [1] == first.numbers == second.numbers

    rounds.join(third)
    await asyncio.sleep(0)
    first.come_home(again=True)
    await asyncio.sleep(0)
    assert [] == third.numbers
    second.come_home()
    await asyncio.sleep(0)
    assert [1, 2] == first.numbers
    assert [2] == third.numbers


async def test_a_straggler_is_not_waited_for() -> None:
    """After a while the others go on; when it is back, it ends no round but its own."""
    rounds = Rounds()
    late, other = Shard(rounds), Shard(rounds)
    rounds.join(late)
    rounds.join(other)
    await asyncio.sleep(0)
    other.come_home(again=True)
    now = asyncio.get_running_loop().time()
    rounds.tick(now)
    await asyncio.sleep(0)
    assert [1] == other.numbers
    rounds.tick(now + 2 * limits.ROUND_SECONDS_MAX)
    await asyncio.sleep(0)
    assert [1, 2] == other.numbers

    late.come_home(again=True)
    await asyncio.sleep(0)
    assert [1] == late.numbers, "round 2 is out"
    other.come_home()
    await asyncio.sleep(0)
    assert [1, 3] == late.numbers


async def test_nothing_happens_without_members() -> None:
    """A round that is home is not followed by an empty one, and there is none to be late."""
    rounds = Rounds()
    only = Shard(rounds)
    rounds.join(only)
    await asyncio.sleep(0)
    only.come_home()
    rounds.tick(asyncio.get_running_loop().time() + 1)
    await asyncio.sleep(0)
    rounds.join(only)
    await asyncio.sleep(0)

    assert [1, 2] == only.numbers
