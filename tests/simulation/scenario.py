"""All that is decided about a world before it begins: drawn from one seed, printable, shrinkable.

Every scenario is a swarm of its own: which sizes, which faults, how bad the network is and how soon
snapshots are due is drawn first, so that one seed is all about expiry and another all about zombies
(Groce et al., "Swarm Testing", 2012). Most are small, of one shard and a reservation or two,
because small worlds find most of what there is to find, and many more of them fit into a minute.
"""

from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Final, NamedTuple

from engine import limits
from tests.simulation.dedications import dedicate
from tests.simulation.loop import SECOND
from tests.simulation.workload import Step, Workload


class Kind(Enum):
    """What can go wrong. The values are what is printed."""

    KILL_HOST = "kill host"
    FREEZE_HOST = "freeze host"
    STOP_HOST = "stop host in order"
    KILL_GATEWAY = "kill gateway"
    FREEZE_GATEWAY = "freeze gateway"
    KILL_SERVER = "kill server"
    FREEZE_SERVER = "freeze server"
    SLOW_DISK = "slow disk"
    FULL = "server full"
    READ_ONLY = "server refuses writes"
    ARCHIVE_FULL = "the archive's disk is full"
    BREAK = "break a connection"
    CUT = "cut"
    JUMP = "clock jumps"
    MOVE = "move a shard"
    SEIZE = "two owners"
    OLDER = "server comes back older"
    EMPTY = "server comes back empty"
    FLUSHED = "somebody empties the server"
    KILL_ALL = "kill everything"
    FREEZE_COORDINATOR = "freeze the coordinator"
    RESTART = "restart a process in order"


ROUGH: Final = (4, 5)
"""A world is rough if its seed leaves that when divided by 7. So roughness could be added without
drawing anew the worlds of the corpus, which are not."""
SMALL: Final = 0.75
"""Share of worlds of one shard and a reservation or two."""
COORDINATED: Final = 0.25
"""Share of worlds with a coordinator: they cost more."""
FOLLOWING: Final = 0.25
"""Share of worlds whose clients find the owners by themselves. They are drawn so that those in
which bugs were found before are not among them."""
DEDICATED: Final = 0.2
"""Share of worlds with dedicated shards; drawn like those."""
LOSSY: Final[tuple[Kind, ...]] = (Kind.OLDER, Kind.EMPTY, Kind.FLUSHED)
COORDINATORS: Final[tuple[Kind, ...]] = (Kind.FREEZE_COORDINATOR, Kind.RESTART)
"""What there is only where there is a coordinator."""
CONTESTED: Final[tuple[Kind, ...]] = (Kind.SEIZE, Kind.FREEZE_HOST, Kind.CUT, Kind.MOVE)
"""What leaves two owners who both think they are the one: worst when the server loses data."""


class Fault(NamedTuple):
    """Something goes wrong at `at`, for `lasts`; `draws` says to whom, and how."""

    at: int
    kind: Kind
    lasts: int
    draws: tuple[int, int]


@dataclass
class Scenario:
    """One world to be."""

    seed: int
    shards: int = 1
    dedicated: int = 0
    """Further ones, each for one SKU."""
    hosts: int = 1
    gateways: int = 1
    clients: int = 1
    coordinated: bool = False
    """The product's coordinator decides who owns what; else a registrar plays it."""
    straight: bool = False
    """Clients talk to hosts, not to gateways."""
    follows: bool = False
    """Whoever they talk to only tells clients who owns what: they send to each shard's owner."""
    deadline_ms: int = 2_000
    tuning: dict[str, int | float] = field(default_factory=dict)
    """`engine.limits` by name."""
    archives: bool = False
    """Hosts archive, all of them on one disk, and audit themselves now and then."""
    grace_us: int = 0
    windows_us: tuple[int, int, int] = (0, 0, 0)
    """How long finished reservations, keys and shipped reservations are remembered."""
    weather: tuple[int, int, float] = (0, 0, 0.0)
    fsync_ns: int = 100_000
    rough: bool = False
    """The network tears what it carries, servers fill up by degrees, threads finish what nobody
    waits for any more, and hosts that leave come back by themselves."""
    skus: list[str] = field(default_factory=list)
    lives: int = 0
    steps: list[Step] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def describe(self) -> str:
        """What is needed to understand a failure, beside the seed."""
        lines = [
            f"seed {self.seed}: {self.shards}+{self.dedicated} shards, {self.hosts} hosts,"
            f" {self.gateways} gateways,"
            f" {self.clients} clients{' straight to hosts' if self.straight else ''},"
            f"{' following the map,' if self.follows else ''}"
            f"{' archives,' if self.archives else ''}{' rough,' if self.rough else ''}"
            f"{' coordinated,' if self.coordinated else ''}"
            f" grace {self.grace_us} us, windows {self.windows_us} us, weather {self.weather},"
            f" fsync {self.fsync_ns} ns, tuning {self.tuning}",
        ]
        happenings: list[tuple[int, str]] = [
            (fault.at, f"{fault.kind.value} for {fault.lasts / SECOND:.3f} s {fault.draws}")
            for fault in self.faults
        ]
        happenings += [(step.at, f"client {step.client}: {step.command}") for step in self.steps]
        happenings.sort(key=lambda each: each[0])
        return "\n".join([*lines, *(f"  {at / SECOND:9.6f} {what}" for at, what in happenings)])


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    random = Random(seed)
    scenario = Scenario(seed, rough=seed % 7 in ROUGH)
    is_small = random.random() < SMALL
    scenario.shards = 1 if is_small else random.choice((1, 2, 2, 3))
    scenario.hosts = random.choice((1, 2) if is_small else (1, 2, 2, 3))
    scenario.gateways = 1 if is_small else random.choice((1, 1, 2))
    scenario.clients = random.choice((1, 2) if is_small else (1, 2, 3))
    scenario.straight = random.random() < (0.5 if scenario.hosts == 1 else 0.1)
    scenario.archives = random.random() < (0.15 if is_small else 0.3)
    scenario.deadline_ms = random.choice((300, 1_000, 2_500, 4_000))
    scenario.grace_us = random.choice((0, 200_000, 1_000_000))
    finished = random.choice((1, 3, 60)) * limits.SECOND_US
    keys = finished * random.choice((1, 2))
    scenario.windows_us = (finished, keys, keys * random.choice((1, 3)))
    scenario.weather = random.choice(
        ((50_000, 200_000, 0.01), (300_000, 20_000_000, 0.05), (2_000_000, 900_000_000, 0.02))
    )
    scenario.fsync_ns = random.choice((50_000, 500_000, 5_000_000))
    scenario.tuning = _tuning(random)
    horizon = random.choice((1, 2) if is_small else (1, 2, 2, 4)) * SECOND // 2
    scenario.lives = random.choice((1, 1, 2, 3) if is_small else (1, 2, 2, 3, 3, 4, 6, 12))
    workload = Workload(random, scenario.shards, scenario.clients, horizon, scenario.lives)
    scenario.skus = workload.skus
    scenario.steps = workload.draw()
    scenario.faults = _faults(random, horizon)
    _coordinate(scenario, Random(seed ^ 0xC00D), horizon)
    scenario.follows = Random(seed ^ 0xF5FD).random() < FOLLOWING
    _dedicate(scenario, Random(seed ^ 0xDEDE))
    return scenario


def _dedicate(scenario: Scenario, random: Random) -> None:
    """In some worlds some SKUs come to have a shard of their own."""
    if random.random() >= DEDICATED:
        return
    scenario.dedicated = random.choice((1, 1, 2))
    scenario.steps = dedicate(
        *(random, scenario.steps, scenario.skus),
        *(scenario.shards, scenario.dedicated, scenario.clients),
    )


def _coordinate(scenario: Scenario, random: Random, horizon: int) -> None:
    """In some worlds it is the product's coordinator that decides who owns what."""
    scenario.coordinated = random.random() < COORDINATED
    if not scenario.coordinated:
        return
    for kind in COORDINATORS:
        if random.random() < 0.4:
            at = random.randrange(horizon + SECOND // 2)
            scenario.faults.append(_fault(random, at, kind))
    scenario.faults.sort(key=lambda fault: fault.at)


def _tuning(random: Random) -> dict[str, int | float]:
    """Bounds small enough to be met."""
    buckets = random.choice((1, 4, 16))
    return {
        "BUCKETS": buckets,
        "BUCKET_MASK": buckets - 1,
        "RECOVERY_PAGE": random.choice((1, 3, 64)),
        "TICK_SECONDS": 0.2,
        "SWEEP_SECONDS": 0.04,
        "MEMORY_SECONDS": 1.0,
        "SNAPSHOT_AFTER_EVENTS": random.choice((4, 6, 12, 1_000)),
        "SNAPSHOT_SLICE_ENTRIES_MAX": random.choice((1, 2, 4_096)),
        "BATCH_COMMANDS_MAX": random.choice((1, 2, 8, 1_024)),
        "RING_BYTES_MAX": random.choice((1, 600, 8 << 20)),
        "FLIGHTS_PER_SHARD_MAX": random.choice((1, 2, 4)),
        "FORGET_PER_BATCH_MAX": random.choice((1, 2_048)),
    }


def _faults(random: Random, horizon: int) -> list[Fault]:
    """None in some worlds; in the others a few kinds, several times."""
    if random.random() < 0.15:
        return []
    usual: list[Kind] = [kind for kind in Kind if kind not in (*LOSSY, *COORDINATORS)]
    kinds = random.sample(usual, random.choice((1, 1, 2, 3, 5)))
    if random.random() < 0.12:
        kinds.append(random.choice(LOSSY))
    found = []
    for kind in kinds:
        for _ in range(random.choice((1, 1, 2, 3))):
            at = random.randrange(horizon + SECOND // 2)
            found.append(_fault(random, at, kind))
            if kind in LOSSY:
                before = max(0, at - random.randrange(SECOND))
                found.append(_fault(random, before, random.choice(CONTESTED)))
    found.sort(key=lambda fault: fault.at)
    return found


def _fault(random: Random, at: int, kind: Kind) -> Fault:
    lasts = int(random.choice((0.01, 0.1, 0.5, 2.0, 3.5)) * SECOND * random.random())
    return Fault(at, kind, lasts, (random.randrange(1 << 16), random.randrange(1 << 16)))
