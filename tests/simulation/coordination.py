"""The coordinator itself in a simulated world, and who places processes for it.

    Coordinator ◄──control connections over the simulated network──► HostMember, GatewayMember
        └── Launcher: starts the world's processes, and starts again what has ended, as Ray does

In most worlds a `Registrar` plays the coordinator, because it is quicker and wilder; here the
product's own decides who owns what, and may itself be frozen, cut off, or told nonsense.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from actors.claim import Floor
from actors.config import Settings
from actors.control import Join, Kind
from actors.coordinator import Coordinator
from actors.host import Host
from actors.host_member import HostMember
from actors.member import Patience
from actors.process import Identity
from engine.codec import Position
from gateway.gateway_member import GatewayMember
from tests.simulation.loop import SECOND, SimulatedLoop, Time
from tests.simulation.nodes import GatewayNode, HostNode, MakeLoop, Node

CONTROL: Final = "tcp:coordinator:9000"
PATIENCE: Final = Patience(
    silent_seconds=1.5,
    frozen_host_seconds=4.0,
    frozen_gateway_seconds=2.0,
    start_seconds=1.0,
    drain_seconds=5.0,
)
LOOK: Final = SECOND // 20
REST: Final = (SECOND // 20, SECOND // 3, 3 * SECOND)
"""Until a process that has ended is started again."""


class Nursery:
    """Places processes, and starts again what has ended: Ray, as far as it is needed (a `Launcher`
    of `actors.coordinator`)."""

    def __init__(
        self,
        time: Time,
        random: Random,
        make_host: Callable[[str], HostNode],
        make_gateway: Callable[[str], GatewayNode],
    ) -> None:
        self.placed: dict[str, HostNode | GatewayNode] = {}
        self._time = time
        self._random = random
        self._make_host = make_host
        self._make_gateway = make_gateway
        self._resting: set[str] = set()

    async def place(self, kind: Kind, name: str) -> None:
        if name not in self.placed:
            make = self._make_host if kind is Kind.HOST else self._make_gateway
            self.placed[name] = make(name)
        self.placed[name].start()

    async def kill(self, join: Join) -> None:
        node = self.placed[join.name]
        if node.life == join.process.pid:
            node.kill()

    async def restart(self, join: Join) -> None:
        await self.kill(join)

    def look(self) -> None:
        """Whatever has ended is started again, some time later."""
        for name, node in self.placed.items():
            if not node.is_up and name not in self._resting:
                self._resting.add(name)
                rest = self._random.choice(REST)
                self._time.at(self._time.now + rest, self._start_again, name)

    def _start_again(self, name: str) -> None:
        self._resting.discard(name)
        self.placed[name].start()


class Coordination(Node):
    """The process of the coordinator."""

    def __init__(
        self, make_loop: MakeLoop, time: Time, settings: Settings, nursery: Nursery, hosts: int
    ) -> None:
        """`hosts`: how many there are, which may be more than shards."""
        super().__init__("coordinator", make_loop)
        self.coordinator: Coordinator | None = None
        self.told: list[tuple[int, int, Position]] = []
        """Floors that came with assignments: when, of which shard, up to where."""
        self.once_stopped: dict[int, str] = {}
        """Shards that ever refused to serve, and why."""
        self.alarms: dict[str, None] = {}
        """What auditors have found, each once."""
        self._time = time
        self._settings = settings
        self._nursery = nursery
        self._hosts = hosts
        self._members: dict[str, HostMember] = {}

    def begin(self) -> None:
        self.start()
        self._time.at(self._time.now + LOOK, self._look_on)

    def _begin(self, loop: SimulatedLoop) -> None:
        loop.create_task(self._run())

    async def _run(self) -> None:
        self.coordinator = Coordinator(self._settings, self._nursery, PATIENCE)
        await self.coordinator.listen(CONTROL)
        await self.coordinator.start()
        for number in range(self._settings.hosts, self._hosts):
            await self._nursery.place(Kind.HOST, f"host-{number + 1}")

    def look(self) -> None:
        """Time to notice who has died."""
        self._time.run(self._time.now + SECOND)

    def _look_on(self) -> None:
        self._nursery.look()
        if self.coordinator is not None:
            self.alarms |= dict.fromkeys(self.coordinator.map().alarms.values())
            self.once_stopped |= self.stopped
        self._time.at(self._time.now + LOOK, self._look_on)

    # --- members (Overseer) ------------------------------------------------------------------

    def notice(self, host: HostNode) -> None:
        self._members[host.name].notice()

    def emptied(self, host: HostNode) -> None:
        self._members[host.name].emptied()

    def host_begins(self, host: HostNode) -> None:
        self._members[host.name] = HostMember(lambda _: host.kill())

    def host_serves(self, node: HostNode, loop: SimulatedLoop, host: Host) -> None:
        loop.create_task(self._accompany_host(node, host))

    def gateway_serves(self, node: GatewayNode, loop: SimulatedLoop) -> None:
        loop.create_task(self._accompany_gateway(node))

    async def _accompany_host(self, node: HostNode, host: Host) -> None:
        member = self._members[node.name]
        assert node.server is not None
        heard = _Noting(host, self._note)
        join = self._join(Kind.HOST, node)
        await member.run(CONTROL, join, heard, node.server.close)  # type: ignore[arg-type] # as one
        node.end_soon()

    async def _accompany_gateway(self, node: GatewayNode) -> None:
        assert node.router is not None
        assert node.server is not None
        assert node.board is not None
        member = GatewayMember(node.router, node.board, node.server.close)
        await member.run(CONTROL, self._join(Kind.GATEWAY, node))
        node.end_soon()

    def _join(self, kind: Kind, node: HostNode | GatewayNode) -> Join:
        token = self._settings.control_token
        return Join(token, kind, node.name, Identity(node.life, 0, ""), "here", node.address)

    def _note(self, shard: int, floor: Floor) -> None:
        self.told.append((self._time.now, shard, floor.position))

    # --- what the world wants to know, and to happen -------------------------------------------

    @property
    def stopped(self) -> dict[int, str]:
        return {} if self.coordinator is None else self.coordinator.failures()

    @property
    def is_settled(self) -> bool:
        """Whether every shard is served, or has stopped for good, and everybody knows."""
        return self.coordinator is not None and self.coordinator.is_ready()

    @property
    def routes(self) -> dict[int, tuple[int, str]]:
        if self.coordinator is None:
            return {}
        routes = self.coordinator.map().routes
        return {route.shard: (route.epoch, route.address) for route in routes}

    def _there(self) -> list[HostNode]:
        return [each for each in self._nursery.placed.values() if isinstance(each, HostNode)]

    def seize(self, draws: tuple[int, int]) -> None:
        """Some hosts claim a shard that nobody has given them."""
        shard = draws[0] % self._settings.shards
        for host in self._there()[: 1 + draws[1] % 2]:
            host.assign(shard, None)

    def move(self, draws: tuple[int, int]) -> None:
        """An operator has some shard moved."""
        hosts = self._there()
        if self.coordinator is not None and self.is_up and not self.is_frozen and hosts:
            target = hosts[draws[1] % len(hosts)].name
            assert self.loop is not None
            shard = draws[0] % self._settings.shards
            self.loop.inject(self.coordinator.move, shard, target)

    def restart(self, draws: tuple[int, int]) -> None:
        """An operator has some process end in order."""
        names = list(self._nursery.placed)
        if self.coordinator is not None and self.is_up and not self.is_frozen and names:
            assert self.loop is not None
            self.loop.inject(self.coordinator.restart, names[draws[0] % len(names)])


class _Noting:
    """A host, of which it is noted with which floors it was given shards."""

    def __init__(self, host: Host, note: Callable[[int, Floor], None]) -> None:
        self._host = host
        self._note = note
        self.status, self.release, self.stop = host.status, host.release, host.stop
        self.follow = host.follow
        self.board = host.board

    def assign(self, shard: int, floor: Floor | None) -> None:
        if floor is not None:
            self._note(shard, floor)
        self._host.assign(shard, floor)
