"""A shard decides: commands in, events and answers out, one batch at a time.

    begin(now) ── execute(command) … ── close() → the events of the batch
         │              │
         │              └─ decide (reads) → event → state.apply(event) → answer
         └─ expire what is overdue, a bounded number

A shard has one writer and no locks. Every command is decided against the state that the commands
before it in the batch have left; the caller sends no answer before the batch is journaled, and if
it cannot be journaled drops the shard and recovers it. A refusal is an answer like any other and
never ends a batch. The rules themselves are in `engine.reservation_rules` and `engine.stock_rules`.

Deadlines lie in buckets of a second; those of this second and the next are in a heap, so that a
hold comes free in the first batch after its deadline and not a second later.
"""

import heapq

from engine import limits
from engine import reservation as holds
from engine.batch import Batch
from engine.codec import encode_event
from engine.dedication_rules import DedicationRules
from engine.lane import EVENT_BYTES_MAX as LANE_EVENT_BYTES_MAX
from engine.lane import Lane
from engine.messages import Answer, AnyAnswer, Command, Event, Expired, Status
from engine.reservation_rules import ReservationRules
from engine.state import ShardState
from engine.stock_rules import StockRules

Outcomes = dict[type[Command], list[int]]
"""Command → how many had which status."""


class Shard:
    """One shard: its state, and the rules by which commands become events."""

    def __init__(
        self, number: int, shards: int, remembered_max: int = limits.REMEMBERED_MAX
    ) -> None:
        self.number = number
        self.shards = shards
        self.state = ShardState()
        self._batch = Batch(number, shards, self.state, remembered_max)
        self._reservations = ReservationRules(self._batch)
        self._stock = StockRules(self._batch, self._reservations.forget_channel)
        self.handlers = {
            **self._reservations.handlers(),
            **self._stock.handlers(),
            **DedicationRules(self._batch).handlers(),
        }
        """Command → what decides and applies it, in an open batch."""
        self.lane = Lane(self._batch, self._reservations.plain)
        self._soon: list[tuple[int, bytes]] = []
        """Deadlines of this second and the next, a heap."""

    @property
    def events(self) -> list[Event]:
        """Of the open batch; the caller may take them out as they come."""
        return self._batch.events

    def begin(self, now: int) -> None:
        """Open a batch at `now` (µs, never less than before) and expire what is overdue."""
        self._batch.events = []
        state = self.state
        state.now = max(state.now, now)
        if self.due(state.now):
            self._sweep()

    def decide(
        self,
        commands: list[Command],
        answers: list[AnyAnswer],
        encoded: list[bytes],
        size: int,
        outcomes: Outcomes,
    ) -> int:
        """Decide and apply commands in order, as long as the batch, of `size` bytes so far, has
        room; its new size. There is an answer for each command that was decided, and what happened
        is added to `encoded`, event by event."""
        index, count, lane = 0, len(commands), self.lane
        while index < count and size < limits.BATCH_BYTES_MAX:
            room = (limits.BATCH_BYTES_MAX - size) // LANE_EVENT_BYTES_MAX + 1
            before = len(encoded)
            end = lane.run(commands, index, min(count, index + room), answers, encoded)
            if end == index:
                end += 1
                self._decide_one(commands[index], answers, encoded, outcomes)
            index = end
            size += sum(map(len, encoded[before:]))
        for kind, done in lane.done.items():
            if done:
                outcomes.setdefault(kind, [0] * limits.STATUSES_MAX)[Status.OK] += done
                lane.done[kind] = 0
        return size

    def _decide_one(
        self,
        command: Command,
        answers: list[AnyAnswer],
        encoded: list[bytes],
        outcomes: Outcomes,
    ) -> None:
        kind = type(command)
        answer = self.handlers[kind](command)
        answers.append(answer)
        counts = outcomes.get(kind)
        if counts is None:
            counts = outcomes[kind] = [0] * limits.STATUSES_MAX
        counts[answer.status] += 1
        events = self._batch.events
        encoded += map(encode_event, events)
        events.clear()

    def execute(self, command: Command) -> Answer:
        """Decide and apply one command."""
        return self.handlers[type(command)](command)

    def close(self) -> list[Event]:
        """End the batch: its events, to be journaled with the stamp that it began with.

        Less those that the caller has taken out of `events` already.
        """
        self.state.forget(limits.FORGET_PER_BATCH_MAX)
        return self._batch.events

    def replay(self, stamp: int, events: list[Event]) -> None:
        """Apply the events of one journaled record."""
        self.state.now = max(self.state.now, stamp)
        for event in events:
            self.state.apply(event)
        self.state.changed_shortfalls.clear()
        self.state.forget(limits.FORGET_PER_BATCH_MAX)

    def digest(self) -> bytes:
        """16 bytes over the whole state; see `engine.state`."""
        return self.state.digest()

    def knows(self, reservation_id: str, scope: str | None) -> bool:
        """Whether the reservation is remembered here and visible in `scope`."""
        return self._reservations.knows(reservation_id, scope)

    def due(self, now: int) -> bool:
        """Whether a batch that begins at `now` (µs) may find something to expire."""
        soon = self._soon
        if soon and soon[0][0] <= now:
            return True
        return self.state.deadlines.due(now + limits.SECOND_US)

    def _sweep(self) -> None:
        """Expire what is overdue, earliest first, up to the bound of a batch."""
        state, soon = self.state, self._soon
        for name in state.deadlines.take(state.now + limits.SECOND_US, limits.SWEEP_PER_BATCH_MAX):
            self._await_deadline(name)
        events = self._batch.events
        while soon and soon[0][0] <= state.now and len(events) < limits.SWEEP_PER_BATCH_MAX:
            awaited, name = heapq.heappop(soon)
            packed = state.reservations.get(name)
            if packed is None or not holds.is_reserved(packed):
                continue
            if state.deadline(holds.unpack(packed)) <= awaited:
                self._batch.do(Expired(name.decode()))
            else:
                self._await_deadline(name)

    def _await_deadline(self, name: bytes) -> None:
        """Put a reservation where its deadline will find it, if it still has one."""
        state = self.state
        packed = state.reservations.get(name)
        if packed is None or not holds.is_reserved(packed):
            return
        deadline = state.deadline(holds.unpack(packed))
        if deadline // limits.SECOND_US <= state.now // limits.SECOND_US + 1:
            heapq.heappush(self._soon, (deadline, name))
        else:
            state.deadlines.add(deadline, name)
