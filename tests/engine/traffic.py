"""Random commands that meet: few names, small numbers, mostly about what is there.

`Traffic` draws from a seeded generator and looks at the model to aim: most commands concern a
reservation whose state lets them through, the rest anything at all, retries and changed retries.
"""

from random import Random
from typing import Final

import msgspec

from engine.messages import (
    Adjust,
    Cancel,
    ChannelPolicy,
    Command,
    Commit,
    Count,
    Extend,
    LineMove,
    LineRequest,
    MoveLines,
    Policy,
    Receive,
    Release,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    State,
    Transfer,
)
from tests.engine.comparison import CHANNELS, NAMES, SKUS, UNKNOWN_SKU
from tests.engine.model import Model

PLACES: Final = ["north", "south", "west"]
POOLS: Final = ["few", "many"]
FULFILLED: Final = [State.COMMITTED]
HELD: Final = [State.RESERVED]


def changed(command: Command) -> Command:
    """The same name for another request, where there is such a thing."""
    match command:
        case Reserve() | Extend():
            return msgspec.structs.replace(command, ttl_seconds=command.ttl_seconds + 1)
        case Receive() | Adjust() | Count() | Transfer():
            return msgspec.structs.replace(command, reason="another")
        case Ship() | Cancel() | Restock():
            return msgspec.structs.replace(command, lines=[LineRequest("apple", 1, "north")])
        case MoveLines():
            return msgspec.structs.replace(command, moves=command.moves * 2)
    return command


class Traffic:
    """An endless, seeded stream of commands."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.sent: list[Command] = []

    def opening(self) -> list[Command]:
        """A shop to start from: stock in every place, pools, and channels that draw from them."""
        stock = [Receive(sku, place, 2 * self.some()) for sku in SKUS for place in PLACES]
        pools = [SetStock(sku, {}, {pool: self.some() for pool in POOLS}) for sku in SKUS]
        both = [SetChannel(0, name, ChannelPolicy(pools=POOLS)) for name in CHANNELS]
        return [*stock, *pools, *both]

    def command(self, model: Model) -> Command:
        if self.sent and self.chance(10):
            command = self.random.choice(self.sent[-20:])
            return changed(command) if self.chance(2) else command
        kinds = [self.reserve, self.commit, self.fulfil, self.fulfil, self.stock, self.hold]
        self.sent.append(self.random.choice(kinds)(model))
        return self.sent[-1]

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def some(self, most: int = 4) -> int:
        return self.random.randint(1, most)

    def sku(self) -> str:
        return UNKNOWN_SKU if self.chance(25) else self.random.choice(SKUS)

    def place(self) -> str:
        return "nowhere" if self.chance(25) else self.random.choice(PLACES)

    def channel(self) -> str | None:
        return self.random.choice([None, *CHANNELS])

    def scope(self) -> str | None:
        return self.channel() if self.chance(10) else None

    def key(self) -> str | None:
        return f"key-{self.random.randrange(30)}" if self.chance(3) else None

    def name(self, model: Model, states: list[State]) -> str:
        fitting = [name for name in NAMES if name in model.reservations]
        fitting = [name for name in fitting if model.reservations[name].state in states]
        return self.random.choice(NAMES if self.chance(10) or not fitting else fitting)

    def requests(self) -> list[LineRequest]:
        lines = range(self.some(3))
        place = [self.place() if self.chance(3) else None for _ in lines]
        return [LineRequest(self.sku(), self.some(), place[line]) for line in lines]

    def units(self, model: Model, name: str) -> list[LineRequest] | None:
        """Units of the reservation's own lines, or anything, or everything."""
        if self.chance(3):
            return None
        if name not in model.reservations or self.chance(8):
            return self.requests()
        lines = [line for line in model.reservations[name].lines if not self.chance(2)]
        parts = [(line.sku, part) for line in lines for part in line.parts if not self.chance(3)]
        return [
            LineRequest(sku, self.some(part.quantity), part.location if self.chance(2) else None)
            for sku, part in parts
        ] or None

    def reserve(self, model: Model) -> Command:
        fresh = [name for name in NAMES if name not in model.reservations]
        name = self.random.choice(fresh if fresh and not self.chance(10) else NAMES)
        ttl = self.random.choice([1, 4, 6, 60, 600])
        policy = self.random.choice(list(Policy))
        return Reserve(name, self.requests(), self.channel(), ttl, policy)

    def commit(self, model: Model) -> Command:
        late = self.chance(2)
        name = self.name(model, [State.EXPIRED] if late else HELD)
        return Commit(name, lines=self.units(model, name), if_available=late, scope=self.scope())

    def hold(self, model: Model) -> Command:
        name = self.name(model, HELD)
        if self.chance(2):
            return Release(name, bury=self.chance(4), scope=self.scope())
        return Extend(name, self.random.choice([1, 30, 900]), scope=self.scope())

    def fulfil(self, model: Model) -> Command:
        if self.chance(5):
            name = self.name(model, FULFILLED + HELD)
            return MoveLines(name, self.moves(model, name), key=self.key(), scope=self.scope())
        kinds: list[type[Ship | Cancel | Restock]] = [Ship, Ship, Cancel, Restock]
        name = self.name(model, FULFILLED)
        lines = self.units(model, name)
        return self.random.choice(kinds)(name, lines=lines, key=self.key(), scope=self.scope())

    def moves(self, model: Model, name: str) -> list[LineMove]:
        known = model.reservations.get(name)
        parts = [(line.sku, part) for line in (known.lines if known else []) for part in line.parts]
        if not parts or self.chance(10):
            return [LineMove(self.sku(), self.place(), self.place(), self.some())]
        return [
            LineMove(sku, part.location, self.place(), self.some(min(2, part.quantity)))
            for sku, part in self.random.choices(parts, k=self.some(2))
        ]

    def stock(self, model: Model) -> Command:
        sku, place, key = self.sku(), self.place(), self.key()
        match self.random.randrange(10):
            case 0 | 1 | 2 | 3:
                return Receive(sku, place, self.some(), key=key)
            case 4:
                return Adjust(sku, place, self.random.randint(-3, 4), key=key)
            case 5:
                expected = self.random.choice([None, None, model.on_hand(sku, place), 3])
                seen = model.skus[sku].physical_version if sku in model.skus else 0
                version = self.random.choice([None, None, seen, 1])
                quantity = self.random.randrange(6)
                return Count(sku, place, quantity, "", "", expected, version, key=key)
            case 6 | 7:
                return Transfer(sku, place, self.place(), self.some(), key=key)
            case 8:
                safety = {self.place(): self.random.randrange(3) for _ in range(self.some(2))}
                pools = {self.random.choice(POOLS): self.random.randrange(5)}
                return SetStock(sku, safety, {} if self.chance(2) else pools)
        places = self.random.sample([*PLACES, "nowhere"], 3)
        return SetChannel(
            0,
            self.random.choice(CHANNELS),
            ChannelPolicy(
                None if self.chance(2) else places[: self.random.randrange(4)],
                self.random.sample(POOLS, self.random.randrange(3)),
                not self.chance(4),
                self.random.choice([0, 0, 0, 1, 2]),
            ),
        )
