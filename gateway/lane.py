"""A lane: the commands of one gateway on their way to one shard, in order.

    waiting ──take()──► in flight ──answered──► gone
       ▲                   │ moved, not done, or lost and harmless to repeat
       └────give_back()────┘

What it guarantees: commands leave in the order in which they came, also when they are sent again.
Once anything comes back, nothing more leaves until every flight has landed; then all goes out anew,
sorted by number. So a shard never sees a later command before an earlier one that was returned.

What says whom a dedicated shard is for goes first: whatever else waits there may be not done until
that has arrived, come back again and again, and would keep it waiting for ever.

What is answered beside the shard's batches, and may take its time, flies alone and *aside*: it
takes no place of a flight that the others need, and nobody waits for it to land.

A flight whose shard has changed hands cannot hold up the lane for long: after a moment of grace it
is *stranded*. What is harmless to repeat is taken from it and sent to the new owner; the rest stays
with it until the old owner answers, its link is lost or the deadline comes.

Nothing here does I/O or reads a clock: times are arguments, in seconds of the event loop.
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from operator import attrgetter
from typing import Final

import msgspec

from engine import limits
from engine.messages import (
    BESIDE,
    UNKNOWN_HOME,
    Adjust,
    Answer,
    Bind,
    Cancel,
    Command,
    Count,
    GetBinding,
    MoveLines,
    Receive,
    Restock,
    Settle,
    Ship,
    Transfer,
    Unbind,
)

COMMAND_OVERHEAD_BYTES: Final = 64

GO_FIRST: Final = frozenset({Bind, Unbind, Settle, GetBinding})
"""Commands that others may have to wait for."""
_FIRST: Final = 1 << 62
_NEEDS_KEY: Final = frozenset({Receive, Adjust, Count, Transfer, MoveLines})
_NEEDS_KEY_WITH_LINES: Final = frozenset({Ship, Cancel, Restock})


def is_repeatable(command: Command) -> bool:
    """Whether a second sending has no second effect, if the first was perhaps applied."""
    kind = type(command)
    if kind in _NEEDS_KEY:
        return getattr(command, "key", None) is not None
    if kind in _NEEDS_KEY_WITH_LINES:
        return getattr(command, "key", None) is not None or getattr(command, "lines", None) is None
    return True


class Ticket:
    """One command on its way, and where its answer goes."""

    __slots__ = (
        "command",
        "deadline",
        "doubts",
        "encoded",
        "flight",
        "hinted",
        "number",
        "reply",
        "unsure",
        "voucher",
    )

    def __init__(
        self,
        command: Command,
        encoded: msgspec.Raw,
        deadline: float,
        reply: Callable[[Answer], None],
    ) -> None:
        self.command = command
        self.encoded = encoded
        self.deadline = deadline
        self.reply = reply
        self.number = 0
        """Its place in the lane."""
        self.flight: Flight | None = None
        """What carries it now; an answer that any other flight brings is late."""
        self.unsure = False
        """Some sending of it was perhaps applied."""
        self.doubts = 0
        """How often a host has said that it does not know the outcome."""
        self.hinted = False
        """Its home was a guess: if it is unknown there, look elsewhere."""
        self.voucher = -1
        """The home that the caller, or the id itself, names; -1 = none."""


class Flight:
    """One frame that was sent."""

    __slots__ = ("earliest", "latest", "tickets")

    def __init__(self, tickets: list[Ticket], earliest: float, latest: float) -> None:
        self.tickets = tickets
        self.earliest = earliest
        """When the first ticket that it still carries is due; inf = it carries none."""
        self.latest = latest
        """When the last one is due."""

    def board(self, ticket: Ticket) -> None:
        ticket.flight = self
        self.tickets.append(ticket)
        self.earliest = min(self.earliest, ticket.deadline)
        self.latest = max(self.latest, ticket.deadline)

    def carried(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.flight is self]

    def drop(self, tickets: Iterable[Ticket]) -> None:
        """Carry these no longer."""
        for ticket in tickets:
            ticket.flight = None
        self.earliest = min((each.deadline for each in self.carried()), default=inf)


class Lane:
    """One shard's; or one host's, for what concerns all of its shards (then `shard` is -1)."""

    __slots__ = (
        "_next_number",
        "address",
        "aside",
        "delay",
        "departing",
        "draining",
        "earliest",
        "epoch",
        "flights",
        "resume_at",
        "scheduled",
        "shard",
        "stopped",
        "strand_at",
        "stranded",
        "waiting",
    )

    def __init__(self, shard: int, address: str | None = None) -> None:
        self.shard = shard
        self.address = address
        """The owner's; None = nobody is known to own it."""
        self.stopped = False
        """The shard's journal does not prove itself: nobody is going to own it."""
        self.epoch = 0
        self.waiting: deque[Ticket] = deque()
        self.flights: list[Flight] = []
        self.aside: list[Flight] = []
        self.stranded: list[Flight] = []
        self.draining = False
        """Something came back: wait for the rest."""
        self.resume_at = 0.0
        """Send nothing before; the pause after a refusal."""
        self.delay = 0.0
        """The last such pause."""
        self.strand_at = inf
        """When flights to a former owner are given up."""
        self.earliest = inf
        """No waiting ticket is due before."""
        self.scheduled = False
        """The router is going to look at this lane in this turn of the event loop."""
        self.departing: dict[str, int] = {}
        """SKUs that live elsewhere, as this shard has said, and where: once every flight has
        landed, what waits here of them goes there."""
        self._next_number = 0

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.flights or self.aside or self.stranded)

    def push(self, ticket: Ticket) -> None:
        """Put a new ticket at the end, or, if it is to go first, behind those that are as well."""
        ticket.number = self._next_number
        self._next_number += 1
        self.waiting.append(ticket)
        if type(ticket.command) in GO_FIRST:
            ticket.number -= _FIRST
            self.waiting = deque(sorted(self.waiting, key=attrgetter("number")))
        if ticket.deadline < self.earliest:
            self.earliest = ticket.deadline

    def take(self, now: float) -> Flight | None:
        """The next flight, if one may leave now."""
        waiting = self.waiting
        if not waiting or self.draining or now < self.resume_at:
            return None
        flight = Flight([], inf, 0.0)
        if type(waiting[0].command) in BESIDE:
            flight.board(waiting.popleft())
            self.aside.append(flight)
            return flight
        if len(self.flights) >= limits.FLIGHTS_PER_SHARD_MAX:
            return None
        tickets, room = flight.tickets, limits.FLIGHT_BYTES_MAX
        while waiting and len(tickets) < limits.BATCH_COMMANDS_MAX:
            ticket = waiting[0]
            room -= len(ticket.encoded)
            if tickets and (room < 0 or type(ticket.command) in BESIDE):
                break
            flight.board(waiting.popleft())
        self.flights.append(flight)
        return flight

    def land(self, flight: Flight) -> None:
        """`flight` was answered, or lost."""
        if flight in self.flights:
            self.flights.remove(flight)
            if not self.flights:
                self.draining = False
                self.strand_at = inf
        elif flight in self.aside:
            self.aside.remove(flight)
        elif flight in self.stranded:
            self.stranded.remove(flight)

    def give_back(self, tickets: list[Ticket], resume_at: float) -> None:
        """Put these back in their places; send nothing before `resume_at`."""
        for ticket in tickets:
            ticket.flight = None
            self.earliest = min(self.earliest, ticket.deadline)
        self.waiting = deque(sorted((*tickets, *self.waiting), key=attrgetter("number")))
        self.resume_at = max(self.resume_at, resume_at)
        self.draining = bool(self.flights)

    def assign(
        self, epoch: int, address: str | None, strand_at: float, *, stopped: bool = False
    ) -> None:
        """The shard has a new owner. Flights to the former one have until `strand_at` to land."""
        self.epoch = epoch
        self.stopped = stopped
        self.resume_at = self.delay = 0.0
        if address == self.address:
            return
        self.address = address
        self._call_aside_back()
        if self.flights:
            self.draining = True
            self.strand_at = min(self.strand_at, strand_at)

    def _call_aside_back(self) -> None:
        """Take the tickets, which only read, from what flies aside to a former owner."""
        tickets = [ticket for flight in self.aside for ticket in flight.carried()]
        self.aside.clear()
        if tickets:
            self.give_back(tickets, 0.0)

    def strand(self) -> None:
        """Give up on the flights to a former owner, and take from them what may be repeated."""
        repeated = []
        for flight in self.flights:
            again = [ticket for ticket in flight.carried() if is_repeatable(ticket.command)]
            flight.drop(again)
            repeated += again
        self.stranded += self.flights
        self.flights.clear()
        self.strand_at = inf
        for ticket in repeated:
            ticket.unsure = True
        self.give_back(repeated, 0.0)

    def depart(self, where: Callable[[Command], int]) -> list[tuple[int, Ticket]]:
        """Take out, in their order, the tickets that are to go elsewhere, and where to; `where`
        says UNKNOWN_HOME of those that stay. Only while nothing is in flight."""
        assert not self.flights, "an earlier one may yet come back"
        self.departing.clear()
        leaving = [(where(ticket.command), ticket) for ticket in self.waiting]
        self.waiting = deque(ticket for shard, ticket in leaving if shard == UNKNOWN_HOME)
        return [(shard, ticket) for shard, ticket in leaving if shard != UNKNOWN_HOME]

    def clear(self) -> list[Ticket]:
        """Take out every ticket that waits."""
        waiting, self.waiting = self.waiting, deque()
        self.earliest = inf
        return list(waiting)

    def expire(self, now: float) -> list[Ticket]:
        """Take out every ticket whose deadline has come; `unsure` tells what to answer."""
        expired: list[Ticket] = []
        for flight in (*self.flights, *self.aside, *self.stranded):
            if flight.earliest <= now:
                due = [ticket for ticket in flight.carried() if ticket.deadline <= now]
                flight.drop(due)
                for ticket in due:
                    ticket.unsure = True
                expired += due
        self.stranded = [flight for flight in self.stranded if flight.earliest < inf]
        if self.earliest <= now:
            expired += (ticket for ticket in self.waiting if ticket.deadline <= now)
            self.waiting = deque(ticket for ticket in self.waiting if ticket.deadline > now)
            self.earliest = min((ticket.deadline for ticket in self.waiting), default=inf)
        return expired
