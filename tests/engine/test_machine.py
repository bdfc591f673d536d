"""Hypothesis looks for the shortest commands after which engine and naive model differ.

Few SKUs, locations, channels and reservations and small numbers, so that they meet; time stands
still or steps to just before, at or after something due; snapshots are taken, crashes happen.
"""

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from tests.engine.comparison import CHANNELS, NAMES, SKUS, UNKNOWN_SKU, Comparison
from tests.engine.traffic import PLACES, POOLS, Traffic, changed

numbers = st.integers(0, 59)
"""Which of what there is, modulo how many there are."""
skus = st.sampled_from([*SKUS * 5, UNKNOWN_SKU])
places = st.sampled_from([*PLACES * 3, "nowhere"])
channels = st.sampled_from([None, *CHANNELS])
scopes = st.sampled_from([*[None] * 6, *CHANNELS])
few = st.integers(1, 4)
ttls = st.sampled_from([1, 4, 6, 60, 600])
keys = st.sampled_from([*[None] * 8, *(f"key-{number}" for number in range(8))])
requests = st.lists(
    st.builds(LineRequest, skus, few, st.none() | st.none() | places), min_size=1, max_size=3
)
named_lines = st.none() | st.none() | requests
line_moves = st.builds(LineMove, st.sampled_from(SKUS), places, places, few)
policies_of_reserve = st.sampled_from(Policy)
levels = st.integers(0, 4)
policies = st.builds(
    ChannelPolicy,
    st.none() | st.lists(places, max_size=3, unique=True),
    st.lists(st.sampled_from(POOLS), max_size=2, unique=True),
    st.booleans(),
    st.sampled_from([0, 0, 0, 1, 2]),
)


known = precondition(lambda machine: machine.both.model.reservations)


class Machine(RuleBasedStateMachine):
    """The rules by which Hypothesis composes commands, time and faults."""

    def __init__(self) -> None:
        super().__init__()
        self.both = Comparison()
        self.sent: list[Command] = []

    def do(self, command: Command) -> None:
        self.sent.append(command)
        self.both.do(command)

    def name(self, number: int, *states: State) -> str:
        """Mostly a reservation in one of the states, if there is one."""
        held = self.both.model.reservations
        fitting = [name for name in NAMES if name in held and held[name].state in states]
        return NAMES[number % 6] if number >= 50 or not fitting else fitting[number % len(fitting)]

    def lines(self, name: str, number: int, quantity: int) -> list[LineRequest]:
        """Some units of a line of the reservation, if it is known."""
        known = self.both.model.reservations.get(name)
        skus = [line.sku for line in known.lines] if known else []
        return [LineRequest(skus[number % len(skus)] if skus else SKUS[0], quantity)]

    @initialize(
        units=st.lists(st.integers(0, 8), min_size=6, max_size=6),
        pools=st.dictionaries(st.sampled_from(POOLS), levels),
        policy=policies,
        carts=st.lists(requests, min_size=1, max_size=4),
    )
    def trade(
        self,
        units: list[int],
        pools: dict[str, int],
        policy: ChannelPolicy,
        carts: list[list[LineRequest]],
    ) -> None:
        """A shop that is already in business."""
        spots = [(sku, place) for place in PLACES for sku in SKUS]
        for (sku, place), quantity in zip(spots, units, strict=True):
            if quantity:
                self.do(Receive(sku, place, quantity))
        self.do(SetStock(SKUS[0], {}, pools))
        self.do(SetChannel(0, CHANNELS[0], policy))
        for number, (name, lines) in enumerate(zip(NAMES, carts, strict=False)):
            self.do(Reserve(name, lines, [*CHANNELS, None][number % 3], 60, Policy.PARTIAL))
        self.do(Commit(NAMES[0]))
        self.do(Commit(NAMES[2]))

    @rule(number=numbers, lines=requests, channel=channels, ttl=ttls, policy=policies_of_reserve)
    def reserve(
        self, number: int, lines: list[LineRequest], channel: str | None, ttl: int, policy: Policy
    ) -> None:
        fresh = [name for name in NAMES if name not in self.both.model.reservations] or NAMES
        name = NAMES[number % 6] if number >= 50 else fresh[0]
        self.do(Reserve(name, lines, channel, ttl, policy))

    @rule(sku=st.sampled_from(SKUS), quantity=few, channel=channels, policy=policies_of_reserve)
    def order(self, sku: str, quantity: int, channel: str | None, policy: Policy) -> None:
        """What most shoppers do."""
        for name in [name for name in NAMES if name not in self.both.model.reservations][:1]:
            lines = [LineRequest(sku, quantity), LineRequest(SKUS[0], 1)]
            self.do(Reserve(name, lines, channel, policy=policy))
            self.do(Commit(name))

    @known
    @rule(number=numbers, lines=named_lines, late=st.booleans(), scope=scopes)
    def commit(
        self, number: int, lines: list[LineRequest] | None, late: bool, scope: str | None
    ) -> None:
        name = self.name(number, State.RESERVED, State.EXPIRED)
        self.do(Commit(name, lines=lines, if_available=late, scope=scope))

    @known
    @rule(number=numbers, quantity=few, late=st.booleans())
    def commit_some(self, number: int, quantity: int, late: bool) -> None:
        name = self.name(number, State.EXPIRED if late else State.RESERVED)
        self.do(Commit(name, lines=self.lines(name, number, quantity), if_available=late))

    @rule(number=numbers, bury=st.booleans(), scope=scopes)
    def release(self, number: int, bury: bool, scope: str | None) -> None:
        self.do(Release(self.name(number, State.RESERVED), bury=bury, scope=scope))

    @known
    @rule(number=numbers, ttl=ttls, scope=scopes)
    def extend(self, number: int, ttl: int, scope: str | None) -> None:
        self.do(Extend(self.name(number, State.RESERVED), ttl, scope=scope))

    @known
    @rule(
        kind=st.sampled_from([Ship, Cancel, Restock]),
        number=numbers,
        lines=named_lines,
        key=keys,
        scope=scopes,
    )
    def fulfil(
        self,
        kind: type[Ship | Cancel | Restock],
        number: int,
        lines: list[LineRequest] | None,
        key: str | None,
        scope: str | None,
    ) -> None:
        self.do(kind(self.name(number, State.COMMITTED), lines=lines, key=key, scope=scope))

    @known
    @rule(
        kind=st.sampled_from([Ship, Cancel, Restock]),
        number=numbers,
        quantity=st.integers(1, 2),
        place=st.none() | places,
        key=keys,
    )
    def fulfil_some(
        self,
        kind: type[Ship | Cancel | Restock],
        number: int,
        quantity: int,
        place: str | None,
        key: str | None,
    ) -> None:
        name = self.name(number, State.COMMITTED)
        (line,) = self.lines(name, number, quantity)
        self.do(kind(name, lines=[LineRequest(line.sku, quantity, place)], key=key))

    @known
    @rule(number=numbers, moves=st.lists(line_moves, min_size=1, max_size=2), key=keys)
    def move(self, number: int, moves: list[LineMove], key: str | None) -> None:
        self.do(MoveLines(self.name(number, State.RESERVED, State.COMMITTED), moves, key=key))

    @known
    @rule(number=numbers, place=places, quantity=few, key=keys)
    def move_some(self, number: int, place: str, quantity: int, key: str | None) -> None:
        name = self.name(number, State.RESERVED, State.COMMITTED)
        if name in self.both.model.reservations:
            spots = [
                (line.sku, part)
                for line in self.both.model.reservations[name].lines
                for part in line.parts
            ]
            for sku, part in spots[number % 2 :][:1]:
                moves = [LineMove(sku, part.location, place, quantity)]
                self.do(MoveLines(name, moves, key=key))

    @rule(sku=skus, place=places, quantity=few, key=keys)
    def receive(self, sku: str, place: str, quantity: int, key: str | None) -> None:
        self.do(Receive(sku, place, quantity, key=key))

    @rule(sku=skus, place=places, quantity=st.integers(-4, 4), key=keys)
    def adjust(self, sku: str, place: str, quantity: int, key: str | None) -> None:
        self.do(Adjust(sku, place, quantity, key=key))

    @rule(
        sku=skus,
        place=places,
        quantity=levels,
        expected=st.none() | levels,
        seen=st.none() | st.integers(0, 6),
        key=keys,
    )
    def count(
        self,
        sku: str,
        place: str,
        quantity: int,
        expected: int | None,
        seen: int | None,
        key: str | None,
    ) -> None:
        self.do(Count(sku, place, quantity, "", "", expected, seen, key=key))

    @rule(sku=skus, place=places, to_place=places, quantity=few, key=keys)
    def transfer(self, sku: str, place: str, to_place: str, quantity: int, key: str | None) -> None:
        self.do(Transfer(sku, place, to_place, quantity, key=key))

    @rule(
        sku=skus,
        safety=st.dictionaries(places, st.integers(0, 2), max_size=2),
        pools=st.dictionaries(st.sampled_from(POOLS), levels, max_size=2),
    )
    def set_stock(self, sku: str, safety: dict[str, int], pools: dict[str, int]) -> None:
        self.do(SetStock(sku, safety, pools))

    @rule(channel=st.sampled_from(CHANNELS), policy=policies)
    def set_channel(self, channel: str, policy: ChannelPolicy) -> None:
        self.do(SetChannel(0, channel, policy))

    @precondition(lambda machine: machine.sent)
    @rule(which=st.integers(0, 20), other=st.booleans())
    def retry(self, which: int, other: bool) -> None:
        command = self.sent[-1 - which % len(self.sent)]
        self.do(changed(command) if other else command)

    @rule(seed=st.integers(0, 2**32), count=st.integers(1, 20))
    def bustle(self, seed: int, count: int) -> None:
        """Anything, aimed at what there is."""
        traffic = Traffic(Random(seed))
        for _ in range(count):
            self.do(traffic.command(self.both.model))

    @rule(kind=st.sampled_from(["still", "second", "due", "window"]), which=st.integers(0, 20))
    def next_batch(self, kind: str, which: int) -> None:
        self.both.next_batch(kind, which)

    @rule()
    def cut(self) -> None:
        self.both.cut()

    @rule(lose=st.booleans())
    def crash(self, lose: bool) -> None:
        self.both.crash(lose)

    @invariant()
    def nothing_differs(self) -> None:
        self.both.check()


TestMachine = Machine.TestCase
TestMachine.settings = settings(deadline=None)
