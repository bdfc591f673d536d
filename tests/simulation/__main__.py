"""Run simulated worlds: `python -m tests.simulation --help`.

Every world is told by its seed. The first failures are printed with their seeds; `--seed` runs one
world again, exactly as it was, and says what happened in it; `--shrink` makes it smaller first.
"""

import argparse
import os
import subprocess
import sys

from tests.simulation.mutants import MUTANTS
from tests.simulation.scenario import draw
from tests.simulation.shrink import shrink
from tests.simulation.sweep import hunt_all, sweep
from tests.simulation.world import prepared, run


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many worlds")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--seed", type=int, help="run this world only, and say what happens in it")
    parser.add_argument("--shrink", action="store_true", help="make the failing world smaller")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at failures")
    parser.add_argument("--mutants", action="store_true", help="hunt every planted bug")
    return parser.parse_args(words)


def say(line: str) -> None:
    """To whoever runs this."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def show(seed: int, smaller: bool) -> int:
    """One world, told in full. How much was wrong there."""
    scenario = draw(seed)
    with prepared():
        outcome = run(scenario)
        if smaller and outcome.violations:
            scenario, outcome = shrink(scenario, outcome)
    say(scenario.describe())
    say(f"{outcome.commands} commands, {outcome.records} records, trace {outcome.trace()}")
    for violation in outcome.violations:
        say(f"VIOLATION: {violation}")
    return len(outcome.violations)


def main(words: list[str] | None = None) -> int:
    """The command. Its exit status: 1 if any world failed, or a planted bug was not caught."""
    options = _parse(words)
    if os.environ.get("PYTHONHASHSEED") != "0":  # strings must hash alike in every run
        return subprocess.run(
            [sys.executable, "-m", "tests.simulation", *(sys.argv[1:] if words is None else words)],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=False,
        ).returncode
    if options.seed is not None:
        return min(1, show(options.seed, options.shrink))
    if options.mutants:
        caught = hunt_all(list(MUTANTS), options.seeds, options.jobs, say)
        return int(None in caught.values())
    return min(1, sweep(options.first, options.seeds, options.jobs, options.keep_going, say))


if __name__ == "__main__":
    sys.exit(main())
