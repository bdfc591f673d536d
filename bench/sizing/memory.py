"""Memory per entry: of a host that holds it, and of the journal's server that keeps its snapshot.

Each kind is measured in a process of its own, which has done nothing else: a shard is filled with
so many entries through the same rules that serve, and what its resident memory grew by is divided
by their number. Then a snapshot is taken, as for the journal. Ids are as long as those that a
gateway mints, names of SKUs have 16 characters.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from engine import limits
from engine.codec import START, Position
from engine.messages import Command, Commit, LineRequest, Receive, Release, Reserve, Ship, Status
from engine.shard import Shard
from engine.snapshot import SnapshotWriter

SKUS: Final = 10_000
BATCH: Final = 1_000
START_US: Final = 1_700_000_000 * limits.SECOND_US
LOCATION: Final = "warehouse"
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Kind(NamedTuple):
    """A sort of entry, and the commands that make the one of a number."""

    name: str
    commands: Callable[[int], list[Command]]
    stocked: bool = True
    """Whether there are SKUs before, to reserve of."""


class Cost(NamedTuple):
    """Bytes per entry."""

    name: str
    resident: float
    snapshot: float


def _reserve(number: int, lines: int = 1) -> Command:
    wanted = [LineRequest(_sku(number + line), 1) for line in range(lines)]
    return Reserve(_id(number), wanted, ttl_seconds=limits.TTL_SECONDS_MAX)


def _id(number: int) -> str:
    return f"0192f0c1-7a5e-7c43-b1c4-{number:012x}"


def _sku(number: int) -> str:
    return f"sku-{number % SKUS:012}"


def _receive(number: int, place: str = LOCATION, key: str | None = None) -> Command:
    return Receive(f"sku-{number:012}", place, 1_000_000, key=key)


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("SKU at one location", lambda n: [_receive(n)], stocked=False),
        Kind(
            "SKU at four locations",
            lambda n: [_receive(n, f"{LOCATION}-{place}") for place in range(4)],
            stocked=False,
        ),
        Kind("reservation, open", lambda n: [_reserve(n)]),
        Kind("reservation of five lines, open", lambda n: [_reserve(n, 5)]),
        Kind("reservation, committed", lambda n: [_reserve(n), Commit(_id(n), 0)]),
        Kind("reservation, shipped", lambda n: [_reserve(n), Commit(_id(n), 0), Ship(_id(n), 0)]),
        Kind("reservation, released", lambda n: [_reserve(n), Release(_id(n), 0)]),
        Kind("key of a movement", lambda n: [_receive(n % SKUS, key=_id(n))]),
    )
}


def measure(name: str, entries: int) -> Cost:
    """One kind, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_here, (name, entries))


def measure_here(name: str, entries: int) -> Cost:
    """One kind, in this very process."""
    kind = KINDS[name]
    shard = Shard(0, 1)
    if kind.stocked:
        _run(shard, (_receive(number) for number in range(SKUS)))
    snapshot, resident = _snapshot(shard), _resident()
    _run(shard, (each for number in range(entries) for each in kind.commands(number)))
    grown = _resident() - resident
    return Cost(name, grown / entries, (_snapshot(shard) - snapshot) / entries)


def _run(shard: Shard, commands: Iterator[Command]) -> None:
    """Batch after batch, as an owner does it."""
    now, waiting = START_US, True
    while waiting:
        shard.begin(now)
        waiting = False
        for _ in range(BATCH):
            command = next(commands, None)
            if command is None:
                break
            waiting = True
            answer = shard.execute(command)
            assert answer.status is Status.OK, answer
        shard.close()
        now += 1_000


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def _snapshot(shard: Shard) -> int:
    """Bytes of a snapshot of it."""
    writer, size = SnapshotWriter(shard.state, 0, Position(1, 1), 0, START), 0
    while (chunk := writer.next_chunk()) is not None:
        size += len(chunk[1])
    return size
