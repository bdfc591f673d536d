"""The driver: sends parcels, records what came of them, and does nothing else.

A *slot* is the right to have one request under way; it remembers its connection. In a closed loop
an answer's slot sends the next request at once. In an open loop requests have a schedule, and a
free slot waits for the next that is due; if none is free the schedule waits, and the latency counts
from the intended time all the same.

When reserves are accepted, their slot sends the commits and releases that the scenario asks for,
and is free when those are answered.

A request that comes to a former owner of its shard is sent again, to whoever has that by then: that
is a part of its latency, and no outcome. (A frame that goes straight to a host is all about one
shard, so its first answer tells.)

The loop runs without garbage collection: nothing here makes cycles, and everything is bounded by
the number of operations.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from bench.connections import Connection
from bench.latencies import Recorder, few, fold
from bench.ledger import COMMITTED, RELEASED, RESERVED, RESERVED_BRIEFLY, Ledger, Mark
from bench.plan import (
    COMMIT,
    NO_ANSWER,
    OPERATIONS,
    RELEASE,
    RESERVE,
    Latencies,
    Plan,
    Progress,
    Result,
)
from bench.requests import Act, Dialect
from bench.scenarios import Parcel, parcels
from bench.ticker import Ticker
from engine.messages import Status

ACCEPTED: Final = (Status.OK, Status.REPLAYED)
FATES: Final = 1 << 16
WAKE_UP_NS: Final = 100_000
"""The least time between two looks at the schedule: what falls due in between goes together."""
LIVE_SAMPLE: Final = 2_000
MOVED: Final = int(Status.MOVED)
MOVED_SECONDS: Final = 0.02
"""Until a request whose shard has moved is sent again."""

COMMIT_IT, RELEASE_IT, HOLD_IT = range(3)


Flight = tuple[Connection, int, int, int, Parcel, Sequence[Act]]
"""A request under way: its connection, when it ought to have been sent and when it was, in ns, the
number of its first reservation, its parcel, and what it finishes with, if it does not reserve. A
plain tuple: building anything with names takes half a microsecond, a tenth of all there is."""


def fates(plan: Plan, random: Random) -> bytes:
    """What becomes of accepted reservations, in turn."""
    scenario = plan.scenario
    lasting = 1 - scenario.expire
    weights = [scenario.commit / lasting, scenario.release / lasting]
    return bytes(random.choices(range(3), [*weights, max(0, 1 - sum(weights))], k=FATES))


def schedule(plan: Plan, start_ns: int, random: Random) -> Iterator[int]:
    """The moments at which requests ought to be sent."""
    gap = 1e9 / plan.rate
    moment = float(start_ns)
    while True:
        yield int(moment)
        moment += random.expovariate(1 / gap) if plan.arrivals == "poisson" else gap


class Driver:
    """One run. `start`, then wait for `finished`, then ask for the `result`."""

    def __init__(self, plan: Plan, dialect: Dialect) -> None:
        random = Random(plan.seed)
        self._plan = plan
        self._dialect = dialect
        shards = plan.shards if plan.routes else None
        self._parcels = parcels(
            plan.scenario, plan.distribution, plan.names, plan.frame, shards, random
        )
        self._templates = [dialect.template(parcel) for parcel in self._parcels]
        self._fates = fates(plan, random)
        self._finishes = plan.scenario.commit + plan.scenario.release > 0
        self._random = random
        self._cursor = self._request_id = 0
        self._flights: dict[int, Flight] = {}
        self._free: deque[Connection] = deque()
        self._lanes: dict[int, deque[Connection]] = {}
        self._left = plan.operations
        self._running = False
        self.ledger = Ledger()
        self._recorders = [Recorder() for _ in OPERATIONS]
        self._outcomes = [[0] * 256 for _ in OPERATIONS]
        self._answered = [0] * len(OPERATIONS)
        self._refused = 0
        self._lateness = array("Q")
        self._shown = (0, 0, 0)
        self._starved_ns = 0
        """The last moment at which something was due and no slot free."""
        self._held_back = self.unanswered = self.reconnects = 0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- connections ---------------------------------------------------------------------

    def add(self, connection: Connection, slots: int) -> None:
        """`slots` requests may be under way on this connection."""
        self._free.extend([connection] * slots)
        if self._running:
            self._fill(time.monotonic_ns())

    def add_lane(self, shards: Sequence[int], connection: Connection) -> None:
        """Requests for these shards go over this connection, and its like, in turn."""
        for shard in shards:
            self._lanes.setdefault(shard, deque()).append(connection)

    def set_lanes(self, lanes: dict[int, deque[Connection]]) -> None:
        """From now on requests for these shards go over these connections."""
        self._lanes = lanes

    def _lane(self, shard: int, otherwise: Connection) -> Connection:
        """Where a request for this shard goes."""
        lane = self._lanes.get(shard)
        if not lane:
            return otherwise
        lane.rotate(1)
        return lane[0]

    def lose(self, connection: Connection) -> int:
        """The connection has ended: what was under way stays unknown. Its free slots."""
        mine = [key for key, flight in self._flights.items() if flight[0] is connection]
        for request_id in mine:
            self._abandon(self._flights.pop(request_id))
        waiting = self._free.count(connection)
        self._free = deque(free for free in self._free if free is not connection)
        for lane in self._lanes.values():
            if connection in lane:
                lane.remove(connection)
        self._check_end()
        return len(mine) + waiting

    # --- the run -------------------------------------------------------------------------

    def start(self, start_ns: int) -> None:
        """Send from now on. What is begun before `start_ns` plus the warm-up does not count."""
        plan = self._plan
        self._running = True
        self._begin_ns = start_ns + plan.warm_up_ns
        self._end_ns = self._begin_ns + plan.duration_ns
        self._before = self._after = (list(self._answered), time.process_time_ns())
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later((self._end_ns - time.monotonic_ns()) / 1e9, self._end)]
        if plan.warm_up_ns:
            delay = (self._begin_ns - time.monotonic_ns()) / 1e9
            self._timers.append(loop.call_later(delay, self._begin))
        self._schedule: Iterator[int] | None = None
        if plan.arrivals != "closed":
            self._schedule = schedule(plan, start_ns, self._random)
            self._due_ns = next(self._schedule)
            self._ticker = Ticker(loop, self._tick)
        self._fill(time.monotonic_ns())

    def _begin(self) -> None:
        self._before = (list(self._answered), time.process_time_ns())

    def _end(self) -> None:
        if not self._running:
            return
        self._running = False
        self._end_ns = time.monotonic_ns()
        self._after = (list(self._answered), time.process_time_ns())
        for timer in self._timers:
            timer.cancel()
        if self._schedule is not None:
            self._ticker.close()
        asyncio.get_running_loop().call_later(self._plan.drain_ns / 1e9, self.give_up)
        self._check_end()

    def stop(self) -> None:
        """End early."""
        self._end()

    def _check_end(self) -> None:
        if not self._running and not self._flights and not self.finished.done():
            self.finished.set_result(None)

    def give_up(self) -> None:
        """Whoever has not answered by now will not."""
        for request_id in list(self._flights):
            self._abandon(self._flights.pop(request_id))
        self._check_end()

    # --- sending -------------------------------------------------------------------------

    def _fill(self, now: int) -> None:
        """Use the free slots: all of them, or as many as the schedule asks for."""
        if self._schedule is not None:
            self._pump(now)
            return
        for _ in range(len(self._free)):
            if not self._running:
                return
            self._reserve(self._free.popleft(), now, now)

    def _tick(self) -> None:
        self._pump(time.monotonic_ns())

    def _pump(self, now: int) -> None:
        """Send what is due, as far as slots are free."""
        assert self._schedule is not None
        while self._running and self._due_ns <= now:
            if not self._free:
                self._starved_ns = now
                return
            if self._due_ns <= self._starved_ns:
                self._held_back += 1
            elif self._due_ns >= self._begin_ns:
                self._lateness.append(now - self._due_ns)
            self._reserve(self._free.popleft(), self._due_ns, now)
            self._due_ns = next(self._schedule)
        if self._running:
            self._ticker.arm(max(self._due_ns, now + WAKE_UP_NS))

    def _reserve(self, connection: Connection, intended: int, now: int) -> None:
        index = self._cursor
        parcel = self._parcels[index]
        self._cursor = index + 1 if index + 1 < len(self._parcels) else 0
        if self._lanes:
            connection = self._lane(parcel.shard, connection)
        count = len(parcel.skus)
        first = self.ledger.open(parcel.skus)
        self._request_id = request_id = self._request_id + 1
        self._flights[request_id] = (connection, intended, now, first, parcel, ())
        connection.send(
            request_id, self._dialect.reserve(self._templates[index], request_id, first, count)
        )
        if intended >= self._begin_ns:
            self._left -= count
            if self._left < count:
                self._end()

    def _finish(self, connection: Connection, acts: Sequence[Act], parcel: Parcel) -> None:
        now = time.monotonic_ns()
        if self._lanes:
            connection = self._lane(parcel.shard, connection)
        marks = self.ledger.marks
        for act in acts:
            marks[act.number] = Mark.COMMITTING if act.commit else Mark.RELEASING
        self._request_id = request_id = self._request_id + 1
        self._flights[request_id] = (connection, now, now, 0, parcel, acts)
        connection.send(request_id, self._dialect.finish(request_id, acts))

    def _send_again(self, request_id: int) -> None:
        """Its shard has moved while it was under way: to where that is by now, or is soon."""
        flight = self._flights.get(request_id)
        if flight is None:
            return  # it was given up
        connection, intended, sent, first, parcel, acts = flight
        connection = self._lane(parcel.shard, connection)
        self._flights[request_id] = connection, intended, sent, first, parcel, acts
        if not connection.is_open:
            asyncio.get_running_loop().call_later(MOVED_SECONDS, self._send_again, request_id)
        elif acts:
            connection.send(request_id, self._dialect.finish(request_id, acts))
        else:
            template, count = self._dialect.template(parcel), len(parcel.skus)
            connection.send(request_id, self._dialect.reserve(template, request_id, first, count))

    # --- answers -------------------------------------------------------------------------

    def answered(self, connection: Connection, request_id: int, statuses: Sequence[int]) -> None:
        """A request was answered."""
        if statuses[0] == MOVED:
            asyncio.get_running_loop().call_later(MOVED_SECONDS, self._send_again, request_id)
            return
        _, intended, sent, first, parcel, acts = self._flights.pop(request_id)
        now = time.monotonic_ns()
        if acts:
            self._finished(acts, statuses, intended, sent, now)
        else:
            assert len(statuses) == len(parcel.skus)
            self._record(RESERVE, statuses, intended, sent, now)
            table = RESERVED_BRIEFLY if parcel.brief else RESERVED
            self.ledger.answer(first, bytes(statuses), table)
            if self._finishes and not parcel.brief:
                acts = self._acts(parcel, first, statuses)
                if acts:
                    self._finish(connection, acts, parcel)
                    return
        self._release_slot(connection, now)

    def _acts(self, parcel: Parcel, first: int, statuses: Sequence[int]) -> list[Act]:
        """What to do with those of these reservations that were accepted."""
        acts = []
        for number, (sku, status) in enumerate(zip(parcel.skus, statuses, strict=True), first):
            fate = self._fates[number % FATES]
            if status in ACCEPTED and fate != HOLD_IT:
                acts.append(Act(fate == COMMIT_IT, number, sku))
        return acts

    def _finished(
        self, acts: Sequence[Act], statuses: Sequence[int], intended: int, sent: int, now: int
    ) -> None:
        marks = self.ledger.marks
        commits: list[int] = []
        releases: list[int] = []
        for act, status in zip(acts, statuses, strict=True):
            marks[act.number] = (COMMITTED if act.commit else RELEASED)[status]
            (commits if act.commit else releases).append(status)
        if commits:
            self._record(COMMIT, commits, intended, sent, now)
        if releases:
            self._record(RELEASE, releases, intended, sent, now)

    def _record(
        self, operation: int, statuses: Sequence[int], intended: int, sent: int, now: int
    ) -> None:
        count = len(statuses)
        self._answered[operation] += count
        refused = any(statuses)  # OK is 0
        if refused:
            self._refused += sum(status not in ACCEPTED for status in statuses)
        if not self._begin_ns <= intended < self._end_ns:
            return
        outcomes = self._outcomes[operation]
        if refused:
            for status in statuses:
                outcomes[status] += 1
        else:
            outcomes[0] += count
        recorder = self._recorders[operation]
        recorder.intended.append(now - intended)
        recorder.service.append(now - sent)
        recorder.weights.append(count)

    def _release_slot(self, connection: Connection, now: int) -> None:
        if not self._running:
            self._check_end()
        elif self._schedule is not None:
            self._free.append(connection)
            if self._due_ns <= now:
                self._pump(now)
        else:
            self._reserve(connection, now, now)

    def _abandon(self, flight: Flight) -> None:
        _, intended, _, _, parcel, acts = flight
        kinds = [COMMIT if act.commit else RELEASE for act in acts]
        kinds = kinds or [RESERVE] * len(parcel.skus)
        self.unanswered += len(kinds)
        if self._begin_ns <= intended < self._end_ns:
            for kind in kinds:
                self._outcomes[kind][NO_ANSWER] += 1

    # --- reports -------------------------------------------------------------------------

    def progress(self) -> Progress:
        """What happened since this was asked for last."""
        latencies = self._recorders[RESERVE].intended
        now = (sum(self._answered), self._refused, len(latencies))
        answered, refused, seen = (new - old for new, old in zip(now, self._shown, strict=True))
        recent = latencies[len(latencies) - seen :]
        self._shown = now
        return Progress(answered, refused, len(self._flights), few(recent, LIVE_SAMPLE))

    def result(self) -> Result:
        """To be asked for once, when the run is over."""
        return Result(
            [
                {status: count for status, count in enumerate(outcomes) if count}
                for outcomes in self._outcomes
            ],
            [after - before for before, after in zip(self._before[0], self._after[0], strict=True)],
            self._end_ns - self._begin_ns,
            [
                Latencies(fold(r.intended, r.weights), fold(r.service, r.weights))
                for r in self._recorders
            ],
            fold(self._lateness, array("H", [1]) * len(self._lateness)),
            self._held_back,
            self.unanswered,
            self.reconnects,
            self._after[1] - self._before[1],
            self.ledger.groups(),
            self.ledger.sample(self._plan.sample, self._random),
        )
