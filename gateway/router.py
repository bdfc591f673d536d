"""The router: a command goes in, its answer comes out, and nobody waits in between.

Gateways have one, and so does every client that goes straight to the hosts: who owns what, the one
is told by the coordinator, the other finds out (`gateway.map_watch`); all else is the same.

    submit ──► lane of its shard ──frames──► link to the owner ──► answer
                 ▲                              │
                 └── moved, not done, lost ─────┘          home unknown ──► search ──► lane

What it guarantees: `reply` is called exactly once per command, at its deadline at the latest: with
the shard's answer; with NOT_DONE if the command certainly was not applied; with OUTCOME_UNKNOWN if
it perhaps was. A command is sent a second time only if the first certainly did nothing or if a
repetition has no second effect (`gateway.lane.is_repeatable`), and never out of order in its shard.
What a host itself is unsure of is tried DOUBTS_MAX times more and then passed on: a command on
which a shard breaks must not break it for as long as the deadline lasts.

A shard that has stopped, as the map says, is waited for by nobody: its commands are refused at once
with SHARD_STOPPED, until a later map has an owner for it or no longer says so. If it is only said
to be a reservation's home, the others are asked first.

Batches form by themselves: what comes in one turn of the event loop leaves in one frame per shard,
and while a shard has FLIGHTS_PER_SHARD_MAX frames, what comes gathers for the next. No linger
timer, no Task or Future per command, one sweep for all deadlines.

A reservation is looked for where the caller says, where it was last seen, where its id says, and
then everywhere (`gateway.search`). Releasing an id that exists nowhere leaves a tombstone at the
home that the caller or the id vouches for, so that a reserve which is still under way cannot leak.

A SKU that was given a shard of its own is learnt of from its hashed shard alone, which refuses with
DEDICATED whatever comes for it. Then the lane there sends nothing more until all of its flights
have landed; what waits there of that SKU, in order, goes over to the lane of the dedicated shard;
and only now new commands go there directly. So none overtakes another, and who knows nothing, or
has forgotten it, loses nothing but time.
"""

import asyncio
from collections.abc import Callable, Mapping, Set
from functools import partial
from math import ceil, inf
from typing import Final, NamedTuple

import msgspec
import structlog

from engine import limits
from engine.codec import START, Position
from engine.messages import (
    NOT_APPLIED,
    UNKNOWN_HOME,
    Answer,
    Cancel,
    Command,
    Commit,
    Dedicate,
    DedicatedTo,
    Detail,
    Extend,
    Find,
    GetReservation,
    Head,
    Homes,
    MovedTo,
    MoveLines,
    Release,
    ReservationCommand,
    ReservationView,
    Response,
    Restock,
    Ship,
    Status,
    Trace,
)
from engine.placement import shard_of
from gateway.homes import DedicatedMemory, HomeMemory, home_in, shard_for, sku_of
from gateway.lane import GO_FIRST, Flight, Lane, Ticket, is_repeatable
from gateway.link import Link
from gateway.search import Search, Verdict

SWEEP_SECONDS: Final = 0.01
STRAND_SECONDS: Final = 0.25
"""What a former owner gets to answer what it still has."""
RESET_SECONDS: Final = 5.0
"""A frame unanswered for so long after its deadline: the link is broken, whatever it says."""
RETIRE_SECONDS: Final = 5.0
"""What the link to a host without shards gets to bring its last answers."""
PAUSE_SECONDS_MIN: Final = 0.005
PAUSE_SECONDS_MAX: Final = 0.2
SEARCH_PAUSE_SECONDS: Final = 0.05
DOUBTS_MAX: Final = 2
"""How often OUTCOME_UNKNOWN from a host is answered by sending the command again."""

ABOUT_RESERVATION: Final = (
    Commit,
    Release,
    Extend,
    Ship,
    Cancel,
    Restock,
    MoveLines,
    GetReservation,
)
_SHED_LAST: Final = frozenset({Commit, Release, Extend, Ship, Cancel}) | GO_FIRST
_STUCK: Final = frozenset({Status.MOVED, Status.NOT_DONE, Status.OUTCOME_UNKNOWN, Status.DEDICATED})
_NOT_HERE: Final = frozenset({Status.UNKNOWN_RESERVATION, Status.SHARD_STOPPED})
"""What a wrong home may answer."""
_COMES_BACK: Final = _STUCK | _NOT_HERE
"""Statuses that are perhaps not the last word."""
_FRAME_ROOM: Final = limits.FRAME_BYTES_MAX - 64

Reply = Callable[[Answer], None]

_encode: Final = msgspec.msgpack.Encoder().encode
_check: Final = msgspec.msgpack.Decoder(Command).decode
_log = structlog.get_logger(__name__)


class RouterStatistics(NamedTuple):
    """Since the router was made, but for `in_flight`, `waiting` and `links_up`: now."""

    in_flight: int
    waiting: int
    links_up: int
    map_version: int
    answers: dict[Status, int]
    frames: int
    commands_sent: int
    resends: int
    searches: int
    shed: int
    homes_remembered: int
    links: int = 0
    """Hosts that own a shard; there ought to be a link to each."""


class Router:
    """From commands to the hosts that own their shards. Lives on one event loop."""

    def __init__(self, shards: int, key: str | None = None, dedicated: int = 0) -> None:
        """`shards`: hashed ones; `dedicated`: how many there are beside those."""
        self.shards = shards
        self.heads: dict[int, Position] = {}
        """The highest acknowledged position that was seen of each shard."""
        self.map_version = -1
        self._key = key
        self._lanes = [Lane(shard) for shard in range(shards + dedicated)]
        self._hosts: dict[str, Lane] = {}
        self._links: dict[str, Link] = {}
        self._retired: dict[Link, asyncio.TimerHandle] = {}
        """Those to hosts without shards, for the last answers; when they end."""
        self._alive: Set[str] = frozenset()
        """Addresses of hosts that may own something next."""
        self._owners: set[str] = set()
        """Addresses of those that own something."""
        self._homes = HomeMemory()
        self._dedicated = DedicatedMemory()
        self._loop = asyncio.get_running_loop()
        self._scheduled: list[Lane] = []
        self._busy: dict[Lane, None] = {}
        """In the order in which they became so: the same in every run, which a set's is not."""
        self._closed = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._searching: dict[Ticket, None] = {}
        self._traces: dict[int, Trace] = {}
        """By the id of the command, which its ticket keeps alive until it is answered."""
        self._in_flight = self._in_flight_bytes = 0
        self._answers = dict.fromkeys(Status, 0)
        self._frames = self._commands_sent = self._resends = self._searches = self._shed = 0

    # --- what callers use --------------------------------------------------------------------

    def submit(self, command: Command, deadline_ms: int, reply: Reply) -> None:
        """Answer `command` within `deadline_ms`; it belongs to the router from here on."""
        try:
            _check(_encode(command))
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            self._answers[Status.INVALID] += 1
            reply(_invalid(str(error)))
            return
        self.forward(command, deadline_ms, reply)

    def forward(
        self, command: Command, deadline_ms: int, reply: Reply, trace: Trace | None = None
    ) -> None:
        """submit(), for a command that was decoded from the wire, and so is known to be valid."""
        if trace is not None:
            reply = self._traced(command, trace, reply)
        if self._is_full_for(command):
            self._shed += 1
            self._answers[Status.OVERLOADED] += 1
            reply(Answer(Status.OVERLOADED))
        elif (shard := shard_for(command, self.shards, self.total)) != UNKNOWN_HOME:
            if self._dedicated and (lives := self._lives(command)) != UNKNOWN_HOME:
                shard = lives
            self._enter(shard, self._ticket(command, deadline_ms, reply))
        elif isinstance(command, ABOUT_RESERVATION):
            self._forward_to_home(command, deadline_ms, reply)
        elif isinstance(command, Find):
            self._search(self._ticket(command, deadline_ms, reply))
        else:
            self._answers[Status.INVALID] += 1
            reply(_invalid("no shard answers this"))

    @property
    def total(self) -> int:
        """How many shards there are, hashed and dedicated."""
        return len(self._lanes)

    def place_of(self, sku: str) -> int:
        """The shard that the SKU lives in, as far as is known here."""
        lives = self._dedicated.recall(sku)
        return shard_of(sku, self.shards) if lives == UNKNOWN_HOME else lives

    async def ask(self, command: Command, deadline_ms: int = limits.DEADLINE_MS_DEFAULT) -> Answer:
        """submit(), for who would rather wait."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        self.submit(command, deadline_ms, partial(_resolve, future))
        return await future

    async def ask_all(
        self, make: Callable[[int], Command], deadline_ms: int = limits.DEADLINE_MS_DEFAULT
    ) -> dict[int, Answer]:
        """The answers of all shards, each to a command of its own."""
        asked = [self.ask(make(shard), deadline_ms) for shard in range(self.total)]
        return dict(enumerate(await asyncio.gather(*asked)))

    async def ask_hosts(
        self, make: Callable[[], Command], deadline_ms: int = limits.DEADLINE_MS_DEFAULT
    ) -> dict[str, Answer]:
        """The answers of all hosts, by address, to what concerns the whole process."""
        futures: dict[str, asyncio.Future[Answer]] = {}
        for address, lane in self._hosts.items():
            futures[address] = future = self._loop.create_future()
            self._push(lane, self._ticket(make(), deadline_ms, partial(_resolve, future)))
        return {address: await future for address, future in futures.items()}

    def update_map(
        self,
        version: int,
        shards: Mapping[int, tuple[int, str]],
        stopped: Set[int] = frozenset(),
        alive: Set[str] = frozenset(),
    ) -> None:
        """Shard → (epoch, its owner's address); missing = no owner, and if it is among `stopped`,
        none is to be expected. `alive`: addresses of all hosts, owners or not, so that whoever
        becomes one is connected by then. An older map is ignored."""
        if version <= self.map_version:
            return
        self.map_version, self._alive = version, alive
        if shards:
            self._make_room(max(shards))
        for shard, lane in enumerate(self._lanes):
            epoch, address = shards.get(shard, (lane.epoch, None))
            if epoch >= lane.epoch:
                self._assign(lane, epoch, address, stopped=address is None and shard in stopped)
        self._settle_links()

    def forget_map(self) -> None:
        """The next map is of another life of the engine: versions begin anew."""
        self.map_version = -1
        self._dedicated.forget()
        for lane in self._lanes:
            lane.epoch = 0

    def links(self) -> list[Link]:
        """Those to hosts that are up."""
        return [link for link in self._links.values() if link.up]

    def owners(self) -> dict[int, tuple[int, str | None]]:
        """Shard → (epoch, address of the owner, or None), as far as is known here."""
        return {lane.shard: (lane.epoch, lane.address) for lane in self._lanes}

    def statistics(self) -> RouterStatistics:
        """The counters as they stand."""
        lanes = (*self._lanes, *self._hosts.values())
        return RouterStatistics(
            in_flight=self._in_flight,
            waiting=sum(len(lane.waiting) for lane in lanes),
            links_up=sum(self._links[address].up for address in self._owners),
            map_version=self.map_version,
            answers={status: count for status, count in self._answers.items() if count},
            frames=self._frames,
            commands_sent=self._commands_sent,
            resends=self._resends,
            searches=self._searches,
            shed=self._shed,
            homes_remembered=len(self._homes),
            links=len(self._owners),
        )

    async def close(self) -> None:
        """Answer whatever is still here, and close the links."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for lane in (*self._lanes, *self._hosts.values()):
            self._expire(lane, inf)
        while self._searching:
            self._give_up(self._searching.popitem()[0])
        for timer in self._retired.values():
            timer.cancel()
        links = [*self._links.values(), *self._retired]
        self._links.clear()
        self._owners.clear()
        self._retired.clear()
        for link in links:
            await link.close()

    # --- in and out --------------------------------------------------------------------------

    def _traced(self, command: Command, trace: Trace, reply: Reply) -> Reply:
        """Let the hosts know of `trace` whenever they are sent `command`, until it is answered."""
        self._traces[id(command)] = trace

        def answered(answer: Answer) -> None:
            del self._traces[id(command)]
            reply(answer)

        return answered

    def _traces_of(self, flight: Flight) -> list[Trace] | None:
        """What is traced of what leaves, by its place there."""
        traces = self._traces
        found = [
            msgspec.structs.replace(traces[id(ticket.command)], index=index)
            for index, ticket in enumerate(flight.tickets)
            if id(ticket.command) in traces
        ]
        return found or None

    def _ticket(self, command: Command, deadline_ms: int, reply: Reply) -> Ticket:
        encoded = msgspec.Raw(_encode(command))
        self._in_flight += 1
        self._in_flight_bytes += len(encoded)
        seconds = min(deadline_ms, limits.DEADLINE_MS_MAX) / 1_000
        return Ticket(command, encoded, self._loop.time() + seconds, reply)

    def _enter(self, shard: int, ticket: Ticket) -> None:
        """Let a new command into its lane, unless too much waits there already."""
        lane = self._lanes[shard]
        if len(ticket.encoded) > _FRAME_ROOM:
            self._finish(ticket, _invalid("larger than a frame"))
        elif (
            len(lane.waiting) >= limits.GATEWAY_WAITING_PER_SHARD_MAX
            and type(ticket.command) not in _SHED_LAST
        ):
            self._shed += 1
            self._finish(ticket, Answer(Status.OVERLOADED))
        else:
            self._push(lane, ticket)

    def _is_full_for(self, command: Command) -> bool:
        """Whether there is too much of everything already to take on `command`."""
        if self._in_flight_bytes > limits.GATEWAY_IN_FLIGHT_BYTES_MAX or self._closed:
            return True
        if self._in_flight < limits.GATEWAY_IN_FLIGHT_SHED_RESERVES:
            return False
        return self._in_flight >= limits.GATEWAY_IN_FLIGHT_MAX or type(command) not in _SHED_LAST

    def _push(self, lane: Lane, ticket: Ticket) -> None:
        lane.push(ticket)
        self._schedule(lane)

    def _finish(self, ticket: Ticket, answer: Answer) -> None:
        """The last word on a command."""
        ticket.flight = None
        self._in_flight -= 1
        self._in_flight_bytes -= len(ticket.encoded)
        if type(ticket.command) is not Find:  # most of those are our own
            self._answers[answer.status] += 1
        try:
            ticket.reply(answer)
        except Exception:  # one caller's mistake must not cost the others their answers
            _log.exception("reply_failed", command=type(ticket.command).__name__)

    def _give_up(self, ticket: Ticket, status: Status = Status.NOT_DONE) -> None:
        """Say that it was not applied, unless it perhaps was."""
        self._finish(ticket, Answer(Status.OUTCOME_UNKNOWN if ticket.unsure else status))

    # --- lanes and links ---------------------------------------------------------------------

    def _schedule(self, lane: Lane) -> None:
        """Look at `lane` at the end of this turn of the event loop."""
        if lane.scheduled:
            return
        lane.scheduled = True
        if not self._scheduled:
            self._loop.call_soon(self._pump_scheduled)
        self._scheduled.append(lane)
        self._busy[lane] = None
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _pump_scheduled(self) -> None:
        scheduled, self._scheduled = self._scheduled, []
        now = self._loop.time()
        for lane in scheduled:
            lane.scheduled = False
            self._pump(lane, now)

    def _pump(self, lane: Lane, now: float) -> None:
        """Send what may leave; refuse what has nowhere to go."""
        if lane.departing and not lane.flights:
            self._depart(lane)
        if lane.stopped:
            for ticket in lane.clear():
                if ticket.hinted:
                    self._search(ticket)
                else:
                    self._give_up(ticket, Status.SHARD_STOPPED)
            return
        link = self._links.get(lane.address) if lane.address is not None else None
        while link is not None and link.up and (flight := lane.take(now)) is not None:
            self._frames += 1
            self._commands_sent += len(flight.tickets)
            deadline_ms = min(max(1, ceil((flight.latest - now) * 1_000)), limits.DEADLINE_MS_MAX)
            encoded = [ticket.encoded for ticket in flight.tickets]
            traces = self._traces_of(flight) if self._traces else None
            landed = partial(self._landed, lane, flight)
            link.send(encoded, deadline_ms, landed, traces, max(lane.shard, UNKNOWN_HOME))

    def _sweep(self) -> None:
        """Look after deadlines, pauses and former owners."""
        now = self._loop.time()
        for lane in list(self._busy):
            self._expire(lane, now)
            if lane.strand_at <= now:
                self._resends += len(lane.flights)
                lane.strand()
            if any(flight.latest + RESET_SECONDS < now for flight in (*lane.flights, *lane.aside)):
                self._reset(lane)
            self._pump(lane, now)
            if lane.idle:
                self._busy.pop(lane)
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep) if self._busy else None

    def _expire(self, lane: Lane, now: float) -> None:
        for ticket in lane.expire(now):
            self._give_up(ticket)

    def _reset(self, lane: Lane) -> None:
        link = self._links.get(lane.address) if lane.address is not None else None
        if link is not None:
            _log.error("host_silent", address=lane.address, shard=lane.shard)
            link.reset()

    def _assign(
        self, lane: Lane, epoch: int, address: str | None, *, stopped: bool = False
    ) -> None:
        lane.assign(epoch, address, self._loop.time() + STRAND_SECONDS, stopped=stopped)
        self._schedule(lane)

    def _settle_links(self) -> None:
        """One link and one lane for each host that owns anything, or may; no others."""
        if self._closed:
            return
        self._owners = {lane.address for lane in self._lanes if lane.address is not None}
        wanted = self._owners | self._alive
        for address in sorted(wanted - self._links.keys()):
            self._links[address] = link = Link(address, self._key, self._on_link_change)
            self._hosts[address] = Lane(-1, address)
            link.start()
        for address in self._links.keys() - wanted:
            self._retire(self._links.pop(address))
            lane = self._hosts.pop(address)
            lane.address = None
            self._expire(lane, inf)

    def _retire(self, link: Link) -> None:
        def stop() -> None:
            del self._retired[link]
            link.stop()

        self._retired[link] = self._loop.call_later(RETIRE_SECONDS, stop)

    def _on_link_change(self, link: Link) -> None:
        if link.up:
            for lane in (*self._lanes, *self._hosts.values()):
                if lane.address == link.address and not lane.idle:
                    self._schedule(lane)

    # --- answers -----------------------------------------------------------------------------

    def _landed(self, lane: Lane, flight: Flight, response: Response | None) -> None:
        """A flight was answered, or, without a response, lost."""
        lane.land(flight)
        if response is not None and len(response.answers) == len(flight.tickets):
            returned = self._hear(lane, flight, response.answers)
            self._note(response.heads)
            if not returned:
                lane.delay = 0.0
        else:
            returned = self._lose(flight)
        if returned and lane.departing:
            self._resends += len(returned)
            lane.give_back(returned, 0.0)
        elif returned:
            self._return(lane, returned)
        if lane.waiting or lane.departing:
            self._schedule(lane)

    def _hear(self, lane: Lane, flight: Flight, answers: list[Answer]) -> list[Ticket]:
        """Pass the answers on; the tickets that must go again.

        Where answers were too large for one frame, the last are OUTCOME_UNKNOWN, but the first are
        not: that is progress, and no doubt.
        """
        returned = []
        stuck = answers[0].status in _STUCK
        for ticket, answer in zip(flight.tickets, answers, strict=True):
            if ticket.flight is not flight:
                continue
            if answer.status is Status.OUTCOME_UNKNOWN:
                ticket.unsure = True
                ticket.doubts += stuck
            if answer.status in _COMES_BACK and self._comes_back(lane, ticket, answer):
                if ticket.flight is flight:
                    returned.append(ticket)
                continue
            if type(answer.body) is ReservationView:
                self._homes.learn(answer.body.reservation_id, answer.body.home)
            if ticket.unsure and answer.status in NOT_APPLIED:
                self._give_up(ticket)
            else:
                self._finish(ticket, answer)
        return returned

    def _comes_back(self, lane: Lane, ticket: Ticket, answer: Answer) -> bool:
        """Whether this answer is not the last word; a search takes its ticket along."""
        if answer.status in _NOT_HERE:
            if not ticket.hinted:
                return False
            ticket.flight = None
            self._search(ticket)
            return True
        if answer.status is Status.OUTCOME_UNKNOWN:
            return ticket.doubts <= DOUBTS_MAX and is_repeatable(ticket.command)
        body = answer.body
        if isinstance(body, DedicatedTo):
            if isinstance(ticket.command, Dedicate):
                return False  # it was to live in another shard, and cannot any more
            self._hear_where(lane, body)
        elif isinstance(body, MovedTo) and body.address and body.epoch > lane.epoch:
            self._assign(lane, body.epoch, body.address)
            self._settle_links()
        return True

    def _lose(self, flight: Flight) -> list[Ticket]:
        """The tickets of a lost flight that may go again; the others get their answer."""
        returned = []
        for ticket in flight.carried():
            ticket.unsure = True
            if is_repeatable(ticket.command):
                returned.append(ticket)
            else:
                self._give_up(ticket)
        return returned

    def _return(self, lane: Lane, tickets: list[Ticket]) -> None:
        if lane.shard < 0 and lane.address is None:  # a host that is gone
            for ticket in tickets:
                self._give_up(ticket)
            return
        self._resends += len(tickets)
        lane.delay = min(max(2 * lane.delay, PAUSE_SECONDS_MIN), PAUSE_SECONDS_MAX)
        lane.give_back(tickets, self._loop.time() + lane.delay)
        self._schedule(lane)

    def _note(self, heads: list[Head]) -> None:
        for head in heads:
            position = Position(head.epoch, head.sequence)
            if position > self.heads.get(head.shard, START):
                self.heads[head.shard] = position

    # --- dedicated shards --------------------------------------------------------------------

    def _lives(self, command: Command) -> int:
        """The dedicated shard that the command belongs to, if it is known to; or UNKNOWN_HOME."""
        sku = sku_of(command)
        return UNKNOWN_HOME if sku is None else self._dedicated.recall(sku)

    def _hear_where(self, lane: Lane, body: DedicatedTo) -> None:
        """Only a hashed shard says where a SKU lives, and only a dedicated one is where it can; all
        else is tried again like what was not done, until the deadline."""
        if 0 <= lane.shard < self.shards <= body.shard < limits.SHARDS_MAX:
            self._make_room(body.shard)
            lane.departing[body.sku] = body.shard

    def _depart(self, lane: Lane) -> None:
        """Every flight has landed: what it has said of SKUs holds from now on, and what waits here
        of them goes where they live."""
        for sku, shard in lane.departing.items():
            self._dedicated.learn(sku, shard)
        for shard, ticket in lane.depart(self._lives):
            self._push(self._lanes[shard], ticket)

    def _make_room(self, shard: int) -> None:
        """The installation may have more dedicated shards than when this router was made."""
        for number in range(len(self._lanes), min(shard + 1, limits.SHARDS_MAX)):
            self._lanes.append(Lane(number))

    # --- reservations ------------------------------------------------------------------------

    def _forward_to_home(self, command: ReservationCommand, deadline_ms: int, reply: Reply) -> None:
        reservation_id = command.reservation_id
        voucher = self._valid(command.home)
        if voucher == UNKNOWN_HOME:
            voucher = self._valid(home_in(reservation_id))
            home = self._homes.recall(reservation_id)
            command.home = home if home != UNKNOWN_HOME else voucher
        if isinstance(command, Release):
            command.bury = False
        ticket = self._ticket(command, deadline_ms, reply)
        ticket.voucher = voucher
        if command.home == UNKNOWN_HOME:
            self._search(ticket)
        else:
            ticket.hinted = True
            self._enter(command.home, ticket)

    def _valid(self, home: int) -> int:
        return home if home < self.total else UNKNOWN_HOME

    def _search(self, ticket: Ticket) -> None:
        """Ask every host that owns anything who knows the reservation."""
        command = ticket.command
        if self._closed:
            return  # close() has answered it
        assert isinstance(command, (Find, *ABOUT_RESERVATION))
        ticket.hinted = False
        self._searches += 1
        self._searching[ticket] = None
        search = Search(len(self._owners), partial(self._searched, ticket))
        if not self._owners:
            self._searched(ticket, search)
            return
        half_ms = max(
            1, int((ticket.deadline - self._loop.time()) * 500)
        )  # half is for what it finds
        for lane in [self._hosts[address] for address in sorted(self._owners)]:
            find = Find(command.reservation_id, command.scope)
            self._push(lane, self._ticket(find, half_ms, search.hear))

    def _searched(self, ticket: Ticket, search: Search) -> None:
        """Every host has answered, or will not."""
        self._searching.pop(ticket, None)
        verdict = search.verdict(self.total, {lane.shard for lane in self._lanes if lane.stopped})
        if verdict is Verdict.UNKNOWN:
            self._search_again(ticket)
        elif verdict is Verdict.FORBIDDEN:
            self._give_up(ticket, Status.FORBIDDEN)
        elif verdict is Verdict.STOPPED:
            home = getattr(ticket.command, "home", UNKNOWN_HOME)
            named = home != UNKNOWN_HOME and self._lanes[home].stopped
            self._give_up(ticket, Status.SHARD_STOPPED if named else Status.NOT_DONE)
        elif isinstance(ticket.command, Find):
            found = Homes(sorted(search.homes), sorted(search.asked))
            self._finish(ticket, Answer(Status.OK, found))
        elif verdict is Verdict.FOUND:
            self._send_home(ticket, search.homes.pop())
        elif verdict is Verdict.AMBIGUOUS:
            self._finish(ticket, Answer(Status.AMBIGUOUS_RESERVATION))
        elif isinstance(ticket.command, Release) and ticket.voucher != UNKNOWN_HOME:
            ticket.command.bury = True
            self._send_home(ticket, ticket.voucher)
        else:
            self._finish(ticket, Answer(Status.UNKNOWN_RESERVATION))

    def _search_again(self, ticket: Ticket) -> None:
        """Some shard was not heard from; while there is time, it may yet be."""
        if self._closed or self._loop.time() + SEARCH_PAUSE_SECONDS >= ticket.deadline:
            self._searching.pop(ticket, None)
            self._give_up(ticket)
        else:
            self._searching[ticket] = None
            self._loop.call_later(SEARCH_PAUSE_SECONDS, self._search, ticket)

    def _send_home(self, ticket: Ticket, home: int) -> None:
        """Send a command that was searched for to `home`, whose answer is the last word."""
        command = ticket.command
        assert isinstance(command, ABOUT_RESERVATION)
        if self._closed or home >= self.total or self._loop.time() >= ticket.deadline:
            self._give_up(ticket)
            return
        command.home = home
        self._in_flight_bytes -= len(ticket.encoded)
        ticket.encoded = msgspec.Raw(_encode(command))
        self._in_flight_bytes += len(ticket.encoded)
        self._push(self._lanes[home], ticket)


def _invalid(why: str) -> Answer:
    return Answer(Status.INVALID, Detail(why[: limits.TEXT_CHARS_MAX]))


def _resolve(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():  # whoever asked may have been cancelled
        future.set_result(answer)
