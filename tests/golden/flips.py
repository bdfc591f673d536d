"""Damages everything that is stored, and counts what came of it: `python -m tests.golden.flips`.

Each damaged thing is read by who reads it in production, and what comes of that is one of

    refused      by an error that names shard and record, chunk or slot, or file and place, and why
    identical    the same state, record by record, as before the damage
    different    served, and something else: must not be
    broke        anything else: must not be

What somebody does on purpose, and makes the checksum right again, is called "resealed". An owner
who has a mark, or a gateway that remembers, is told from one who has nothing but the journal.
"""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import structlog

from actors.appender import FencedError, RegressedError
from actors.archive_file import CorruptArchiveError
from actors.claim import GenesisError
from actors.marks import CorruptMarkError
from engine.codec import CorruptRecordError
from engine.snapshot import CorruptSnapshotError
from tests.golden.damage import RESEALED
from tests.golden.editions import editions
from tests.golden.subjects import Archived, Attempt, Chunks, Journal, Slots, Unmarked

REFUSED, IDENTICAL, DIFFERENT, BROKE = OUTCOMES = ("refused", "identical", "different", "broke")
SEED: Final = 7
_REFUSALS: Final = (
    CorruptRecordError,
    CorruptSnapshotError,
    CorruptMarkError,
    CorruptArchiveError,
    RegressedError,
    GenesisError,
    FencedError,
)
_PLACE: Final = re.compile(r"shard \d+[,:] \S|/marks: (at \d+: |\d+ bytes)|/archive/\S+: \S+.*: \S")


class Where(NamedTuple):
    """A line of the table."""

    kind: str
    damage: str
    region: str


class Table:
    """How often what came of what, and an example of each."""

    def __init__(self) -> None:
        self.counts: dict[Where, Counter[str]] = {}
        self.findings: dict[Where, str] = {}

    def run(self, kind: str, attempts: Iterator[Attempt], whole: object) -> None:
        """Try them all."""
        for damage, region, serve in attempts:
            where = Where(kind, damage, region)
            outcome, said = judge(serve, whole)
            self.counts.setdefault(where, Counter())[outcome] += 1
            if outcome in (DIFFERENT, BROKE):
                self.findings.setdefault(where, said)

    def where(self, outcome: str) -> set[Where]:
        """The lines in which it happened."""
        return {where for where, counts in self.counts.items() if counts[outcome]}

    def by_group(self) -> dict[tuple[str, str], Counter[str]]:
        """Summed up over regions and over what is much the same damage."""
        sums: dict[tuple[str, str], Counter[str]] = {}
        for where, counts in self.counts.items():
            sums.setdefault((where.kind, group_of(where.damage)), Counter()).update(counts)
        return sums

    def lines(self) -> Iterator[str]:
        """Two tables in Markdown, summed up and by region; and examples of what is different."""
        yield from _rows(["stored", "damage"], self.by_group())
        yield ""
        yield from _rows(["stored", "damage", "region"], self.counts)
        for where, said in self.findings.items():
            yield f"{', '.join(where)}: {said}"


def group_of(damage: str) -> str:
    """Of what kind it is: by itself, by whoever put pieces elsewhere, or on purpose."""
    if RESEALED in damage:
        return "resealed"
    by_itself = damage.startswith(("bit", "two bits", "burst", "cut off"))
    return "bits, bursts, cuts" if by_itself else "missing, misplaced"


def _rows(heads: list[str], counts: Mapping[Any, Counter[str]]) -> Iterator[str]:
    yield f"| {' | '.join((*heads, *OUTCOMES))} |"
    yield f"|{'---|' * len(heads)}{'---:|' * len(OUTCOMES)}"
    for where, each in counts.items():
        yield f"| {' | '.join((*where, *(f'{each[outcome]:,}' for outcome in OUTCOMES)))} |"


def judge(serve: Callable[[], object], whole: object) -> tuple[str, str]:
    """What comes of serving what was damaged, and what there is to say about it."""
    try:
        served = serve()
    except Exception as error:  # whatever comes out is what is looked for
        said = refusal_of(error)
        return (REFUSED, said) if said else (BROKE, repr(error))
    if served == whole:
        return IDENTICAL, ""
    return DIFFERENT, f"{served!r:.200}"


def refusal_of(error: Exception) -> str:
    """What a refusal says; nothing if it is none, or does not say where."""
    is_precise = isinstance(error, _REFUSALS) and _PLACE.search(str(error))
    return str(error) if is_precise else ""


def run(every: int) -> Table:
    """Damage everything; `every`: of single bits, one of so many."""
    table, edition, random = Table(), editions()[-1], Random(SEED)
    with quiet(), TemporaryDirectory() as directory, asyncio.Runner() as runner:
        journal = Journal(edition, "written", runner)
        unmarked = Unmarked(edition, "written", runner)
        chunks = Chunks(edition, "trimmed", runner)
        slots = Slots(journal, Path(directory))
        segment = Archived(chunks, Path(directory, "archive", "1"), segment=True)
        kept = Archived(chunks, Path(directory, "archive", "2"), segment=False)
        subjects: list[tuple[str, Any]] = [
            ("record", journal),
            ("record, no mark", unmarked),
            ("chunk", chunks),
            ("mark", slots),
            ("archived segment", segment),
            ("archived snapshot", kept),
        ]
        for kind, subject in subjects:
            table.run(kind, subject.attempts(random, every), subject.whole)
    return table


@contextmanager
def quiet() -> Iterator[None]:
    """Owners log what they miss, and here they miss something thousands of times."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.reset_defaults()


def main() -> None:
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    for line in run(every).lines():
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
