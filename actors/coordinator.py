"""The coordinator: who is alive, who gets which shard, and what everybody is told about it.

    (placed by Ray) ──Join──► alive ──connection ends──► gone ──Ray restarts it, Join──► alive
                                │  ▲
                      silent    │  │ beats again
                                ▼  │
                              frozen ──too long──► killed, and restarted by Ray

What it guarantees:

- A host whose connection ends, or that says nothing for `silent_seconds`, loses its shards to the
  other hosts at once. If no other is alive, a replacement is placed right away; nothing waits for a
  frozen process to be killed, because the journal fences it.
- A host that beats keeps what it was given, however long its recovery takes.
- Of two processes of one name, the one that joined last stays, and the other is sent away: the
  machine of the older was taken for dead, and is not.
- A host that comes back gets its share again, one shard at a time. A shard moves when its next
  host has read nearly all of it, so that it is away for moments, however much there is of it.
- A shard that takes most of what its host can do is told of, and is left alone there if that is
  wanted (`actors.balance`).
- Hosts beyond those that were asked for are spares: they own nothing, keep up with everything, each
  with some of the hosts, and one of them takes over what a dead one had.
- Each assignment carries the shard's floor: the highest record that any host or gateway has seen
  acknowledged. A stream that ends below it has lost something, and the claimant refuses to serve.
- Every change of the map is broadcast, with a version that grows.

It keeps nothing on disk: the journal's claims are the truth of ownership, the marks on disk are the
floors that survive it, and a new coordinator learns everything else from the beats. When its own
loop was held up, it first forgives everybody the time that it did not listen.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Final

import structlog

from actors.assignment import Assignment, Grant, Phase, Report
from actors.balance import AT_EASE, Balance
from actors.config import Settings
from actors.control import (
    Assign,
    Beat,
    Channel,
    ControlServer,
    Follow,
    Join,
    Kind,
    Leave,
    Map,
    Move,
    MoveAnswer,
    Pulse,
    Release,
    Restart,
    Route,
    ServerView,
    ShardHead,
    Stop,
)
from actors.launcher import Launcher
from actors.member import Member, Patience
from actors.moves import Moves
from actors.process import Identity
from actors.redis_wire import Target
from actors.restarts import Restarts, Step
from actors.spares import Spares
from engine.messages import Message
from engine.placement import server_of
from engine.wire import encode_frame

TICK_SECONDS: Final = 0.1
EVEN_SECONDS: Final = 1.0
"""Between two moves that even the load out."""
MOVE_SECONDS: Final = 120.0
"""For a host to read a shard that is to move there."""
SUPERSEDED_MAX: Final = 1_024
RETRY_SECONDS: Final = 1.0
"""A shard that a living host has lost is assigned anew after so long: two owners may be at it."""

_log = structlog.get_logger(__name__)


class Coordinator:
    """Runs on the event loop of `onhand up`."""

    def __init__(
        self, settings: Settings, launcher: Launcher, patience: Patience | None = None
    ) -> None:
        self._settings = settings
        self._launcher = launcher
        self._patience = patience or Patience()
        self._addresses = [str(Target.parse(url)) for url in settings.redis]
        """Of the servers that the journal is on."""
        self._server = ControlServer(settings.control_token, self)
        self._assignment = Assignment(settings.total)
        self._members: dict[str, Member] = {}
        self._of: dict[Channel, Member] = {}
        self._superseded: deque[tuple[str, str, Identity]] = deque(maxlen=SUPERSEDED_MAX)
        """Processes whose names others have taken: a raylet that is dead cannot end them."""
        self._expected: dict[str, Kind] = {}
        self.floors: dict[int, ShardHead] = {}
        self._version = 0
        self._map_frame = b""
        self._begun = False
        """Whether anything was assigned yet."""
        self._assign_at = self._even_at = 0.0
        self._moves = Moves()
        self._pairs = Spares()
        self._moves_given_up = 0
        self._balance = Balance(self._assignment, settings.hot_shards)
        self._advice = AT_EASE
        """As it was told last."""
        self._near_told: dict[int, str] = {}
        self._restarts = Restarts(
            self._members, self._assignment, self._moves, self._patience.drain_seconds
        )
        self._changed = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.on_join: Callable[[Join], None] = lambda join: None

    # --- from the outside -----------------------------------------------------------------

    async def listen(self, address: str) -> str:
        """Accept members; the address that was bound."""
        self._remap()
        return await self._server.listen(address)

    async def start(self) -> None:
        """Place everything that the settings ask for."""
        self._assign_at = asyncio.get_running_loop().time() + self._patience.start_seconds
        hosts = [(Kind.HOST, f"host-{number + 1}") for number in range(self._hosts_wanted)]
        gateways = [
            (Kind.GATEWAY, f"gateway-{number + 1}") for number in range(self._settings.gateways)
        ]
        self._ticker = asyncio.create_task(self._tick())
        await asyncio.gather(*(self._place(kind, name) for kind, name in [*hosts, *gateways]))

    async def watch(self) -> None:
        """Once started: for as long as the coordinator looks after its members. Raises what keeps
        it from that, which must not go unnoticed: nobody would be declared dead any more."""
        assert self._ticker is not None, "started"
        await asyncio.wait([self._ticker])
        if not self._ticker.cancelled():
            self._ticker.result()

    async def replace_everything(self) -> None:
        """Ray is a new one: place again whatever was placed."""
        await asyncio.gather(*(self._place(kind, name) for name, kind in self._expected.items()))

    async def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether `condition`, of this coordinator's state, came true in time."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def is_ready(self) -> bool:
        """Every shard is owned, has failed or waits for a server of the journal that is down, and
        every gateway knows who owns what."""
        gateways = [each for each in self._members.values() if each.join.kind is Kind.GATEWAY]
        return (
            self._assignment.count(Phase.OWNED)
            + self._assignment.count(Phase.FAILED)
            + len(self.waiting())
            == self._settings.total
            and len(gateways) >= self._settings.gateways
            and all(each.alive and each.version == self._version for each in gateways)
        )

    @property
    def _hosts_wanted(self) -> int:
        return self._settings.hosts + self._settings.spares

    @property
    def shards(self) -> int:
        """How many there are, dedicated ones included."""
        return self._settings.total

    def is_recovering(self) -> bool:
        """Whether some host is at work on what is not served yet."""
        return self._assignment.count(Phase.ASSIGNED) > 0

    def failures(self) -> dict[int, str]:
        """shard → why it is not served."""
        return self._assignment.failures()

    def waiting(self) -> list[int]:
        """Shards that a host cannot claim as long as a server of the journal is down."""
        found = []
        for shard, slot in enumerate(self._assignment.slots):
            host = self._members.get(slot.host)
            server = server_of(shard, self._settings.servers)
            if slot.phase is Phase.ASSIGNED and host is not None and server in host.servers:
                found.append(shard)
        return found

    def map(self) -> Map:
        """Who serves what, and who is there, now."""
        routes = [
            Route(shard, epoch, host, self._members[host].join.address)
            for shard, (epoch, host) in self._assignment.routes().items()
        ]
        views = [
            each.view(self._assignment.shards_of(name)) for name, each in self._members.items()
        ]
        alive = [each for each in self._members.values() if each.alive]
        alarms = {shard: text for each in alive for shard, text in each.alarms.items()}
        servers = [
            ServerView(number, address, self._troubles(number))
            for number, address in enumerate(self._addresses)
        ]
        return Map(
            self._version,
            self._settings.total,
            routes,
            views,
            self.failures(),
            alarms,
            servers,
            self._moves_given_up,
            self._advice.hot,
            self._advice.proposal,
        )

    def _troubles(self, server: int) -> dict[str, str]:
        """Which hosts cannot ask that server of the journal, and why."""
        return {
            name: each.servers[server]
            for name, each in self._members.items()
            if each.alive and server in each.servers
        }

    async def stop(self) -> None:
        """Gateways drain, then hosts flush; returns when all have left, or time is up."""
        self._stopping = True
        for kind in (Kind.GATEWAY, Kind.HOST):
            await self._stop_all(kind)
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, *self._errands, return_exceptions=True)
        await self._server.close()

    # --- what members say (ControlHandler) --------------------------------------------------

    def joined(self, channel: Channel, join: Join) -> None:
        before = self._members.get(join.name)
        if (join.name, join.node, join.process) in self._superseded:
            _log.warning("superseded", name=join.name, pid=join.process.pid, node=join.node)
            channel.send(encode_frame(Leave()))
            return
        same = before is not None and self._replaced(before, join)
        member = Member(join, channel, asyncio.get_running_loop().time())
        self._members[join.name] = self._of[channel] = member
        self._expected.setdefault(join.name, join.kind)
        if not same:
            self._restarts.forget(join.name)
        for mark in join.marks:
            self._raise_floor(mark)
        _log.info("joined", name=join.name, pid=join.process.pid, address=join.address)
        self.on_join(join)
        if same:
            self._repeat(member)
        self._remap()
        if join.kind is Kind.HOST and (self._begun or self._everybody_is_there()):
            self._assign()

    def beaten(self, channel: Channel, beat: Beat) -> None:
        member = self._of.get(channel)
        if member is None:
            return
        member.heard = asyncio.get_running_loop().time()
        member.version = beat.version
        for head in beat.heads:
            self._raise_floor(head)
        if not member.alive:
            self._thawed(member)
        if member.join.kind is Kind.HOST and not self._stopping:
            self._reported(member, beat)
        if member.version < self._version and member.sent < self._version:
            self._send_map(member)
        self._changed.set()

    def left(self, channel: Channel) -> None:
        if (member := self._of.get(channel)) is not None:
            member.left = True
            self._changed.set()
            if member.join.name in self._restarts:
                self._run(self._launcher.restart(member.join))

    def asked(self, channel: Channel, wish: Move | Restart) -> None:
        if isinstance(wish, Restart):
            problem = self.restart(wish.name)
        else:
            problem = self.move(wish.shard, wish.host)
            if problem is None:
                self._assignment.pin(wish.shard)
        channel.send(encode_frame(MoveAnswer(wish.request_id, problem)))

    def lost(self, channel: Channel) -> None:
        member = self._of.pop(channel, None)
        if member is None:
            return
        member.channel = None
        self._changed.set()
        if member.alive and not self._stopping:
            self._down(member, "its connection ended")

    # --- life and death ---------------------------------------------------------------------

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + TICK_SECONDS
        while not self._stopping:
            await asyncio.sleep(due - loop.time())
            now = loop.time()
            late, due = now - due, now + TICK_SECONDS
            for member in list(self._members.values()):
                if late > TICK_SECONDS:
                    member.forgive(late, now)
                self._watch(member, now)
            if now >= self._assign_at:
                self._assign()
            self._give_up_moves(now)
            self._go_on_restarting(now)
            self._tell_what_to_follow()
            if now >= self._even_at:
                self._even_at = now + EVEN_SECONDS
                self._even_out(now)
                self._remap_if_others_are_near()
                self._tell_gateways_that_we_live()

    def _watch(self, member: Member, now: float) -> None:
        patience = self._patience
        if member.alive and now - member.heard > patience.silent_seconds:
            self._down(member, "it says nothing")
        is_host = member.join.kind is Kind.HOST
        limit = patience.frozen_host_seconds if is_host else patience.frozen_gateway_seconds
        if is_host and member.channel is None and not member.in_order:
            limit = min(limit, patience.gone_seconds)
        if member.down_since is not None and now - member.down_since > limit:
            member.down_since = None
            self._run(self._give_up(member))

    async def _give_up(self, member: Member) -> None:
        """Have its successor started; once more after a while, should nobody have come."""
        try:
            await self._launcher.kill(member.join)
        finally:
            if not member.alive:
                member.down_since = asyncio.get_running_loop().time()

    def _down(self, member: Member, reason: str) -> None:
        member.alive = False
        member.down_since = asyncio.get_running_loop().time()
        member.near = []
        self._moves.forget(member.join.name)
        self._balance.heat.forget(member.join.name)
        shards = self._assignment.drop(member.join.name)
        _log.warning(
            "down", name=member.join.name, pid=member.join.process.pid, reason=reason, shards=shards
        )
        if self._begun:
            self._assign()
        self._remap()
        if member.join.kind is Kind.HOST and not self._alive_hosts():
            self._place_replacement()

    def _place_replacement(self) -> None:
        """Every host is frozen, unless Ray is about to bring one back.

        At most twice as many as were asked for are ever placed.
        """
        hosts = [name for name, kind in self._expected.items() if kind is Kind.HOST]
        coming = [
            name
            for name in hosts
            if name not in self._members or self._members[name].channel is None
        ]
        if not coming and len(hosts) < 2 * self._hosts_wanted:
            name = f"host-{len(hosts) + 1}"
            _log.warning("replacement", name=name)
            self._run(self._place(Kind.HOST, name))

    def _thawed(self, member: Member) -> None:
        """It beats again. What was given to others meanwhile is for the beat to tell."""
        member.alive, member.down_since = True, None
        _log.warning("thawed", name=member.join.name, pid=member.join.process.pid)
        self._remap()

    def _replaced(self, before: Member, join: Join) -> bool:
        """`join` is of the same process, connecting again, or of its successor. Which?"""
        same = (before.join.node, before.join.process) == (join.node, join.process)
        if not same:
            self._superseded.append((before.join.name, before.join.node, before.join.process))
            self._tell(before, Leave())
        if before.channel is not None:
            self._of.pop(before.channel, None)
            before.channel.close()
            before.channel = None
        if same:
            return True
        self._assignment.drop(join.name)
        self._balance.heat.forget(join.name)
        return False

    def _repeat(self, member: Member) -> None:
        """What the process was told last went into a connection that it had lost, perhaps. To be
        told twice does it no harm."""
        for grant in self._assignment.again(member.join.name):
            if heir := self._assignment.slots[grant.shard].bound_for:
                self._tell(member, Release(grant.serial, grant.shard, heir))
            else:
                self._tell_to_claim(grant)

    def restart(self, name: str) -> str | None:
        """Have the process `name` end in order and come back, without anybody being refused for it.
        What is in the way, or None: it is under way."""
        return self._restarts.want(name)

    def _go_on_restarting(self, now: float) -> None:
        for name in self._restarts.names():
            member = self._members[name]
            step = self._restarts.step(name, now, is_needed=not self._active_hosts())
            if step is Step.MOVE:
                shard = self._restarts.leaver(name)
                self.move(shard, self._refuge(shard, name))
            elif step is Step.END and not self._is_awaited(member):
                self._end_in_order(member, now)
            elif step is Step.KILL:
                _log.error("did not end in order", name=name, pid=member.join.process.pid)
                self._restarts.told(name, now)
                self._run(self._launcher.kill(member.join))
            elif step is Step.STAY:
                _log.warning("restart_given_up", name=name, reason="it is the last one")
                self._restarts.forget(name)
                self._assign()
            elif step is Step.GONE:
                self._restarts.forget(name)

    def _end_in_order(self, member: Member, now: float) -> None:
        member.in_order = True
        self._restarts.told(member.join.name, now)
        _log.info("restarts", name=member.join.name, pid=member.join.process.pid)
        self._tell(member, Stop() if member.join.kind is Kind.GATEWAY else Leave())

    def _is_awaited(self, member: Member) -> bool:
        """Whether it is a host, and some shard is on its way. One that waits for a server that is
        down is not, and one that has failed neither: they would wait, or refuse to serve,
        anywhere."""
        assigned = self._assignment.count(Phase.ASSIGNED) - len(self.waiting())
        is_in_motion = assigned > 0 or bool(self._assignment.orphans())
        return member.join.kind is Kind.HOST and is_in_motion

    def _refuge(self, shard: int, name: str) -> str:
        """Where `shard` of host `name` had better be while that restarts."""
        loads = {host: len(self._assignment.shards_of(host)) for host in self._active_hosts()}
        near = self.near().get(shard, name)
        return near if near != name else min(loads, key=loads.__getitem__)

    # --- shards -----------------------------------------------------------------------------

    def _reported(self, member: Member, beat: Beat) -> None:
        name = member.join.name
        if any(self._assignment.is_anothers(name, *owned) for owned in beat.owned.items()):
            _log.warning("superseded", name=name, pid=member.join.process.pid)
            self._tell(member, Leave())
        orphans, failures = len(self._assignment.orphans()), self.failures()
        report = Report(beat.serial, beat.owned, beat.recovering, beat.failed)
        changed = self._assignment.report(name, report)
        self._balance.heat.hear(name, member.heard, beat.spent, beat.owned, beat.taken)
        member.near = beat.near
        if len(self._assignment.orphans()) > orphans:
            self._left_behind(name)
        for shard in self._moves.take(name, beat.near):
            self._hand_over(shard, name)
        if failures != self.failures():
            _log.error("failed", name=name, shards=self.failures())
            changed = True
        if beat.alarms != member.alarms:
            _log.error("alarm", name=name, shards=beat.alarms)
            member.alarms = beat.alarms
            changed = True
        if beat.servers.keys() != member.servers.keys():
            _log.warning("journal_servers", name=name, down=beat.servers)
            member.servers = beat.servers
            changed = True
        if changed:
            self._remap()

    def _left_behind(self, name: str) -> None:
        """A host that lives has some shards no longer: they were released, or lost."""
        orphans = self._assignment.orphans()
        if any(self._assignment.slots[shard].bound_for for shard in orphans):
            self._assign()
        else:
            self._assign_at = asyncio.get_running_loop().time() + RETRY_SECONDS
            _log.warning("lost", name=name, shards=orphans)

    def move(self, shard: int, host: str) -> str | None:
        """Have `shard` moved to `host`. What is in the way, or None: it is under way."""
        if not 0 <= shard < self.shards:
            return f"there is no shard {shard}"
        slot = self._assignment.slots[shard]
        if host not in self._alive_hosts():
            return f"there is no host {host}"
        if slot.phase is not Phase.OWNED or slot.bound_for:
            return f"shard {shard} is not served at the moment"
        self._moves.drop(shard)
        if slot.host != host and shard in self._members[host].near:
            self._hand_over(shard, host)
        elif slot.host != host:
            self._moves.want(shard, host, asyncio.get_running_loop().time() + MOVE_SECONDS)
            self._tell_what_to_follow()
        return None

    def _hand_over(self, shard: int, host: str) -> None:
        """`host` has read nearly all of `shard`: its owner is to release it now."""
        slot = self._assignment.slots[shard]
        if slot.phase is Phase.OWNED and not slot.bound_for and slot.host != host:
            grant = self._assignment.release(shard, host)
            _log.info("moves", shard=shard, origin=grant.host, target=host)
            self._tell(self._members[grant.host], Release(grant.serial, shard, host))

    def _give_up_moves(self, now: float) -> None:
        given_up = self._moves.give_up(now)
        for shard, host in given_up.items():
            _log.error("move_given_up", shard=shard, target=host)
        if given_up:
            self._moves_given_up += len(given_up)
            self._remap()

    def _even_out(self, now: float) -> None:
        advice = self._balance.look(now, self._active_hosts())
        if self._moves:
            advice = advice._replace(move=None, proposal=None)
        if advice.move is not None and self._begun:
            self.move(*advice.move)
        if advice.tells_more_than(self._advice):
            _log.info("hot_shards", shards={each.shard: each.host for each in advice.hot})
            self._advice = advice
            self._remap()

    def _tell_gateways_that_we_live(self) -> None:
        """Who hears nothing for long tells its operators that nobody is watched over any more."""
        for member in self._members.values():
            if member.join.kind is Kind.GATEWAY:
                self._tell(member, Pulse())

    def _tell_what_to_follow(self) -> None:
        """Hosts keep up with what is to move to them, and spares with everything but what has
        failed: that cannot be read."""
        watched = self._watched()
        for name in self._alive_hosts():
            wanted = self._moves.to(name) | self._assignment.due_at(name)
            wanted |= watched.get(name, set())
            member, follows = self._members[name], sorted(wanted - self.failures().keys())
            if member.follows != follows:
                member.follows = follows
                self._tell(member, Follow(follows))

    def _watched(self) -> dict[str, set[int]]:
        """What each spare is to keep up with."""
        shards = {name: self._assignment.shards_of(name) for name in self._alive_hosts()}
        loaded = [name for name, owned in shards.items() if owned]
        return {
            spare: {shard for host in hosts for shard in shards[host]}
            for spare, hosts in self._pairs.pair(loaded, self._spares()).items()
        }

    def _everybody_is_there(self) -> bool:
        return len(self._alive_hosts()) >= self._settings.hosts

    def _assign(self) -> None:
        """Give the orphans to those alive."""
        hosts = self._active_hosts() or self._not_told_to_end()
        if self._stopping or not hosts:
            return
        self._begun = True
        for grant in self._assignment.place(hosts, self.near(), self._balance.weights):
            self._tell_to_claim(grant)

    def _tell_to_claim(self, grant: Grant) -> None:
        member = self._members[grant.host]
        self._tell(member, Assign(grant.serial, grant.shard, self.floors.get(grant.shard)))
        member.follows = None

    def _alive_hosts(self) -> list[str]:
        return [
            name
            for name, each in self._members.items()
            if each.alive and each.join.kind is Kind.HOST
        ]

    def _active_hosts(self) -> list[str]:
        """Those that are to have shards: as many as were asked for, those first that have some. The
        others are spares."""
        alive = [name for name in self._alive_hosts() if name not in self._restarts]
        loaded = [name for name in alive if self._assignment.shards_of(name)]
        idle = [name for name in alive if name not in loaded]
        lost = set(self._assignment.orphans())
        idle.sort(key=lambda name: -len(lost.intersection(self._members[name].near)))
        active = loaded + idle[: max(0, self._settings.hosts - len(loaded))]
        return active + [
            name for name in idle if name not in active and self._assignment.due_at(name)
        ]

    def _not_told_to_end(self) -> list[str]:
        """Whoever is to restart and has not been told so yet can still be of use."""
        return [name for name in self._alive_hosts() if not self._restarts.has_told(name)]

    def _spares(self) -> list[str]:
        active = self._active_hosts()
        return [
            name
            for name in self._alive_hosts()
            if name not in active and name not in self._restarts
        ]

    def near(self) -> dict[int, str]:
        """shard → a host that could take it over in a moment; of several the one that has kept up
        with the most, so that one host takes over all that another had."""
        most_last = sorted(self._alive_hosts(), key=lambda name: len(self._members[name].near))
        return {shard: name for name in most_last for shard in self._members[name].near}

    def _raise_floor(self, head: ShardHead) -> None:
        floor = self.floors.get(head.shard)
        if floor is None or (head.epoch, head.sequence) > (floor.epoch, floor.sequence):
            self.floors[head.shard] = head

    # --- the map ----------------------------------------------------------------------------

    def _remap(self) -> None:
        """Something of the map changed: a new version, to everybody."""
        self._version += 1
        self._map_frame = encode_frame(self.map())
        for member in self._members.values():
            self._send_map(member)
        self._changed.set()

    def _send_map(self, member: Member) -> None:
        if member.channel is not None and member.channel.send(self._map_frame, at_all_costs=False):
            member.sent = self._version

    def _remap_if_others_are_near(self) -> None:
        if (near := self.near()) != self._near_told:
            self._near_told = near
            self._remap()

    # --- errands ----------------------------------------------------------------------------

    def _tell(self, member: Member, message: Message) -> None:
        if member.channel is not None:
            member.channel.send(encode_frame(message))

    async def _stop_all(self, kind: Kind) -> None:
        members = [each for each in self._members.values() if each.join.kind is kind]
        for member in members:
            self._tell(member, Stop())

        def have_left() -> bool:
            return all(each.left or not each.alive or each.channel is None for each in members)

        if not await self.wait_until(have_left, self._patience.drain_seconds):
            late = [each.join.name for each in members if not each.left]
            _log.warning("did not stop in time", names=late)

    async def _place(self, kind: Kind, name: str) -> None:
        self._expected[name] = kind
        await self._launcher.place(kind, name)

    def _run(self, errand: Coroutine[None, None, None]) -> None:
        """In the background; what goes wrong is logged, and tried again by whoever needs it."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("errand failed", error=repr(error))
