"""The naive model, with its sums kept and its last command able to be taken back.

What the model decides it decides here, too: only the sums that it makes anew at every look are kept
(on_hand by location, units held and owed by location), and whoever changes the units of a
reservation says so. `tests.simulation.test_quick_model` holds each kept sum against the naive one.

A judge asks "what would you have answered, here?" of many commands at many moments. `save` before
such a question and `restore` after it: what the command did is gone, objects stay who they were.
"""

from collections.abc import Iterable
from typing import NamedTuple

from engine.messages import (
    Answer,
    ChannelPolicy,
    Command,
    LineMove,
    ReservationCommand,
    Reserve,
    Shortfall,
    State,
    Status,
)
from tests.engine.model import Model
from tests.engine.model_stock import Line, Part, Reservation, Sku

Place = tuple[str, str]
"""SKU and location."""


class Before(NamedTuple):
    """All that one command can change."""

    skus: dict[str, Sku]
    ledger: int
    reservations: dict[str, Reservation]
    touched: Reservation | None
    copy: Reservation | None
    """Of `touched`, which the command is about."""
    keys: dict[str, tuple[bytes, int]]
    channels: dict[str, ChannelPolicy]
    noticed: list[Shortfall]
    dedications: tuple[dict[str, int], str | None, bool]
    counted: dict[int, "Counted"]
    sums: tuple[dict[Place, int], dict[Place, int], dict[Place, int]]


class Counted(NamedTuple):
    """The units of a reservation that are in the sums; it is kept, so that its `id` stays its."""

    reservation: Reservation
    state: State
    units: list[tuple[Place, int]]


class QuickModel(Model):
    """One shard."""

    def __init__(self, number: int, shards: int) -> None:
        super().__init__(number, shards)
        self.on_hands: dict[Place, int] = {}
        self.held: dict[Place, int] = {}
        self.owed: dict[Place, int] = {}
        self._counted: dict[int, Counted] = {}
        self._stale: list[Reservation] = []
        """Their units may be others than those in the sums."""

    # --- sums ---

    def on_hand(self, sku: str, location: str) -> int:
        return self.on_hands.get((sku, location), 0)

    def promised(self, sku: str, location: str, state: State) -> int:
        if self._stale:
            self._count()
        sums = self.held if state is State.RESERVED else self.owed
        return sums.get((sku, location), 0)

    def available(self, sku: str, location: str) -> int:
        if self._stale:
            self._count()
        place = (sku, location)
        promised = self.held.get(place, 0) + self.owed.get(place, 0)
        safety = self.skus[sku].safety_stock if sku in self.skus else {}
        return self.on_hands.get(place, 0) - promised - safety.get(location, 0)

    def _count(self) -> None:
        """Bring the sums up to date."""
        stale, self._stale = self._stale, []
        for reservation in stale:
            before = self._counted.pop(id(reservation), None)
            if before is not None:
                self._add(before, -1)
            if reservation.state in (State.RESERVED, State.COMMITTED):
                units = [
                    ((line.sku, part.location), part.quantity - part.shipped - part.cancelled)
                    for line in reservation.lines
                    for part in line.parts
                ]
                now = Counted(reservation, reservation.state, units)
                self._counted[id(reservation)] = now
                self._add(now, 1)

    def _add(self, counted: Counted, sign: int) -> None:
        sums = self.held if counted.state is State.RESERVED else self.owed
        for place, units in counted.units:
            sums[place] = sums.get(place, 0) + sign * units

    def totals(self) -> tuple[Iterable[int], Iterable[int], Iterable[int]]:
        """On_hand, reserved and allocated, of every place."""
        self._count()
        return self.on_hands.values(), self.held.values(), self.owed.values()

    def shortfalls(self) -> list[Shortfall]:
        found = []
        for sku in sorted(self.skus):
            for location in sorted(self.skus[sku].locations):
                available = self.available(sku, location)
                if available < 0:
                    found.append(Shortfall(sku, location, -available))
        return found

    def notice(self) -> None:
        if self.noticed != self.shortfalls():
            super().notice()

    # --- what changes them ---

    def post(self, units: dict[Place, int]) -> None:
        super().post(units)
        for place, change in units.items():
            self.on_hands[place] = self.on_hands.get(place, 0) + change

    def end(self, reservation: Reservation, state: State) -> None:
        super().end(reservation, state)
        self._stale.append(reservation)

    def reserve(self, command: Reserve) -> Answer:
        answer = super().reserve(command)
        if answer.status is Status.OK:
            self._stale.append(self.reservations[command.reservation_id])
        return answer

    def change(self, known: Reservation, command: ReservationCommand) -> Status:
        try:
            return super().change(known, command)
        finally:
            self._stale.append(known)

    def move_one(self, known: Reservation, move: LineMove) -> None:
        super().move_one(known, move)
        self._stale.append(known)

    # --- there and back ---

    def save(self, command: Command) -> Before:
        """How things stand, before `command` is executed."""
        if self._stale:
            self._count()
        touched = self.reservations.get(getattr(command, "reservation_id", ""))
        return Before(
            {name: copy_of_sku(sku) for name, sku in self.skus.items()},
            len(self.ledger),
            self.reservations.copy(),
            touched,
            None if touched is None else copy_of(touched),
            self.keys.copy(),
            self.channels.copy(),
            self.noticed,
            (self.declared.copy(), self.bound, self.settled),
            self._counted.copy(),
            (self.on_hands.copy(), self.held.copy(), self.owed.copy()),
        )

    def restore(self, before: Before) -> None:
        """Nothing happened since `before` was saved. Once only."""
        self.skus = before.skus
        del self.ledger[before.ledger :]
        self.reservations = before.reservations
        if before.touched is not None and before.copy is not None:
            vars(before.touched).update(vars(before.copy))
        self.keys = before.keys
        self.channels = before.channels
        self.noticed = before.noticed
        self.declared, self.bound, self.settled = before.dedications
        self._counted = before.counted
        self.on_hands, self.held, self.owed = before.sums
        self._stale.clear()


def copy_of(reservation: Reservation) -> Reservation:
    """Another object, with lines and parts of its own."""
    one = reservation
    lines = [copy_of_line(line) for line in one.lines]
    return Reservation(one.request, one.channel, one.expires_at, lines, one.state, one.finished_at)


def copy_of_line(line: Line) -> Line:
    parts = [
        Part(part.location, part.quantity, part.shipped, part.cancelled, part.restocked)
        for part in line.parts
    ]
    return Line(line.sku, parts, line.draws.copy())


def copy_of_sku(sku: Sku) -> Sku:
    return Sku(
        sku.locations.copy(),
        sku.safety_stock.copy(),
        sku.pools.copy(),
        sku.version,
        sku.physical_version,
    )
