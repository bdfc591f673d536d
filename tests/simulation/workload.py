"""What the clients of a simulated world ask for: a seeded list of commands, each at its time.

Nobody in the world knows what will come of a command, so the list is made beforehand, from lives as
they are hoped to go: a reservation is made, perhaps extended, committed or released or left to
expire, shipped, cancelled, restocked, moved; stock comes, is counted and transferred. Then what
clients really do is done to that list: commands are sent again, over other connections, early, late
and with another content under the same name. Names are few, numbers small, and stock is short.
"""

from random import Random
from typing import Final, NamedTuple

import msgspec

from engine import limits
from engine.messages import (
    UNKNOWN_HOME,
    Adjust,
    Audit,
    Cancel,
    ChannelPolicy,
    Command,
    Commit,
    Count,
    Extend,
    GetAvailability,
    GetReservation,
    GetStock,
    LineMove,
    LineRequest,
    ListShortfalls,
    MoveLines,
    Policy,
    Receive,
    Release,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    Transfer,
)
from engine.placement import home_of, shard_of
from tests.simulation.loop import SECOND

PLACES: Final = ("north", "south", "west")
POOLS: Final = ("few", "many")
CHANNELS: Final = (None, "shop", "trade")
TTLS: Final = ((1, 1, 1, 2, 3, 600), (1, 1, 1, 2, 3, 600), (1,), (1, 2))
"""What is asked for in one world: where there is little choice, much falls due together."""


class Step(NamedTuple):
    """One command of one client."""

    at: int
    client: int
    command: Command


def skus_of(shards: int, each: int) -> list[str]:
    """So many SKUs for every shard."""
    found: dict[int, list[str]] = {shard: [] for shard in range(shards)}
    number = 0
    while any(len(names) < each for names in found.values()):
        name = f"s{number}"
        number += 1
        names = found[shard_of(name, shards)]
        if len(names) < each:
            names.append(name)
    return [name for names in found.values() for name in names]


def changed(command: Command, random: Random) -> Command:
    """The same name for another request, where there is such a thing."""
    match command:
        case Reserve() if random.randrange(2):
            line = command.lines[0]
            other = LineRequest(line.sku, line.quantity + 1, line.location)
            return msgspec.structs.replace(command, lines=[other, *command.lines[1:]])
        case Reserve() | Extend():
            return msgspec.structs.replace(command, ttl_seconds=command.ttl_seconds + 1)
        case Receive() | Adjust() | Count() | Transfer():
            return msgspec.structs.replace(command, quantity=command.quantity + 1)
        case Ship() | Cancel() | Restock():
            sku = f"s{random.randrange(4)}"
            return msgspec.structs.replace(command, lines=[LineRequest(sku, 1, "north")])
    return command


class Workload:
    """Draws one list of steps."""

    def __init__(self, random: Random, shards: int, clients: int, horizon: int, lives: int) -> None:
        """`horizon`: nanoseconds in which it all begins; `lives`: how many reservations."""
        self._random = random
        self._shards = shards
        self._clients = clients
        self._horizon = horizon
        self._lives = lives
        self._ttls = random.choice(TTLS)
        self.skus = skus_of(shards, random.choice((1, 1, 2)))
        self._steps: list[Step] = []
        self._keys = 0

    def draw(self) -> list[Step]:
        """All steps, in the order of their times."""
        random = self._random
        for step in self._opening():
            self._add(0, step)
        for number in range(self._lives):
            self._life(f"r{number}", random.randrange(self._horizon))
        for _ in range(random.randrange(max(2, self._lives // 2))):
            self._add(random.randrange(self._horizon), self._movement())
        for _ in range(random.randrange(max(2, self._lives // 3))):
            self._add(random.randrange(self._horizon), self._read())
        self._repeat()
        self._steps.sort(key=lambda step: step.at)
        return self._steps

    # --- the pieces --------------------------------------------------------------------------

    def _chance(self, one_in: int) -> bool:
        return self._random.random() * one_in < 1

    def _some(self, most: int = 3) -> int:
        return 1 + int(self._random.random() * most)

    def _add(self, at: int, command: Command) -> None:
        self._steps.append(Step(at, self._random.randrange(self._clients), command))

    def _soon(self, at: int, seconds: float = 0.3) -> int:
        """Some time after `at`; now and then at once, so that two commands race."""
        return at if self._chance(5) else at + int(self._random.random() * seconds * SECOND)

    def _key(self) -> str | None:
        if self._chance(8):
            return None
        self._keys += 1
        return f"k{self._random.randrange(self._keys) if self._chance(8) else self._keys}"

    def _opening(self) -> list[Command]:
        random = self._random
        commands: list[Command] = []
        for sku in self.skus:
            for place in PLACES[: self._some(3)]:
                commands.append(Receive(sku, place, self._some(4), key=self._key()))
        if self._chance(2):
            pools = {pool: random.randrange(3) for pool in POOLS[: self._some(2)]}
            commands += [SetStock(sku, {}, pools) for sku in self.skus]
            for shard in range(self._shards):
                places = random.sample(PLACES, 2) if self._chance(3) else None
                common = not self._chance(4)
                policy = ChannelPolicy(places, list(POOLS), common, random.choice((0, 0, 1)))
                commands.append(SetChannel(shard, "trade", policy))
        return commands

    def _lines(self) -> list[LineRequest]:
        """Lines of one shard, but now and then of several."""
        sku = self._random.choice(self.skus)
        shard = shard_of(sku, self._shards)
        mates = [name for name in self.skus if shard_of(name, self._shards) == shard]
        lines = [LineRequest(sku, self._some(), self._place())]
        while self._chance(4):
            other = self.skus if self._chance(20) else mates
            lines.append(LineRequest(self._random.choice(other), self._some(), self._place()))
        return lines

    def _place(self) -> str | None:
        return self._random.choice(PLACES) if self._chance(4) else None

    def _home(self, lines: list[LineRequest]) -> int:
        """What a caller says of the home: mostly nothing or the truth."""
        drawn = self._random.random()
        if drawn < 0.5:
            return UNKNOWN_HOME
        if drawn < 0.95:
            return home_of([line.sku for line in lines], self._shards)
        return self._random.randrange(self._shards)

    def _life(self, name: str, at: int) -> None:
        """One reservation, from its beginning to some end."""
        random = self._random
        lines = self._lines()
        ttl = random.choice(self._ttls)
        policy = random.choice((Policy.ALL, Policy.ALL, Policy.PARTIAL))
        self._add(at, Reserve(name, lines, random.choice(CHANNELS), ttl, policy))
        at = self._soon(at)
        if self._chance(4):
            longer = random.choice((*self._ttls, 30))
            self._add(at, Extend(name, longer, self._home(lines)))
            at = self._soon(at)
        if self._chance(10):
            self._add(at, self._move(name, lines))
        fate = random.random()
        if fate < 0.2:
            return  # it expires
        if fate < 0.35:
            bury = self._chance(3)
            self._add(at, Release(name, self._home(lines), bury=bury))
            return
        if fate < 0.5:
            edge = (ttl % 600) * SECOND + random.randrange(-SECOND // 100, SECOND // 100)
            at = max(0, at + edge)  # about when it expires
        part = lines[:1] if self._chance(5) else None
        self._add(at, Commit(name, self._home(lines), part, if_available=self._chance(3)))
        while self._chance(2):
            at = self._soon(at)
            self._add(at, self._afterwards(name, lines))

    def _afterwards(self, name: str, lines: list[LineRequest]) -> Command:
        if self._chance(5):
            return self._move(name, lines)
        line = lines[0]
        units = [LineRequest(line.sku, 1, None)] if self._chance(2) else None
        kinds: tuple[type[Ship | Cancel | Restock], ...] = (Ship, Ship, Cancel, Restock)
        return self._random.choice(kinds)(name, self._home(lines), units, self._key())

    def _move(self, name: str, lines: list[LineRequest]) -> Command:
        origin, target = self._random.sample(PLACES, 2)
        move = LineMove(lines[0].sku, origin, target, self._some(2))
        return MoveLines(name, [move], self._home(lines), self._key())

    def _movement(self) -> Command:
        random = self._random
        sku, place = random.choice(self.skus), random.choice(PLACES)
        match random.randrange(8):
            case 0 | 1 | 2:
                return Receive(sku, place, self._some(), key=self._key())
            case 3:
                return Adjust(sku, place, random.choice((-2, -1, 1, 2)), key=self._key())
            case 4:
                return Count(sku, place, random.randrange(5), key=self._key())
            case 5 | 6:
                return Transfer(sku, place, random.choice(PLACES), self._some(2), key=self._key())
        return SetStock(sku, {place: random.randrange(3)}, {})

    def _read(self) -> Command:
        sku = self._random.choice(self.skus)
        match self._random.randrange(8):
            case 0 | 1:
                return GetStock(sku)
            case 2 | 3:
                return GetAvailability(sku, self._random.choice(CHANNELS))
            case 4:
                shard = self._random.randrange(self._shards)
                return self._random.choice((Audit(shard), ListShortfalls(shard)))
        return GetReservation(f"r{self._random.randrange(self._lives)}")

    # --- what clients do ---------------------------------------------------------------------

    def _repeat(self) -> None:
        """Commands are sent again: at once, a while later, changed, or before the first time."""
        for step in list(self._steps):
            if not self._chance(5):
                continue
            command = changed(step.command, self._random) if self._chance(4) else step.command
            if getattr(command, "key", "") is None:
                continue  # it would count again, and so is another command
            away = self._random.choice((0, 0, 0.001, 0.05, 0.5, 2.5))
            at = step.at + int(away * SECOND * self._random.random())
            self._add(at - SECOND // 50 if self._chance(10) and at > SECOND else at, command)


def final_reads(
    skus: list[str], shards: int, steps: list[Step], *, are_homes_known: bool
) -> list[Command]:
    """What everybody looks at when all is over: every SKU, and every reservation where it is."""
    homes: dict[str, int] = {}
    for step in steps:
        command = step.command
        if isinstance(command, Reserve):
            home = UNKNOWN_HOME
            if are_homes_known:
                home = home_of([line.sku for line in command.lines], shards)
            homes.setdefault(command.reservation_id, home)
    reads: list[Command] = [GetStock(sku) for sku in skus]
    return reads + [GetReservation(name, home) for name, home in homes.items()]


assert max(map(max, TTLS)) <= limits.TTL_SECONDS_MAX
