"""Who gives shards to hosts in a simulated world: the coordinator's part, played without mercy.

It does what the coordinator does: sees deaths at once and silence after a while, gives orphans to
the living with the highest position that anybody has seen, starts again what has died, and tells
gateways who owns what. And it does, when the faults ask for it, what a coordinator must never do
and the journal must survive: give a shard to a second host while the first still has it.
"""

from random import Random
from typing import Final

from actors.claim import Floor
from actors.host import Host
from engine.codec import Position
from tests.simulation.loop import SECOND, SimulatedLoop, Time
from tests.simulation.nodes import GatewayNode, HostNode

LOOK: Final = SECOND // 4
SILENCE: Final = SECOND * 3 // 2
"""After which a frozen host loses its shards."""
PATIENCE: Final = SECOND * 2
"""For a host to own what it was given, before another gets it."""


class Registrar:
    """Looks at the hosts now and then, and whenever one of them says that something changed."""

    def __init__(
        self,
        time: Time,
        random: Random,
        shards: int,
        hosts: list[HostNode],
        gateways: list[GatewayNode],
        told: list[HostNode],
    ) -> None:
        """`told`: hosts that are to know who owns what."""
        self._time = time
        self._random = random
        self._shards = shards
        self._hosts = hosts
        self._gateways = gateways
        self._told = told
        self._floors: dict[int, Floor] = {}
        self._given: dict[int, tuple[HostNode, int, int]] = {}
        """shard → whom it was given to, in which incarnation, and when"""
        self._routes: dict[int, tuple[int, str]] = {}
        self._known: tuple[dict[int, tuple[int, str]], dict[int, str]] = {}, {}
        """Routes and stopped shards, as they were told last."""
        self._epochs: dict[int, int] = {}
        """The newest epoch that anybody has served each shard in."""
        self._version = 0
        self._frozen_since: dict[str, int] = {}
        self._is_noticed = False
        self.stopped: dict[int, str] = {}
        self.once_stopped: dict[int, str] = {}
        """The same, of all times."""
        self.told: list[tuple[int, int, Position]] = []
        """Floors that came with assignments: when, of which shard, up to where."""
        self.alarms: dict[str, None] = {}
        """What auditors have found, each once."""

    def begin(self) -> None:
        self._time.at(self._time.now + LOOK, self._look_on)

    def _look_on(self) -> None:
        self.look()
        self._time.at(self._time.now + LOOK, self._look_on)

    def notice(self, host: HostNode) -> None:
        """Something changed there; the word takes a moment."""
        if not self._is_noticed:
            self._is_noticed = True
            self._time.at(self._time.now + SECOND // 1_000, self._noticed)

    def emptied(self, host: HostNode) -> None:
        """It ends, and is started again: by itself, or in the end."""
        host.leave_alone()

    def host_begins(self, host: HostNode) -> None:
        """That tells nothing yet."""

    def host_serves(self, node: HostNode, loop: SimulatedLoop, host: Host) -> None:
        self.notice(node)
        if node in self._told:
            self.introduce(node)

    def gateway_serves(self, node: GatewayNode, loop: SimulatedLoop) -> None:
        self.introduce(node)

    def _noticed(self) -> None:
        self._is_noticed = False
        self.look()

    def look(self) -> None:
        """See who is there, and give away what nobody has."""
        now = self._time.now
        routes: dict[int, tuple[int, str]] = {}
        stopped: dict[int, str] = {}
        for host in self._hosts:
            if host.is_frozen:
                self._frozen_since.setdefault(host.name, now)
            else:
                self._frozen_since.pop(host.name, None)
            if self._hears(host):
                self._read(host, routes, stopped)
        for gateway in self._gateways:
            if gateway.is_up and not gateway.is_frozen and gateway.router is not None:
                for shard, position in gateway.router.heads.items():
                    self._raise(shard, Floor(position, None))
        self.stopped = {shard: why for shard, why in stopped.items() if shard not in routes}
        self.once_stopped |= self.stopped
        for shard in range(self._shards):
            if shard not in routes and shard not in self.stopped:
                self._give(shard, now)
        self._tell(routes)

    def _hears(self, host: HostNode) -> bool:
        return host.is_up and not host.is_frozen and host.host is not None

    def _read(
        self, host: HostNode, routes: dict[int, tuple[int, str]], stopped: dict[int, str]
    ) -> None:
        assert host.host is not None
        status = host.host.status()
        self.alarms |= dict.fromkeys(status.alarms.values())
        for shard, epoch in status.owned.items():
            newest = self._epochs[shard] = max(epoch, self._epochs.get(shard, 0))
            if epoch < newest:  # its successor's claim is forgotten by the server, not by everybody
                host.release(shard)
            elif shard not in routes or routes[shard][0] < epoch:
                routes[shard] = epoch, host.address
        for shard, (position, checksum) in status.heads.items():
            self._raise(shard, Floor(position, checksum))
        given = self._given
        for shard, why in status.failed.items():
            if shard in given and given[shard][0] is host:
                stopped[shard] = why

    def _raise(self, shard: int, floor: Floor) -> None:
        known = self._floors.get(shard)
        if known is None or known.position < floor.position:
            self._floors[shard] = floor

    def _give(self, shard: int, now: int) -> None:
        """Nobody serves it: is somebody at it?"""
        given = self._given.get(shard)
        if given is not None:
            host, incarnation, at = given
            silent = now - self._frozen_since.get(host.name, now) > SILENCE
            busy = host.is_up and host.incarnation == incarnation and not silent
            recovering = busy and not host.is_frozen and self._is_at_it(host, shard)
            if busy and (recovering or now - at < PATIENCE):
                return
        living = [host for host in self._hosts if self._hears(host)]
        if living:
            self.give_to(shard, self._random.choice(living))

    @staticmethod
    def _is_at_it(host: HostNode, shard: int) -> bool:
        return host.host is not None and shard in host.host.status().recovering

    def give_to(self, shard: int, host: HostNode) -> None:
        """Assign, whoever else may have it."""
        self._given[shard] = host, host.incarnation, self._time.now
        if shard in self._floors:
            self.told.append((self._time.now, shard, self._floors[shard].position))
        host.assign(shard, self._floors.get(shard))

    def seize(self, draws: tuple[int, int]) -> None:
        """Give some shard to some hosts at once, whoever has it."""
        shard = draws[0] % self._shards
        living = [host for host in self._hosts if self._hears(host)]
        for host in living[: 1 + draws[1] % 2] if draws[1] % 3 else living[::-1]:
            self.give_to(shard, host)

    def move(self, draws: tuple[int, int]) -> None:
        """Have some shard leave its host in order; another gets it when it is free."""
        shard = draws[0] % self._shards
        for host in self._hosts:
            if self._hears(host):
                assert host.host is not None
                if shard in host.host.status().owned:
                    host.release(shard)
                    self._given.pop(shard, None)

    def _tell(self, routes: dict[int, tuple[int, str]]) -> None:
        """Gateways learn of changes, each in its own time."""
        if (routes, self.stopped) != self._known:
            self._known = routes, self.stopped
            self._routes = routes
            self._version += 1
            for node in (*self._gateways, *self._told):
                delay = int(self._random.random() * SECOND / 20)
                self._time.at(self._time.now + delay, self.introduce, node)

    def introduce(self, node: GatewayNode | HostNode) -> None:
        """Tell one of them how things stand."""
        node.tell(self._version, self._routes, set(self.stopped))

    @property
    def is_settled(self) -> bool:
        """Whether every shard is served, or has stopped for good."""
        return set(self._routes) | set(self.stopped) >= set(range(self._shards))

    @property
    def routes(self) -> dict[int, tuple[int, str]]:
        return self._routes
