"""Makes a failing scenario smaller: steps and faults are left out as long as it still fails.

Delta debugging (Zeller and Hildebrandt, 2002), with halves, quarters, … single elements. A smaller
scenario draws other delays, so some failures shrink less than they could.
"""

from dataclasses import replace
from typing import TypeVar

from tests.simulation.scenario import Scenario
from tests.simulation.world import Outcome, run

T = TypeVar("T")
RUNS_MAX = 400


def shrink(scenario: Scenario, outcome: Outcome) -> tuple[Scenario, Outcome]:
    """A smaller scenario that fails as well, and what comes of it."""
    best, result = scenario, outcome
    runs = 0
    for name in ("faults", "steps", "faults"):
        size = max(1, len(getattr(best, name)) // 2)
        while size and runs < RUNS_MAX:
            whole = getattr(best, name)
            for start in range(0, len(whole), size):
                smaller = replace(best)
                setattr(smaller, name, _without(whole, start, size))
                runs += 1
                tried = run(smaller)
                if tried.violations:
                    best, result = smaller, tried
                    break
            else:
                size //= 2
    return best, result


def _without(whole: list[T], start: int, size: int) -> list[T]:
    return whole[:start] + whole[start + size :]
