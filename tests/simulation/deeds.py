"""What a command did, said twice: by the events that were journaled, and by the naive model.

A *deed* is an event with what does not matter left out: a tuple that begins with the event's name.
Units are summed by line and location, so that it does not matter in which portions they are listed;
fingerprints are left out, for what they are good for shows in the answers.

    events ──told──► deeds  ═══  deeds ◄──done── the model, before and after the command
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from engine.messages import (
    Adjust,
    Adjusted,
    Bind,
    Bound,
    Buried,
    Cancel,
    Cancelled,
    ChannelSet,
    Command,
    Commit,
    Committed,
    Count,
    Counted,
    Dedicate,
    Dedicated,
    Event,
    Expired,
    Extend,
    Extended,
    LinesMoved,
    MoveLines,
    Receive,
    Received,
    Release,
    Released,
    Reserve,
    Reserved,
    Restock,
    Restocked,
    SetChannel,
    SetStock,
    Settle,
    Settled,
    Ship,
    Shipped,
    Shortfall,
    ShortfallChanged,
    State,
    StockSet,
    Transfer,
    Transferred,
    Unbind,
    Unbound,
)
from engine.messages import Line as EventLine
from tests.engine.model_stock import Line, Reservation
from tests.simulation.quick_model import Before, QuickModel

Deed = tuple[Any, ...]
Units = dict[tuple[int, str], int]
"""By line, counted from 0, and location."""
NAMES: Final[dict[type[Command], str]] = {
    Receive: "Received",
    Adjust: "Adjusted",
    Count: "Counted",
    Transfer: "Transferred",
    Ship: "Shipped",
    Cancel: "Cancelled",
    Restock: "Restocked",
    Bind: "Bound",
    Unbind: "Unbound",
    Settle: "Settled",
}
COUNTERS: Final = {"Shipped": "shipped", "Cancelled": "cancelled", "Restocked": "restocked"}
MOVED: Final = (
    *("sku", "location", "to_location", "quantity", "reason", "reference"),
    *("unit_cost", "currency", "key", "by"),
)
"""What a movement's command and its event have in common, where they have it."""


# --- by the events -------------------------------------------------------------------------------


def told(events: Sequence[Event], lines: list[Line]) -> list[Deed]:
    """The deeds that `events` tell of; `lines`: of the reservation, before.

    Shortfalls that became known together are sorted: nothing says in which order they are told.
    """
    deeds: list[Deed] = []
    for are_shortfalls, run in groupby(events, lambda event: isinstance(event, ShortfallChanged)):
        found = [deed(event, lines) for event in run]
        deeds += sorted(found) if are_shortfalls else found
    return deeds


def deed(event: Event, lines: list[Line]) -> Deed:
    name = type(event).__name__
    match event:
        case Reserved():
            parts = (event.attempt, list(event.participants)) if event.attempt else ()
            return (
                *(name, event.reservation_id, event.channel, event.expires_at),
                *(of_event_lines(event.lines), *parts),
            )
        case Committed():
            kept = None if event.lines is None else of_event_lines(event.lines)
            return name, event.reservation_id, kept
        case Released() | Expired() | Buried():
            return name, event.reservation_id
        case Extended():
            return name, event.reservation_id, event.expires_at
        case Shipped() | Cancelled() | Restocked() | LinesMoved():
            return deed_of_units(event, lines)
        case Received() | Adjusted() | Counted() | Transferred():
            return movement(name, event)
        case StockSet():
            return name, event.sku, event.safety_stock, event.pools, event.by
        case ChannelSet():
            return name, event.channel, event.policy, event.by
        case ShortfallChanged():
            return name, event.sku, event.location, event.quantity
        case Bound() | Unbound() | Settled():
            return name, event.sku
        case Dedicated():
            return name, event.sku, event.shard, event.by
    return name, event


def deed_of_units(event: Shipped | Cancelled | Restocked | LinesMoved, lines: list[Line]) -> Deed:
    units: Units = {}
    places: dict[tuple[str, str], int] = {}
    moving = isinstance(event, LinesMoved)
    for each in event.units:
        steps = [(each.location, each.quantity)]
        if moving:
            steps = [(each.location, -each.quantity), (each.to_location or "", each.quantity)]
        for location, quantity in steps:
            units[each.line, location] = units.get((each.line, location), 0) + quantity
        sku = lines[each.line].sku if each.line < len(lines) else ""
        place = (sku, each.to_location or each.location)
        places[place] = places.get(place, 0) + each.quantity
    result = (type(event).__name__, event.reservation_id, event.key, without_zeros(units))
    return (*result, places) if isinstance(event, Restocked) else result


def of_event_lines(lines: list[EventLine]) -> list[Deed]:
    return [
        (
            line.sku,
            [(part.location, part.quantity) for part in line.parts],
            [(draw.pool, draw.quantity) for draw in line.draws],
        )
        for line in lines
    ]


def movement(name: str, message: Any) -> Deed:
    return name, *[getattr(message, field, None) for field in MOVED]


def without_zeros(units: Units) -> Units:
    return {where: quantity for where, quantity in units.items() if quantity}


# --- by the model --------------------------------------------------------------------------------


def done(model: QuickModel, before: Before, command: Command) -> list[Deed]:
    """What `model` has just done on `command`; `before`: how things stood."""
    deeds = main_deeds(model, before, command)
    return deeds + [(*("ShortfallChanged", *short),) for short in noticed(model, before.noticed)]


def main_deeds(model: QuickModel, before: Before, command: Command) -> list[Deed]:
    match command:
        case Reserve():
            return [reserved(model, command.reservation_id)]
        case Commit():
            return committed(model, before, command)
        case Release():
            return [("Buried" if before.touched is None else "Released", command.reservation_id)]
        case Extend():
            known = model.reservations[command.reservation_id]
            return [("Extended", command.reservation_id, known.expires_at)]
        case Ship() | Cancel() | Restock():
            return [units_deed(model, before, command)]
        case MoveLines():
            units = difference(model, before, command.reservation_id, "quantity")
            return [("LinesMoved", command.reservation_id, command.key, units)]
        case Receive() | Adjust() | Count() | Transfer():
            return [movement(NAMES[type(command)], command)]
        case SetStock():
            return [("StockSet", command.sku, command.safety_stock, command.pools, command.by)]
        case SetChannel():
            return [("ChannelSet", command.channel, command.policy, command.by)]
        case Bind() | Unbind() | Settle():
            return [(NAMES[type(command)], command.sku)]
        case Dedicate():
            return [("Dedicated", command.sku, command.shard, command.by)]
    return []


def reserved(model: QuickModel, name: str) -> Deed:
    known = model.reservations[name]
    return "Reserved", name, known.channel, known.expires_at, of_lines(known.lines)


def committed(model: QuickModel, before: Before, command: Commit) -> list[Deed]:
    name = command.reservation_id
    assert before.copy is not None
    if before.copy.state is State.EXPIRED:
        return [reserved(model, name), ("Committed", name, None)]
    kept = None if command.lines is None else of_lines(model.reservations[name].lines)
    return [("Committed", name, kept)]


def units_deed(model: QuickModel, before: Before, command: Ship | Cancel | Restock) -> Deed:
    event = NAMES[type(command)]
    units = difference(model, before, command.reservation_id, COUNTERS[event])
    result = (event, command.reservation_id, command.key, units)
    if not isinstance(command, Restock):
        return result
    places: dict[tuple[str, str], int] = {}
    for sku, location, quantity in model.ledger[before.ledger :]:
        places[sku, location] = places.get((sku, location), 0) + quantity
    return (*result, places)


def difference(model: QuickModel, before: Before, name: str, counter: str) -> Units:
    assert before.copy is not None
    earlier, later = counts(before.copy, counter), counts(model.reservations[name], counter)
    places = [*earlier, *(place for place in later if place not in earlier)]
    return without_zeros({place: later.get(place, 0) - earlier.get(place, 0) for place in places})


def counts(reservation: Reservation, counter: str) -> Units:
    return {
        (number, part.location): getattr(part, counter)
        for number, line in enumerate(reservation.lines)
        for part in line.parts
    }


def of_lines(lines: list[Line]) -> list[Deed]:
    return [
        (
            line.sku,
            [(part.location, part.quantity) for part in line.parts],
            [(pool, len(list(units))) for pool, units in groupby(line.draws)],
        )
        for line in lines
    ]


def noticed(model: QuickModel, before: list[Shortfall]) -> list[tuple[str, str, int]]:
    """What is said of shortfalls that are others than `before`, by SKU and location."""
    if model.noticed is before:
        return []
    said = {(short.sku, short.location): short.quantity for short in before}
    now = {(short.sku, short.location): short.quantity for short in model.noticed}
    places = sorted(place for place in said | now if said.get(place) != now.get(place))
    return [(*place, now.get(place, 0)) for place in places]
