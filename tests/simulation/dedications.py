"""Worlds in which some SKUs come to have a shard of their own, while they are wanted.

A scenario is drawn without them first. Then a few of its SKUs are declared hot by somebody, about
when the first commands for them come, twice perhaps, to a shard that somebody else wants as well;
and mostly their first stock comes later than that, so that not all are known before.
"""

from collections.abc import Collection
from random import Random
from typing import Final

from engine.messages import UNKNOWN_HOME, Bind, Command, Dedicate, GetBinding, LineMove, Unbind
from tests.simulation.loop import SECOND
from tests.simulation.workload import Step

EARLY: Final = SECOND // 4
"""By when everybody who declares a SKU begins to; what is sold is mostly sold after that."""


def dedicate(
    random: Random, steps: list[Step], skus: list[str], shards: int, dedicated: int, clients: int
) -> list[Step]:
    """The steps, with those that dedicate some of the SKUs."""
    hot = random.sample(skus, min(len(skus), random.choice((1, 1, 2, 3))))
    found = [_delayed(random, step, hot) for step in steps]
    every = range(shards, shards + dedicated)
    for sku in hot:
        for _ in range(random.choice((1, 1, 2, 3))):
            wanted = random.choice(every) if random.random() < 0.4 else UNKNOWN_HOME
            at = random.randrange(EARLY) if random.random() < 0.8 else random.randrange(2 * SECOND)
            found.append(Step(at, random.randrange(clients), Dedicate(sku, wanted)))
    for _ in range(random.choice((0, 0, 1, 3))):
        sku, shard = random.choice(skus), random.choice(every)
        stray: Command = GetBinding(shard)
        if sku not in hot:
            stray = random.choice((Bind(shard, sku), Unbind(shard, sku)))
        found.append(Step(random.randrange(SECOND), random.randrange(clients), stray))
    return sorted(found, key=lambda step: step.at)


def _delayed(random: Random, step: Step, hot: Collection[str]) -> Step:
    if hot_in(step.command, hot) and random.random() < 0.9:
        return step._replace(at=step.at + EARLY)
    return step


def hot_in(command: Command, hot: Collection[str]) -> bool:
    """Whether the command names one of these SKUs."""
    lines = getattr(command, "lines", None) or []
    moves: list[LineMove] = getattr(command, "moves", [])
    named = {getattr(command, "sku", None), *(each.sku for each in [*lines, *moves])}
    return not named.isdisjoint(hot)
