"""The Python client of the binary protocol: asynchronous, pipelined, safe to retry.

    async with Client.connect("tcp:127.0.0.1:8081", key="…") as client:
        held = await client.reserve([("sku-1", 2)], channel="web")
        await client.commit(held.reservation_id)

What it guarantees: a call returns what the engine answered, or raises:

    Refused             the engine said no; `status` and `body` say why, and nothing was changed
    ├─ Unavailable      nobody could be asked, or nobody could do it now; nothing was changed
    └─ OutcomeUnknown   perhaps it was done: the same call under the same name finds out

Until its deadline a call tries again what failed for the moment: lost connections, overload, shards
that change hands. It never applies anything twice: whatever would count again is given a name
before it is first sent (a reservation id that carries its home, or a key), and keeps that name. To
go on after OutcomeUnknown, or after a crash of the caller, pass the name yourself: the
`reservation_id` of reserve, the `key` of what moves stock.

Calls need not wait for one another: `asyncio.gather` of a hundred keeps a hundred in flight on one
connection, and `submit_many` puts many commands into few frames.

    Client.connect("tcp:127.0.0.1:8081", straight=True)

saves the gateway's part of the work: the client asks who owns what, sends each command to the host
of its shard, and follows shards that move. Calls, outcomes and errors are the same. It needs to
reach the hosts: on one machine as the user who runs them, on several by their addresses.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from random import random
from typing import Final, TypeVar

import msgspec

from engine import limits
from engine.messages import (
    NOT_APPLIED,
    UNKNOWN_HOME,
    Adjust,
    Answer,
    Audit,
    AuditView,
    AvailabilityView,
    Body,
    Cancel,
    ChannelPolicy,
    ChannelView,
    Command,
    Commit,
    Count,
    Detail,
    Extend,
    GetAvailability,
    GetChannel,
    GetReservation,
    GetStock,
    GetStockAsOf,
    LedgerPage,
    LineMove,
    LineRequest,
    ListMovements,
    MoveLines,
    MovementView,
    Policy,
    Receive,
    Release,
    ReservationView,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    Status,
    StockAsOf,
    StockView,
    Transfer,
)
from engine.placement import shard_of
from gateway.homes import RANDOM_BYTES, DedicatedMemory, home_in, mint, shard_for
from gateway.lane import is_repeatable
from gateway.way import Straight, Through, Way, not_done

PAUSE_SECONDS_MIN: Final = 0.005
PAUSE_SECONDS_MAX: Final = 0.2

Lines = Iterable[LineRequest | tuple[str, int]]
"""What is asked for: (sku, quantity), or a LineRequest, which may name a location."""

_DONE: Final = frozenset({Status.OK, Status.REPLAYED})
_PASSES: Final = frozenset({Status.NOT_DONE, Status.OVERLOADED, Status.MOVED})
"""Refusals of the moment: nothing was done, and soon it may be."""
_UNAVAILABLE: Final = _PASSES | {Status.MEMORY_FULL, Status.SHARD_STOPPED}
_T = TypeVar("_T", bound=Body)

_encode: Final = msgspec.msgpack.Encoder().encode
_check: Final = msgspec.msgpack.Decoder(Command).decode


class Refused(Exception):
    """The engine refused: `status` says why, `body` (a Shortage, a Detail, …) in detail."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.body = answer.body
        detail = answer.body.message if isinstance(answer.body, Detail) else answer.body
        super().__init__(
            self.status.name.lower() if detail is None else f"{self.status.name.lower()}: {detail}"
        )


class Unavailable(Refused):
    """Nothing was done, because nobody could do it in time; try again later."""


class OutcomeUnknown(Refused):
    """Perhaps it was done; the same call under the same name finds out, and never does it twice."""


class Client:
    """The engine, for as long as the connection is open; made by `connect`."""

    def __init__(self, way: Way, deadline_ms: int) -> None:
        self.deadline_ms = deadline_ms
        """How long a call may take, retries included."""
        self._way = way
        self._lives = DedicatedMemory()
        self._closed = False
        self._loop = asyncio.get_running_loop()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        address: str,
        key: str | None = None,
        *,
        straight: bool = False,
        deadline_ms: int = limits.DEADLINE_MS_DEFAULT,
        jitter: Callable[[], float] = random,
    ) -> AsyncIterator["Client"]:
        """A client of the engine at `address`, a gateway's or a host's, which must answer within
        the deadline. `straight`: whoever is there is only asked who owns what. `jitter`: a number
        from 0 to 1, every time another.

        Raises Unavailable if nobody does, Refused if the key opens nothing there.
        """
        way = Straight(address, key, jitter) if straight else Through(address, key)
        client = cls(way, deadline_ms)
        try:
            if (refusal := await way.open(client._deadline())) is not None:
                raise _error(refusal)
            yield client
        finally:
            client._closed = True
            await way.close()

    @property
    def shards(self) -> int:
        """How many shards the installation has."""
        return self._way.shards

    @property
    def total(self) -> int:
        """How many shards it has, hashed and dedicated."""
        return self._way.total

    # --- reservations ------------------------------------------------------------------------

    async def reserve(
        self,
        lines: Lines,
        *,
        reservation_id: str | None = None,
        channel: str | None = None,
        ttl_seconds: int = limits.TTL_SECONDS_DEFAULT,
        policy: Policy = Policy.ALL,
    ) -> ReservationView:
        """Hold `lines` for a time. Without an id, one is minted; the same id again changes nothing.

        Raises Refused with INSUFFICIENT_STOCK and a Shortage if there is not enough.
        """
        wanted = _lines(lines)
        name = reservation_id or self._mint(_first(wanted))
        command = Reserve(name, wanted, channel, ttl_seconds, policy)
        view = _expect(await self.submit(command), ReservationView)
        if view.home >= self.shards:
            self._lives.learn(_first(wanted), view.home)
        return view

    async def commit(
        self,
        reservation_id: str,
        lines: Lines | None = None,
        *,
        if_available: bool = False,
        home: int = UNKNOWN_HOME,
    ) -> ReservationView:
        """Turn a hold into a promise; of fewer units, if `lines` says so."""
        taken = None if lines is None else _lines(lines)
        command = Commit(reservation_id, home, taken, if_available)
        return _expect(await self.submit(command), ReservationView)

    async def release(self, reservation_id: str, *, home: int = UNKNOWN_HOME) -> ReservationView:
        """Give a hold back."""
        return _expect(await self.submit(Release(reservation_id, home)), ReservationView)

    async def extend(
        self, reservation_id: str, ttl_seconds: int, *, home: int = UNKNOWN_HOME
    ) -> ReservationView:
        """Hold for `ttl_seconds` from now, or for as long as it is held already."""
        command = Extend(reservation_id, ttl_seconds, home)
        return _expect(await self.submit(command), ReservationView)

    async def get_reservation(
        self, reservation_id: str, *, home: int = UNKNOWN_HOME
    ) -> ReservationView:
        """How a reservation stands."""
        return _expect(await self.submit(GetReservation(reservation_id, home)), ReservationView)

    async def ship(
        self,
        reservation_id: str,
        lines: Lines | None = None,
        *,
        key: str | None = None,
        home: int = UNKNOWN_HOME,
    ) -> ReservationView:
        """Promised units have left; all of them, if no lines are named."""
        units = None if lines is None else _lines(lines)
        command = Ship(reservation_id, home, units, key or _new_key())
        return _expect(await self.submit(command), ReservationView)

    async def cancel(
        self,
        reservation_id: str,
        lines: Lines | None = None,
        *,
        key: str | None = None,
        home: int = UNKNOWN_HOME,
    ) -> ReservationView:
        """Promised units will not leave; all of them, if no lines are named."""
        units = None if lines is None else _lines(lines)
        command = Cancel(reservation_id, home, units, key or _new_key())
        return _expect(await self.submit(command), ReservationView)

    async def restock(
        self,
        reservation_id: str,
        lines: Lines | None = None,
        *,
        key: str | None = None,
        home: int = UNKNOWN_HOME,
    ) -> ReservationView:
        """Shipped units have come back; all of them, if no lines are named."""
        units = None if lines is None else _lines(lines)
        command = Restock(reservation_id, home, units, key or _new_key())
        return _expect(await self.submit(command), ReservationView)

    async def move_lines(
        self,
        reservation_id: str,
        moves: Iterable[LineMove],
        *,
        key: str | None = None,
        home: int = UNKNOWN_HOME,
    ) -> ReservationView:
        """Serve held or promised units from other locations, never letting go of them."""
        command = MoveLines(reservation_id, list(moves), home, key or _new_key())
        return _expect(await self.submit(command), ReservationView)

    # --- stock -------------------------------------------------------------------------------

    async def receive(
        self,
        sku: str,
        location: str,
        quantity: int,
        *,
        reason: str = "",
        reference: str = "",
        unit_cost: int | None = None,
        currency: str | None = None,
        key: str | None = None,
    ) -> MovementView:
        """Units have arrived. The same `key` again moves nothing."""
        name = key or _new_key()
        command = Receive(sku, location, quantity, reason, reference, unit_cost, currency, name)
        return _expect(await self.submit(command), MovementView)

    async def adjust(
        self,
        sku: str,
        location: str,
        quantity: int,
        *,
        reason: str = "",
        reference: str = "",
        key: str | None = None,
    ) -> MovementView:
        """There are `quantity` units more, or fewer. The same `key` again moves nothing."""
        command = Adjust(sku, location, quantity, reason, reference, key or _new_key())
        return _expect(await self.submit(command), MovementView)

    async def count(
        self,
        sku: str,
        location: str,
        quantity: int,
        *,
        expected_on_hand: int | None = None,
        physical_version: int | None = None,
        reason: str = "",
        reference: str = "",
        key: str | None = None,
    ) -> MovementView:
        """There are `quantity` units, if nothing has moved since the counter looked."""
        name = key or _new_key()
        command = Count(
            sku, location, quantity, reason, reference, expected_on_hand, physical_version, name
        )
        return _expect(await self.submit(command), MovementView)

    async def transfer(
        self,
        sku: str,
        location: str,
        to_location: str,
        quantity: int,
        *,
        reason: str = "",
        reference: str = "",
        key: str | None = None,
    ) -> MovementView:
        """Free units go from one location to another. The same `key` again moves nothing."""
        name = key or _new_key()
        command = Transfer(sku, location, to_location, quantity, reason, reference, name)
        return _expect(await self.submit(command), MovementView)

    async def stock(self, sku: str) -> StockView:
        """What there is of a SKU, and where."""
        return _expect(await self.submit(GetStock(sku)), StockView)

    async def stock_as_of(
        self, sku: str, *, time: int | None = None, position: tuple[int, int] | None = None
    ) -> StockAsOf:
        """What there was of a SKU at a time (µs since 1970), or right after a record."""
        command = GetStockAsOf(sku, time, position)
        return _expect(await self.submit(command), StockAsOf)

    async def movements(
        self,
        sku: str,
        *,
        after: tuple[int, int, int] | None = None,
        limit: int = limits.HISTORY_ENTRIES_MAX,
        since: int | None = None,
        until: int | None = None,
    ) -> LedgerPage:
        """What changed a SKU, oldest first; `next` of the page is `after` of the one after it.

        Times in µs since 1970. Looking far back may take longer than this client's deadline."""
        command = ListMovements(sku, after, limit, since, until)
        return _expect(await self.submit(command), LedgerPage)

    async def availability(self, sku: str, channel: str | None = None) -> AvailabilityView:
        """What a channel may sell of a SKU now, and why."""
        return _expect(await self.submit(GetAvailability(sku, channel)), AvailabilityView)

    async def set_stock(
        self,
        sku: str,
        *,
        safety_stock: dict[str, int] | None = None,
        pools: dict[str, int] | None = None,
    ) -> StockView:
        """Set what is withheld at locations, and what pools ring-fence."""
        return _expect(await self.submit(SetStock(sku, safety_stock or {}, pools or {})), StockView)

    # --- channels, and the whole installation ------------------------------------------------

    async def set_channel(self, channel: str, policy: ChannelPolicy) -> ChannelView:
        """What of the stock a channel may sell, in every shard."""
        commands = [SetChannel(shard, channel, policy) for shard in range(self.total)]
        answers = await self.submit_many(commands)
        views = [_expect(answer, ChannelView) for answer in answers]
        return views[0]

    async def get_channel(self, channel: str) -> ChannelView:
        """The channel's policy."""
        return _expect(await self.submit(GetChannel(0, channel)), ChannelView)

    async def audit(self, *, quick: bool = False) -> list[AuditView]:
        """Every shard recomputes its sums and, unless `quick`, replays its journal; and compares.

        That of a large shard may take longer than a client waits: NOT_DONE."""
        answers = await self.submit_many([Audit(shard, quick) for shard in range(self.total)])
        return [_expect(answer, AuditView) for answer in answers]

    # --- commands as they are ----------------------------------------------------------------

    async def submit(self, command: Command) -> Answer:
        """The last word on one command: an answer, refusals included."""
        return (await self.submit_many([command]))[0]

    async def submit_many(self, commands: Sequence[Command]) -> list[Answer]:
        """The last word on each command, in their order; they are not applied together.

        Commands of one shard travel in one frame (or few) and are applied in their order; so are
        those whose shard only the other side knows. What is tried again comes after the others.
        """
        answers: list[Answer] = [_invalid(command) or not_done("") for command in commands]
        places = [place for place, answer in enumerate(answers) if answer.status is Status.NOT_DONE]
        groups = self._groups(commands, places)
        if len(groups) == 1:
            await self._settle(commands, answers, groups[0])
        else:
            await asyncio.gather(*(self._settle(commands, answers, each) for each in groups))
        return answers

    def _groups(self, commands: Sequence[Command], places: list[int]) -> list[list[int]]:
        """Places of commands that go into one frame each."""
        open_groups: dict[int, tuple[list[int], int]] = {}
        groups = []
        for place in places:
            shard = _shard_of(commands[place], self.shards)
            size = len(_encode(commands[place]))
            group, room = open_groups.get(shard, ([], 0))
            if size > room or len(group) == limits.COMMANDS_PER_FRAME_MAX:
                group, room = [], limits.FLIGHT_BYTES_MAX
                groups.append(group)
            group.append(place)
            open_groups[shard] = (group, room - size)
        return groups

    async def _settle(
        self, commands: Sequence[Command], answers: list[Answer], places: list[int]
    ) -> None:
        """Send the commands at `places` until each has its last word, or time is up."""
        deadline = self._deadline()
        unsure: set[int] = set()
        pause = PAUSE_SECONDS_MIN
        while True:
            heard = await self._way.ask([commands[place] for place in places], deadline)
            again = []
            for place, answer in zip(places, heard, strict=True):
                if answer.status is Status.OUTCOME_UNKNOWN:
                    unsure.add(place)
                if place in unsure and answer.status in NOT_APPLIED:
                    answer = Answer(Status.OUTCOME_UNKNOWN, answer.body)
                answers[place] = answer
                if answer.status in _PASSES or (
                    answer.status is Status.OUTCOME_UNKNOWN and is_repeatable(commands[place])
                ):
                    again.append(place)
            places = again
            if not places or self._closed or self._loop.time() + pause >= deadline:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    def _deadline(self) -> float:
        return self._loop.time() + self.deadline_ms / 1_000

    def _mint(self, sku: str) -> str:
        """An id that names the SKU's shard, the dedicated one as soon as that was heard of: there
        the reservation is looked for first, and a release waits for a reserve that is late."""
        lives = self._lives.recall(sku)
        home = shard_of(sku, self.shards) if lives == UNKNOWN_HOME else lives
        return mint(home, time.time_ns() // 1_000_000, secrets.token_bytes(RANDOM_BYTES))


def _lines(lines: Lines) -> list[LineRequest]:
    return [line if isinstance(line, LineRequest) else LineRequest(*line) for line in lines]


def _first(lines: list[LineRequest]) -> str:
    """The SKU that decides where they go."""
    return min((line.sku for line in lines), key=str.encode, default="")


def _new_key() -> str:
    return secrets.token_hex(16)


def _shard_of(command: Command, shards: int) -> int:
    """The command's shard as far as this side knows."""
    shard = shard_for(command, shards)
    if shard == UNKNOWN_HOME:
        home: int = getattr(command, "home", UNKNOWN_HOME)
        return home if home != UNKNOWN_HOME else home_in(getattr(command, "reservation_id", ""))
    return shard


def _invalid(command: Command) -> Answer | None:
    """What is wrong with a command that the other side would close the connection for."""
    try:
        _check(_encode(command))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        return Answer(Status.INVALID, Detail(str(error)[: limits.TEXT_CHARS_MAX]))
    return None


def _error(answer: Answer) -> Refused:
    if answer.status is Status.OUTCOME_UNKNOWN:
        return OutcomeUnknown(answer)
    return Unavailable(answer) if answer.status in _UNAVAILABLE else Refused(answer)


def _expect(answer: Answer, kind: type[_T]) -> _T:
    """The answer's body, if the command was done; else the exception that says why not."""
    if answer.status not in _DONE:
        raise _error(answer)
    assert isinstance(answer.body, kind)
    return answer.body
