"""A reservation: one or more lines held together under one id.

                 reserve              commit                       ship
        (none) ────────► reserved ──────────────► committed = allocated ──────► shipped
                           │  │                                   │
                   release │  │ expire                            │ cancel
                           ▼  ▼                                   ▼
                    released  expired                         cancelled

`TRANSITIONS` is that picture as a table: what each verb makes of each state, or the status with
which it is refused. Nothing else decides it.

In memory a reservation is one packed `bytes` record (MessagePack, some 60 bytes for one line), not
a tree of objects: a shard remembers millions. It is unpacked, changed and packed again.

A line's units sit at locations (`parts`) and some of them may have come out of pools (`draws`).
Which of a line's units are the pool's is a convention: the pool's are drawn first, shipped first
and given back last, so that giving back some leaves just what asking for fewer would have drawn.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from engine.messages import (
    Draw,
    Exact,
    Line,
    LineRequest,
    LineView,
    Part,
    ReservationView,
    State,
    Status,
    UnitsMoved,
)

COMMIT: Final = "commit"
RELEASE: Final = "release"
EXPIRE: Final = "expire"
EXTEND: Final = "extend"
MOVE: Final = "move"
SHIP: Final = "ship"
CANCEL: Final = "cancel"
RESTOCK: Final = "restock"

TRANSITIONS: Final[dict[tuple[State, str], State | Status]] = {
    (State.RESERVED, COMMIT): State.COMMITTED,
    (State.RESERVED, RELEASE): State.RELEASED,
    (State.RESERVED, EXPIRE): State.EXPIRED,
    (State.RESERVED, EXTEND): State.RESERVED,
    (State.RESERVED, MOVE): State.RESERVED,
    (State.RESERVED, SHIP): Status.ILLEGAL_TRANSITION,
    (State.RESERVED, CANCEL): Status.ILLEGAL_TRANSITION,
    (State.RESERVED, RESTOCK): Status.ILLEGAL_TRANSITION,
    (State.COMMITTED, COMMIT): Status.REPLAYED,
    (State.COMMITTED, RELEASE): Status.ILLEGAL_TRANSITION,
    (State.COMMITTED, EXPIRE): Status.ILLEGAL_TRANSITION,
    (State.COMMITTED, EXTEND): Status.ILLEGAL_TRANSITION,
    (State.COMMITTED, MOVE): State.COMMITTED,
    (State.COMMITTED, SHIP): State.COMMITTED,
    (State.COMMITTED, CANCEL): State.COMMITTED,
    (State.COMMITTED, RESTOCK): State.COMMITTED,
    (State.RELEASED, COMMIT): Status.ILLEGAL_TRANSITION,
    (State.RELEASED, RELEASE): Status.REPLAYED,
    (State.RELEASED, EXPIRE): Status.ILLEGAL_TRANSITION,
    (State.RELEASED, EXTEND): Status.ILLEGAL_TRANSITION,
    (State.RELEASED, MOVE): Status.ILLEGAL_TRANSITION,
    (State.RELEASED, SHIP): Status.ILLEGAL_TRANSITION,
    (State.RELEASED, CANCEL): Status.ILLEGAL_TRANSITION,
    (State.RELEASED, RESTOCK): Status.ILLEGAL_TRANSITION,
    (State.EXPIRED, COMMIT): Status.RESERVATION_EXPIRED,
    (State.EXPIRED, RELEASE): Status.RESERVATION_EXPIRED,
    (State.EXPIRED, EXPIRE): Status.RESERVATION_EXPIRED,
    (State.EXPIRED, EXTEND): Status.RESERVATION_EXPIRED,
    (State.EXPIRED, MOVE): Status.RESERVATION_EXPIRED,
    (State.EXPIRED, SHIP): Status.RESERVATION_EXPIRED,
    (State.EXPIRED, CANCEL): Status.RESERVATION_EXPIRED,
    (State.EXPIRED, RESTOCK): Status.RESERVATION_EXPIRED,
}


_OUTCOMES: Final = {
    verb: [TRANSITIONS.get((State(number), verb)) if number else None for number in range(5)]
    for _, verb in TRANSITIONS
}


def outcome(state: State, verb: str) -> State | Status:
    """What `verb` makes of `state`, by TRANSITIONS."""
    found = _OUTCOMES[verb][state]
    assert found is not None
    return found


class Reservation(Exact):
    """As it is remembered. `state` stays the first field: `is_reserved` reads it where it lies."""

    state: State
    expires_at: int
    finished_at: int
    """When nothing more was owed on it: released, expired, or every unit shipped or cancelled.
    0 = not finished."""
    fingerprint: bytes
    channel: str | None
    lines: list[Line]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Reservation).decode
_RESERVED_BYTE: Final = int(State.RESERVED)

pack = _encode
unpack = _decode


def is_reserved(packed: bytes) -> bool:
    """Whether the packed reservation is still held (byte 0 is the array's header)."""
    return packed[1] == _RESERVED_BYTE


class Units(NamedTuple):
    """Units of one part of one line of a reservation."""

    line: int
    part: Part
    quantity: int


def outstanding(part: Part) -> int:
    """Units of the part that are still held or allocated."""
    return part.quantity - part.shipped - part.cancelled


def returnable(part: Part) -> int:
    """Units of the part that were shipped and have not come back."""
    return part.shipped - part.restocked


def width(lines: list[Line]) -> int:
    """Places and pools, line by line."""
    return sum(len(line.parts) + len(line.draws) for line in lines)


def is_tombstone(reservation: Reservation) -> bool:
    """Whether it never was: its id was released before anything was reserved under it. Only a
    reserve sees that."""
    return reservation.state is State.RELEASED and not reservation.lines


def is_finished(reservation: Reservation) -> bool:
    """Whether no unit of a committed reservation is still owed."""
    return not any(outstanding(part) for line in reservation.lines for part in line.parts)


def was_shipped(reservation: Reservation) -> bool:
    return any(part.shipped for line in reservation.lines for part in line.parts)


def select(
    lines: list[Line], wanted: list[LineRequest] | None, *, shipped: bool = False, at: bool = True
) -> list[Units] | None:
    """The units that `wanted` names, in order of lines and parts; None if there are not so many.

    Counts outstanding units, or, if `shipped`, those that could come back. `wanted` None = all
    there are. `at`: a wanted location must be the part's (else it means something other).
    """
    count = returnable if shipped else outstanding
    parts = [(number, part) for number, line in enumerate(lines) for part in line.parts]
    left = [count(part) for _, part in parts]
    if wanted is None:
        taken = left
    else:
        taken = [0] * len(parts)
        for want in wanted:
            missing = want.quantity
            for index, (number, part) in enumerate(parts):
                place = want.location if at else None
                if lines[number].sku == want.sku and place in (None, part.location):
                    units = min(left[index], missing)
                    left[index] -= units
                    taken[index] += units
                    missing -= units
            if missing:
                return None
    return [Units(*place, units) for place, units in zip(parts, taken, strict=True) if units]


def keep(lines: list[Line], units: list[Units]) -> list[Line]:
    """The lines with nothing but `units` left of them, draws given back as the essay says."""
    kept: dict[int, list[Part]] = {}
    for number, part, quantity in units:
        kept.setdefault(number, []).append(Part(part.location, quantity))
    result = []
    for number, parts in sorted(kept.items()):
        line = lines[number]
        drawn = min(sum(d.quantity for d in line.draws), sum(p.quantity for p in parts))
        result.append(Line(line.sku, parts, list(_first(line.draws, drawn))))
    return result


def _first(draws: list[Draw], quantity: int) -> Iterator[Draw]:
    """The first `quantity` units of `draws`."""
    for draw in draws:
        taken = min(draw.quantity, quantity)
        if taken:
            yield Draw(draw.pool, taken)
        quantity -= taken


def add_draws(draws: list[Draw], more: list[Draw]) -> list[Draw]:
    """Both, each pool once: what looks at draws expects that."""
    total: dict[str, int] = {}
    for draw in (*draws, *more):
        total[draw.pool] = total.get(draw.pool, 0) + draw.quantity
    return [Draw(pool, quantity) for pool, quantity in total.items()]


def consume(line: Line, quantity: int) -> None:
    """`quantity` units of the line were shipped: the pools' units go first."""
    rest = []
    for draw in line.draws:
        taken = min(draw.quantity, quantity)
        quantity -= taken
        if draw.quantity > taken:
            rest.append(Draw(draw.pool, draw.quantity - taken))
    line.draws = rest


def give_back(line: Line, quantity: int) -> list[Draw]:
    """`quantity` outstanding units of the line come free: what of them returns to pools.

    Call before the parts are changed. The common units go first.
    """
    drawn = sum(draw.quantity for draw in line.draws)
    common = sum(outstanding(part) for part in line.parts) - drawn
    kept = drawn - max(0, quantity - common)
    before = {draw.pool: draw.quantity for draw in line.draws}
    line.draws = list(_first(line.draws, kept))
    after = {draw.pool: draw.quantity for draw in line.draws}
    return [
        Draw(pool, units - after.get(pool, 0))
        for pool, units in before.items()
        if units > after.get(pool, 0)
    ]


def move(line: Line, units: UnitsMoved) -> None:
    """Move outstanding units of the line from `units.location` to `units.to_location`."""
    missing = units.quantity
    for part in line.parts:
        if part.location == units.location and missing:
            taken = min(outstanding(part), missing)
            part.quantity -= taken
            missing -= taken
    assert not missing, "decide moved more than the line has there"
    target = next((p for p in line.parts if p.location == units.to_location), None)
    if target is None:
        assert units.to_location is not None
        line.parts.append(Part(units.to_location, units.quantity))
    else:
        target.quantity += units.quantity
    line.parts = [part for part in line.parts if part.quantity]


def view(
    reservation_id: str, reservation: Reservation, home: int, deadline: int
) -> ReservationView:
    """The reservation as callers see it; `deadline` is its effective one."""
    lines = [line_view(line) for line in reservation.lines]
    return ReservationView(
        reservation_id, home, reservation.state, reservation.channel, deadline, lines
    )


def line_view(line: Line) -> LineView:
    parts = line.parts
    if len(parts) == 1:
        (part,) = parts
        units = part.quantity
        return LineView(
            line.sku,
            units,
            [(part.location, units)],
            part.shipped,
            part.cancelled,
            part.restocked,
        )
    return LineView(
        line.sku,
        sum(part.quantity for part in parts),
        [(part.location, part.quantity) for part in parts],
        sum(part.shipped for part in parts),
        sum(part.cancelled for part in parts),
        sum(part.restocked for part in parts),
    )
