"""Many worlds, spread over processes; and how many it takes until a planted bug is caught."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Final, NamedTuple

from tests.simulation.mutants import planted
from tests.simulation.scenario import draw
from tests.simulation.world import prepared, run

CHUNK: Final = 50
SHOWN: Final = 10
TELL_SECONDS: Final = 30.0


class Counted(NamedTuple):
    """What came of some worlds."""

    worlds: int
    commands: int
    records: int
    failed: list[tuple[int, list[str]]]
    """Seeds, and what was wrong there."""


def run_seeds(first: int, end: int, mutant: str | None = None) -> Counted:
    """Worlds from seed `first` to before `end`; with a planted bug, up to the first that fails."""
    failed = []
    worlds = commands = records = 0
    with prepared(), planted(mutant) if mutant else nullcontext():
        for seed in range(first, end):
            worlds += 1
            try:
                outcome = run(draw(seed))
            except Exception as error:  # a world that cannot be run tells what it should not
                failed.append((seed, [f"the world itself failed: {error!r}"]))
                continue
            commands += outcome.commands
            records += outcome.records
            if outcome.violations:
                failed.append((seed, outcome.violations))
                if mutant:
                    break
    return Counted(worlds, commands, records, failed)


def spans(first: int, count: int) -> Iterator[tuple[int, int]]:
    for begin in range(first, first + count, CHUNK):
        yield begin, min(begin + CHUNK, first + count)


def processes(jobs: int) -> ProcessPoolExecutor:
    """Interpreters of their own, in which strings hash alike."""
    assert os.environ.get("PYTHONHASHSEED") == "0", "worlds would not be repeatable"
    return ProcessPoolExecutor(jobs, get_context("spawn"))


def sweep(first: int, count: int, jobs: int, keep_going: bool, tell: Callable[[str], None]) -> int:
    """Run `count` worlds and `tell` how it goes. How many failed."""
    started = told = time.monotonic()
    done = commands = records = failures = 0
    with processes(jobs) as pool:
        runs = [pool.submit(run_seeds, *span) for span in spans(first, count)]
        for each in as_completed(runs):
            counted = each.result()
            done, commands = done + counted.worlds, commands + counted.commands
            records += counted.records
            for seed, violations in counted.failed:
                failures += 1
                if failures <= SHOWN:
                    tell(f"seed {seed}: {violations[0][:400]}")
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                tell(f"{done} worlds in {told - started:.0f} s, {failures} failed")
            if failures and not keep_going:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    seconds = time.monotonic() - started
    tell(
        f"{done} worlds, {commands} commands, {records} records in {seconds:.1f} s"
        f" ({done / seconds:.0f} worlds/s, {jobs} processes): {failures} failed"
    )
    return failures


def hunt(mutant: str, seeds: int, first: int = 0) -> tuple[int, str] | None:
    """The first seed in whose world the planted bug is caught, and how it shows."""
    failed = run_seeds(first, first + seeds, mutant).failed
    return (failed[0][0], failed[0][1][0]) if failed else None


def hunt_all(
    mutants: list[str], seeds: int, jobs: int, tell: Callable[[str], None]
) -> dict[str, tuple[int, str] | None]:
    """The same for all of them; `tell` of each."""
    found = {}
    with processes(jobs) as pool:
        hunts = {pool.submit(hunt, mutant, seeds): mutant for mutant in mutants}
        for each in as_completed(hunts):
            mutant = hunts[each]
            found[mutant] = caught = each.result()
            word = f"caught by seed {caught[0]}: {caught[1][:160]}" if caught else "NOT CAUGHT"
            tell(f"{mutant}: {word}")
    return found
