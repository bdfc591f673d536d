"""Writes an edition of what today's engine writes: `PYTHONHASHSEED=0 python -m tests.golden.make`.

By hand (`tests.golden.written`), by a seeded walk that the naive model follows, and by real owners
that come and go on a journal in memory. Buckets are picked by Python's own hash of strings, so the
order of a snapshot's entries is the same again only under the same hash seed.
"""

import asyncio
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import patch

from actors.journal import Entry
from actors.marks import Marks, marks_path
from engine import formats, limits
from engine.codec import Position
from engine.messages import PROTOCOL_VERSION, Command
from engine.shard import Shard
from tests.actors.trial import TimelessLoop, Trial, replayed
from tests.engine.comparison import Comparison
from tests.engine.traffic import Traffic
from tests.golden.editions import (
    ROOT,
    Edition,
    Manifest,
    editions,
    facts_of,
    schema,
)
from tests.golden.samples import encoded_frames, frames
from tests.golden.written import written

SEED: Final = 20_261_124
WALK_RECORDS: Final = 2_000
LIVES: Final = 5
COMMANDS_PER_LIFE: Final = 400
MARKS: Final = {
    0: [(Position(1, 3), 0x11111111)],
    1: [(Position(2, 9), 0x22222222), (Position(3, 0), 0x33333333)],
    limits.SHARDS_MAX - 1: [(Position(2**40, 2**50), 0xFFFFFFFF)],
}
"""Shard → the marks that were written of it, one after the other."""


def walk(random: Random) -> tuple[Comparison, list[Command]]:
    """Commands, time, crashes and snapshots as they come; and the commands alone."""
    comparison, traffic = Comparison(), Traffic(random)
    commands = traffic.opening()
    for command in commands:
        comparison.do(command)
    while len(comparison.journal) < WALK_RECORDS:
        match random.randrange(2_000):
            case 0:
                comparison.crash(lose=random.randrange(2) == 0)
            case step if step < 4:
                comparison.cut()
            case step if step < 600:
                kind = random.choice(["still", "second", "second", "due", "due", "window"])
                comparison.next_batch(kind, random.randrange(100))
            case _:
                commands.append(traffic.command(comparison.model))
                comparison.do(commands[-1])
    comparison.close()
    comparison.check()
    return comparison, commands


async def live(trial: Trial, commands: list[Command], random: Random) -> None:
    """Owners come and go, in order or not, and snapshots are taken and the journal trimmed."""
    for _ in range(LIVES):
        life = await trial.serve()
        for _ in range(COMMANDS_PER_LIFE):
            life.send(commands.pop(0))
            if random.randrange(2):
                await asyncio.sleep(random.randrange(1, 2_000) / 1_000)
        await asyncio.sleep(10)
        if random.randrange(2):
            await life.stop()
        else:
            await life.crash()


def trimmed(directory: Path, commands: list[Command]) -> tuple[Trial, list[Entry]]:
    """A history of real owners; and what stands in the stream at its end."""
    trial = Trial(directory)
    with (
        patch.object(limits, "SNAPSHOT_AFTER_EVENTS", 24),
        patch.object(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 3),
        asyncio.Runner(loop_factory=TimelessLoop) as runner,
    ):
        runner.run(live(trial, commands, Random(SEED)))
    return trial, trial.store.entries()


async def marked(directory: Path) -> bytes:
    """A file of marks."""
    for number in range(max(map(len, MARKS.values()))):
        marks = Marks(directory)
        for shard, noted in MARKS.items():
            if number < len(noted):
                marks.note(shard, *noted[number])
        await marks.write()
    return marks_path(directory).read_bytes()


def make(edition: Edition) -> None:
    """Write all files of the edition, whose directory is empty."""
    scribe = written()
    edition.put_journal("written", scribe.entries)
    edition.put_chunks("written", scribe.chunks)
    comparison, commands = walk(Random(SEED))
    walked = [Entry(*each) for each in comparison.journal]
    edition.put_journal("walked", walked)
    with TemporaryDirectory() as directory:
        trial, tail = trimmed(Path(directory, "marks"), commands)
        edition.put_marks(asyncio.run(marked(Path(directory, "others"))))
    edition.put_journal("trimmed", tail)
    chunks = [(key.rpartition("chunk:")[2], data) for key, data in trial.store.chunks.items()]
    edition.put_chunks("trimmed", chunks)
    edition.put_archive(tail, chunks)
    edition.put_frames(encoded_frames())
    edition.put_manifest(manifest_of(edition, scribe.shard, comparison.shard, trial))


def manifest_of(edition: Edition, scribed: Shard, walked: Shard, trial: Trial) -> Manifest:
    shards = (scribed, walked, replayed(trial.store.records(), 0, 1))
    journals = ("written", "walked", "trimmed")
    return Manifest(
        formats.FORMAT,
        PROTOCOL_VERSION,
        schema(),
        {
            name: facts_of(edition.journal(name), shard)
            for name, shard in zip(journals, shards, strict=True)
        },
        {str(shard): f"{noted[-1][0]} {noted[-1][1]:08x}" for shard, noted in MARKS.items()},
        len(frames()),
        edition.facts(),
        edition.archived(),
    )


def main() -> None:
    if sys.flags.hash_randomization:
        raise SystemExit("run it with PYTHONHASHSEED=0, so that it can be made again")
    numbers = [each.order[1] for each in editions() if each.order[0] == formats.FORMAT]
    edition = Edition(ROOT / f"v{formats.FORMAT}-{max(numbers, default=-1) + 1}")
    edition.path.mkdir()
    make(edition)
    size = sum(facts.bytes for facts in edition.manifest().files.values())
    sys.stdout.write(f"{edition.name}: {size} bytes\n")


if __name__ == "__main__":
    main()
