"""Long random walks of the engine beside the naive model: breadth, where test_machine has depth.

A walk is told by its seed alone. What a walk finds, test_machine can be asked to find smaller.
"""

from random import Random

import pytest

from engine import limits
from engine.messages import Command, Count, LineRequest, Receive, Reserve
from tests.engine.comparison import Comparison
from tests.engine.traffic import Traffic

STEPS = 400
KINDS = ["still", "second", "due", "due", "window"]


@pytest.mark.parametrize("seed", range(24))
def test_engine_and_model_agree_on_a_walk(seed: int) -> None:
    """However commands, time, snapshots and crashes mix, engine and model never disagree."""
    random, comparison = Random(seed), Comparison()
    traffic = Traffic(random)
    for command in traffic.opening():
        comparison.do(command)
    for _ in range(STEPS):
        match random.randrange(24):
            case 0 | 1 | 2 | 3:
                kind = random.choice(KINDS if random.randrange(4) else KINDS[:2])
                comparison.next_batch(kind, random.randrange(100))
            case 4:
                comparison.crash(lose=random.randrange(2) == 0)
            case 5:
                comparison.cut()
            case _:
                comparison.do(traffic.command(comparison.model))
        comparison.check()


def test_they_agree_on_holds_that_expire_together_where_units_are_owed() -> None:
    """Each expiry is told of with the shortfall that it leaves, the earliest first."""
    comparison = Comparison()
    commands: list[Command] = [
        Receive("apple", "north", 5),
        Reserve("cart-1", [LineRequest("apple", 1)], None, 7),
        Reserve("cart-0", [LineRequest("apple", 3)], None, 6),
        Count("apple", "north", 2),
    ]
    for command in commands:
        comparison.do(command)
    comparison.close()
    comparison.now += 8 * limits.SECOND_US
    comparison.begin()
    comparison.check()
