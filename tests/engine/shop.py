"""A shard with a clock that is moved by hand, for examples that read like the rules they show."""

from engine import limits
from engine.messages import (
    Answer,
    AvailabilityView,
    Body,
    Command,
    Event,
    GetAvailability,
    GetReservation,
    GetStock,
    LineRequest,
    LocationView,
    Receive,
    ReservationView,
    Reserve,
    Shortage,
    Status,
    StockView,
)
from engine.shard import Shard

START_US = 1_700_000_000 * limits.SECOND_US


def line(sku: str, quantity: int, location: str | None = None) -> LineRequest:
    return LineRequest(sku, quantity, location)


def reserve(name: str, *lines: LineRequest) -> Reserve:
    return Reserve(name, list(lines))


class Shop:
    """One shard in which a batch is always open."""

    def __init__(self, **on_hand: int) -> None:
        """Each keyword is a location at which so many apples are received."""
        self.shard = Shard(0, 1)
        self.now = START_US
        self.events: list[Event] = []
        self.shard.begin(self.now)
        for location, quantity in on_hand.items():
            self.ok(Receive("apple", location, quantity))

    def ask(self, command: Command) -> Answer:
        return self.shard.execute(command)

    def status(self, command: Command) -> Status:
        return self.ask(command).status

    def ok(self, command: Command) -> Body | None:
        answer = self.ask(command)
        assert Status.OK == answer.status, (command, answer)
        return answer.body

    def wait_us(self, microseconds: int) -> list[Event]:
        """Close the batch and begin the next so much later: what the sweep made happen."""
        self.events += self.shard.close()
        self.now += microseconds
        self.shard.begin(self.now)
        return list(self.shard.events)

    def wait(self, seconds: int) -> list[Event]:
        return self.wait_us(seconds * limits.SECOND_US)

    def stock(self, sku: str = "apple") -> StockView:
        body = self.ok(GetStock(sku))
        assert isinstance(body, StockView)
        return body

    def at(self, location: str, sku: str = "apple") -> LocationView:
        (view,) = [one for one in self.stock(sku).locations if one.location == location]
        return view

    def sums(self, sku: str = "apple") -> tuple[int, int, int, int]:
        view = self.stock(sku)
        return view.on_hand, view.reserved, view.allocated, view.available

    def pools(self, sku: str = "apple") -> dict[str, int]:
        return dict(self.stock(sku).pools)

    def promise(self, channel: str | None = None, sku: str = "apple") -> int:
        body = self.ok(GetAvailability(sku, channel))
        assert isinstance(body, AvailabilityView)
        return body.available_to_promise

    def reservation(self, name: str) -> ReservationView:
        body = self.ok(GetReservation(name))
        assert isinstance(body, ReservationView)
        return body

    def places(self, name: str) -> list[list[tuple[str, int]]]:
        """Per line, where its units are."""
        return [one.locations for one in self.reservation(name).lines]

    def short(self, command: Command) -> list[tuple[str, int, int]]:
        """What is short of what, for a command that is refused for lack of stock."""
        answer = self.ask(command)
        assert Status.INSUFFICIENT_STOCK == answer.status, (command, answer)
        assert isinstance(answer.body, Shortage)
        return [(one.sku, one.requested, one.available) for one in answer.body.lines]
