"""A host: the process that owns some of the shards and answers for them.

It claims what it is assigned, serves it, and says what it has (`status`); who gets what is decided
elsewhere, and who owns what is decided by the journal alone. Commands come from the binary
protocol (`submit`) and go to the owner of their shard; what several shards must answer is gathered.
A command for a shard that is not here is answered with MOVED at once, with who has it as far as the
`board` says; one for a shard that is coming up waits for it, up to its deadline.

A host that has been fenced out of its last shard reports itself empty, and its process leaves: it
may be a frozen one that has woken up, and is of no more use to anybody.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol
from zlib import crc32

import structlog

from actors.archive import AnyArchive
from actors.archiver import Archiver
from actors.auditor import Turns
from actors.claim import Floor
from actors.clock import Clock
from actors.config import Settings
from actors.followers import Followers
from actors.historian import Historian
from actors.inbox import Portion
from actors.journal import BusyError, Journal, JournalError, LostError, Memory
from actors.map_board import MapBoard
from actors.marks import CorruptMarkError, Marks
from actors.owner import Owner
from actors.ownership import Ownership
from actors.pace import SharedPace
from actors.pending import NOT_DONE, Gathered, Pending, Single
from actors.phase import CLOSED, ENDED, Phase
from actors.recovery import Recovery
from actors.rounds import Rounds
from actors.snapshotter import Snapshotter
from actors.spans import traced
from actors.statistics import measure
from actors.tally import Tally
from engine import limits
from engine.codec import Position
from engine.messages import (
    ABOUT_SKU,
    BESIDE,
    UNKNOWN_HOME,
    Adjust,
    Answer,
    Audit,
    Bind,
    Cancel,
    Command,
    Commit,
    Count,
    Dedicate,
    Detail,
    Extend,
    Find,
    GetBinding,
    GetChannel,
    GetMap,
    GetReservation,
    GetStatistics,
    Homes,
    ListChannels,
    ListReservations,
    ListShortfalls,
    ListStock,
    MovedTo,
    MoveLines,
    Outgoing,
    Receive,
    Release,
    Request,
    Reserve,
    Restock,
    Sample,
    SetChannel,
    SetStock,
    Settle,
    Ship,
    Statistics,
    Status,
    Transfer,
    Unbind,
)
from engine.placement import home_of, server_of, shard_of
from engine.scope import Scope

_NEW_WORK: Final[frozenset[type[Command]]] = frozenset(
    {Reserve, Receive, Adjust, Count, Transfer, SetStock, SetChannel, Bind, Dedicate},
)
"""What is refused while memory is short: all that adds to what must be remembered."""
_WRITES: Final[frozenset[type[Command]]] = _NEW_WORK | {
    Commit,
    Release,
    Extend,
    Ship,
    Cancel,
    Restock,
    MoveLines,
    Unbind,
    Settle,
}
"""What is refused while there is hardly any left: all that callers can have journaled."""
_NOTHING: Final[frozenset[type[Command]]] = frozenset()
_RESERVES: Final[set[type[Command]]] = {Reserve}
_BY_SHARD: Final = (
    SetChannel,
    GetChannel,
    ListShortfalls,
    ListStock,
    ListReservations,
    Audit,
    Bind,
    Unbind,
    Settle,
    GetBinding,
    ListChannels,
)
_BROKEN_MAX: Final = 5
"""How often a shard is recovered after a bug before it is given up."""
_log = structlog.get_logger(__name__)


class HostJournal(Journal, Protocol):
    """What a host needs of a journal, beside what its owners need."""

    @property
    def trouble(self) -> JournalError | None:
        """Why the server cannot be asked now; None = it can."""

    async def memory(self) -> Memory:
        """How full the server is."""


class Server:
    """One of the servers that the journal is on, as this host meets it."""

    def __init__(self, journal: HostJournal) -> None:
        self.journal = journal
        """The first of the connections to it, over which its memory is asked for."""
        self.fill = 0.0
        """How full it is, 0 to 1."""
        self.refused = _NOTHING
        """Commands that it is too full for."""
        self.tally = Tally()
        """Of the owners of its shards."""
        self.rounds = Rounds()
        """In which their batches leave."""


class HostStatus(NamedTuple):
    """What a host has to say about its shards."""

    owned: dict[int, int]
    """shard → epoch"""
    recovering: dict[int, int]
    """shard → records and chunks read so far"""
    failed: dict[int, str]
    """shard → why it refuses to serve"""
    heads: dict[int, tuple[Position, int]]
    """shard → last acknowledged position, and its checksum"""
    proven: dict[int, float]
    """shard → seconds since the journal last acknowledged that it is ours"""
    alarms: dict[int, str]
    """shard → the first thing that its newest audit has found"""
    near: list[int]
    """Shards of other hosts that could be taken over in a moment"""
    servers: dict[int, str]
    """server of the journal → why it cannot be asked now"""
    taken: dict[int, int]
    """shard → commands that its owner has decided so far"""


class Host:
    """The shards of one process."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        cluster_id: str,
        journals: Sequence[HostJournal],
        marks: Marks,
        random_bytes: Callable[[int], bytes],
        on_change: Callable[[], None],
        on_empty: Callable[[], None],
        clock_from: Callable[[int], Clock] = Clock,
        archive: AnyArchive | None = None,
        around: Callable[[], list[Sample]] = list,
    ) -> None:
        """`journals`: connections to the journal's servers, to each of them in turn, so that a
        shard, which always uses the same one, finds its server behind it;
        `on_change` is called when `status` has changed, `on_empty` when every shard was lost;
        `clock_from` makes the clock of a shard, which never goes back behind a stamp; `archive`
        gets what is trimmed, None = nobody does; `around` tells of the process at each scrape."""
        self._shards = settings.shards
        self._total = settings.total
        self._ownership = Ownership(
            settings.shards,
            cluster_id,
            name,
            settings.remembered_max,
            settings.grace_us,
            settings.finished_window_us,
            settings.returns_window_us,
            settings.keys_window_us,
            settings.audit_interval_us,
            settings.slow_seconds,
        )
        assert len(journals) % settings.servers == 0, "as many to each server"
        self._journals = journals
        self.servers = [Server(journals[number]) for number in range(settings.servers)]
        self._marks = marks
        self._random_bytes = random_bytes
        self._on_change = on_change
        self._on_empty = on_empty
        self._clock_from = clock_from
        self._owners: dict[int, Owner] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._broken: dict[int, int] = {}
        """How often each shard met a bug."""
        self._again: dict[int, list[Floor]] = {}
        """Shards that were assigned anew while they were being released."""
        self._stopping = False
        self._is_short = False
        """Whether any server is too full for some commands."""
        self._ticker: asyncio.TimerHandle | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self.board = MapBoard(settings.control_token, settings.shards, settings.dedicated)
        self.around = around
        self.marks_failed = 0
        self.archiver = (
            None
            if archive is None
            else Archiver(archive, settings.archive_snapshot_bytes, settings.servers)
        )
        pace = SharedPace(lambda: bool(self._owners)).spend
        self._followers = Followers(
            lambda shard: self._ownership.recovery(shard, self._journal_of(shard), pace), on_change
        )
        self.turns = Turns(settings.servers)
        self.historian = Historian(settings.shards, archive, settings.servers)

    # --- shards come and go ---

    def start(self) -> None:
        """Begin to look after deadlines, marks and the servers' memory."""
        self._ticker = self._loop.call_later(limits.TICK_SECONDS, self._tick)
        for chore in (self._keep_marks(), *map(self._watch_memory, self.servers)):
            self._keepers.append(self._loop.create_task(chore))

    def assign(self, shard: int, floor: Floor | None) -> None:
        """Claim `shard`, recover it, serve it; the journal must reach `floor`."""
        if self._stopping:
            return
        floors = [] if floor is None else [floor]
        owner = self._owners.get(shard)
        if owner is None or owner.phase in ENDED:
            self._own(shard, floors, self._followers.take(shard))
        elif owner.is_stopping:
            self._again[shard] = floors

    def release(self, shard: int, heir: str = "") -> None:
        """Serve what is queued for `shard`, then leave it, to `heir` if that is known."""
        self._again.pop(shard, None)
        owner = self._owners.get(shard)
        if owner is not None:
            owner.stop(heir)

    def follow(self, shards: Iterable[int]) -> None:
        """Keep up with these shards of other hosts, and with no others."""
        ours = [number for number, each in self._owners.items() if each.phase not in ENDED]
        self._followers.follow([] if self._stopping else set(shards) - set(ours))

    def _own(self, shard: int, floors: list[Floor], recovery: Recovery | None = None) -> None:
        owner = Owner(
            shard,
            self._ownership,
            self._journal_of(shard),
            self._marks,
            self._clock_from,
            self._server_of(shard).tally,
            self._random_bytes(16),
            self._changed,
            recovery,
            self.archiver,
            self.turns,
            self.historian,
            self._server_of(shard).rounds,
        )
        self._owners[shard] = owner
        self._run(self._look_after(owner, floors))

    def _journal_of(self, shard: int) -> HostJournal:
        return self._journals[shard % len(self._journals)]

    def _server_of(self, shard: int) -> Server:
        return self.servers[server_of(shard, len(self.servers))]

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    async def _look_after(self, owner: Owner, floors: list[Floor]) -> None:
        await owner.run(floors)
        self._mark(owner)
        await self._write_marks()
        if self._owners.get(owner.number) is owner:
            self._follow(owner, floors)
        self._on_change()

    def _follow(self, owner: Owner, floors: list[Floor]) -> None:
        """The owner of a shard has ended: what becomes of the shard here."""
        if owner.phase is Phase.BROKEN and not owner.is_stopping:
            self._mend(owner, floors)
        elif owner.phase is not Phase.FAILED:
            del self._owners[owner.number]
            if owner.number in self._again:
                self._own(owner.number, self._again.pop(owner.number))
            elif not self._owners and owner.phase is Phase.FENCED:
                self._on_empty()

    def _mend(self, owner: Owner, floors: list[Floor]) -> None:
        """The rules failed on some command: the journal still has the truth."""
        count = self._broken[owner.number] = self._broken.get(owner.number, 0) + 1
        if count <= _BROKEN_MAX:
            self._own(owner.number, floors)
        else:
            owner.phase = Phase.FAILED

    def _changed(self, owner: Owner) -> None:
        if owner.phase is Phase.SERVING:
            self._mark(owner)
            self._run(self._write_marks())
        self._on_change()

    def status(self) -> HostStatus:
        """How things stand."""
        now = self._loop.time()
        owners = self._owners.values()
        serving = [each for each in owners if each.phase in (Phase.SERVING, Phase.LEAVING)]
        return HostStatus(
            {each.number: each.epoch for each in serving},
            {
                each.number: each.progress
                for each in owners
                if each.phase in (Phase.CLAIMING, Phase.RECOVERING, Phase.BROKEN)
            },
            {each.number: each.reason for each in owners if each.phase is Phase.FAILED},
            {
                each.number: (each.appender.position, each.appender.checksum)
                for each in serving
                if each.appender is not None
            },
            {each.number: now - each.proven_at for each in serving},
            {
                each.number: each.auditor.alarm
                for each in serving
                if each.auditor is not None and each.auditor.alarm
            },
            self._followers.near(),
            {
                number: str(each.journal.trouble)
                for number, each in enumerate(self.servers)
                if each.journal.trouble is not None
            },
            {each.number: each.taken for each in serving},
        )

    async def stop(self) -> None:
        """Serve what is queued, write the marks, leave every shard."""
        self._stopping = True
        self._again.clear()
        self._followers.follow([])
        for owner in self._owners.values():
            owner.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=limits.STOP_SECONDS_MAX)
            for task in [each for each in self._tasks if each in late]:
                task.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        await self._write_marks()

    # --- commands ---

    def submit(self, request: Request, scope: Scope, reply: Callable[[Outgoing], None]) -> None:
        """Put every command of the request to its shard; see `actors.binary_server.Handler`."""
        commands = request.commands
        if request.traces is not None:
            reply = traced(request, reply)
        deadline = self._loop.time() + request.deadline_ms / 1000
        pending: Pending | Single
        if len(commands) == 1:
            pending = Single(request.request_id, deadline, reply)
        else:
            pending = Pending(request.request_id, len(commands), deadline, reply)
        owner: Owner | None
        if len(commands) == 1:
            owner = self._owner_of(commands[0], pending, 0, request.shard)
        else:
            owner = self._owner_of_all(commands, request.shard)
            if owner is None:
                self._submit_each(request, pending)
        if owner is not None:
            self._queue(owner, Portion(pending, 0, commands))

    def _owner_of_all(self, commands: list[Command], shard: int) -> Owner | None:
        """Who decides all of them, if that is certain at a glance: they reserve in that shard."""
        owner = self._owners.get(shard)
        if owner is None or owner.phase in CLOSED or self._is_short:
            return None
        return owner if {*map(type, commands)} == _RESERVES else None

    def _submit_each(self, request: Request, pending: Pending | Single) -> None:
        """Put each command to its shard; those that follow each other to one go together."""
        commands = request.commands
        run: list[Command] = []
        last: Owner | None = None
        for index, command in enumerate(commands):
            owner = self._owner_of(command, pending, index, request.shard)
            if owner is not last and last is not None:
                self._queue(last, Portion(pending, index - len(run), run))
                run = []
            if owner is not None:
                run.append(command)
            last = owner
        if last is not None:
            self._queue(last, Portion(pending, len(commands) - len(run), run))

    def _owner_of(
        self, command: Command, pending: Pending | Single, index: int, hint: int
    ) -> Owner | None:
        """Who decides the command; None if it is answered, or taken care of otherwise. `hint`: the
        shard that it is for if it names a SKU, as its sender has it; else UNKNOWN_HOME."""
        if hint != UNKNOWN_HOME and type(command) in ABOUT_SKU:
            shard = hint
        elif type(command) is Reserve:
            lines = command.lines
            if len(lines) == 1:
                shard = crc32(lines[0].sku.encode()) % self._shards  # as placement.shard_of does
            else:
                shard = home_of([line.sku for line in lines], self._shards)
        else:
            found = self._shard_of(command, pending, index)
            if found is None:
                return None
            shard = found
        owner = self._owners.get(shard)
        if self._is_short and type(command) in self._server_of(shard).refused:
            pending.answer(index, Answer(Status.MEMORY_FULL))
        elif owner is None:
            pending.answer(index, self._moved(shard))
        elif owner.phase in CLOSED:
            pending.answer(index, self._gone(owner))
        elif type(command) in BESIDE:
            owner.submit(pending, index, command)
        else:
            return owner
        return None

    def _moved(self, shard: int) -> Answer:
        """Who has the shard instead, as far as is known here."""
        return Answer(Status.MOVED, MovedTo(shard, *self.board.owner(shard)))

    def _gone(self, owner: Owner) -> Answer:
        """Why the owner, which has ended, does not answer; who has come after it, if that is known
        here."""
        is_newer = self.board.owner(owner.number)[0] > owner.epoch
        return self._moved(owner.number) if is_newer else owner.refusal()

    @staticmethod
    def _queue(owner: Owner, portion: Portion) -> None:
        """Give the owner commands, unless too many wait there already."""
        waiting = len(owner.inbox)
        if waiting < limits.SHARD_QUEUE_SHED_RESERVES:
            owner.put(portion)
            return
        for number, command in enumerate(portion.commands, portion.first):
            if type(command) is Reserve or len(owner.inbox) >= limits.SHARD_QUEUE_COMMANDS_MAX:
                portion.waiter.answer(number, Answer(Status.OVERLOADED))
            else:
                owner.submit(portion.waiter, number, command)

    def _shard_of(self, command: Any, pending: Pending | Single, index: int) -> int | None:
        """The command's shard; None if the command was taken care of otherwise."""
        if isinstance(command, GetStatistics):
            pending.answer(index, Answer(Status.OK, Statistics(measure(self))))
            return None
        if isinstance(command, Find):
            self._find(command, pending, index)
            return None
        if isinstance(command, GetMap):
            left = pending.deadline - self._loop.time()
            self.board.ask(command, left, partial(pending.answer, index))
            return None
        if hasattr(command, "sku") and not isinstance(command, _BY_SHARD):
            return shard_of(command.sku, self._shards)
        named: int = command.shard if isinstance(command, _BY_SHARD) else command.home
        if named != UNKNOWN_HOME:
            return named
        if isinstance(command, _BY_SHARD):
            pending.answer(index, Answer(Status.INVALID, Detail("names no shard")))
        else:
            self._find_and(command, pending, index)
        return None

    def _find(self, command: Find, pending: Pending | Single, index: int) -> None:
        """Ask every shard of this host whether it knows the reservation."""
        owners = [each for each in self._owners.values() if each.phase not in CLOSED]
        if not owners:
            pending.answer(index, Answer(Status.OK, Homes([], [])))
            return
        gathered = Gathered(pending, index, len(owners), _all_homes)
        for owner in owners:
            self._queue(owner, Portion(gathered, owner.number, [command]))

    def _find_and(self, command: Any, pending: Pending | Single, index: int) -> None:
        """A command without a home, from a caller who came straight here: the shard that knows the
        reservation gets it; that nobody does can only be said where all shards are."""
        owners = [each for each in self._owners.values() if each.phase is Phase.SERVING]
        knowing = [each for each in owners if each.shard.knows(command.reservation_id, None)]
        if len(knowing) > 1:
            pending.answer(index, Answer(Status.AMBIGUOUS_RESERVATION))
        elif knowing and type(command) in self._server_of(knowing[0].number).refused:
            pending.answer(index, Answer(Status.MEMORY_FULL))
        elif knowing:
            self._queue(knowing[0], Portion(pending, index, [command]))
        elif len(owners) == self._total:
            ask = GetReservation(command.reservation_id, scope=command.scope)
            gathered = Gathered(pending, index, len(owners), _nowhere)
            for owner in owners:
                self._queue(owner, Portion(gathered, owner.number, [ask]))
        else:
            pending.answer(index, NOT_DONE)

    # --- chores ---

    def _tick(self) -> None:
        now = self._loop.time()
        for server in self.servers:
            server.rounds.tick(now)
        for owner in self._owners.values():
            owner.tick(now)
        self._ticker = self._loop.call_later(limits.TICK_SECONDS, self._tick)

    def _mark(self, owner: Owner) -> None:
        """Note how far it has come; but who was refused for what is missing hides no mark of it."""
        if owner.has_opened and owner.appender is not None:
            self._marks.note(owner.number, owner.appender.position, owner.appender.checksum)

    async def _keep_marks(self) -> None:
        while True:
            await asyncio.sleep(limits.MARK_SECONDS)
            for owner in self._owners.values():
                if owner.phase is Phase.SERVING:
                    self._mark(owner)
            await self._write_marks()

    async def _watch_memory(self, server: Server) -> None:
        """One for each: whoever waits for a server that is down keeps nobody from the others."""
        while True:
            is_filling = server.fill >= limits.MEMORY_FILLING
            await asyncio.sleep(
                limits.MEMORY_FILLING_SECONDS if is_filling else limits.MEMORY_SECONDS
            )
            await self._look_at_memory(server)

    async def _write_marks(self) -> None:
        try:
            await self._marks.write()
        except (OSError, CorruptMarkError) as error:
            self.marks_failed += 1
            _log.error("marks_not_written", error=str(error))

    async def _look_at_memory(self, server: Server) -> None:
        try:
            memory = await server.journal.memory()
        except (BusyError, LostError):
            return  # the appends find out by themselves
        except JournalError as error:
            _log.error("memory_not_told", error=str(error))
            return
        server.fill = memory.used / memory.limit if memory.limit else 0.0
        self._refuse(server, _too_much_for(server.fill))
        if server.fill >= limits.MEMORY_SNAPSHOT:
            for owner in self._owners_on(server):
                snapshotter = owner.snapshotter
                if snapshotter is not None and owner.phase is Phase.SERVING:
                    self._free(owner, snapshotter, server)

    def _owners_on(self, server: Server) -> list[Owner]:
        return [each for each in self._owners.values() if self._server_of(each.number) is server]

    def _refuse(self, server: Server, kinds: frozenset[type[Command]]) -> None:
        """Refuse these from now on; what waits of them already may be more than the server has
        room for."""
        refused, server.refused = server.refused, kinds
        self._is_short = any(each.refused for each in self.servers)
        if kinds <= refused:
            return
        for owner in self._owners_on(server):
            for waiter, index in owner.inbox.take_kinds(kinds):
                waiter.answer(index, Answer(Status.MEMORY_FULL))

    def _free(self, owner: Owner, snapshotter: Snapshotter, server: Server) -> None:
        if snapshotter.want(bool(server.refused)):
            owner.poke(prove=True)
        if server.refused is _WRITES:
            snapshotter.relieve()

    @property
    def owners(self) -> list[Owner]:
        return list(self._owners.values())

    @property
    def remembered_max(self) -> int:
        """Of one shard."""
        return self._ownership.remembered_max


def _too_much_for(fill: float) -> frozenset[type[Command]]:
    """What is not taken on by a server that is so full."""
    if fill >= limits.MEMORY_STOP:
        return _WRITES
    return _NEW_WORK if fill >= limits.MEMORY_REFUSE else _NOTHING


def _all_homes(answers: list[Answer]) -> Answer:
    """What all shards of a host said to `Find`; silent if any of them was."""
    found: list[int] = []
    asked: list[int] = []
    for answer in answers:
        if not isinstance(answer.body, Homes):
            return answer
        found += answer.body.shards
        asked += answer.body.asked
    return Answer(Status.OK, Homes(sorted(found), sorted(asked)))


def _nowhere(answers: list[Answer]) -> Answer:
    """Every shard was asked for a reservation that none was thought to know."""
    for answer in answers:
        if answer.status is not Status.UNKNOWN_RESERVATION:
            return NOT_DONE
    return answers[0]
