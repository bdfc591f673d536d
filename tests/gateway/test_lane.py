"""A lane: nothing lost, nothing twice, nothing out of order, whatever happens to its flights."""

from math import inf

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import limits
from engine.messages import (
    Adjust,
    Cancel,
    Command,
    Commit,
    Count,
    Extend,
    GetStock,
    GetStockAsOf,
    LineMove,
    LineRequest,
    MoveLines,
    Receive,
    Release,
    Reserve,
    Restock,
    SetStock,
    Ship,
    Transfer,
)
from gateway.lane import Flight, Lane, Ticket, is_repeatable

LINES = [LineRequest("sku", 1)]
MOVES = [LineMove("sku", "a", "b", 1)]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (Reserve("r", LINES), True),
        (Commit("r"), True),
        (Commit("r", lines=LINES), True),
        (Release("r"), True),
        (Extend("r", 60), True),
        (Ship("r"), True),
        (Ship("r", lines=LINES), False),
        (Ship("r", lines=LINES, key="k"), True),
        (Cancel("r", lines=LINES), False),
        (Restock("r"), True),
        (Restock("r", lines=LINES, key="k"), True),
        (MoveLines("r", MOVES), False),
        (MoveLines("r", MOVES, key="k"), True),
        (Receive("sku", "a", 1), False),
        (Receive("sku", "a", 1, key="k"), True),
        (Adjust("sku", "a", -1), False),
        (Count("sku", "a", 7), False),
        (Count("sku", "a", 7, expected_on_hand=3), False),
        (Count("sku", "a", 7, key="k"), True),
        (Transfer("sku", "a", "b", 1), False),
        (SetStock("sku", {"a": 1}), True),
        (GetStock("sku"), True),
    ],
)
def test_what_may_be_repeated(command: Command, expected: bool) -> None:
    """What names itself, or sets instead of adding, may be sent again; what adds up may not."""
    assert expected is is_repeatable(command)


def ticket(deadline: float = 10.0, size: int = 100, command: Command | None = None) -> Ticket:
    encoded = msgspec.Raw(b"\0" * size)
    return Ticket(command or GetStock("sku"), encoded, deadline, lambda answer: None)


def test_a_flight_ends_at_its_bounds() -> None:
    """A flight takes no more commands, and no more bytes, than it may; one command always fits."""
    lane = Lane(0)
    for _ in range(limits.BATCH_COMMANDS_MAX + 1):
        lane.push(ticket())
    assert limits.BATCH_COMMANDS_MAX == len(taken(lane).tickets)
    for size in (limits.FLIGHT_BYTES_MAX + 1, limits.FLIGHT_BYTES_MAX - 150, 100):
        lane.push(ticket(size=size))
    lane.flights.clear()
    assert [1, 1, 2] == [len(taken(lane, forget=True).tickets) for _ in range(3)]


def test_the_window_limits_flights() -> None:
    """So many flights and no more; the rest waits and leaves together."""
    lane = Lane(0)
    flights = []
    for _ in range(limits.FLIGHTS_PER_SHARD_MAX):
        lane.push(ticket())
        flights.append(taken(lane))
    lane.push(ticket())
    lane.push(ticket())
    assert lane.take(0.0) is None
    lane.land(flights[0])
    assert 2 == len(taken(lane).tickets)


def test_a_returned_ticket_waits_for_the_other_flights() -> None:
    """After something came back, the lane drains, then sends everything in its old order."""
    lane = Lane(0)
    lane.push(ticket())
    first = taken(lane)
    lane.push(ticket())
    second = taken(lane)
    lane.push(ticket())
    lane.land(first)
    lane.give_back(first.tickets, 0.0)
    assert lane.take(1.0) is None
    lane.land(second)
    lane.give_back(second.tickets, 2.0)
    assert lane.take(1.0) is None
    assert [0, 1, 2] == [each.number for each in taken(lane, 2.0).tickets]


def test_a_former_owner_gets_a_moment_then_is_left() -> None:
    """What may be repeated goes to the new owner; the rest waits for the old one's answer."""
    lane = Lane(0, "tcp:old:1")
    lane.push(ticket())
    lane.push(ticket(command=Receive("sku", "a", 1)))
    flight = taken(lane)
    lane.push(ticket())
    lane.assign(2, "tcp:new:1", strand_at=1.0)
    assert lane.take(0.5) is None
    assert 1.0 == lane.strand_at
    lane.strand()
    again = taken(lane, 1.0)
    assert [0, 2] == [each.number for each in again.tickets]
    assert again.tickets[0].unsure
    assert [1] == [each.number for each in flight.carried()]
    assert [1] == [
        each.number for each in lane.expire(10.0) if not isinstance(each.command, GetStock)
    ]


def test_the_same_owner_again_changes_nothing() -> None:
    """A map that says what is known already holds nothing up."""
    lane = Lane(0, "tcp:old:1")
    lane.push(ticket())
    taken(lane)
    lane.push(ticket())
    lane.assign(2, "tcp:old:1", strand_at=1.0)
    assert inf == lane.strand_at
    assert 1 == len(taken(lane).tickets)


def test_a_stopped_lane_is_cleared_until_it_has_an_owner() -> None:
    """What waits comes out, what flies stays; whoever is assigned next ends it."""
    lane = Lane(0, "tcp:old:1")
    lane.push(ticket())
    flight = taken(lane)
    lane.push(ticket(1.0))
    lane.push(ticket(2.0))
    lane.assign(1, None, strand_at=1.0, stopped=True)
    assert lane.stopped
    assert [1, 2] == [each.number for each in lane.clear()]
    assert (inf, 0) == (lane.earliest, len(lane.waiting))
    assert [0] == [each.number for each in flight.carried()]
    lane.assign(2, "tcp:new:1", strand_at=1.0)
    assert not lane.stopped


def taken(lane: Lane, now: float = 0.0, *, forget: bool = False) -> Flight:
    flight = lane.take(now)
    assert flight is not None
    if forget:
        lane.flights.remove(flight)
    return flight


def test_what_takes_its_time_flies_aside() -> None:
    """A question about the past leaves alone, and those behind it leave although it is under way,
    and even when something of theirs came back."""
    lane = Lane(0, "tcp:1:1")
    commands: list[Command] = [GetStock("s"), GetStockAsOf("s", 1), GetStock("s"), GetStock("s")]
    tickets = [ticket(9.0, command=command) for command in commands]
    for each in tickets:
        lane.push(each)

    flights = [lane.take(0.0) for _ in range(4)]

    assert [tickets[:1], tickets[1:2], tickets[2:], None] == [
        flight and flight.tickets for flight in flights
    ]
    first, aside, last, _ = flights
    assert first is not None
    assert aside is not None
    assert last is not None
    lane.land(first)
    lane.land(last)
    lane.give_back(last.carried(), 0.0)
    again = lane.take(0.0)
    assert again is not None
    assert tickets[2:] == again.tickets
    lane.land(again)
    assert not lane.idle
    lane.assign(1, "tcp:2:1", 5.0)
    moved = lane.take(0.0)
    assert moved is not None
    assert tickets[1:2] == moved.tickets
    lane.land(aside)
    assert [] == aside.carried()
    lane.land(moved)
    assert lane.idle


class LaneMachine(RuleBasedStateMachine):
    """Flights land, are lost, returned, stranded and expire, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(0, "tcp:1:1")
        self.now = 0.0
        self.open: dict[int, Ticket] = {}
        self.sent: list[int] = []
        self.aloft: list[Flight] = []
        self.epoch = 0

    @rule(life=st.integers(1, 20), number=st.integers(0, 2))
    def push(self, life: int, number: int) -> None:
        commands = GetStock("s"), Receive("s", "a", 1), GetStockAsOf("s", 1)
        command: Command = commands[number]
        new = ticket(self.now + life, command=command)
        self.lane.push(new)
        self.open[new.number] = new

    @rule()
    def take(self) -> None:
        flight = self.lane.take(self.now)
        if flight is None:
            return
        numbers = [each.number for each in flight.tickets]
        assert sorted(numbers) == numbers
        aloft = [each.number for other in self.lane.flights[:-1] for each in other.carried()]
        if flight in self.lane.flights:
            assert max(aloft, default=-1) < numbers[0], "a later command overtook an earlier one"
        self.aloft.append(flight)

    @precondition(lambda self: self.aloft)
    @rule(data=st.data(), returned=st.booleans(), pause=st.integers(0, 3))
    def land(self, data: st.DataObject, returned: bool, pause: int) -> None:
        flight = data.draw(st.sampled_from(self.aloft))
        self.aloft.remove(flight)
        self.lane.land(flight)
        carried = flight.carried()
        if returned:
            self.lane.give_back(carried, self.now + pause)
            return
        for each in carried:
            each.flight = None
            del self.open[each.number]

    @rule()
    def move(self) -> None:
        self.epoch += 1
        self.lane.assign(self.epoch, f"tcp:{self.epoch % 3}:1", self.now + 2)

    @rule(seconds=st.integers(0, 5))
    def sweep(self, seconds: int) -> None:
        self.now += seconds
        for each in self.lane.expire(self.now):
            assert each.deadline <= self.now
            del self.open[each.number]
        if self.lane.strand_at <= self.now:
            self.lane.strand()

    @invariant()
    def every_open_ticket_is_in_one_place(self) -> None:
        lane = self.lane
        places = [each.number for each in lane.waiting]
        places += [each.number for flight in self.aloft for each in flight.carried()]
        assert sorted(self.open) == sorted(places)
        assert list(lane.waiting) == sorted(lane.waiting, key=lambda each: each.number)
        assert lane.earliest <= min((each.deadline for each in lane.waiting), default=inf)
        assert lane.flights or not lane.draining
        assert len(lane.flights) <= limits.FLIGHTS_PER_SHARD_MAX


LaneMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLane = LaneMachine.TestCase
