"""Makes happen in a simulated world what its scenario says goes wrong.

Each fault begins at its time, and ends by itself: what was killed is started again, what was frozen
thaws, what was cut is mended. Only data that the server has lost stays lost.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.coordination import Coordination
from tests.simulation.loop import SECOND
from tests.simulation.nodes import Node
from tests.simulation.redis_store import Append
from tests.simulation.scenario import Fault, Kind

if TYPE_CHECKING:
    from tests.simulation.world import World

ROOM: Final = 1 << 30
"""Bytes that the server has when it is not full."""
JUMP_SECONDS: Final = 3_600
"""By so much a clock may be set on or back."""
FEW: Final = 6
"""Effects that a server has lost when it has lost little."""


class Faults:
    """What goes wrong in one world."""

    def __init__(self, world: "World") -> None:
        self._time = world.time
        self._net = world.net
        self._server = world.server
        self._node = world.node
        self._archive_disk = world.archive_disk
        self._hosts = world.hosts
        self._gateways = world.gateways
        self._clients = world.clients
        self._registrar = world.registrar
        self._is_rough = world.scenario.rough

    def strike(self, fault: Fault) -> None:
        """Let it begin; it ends by itself."""
        one, _ = fault.draws
        hosts, gateways = self._hosts, self._gateways
        match fault.kind:
            case Kind.KILL_HOST:
                self._down(hosts[one % len(hosts)], fault)
            case Kind.FREEZE_HOST:
                self._frost(hosts[one % len(hosts)], fault)
            case Kind.STOP_HOST:
                hosts[one % len(hosts)].stop()
                self._later(fault, hosts[one % len(hosts)].start)
            case Kind.KILL_GATEWAY:
                self._down(gateways[one % len(gateways)], fault)
            case Kind.FREEZE_GATEWAY:
                self._frost(gateways[one % len(gateways)], fault)
            case Kind.KILL_SERVER:
                self._server_down(fault, lambda: self._server.start())
            case Kind.FREEZE_SERVER:
                self._frost(self._node, fault)
            case Kind.OLDER:
                self._server_down(fault, lambda: self._restore(fault.draws))
            case Kind.FLUSHED:
                if self._server.serving:
                    self._server.flush()
            case Kind.EMPTY:
                self._server_down(fault, lambda: self._server.wipe())
            case Kind.KILL_ALL:
                for node in (*hosts, *gateways):
                    self._down(node, fault)
                self._server_down(fault, lambda: self._server.start())
            case _:
                self._strike_lightly(fault)

    def _restore(self, draws: tuple[int, int]) -> None:
        """The server comes back without what was stored last: a few effects, any number, or all
        since a shard was claimed last, so that its former owner finds all as it knows it."""
        durable = self._server.durable
        log = self._server.log[:durable]
        claims = [
            number
            for number, effect in enumerate(log)
            if isinstance(effect, Append) and not effect.id[1]
        ]
        match draws[1] % 3:
            case 0:
                kept = durable - draws[0] % (min(durable, FEW) + 1)
            case 1:
                kept = draws[0] % (durable + 1)
            case _:
                kept = max(claims, default=0)
        self._server.restore(kept)

    def _too_little(self, draw: int) -> int:
        """Bytes that the server has from now on: none, or in a rough world so many that it is full
        to some degree."""
        fills = (0.65, 0.85, 0.97, 1.5)
        return int(self._server.used_memory / fills[draw % len(fills)]) if self._is_rough else 1

    def _pair(self, one: int, other: int) -> tuple[str, str]:
        """Two who hear each other no more; in a rough world they had something to say."""
        pairs = self._net.pairs if self._is_rough else []
        if pairs:
            return pairs[one % len(pairs)]
        nodes: list[Node] = [self._node, *self._hosts, *self._gateways, *self._clients]
        return nodes[one % len(nodes)].name, nodes[other % len(nodes)].name

    def _strike_lightly(self, fault: Fault) -> None:
        one, other = fault.draws
        match fault.kind:
            case Kind.SLOW_DISK:
                before, self._node.fsync_ns = (
                    self._node.fsync_ns,
                    100_000_000 * (1 + one % 10),
                )
                self._later(fault, lambda: setattr(self._node, "fsync_ns", before))
            case Kind.FULL:
                self._server.maxmemory = self._too_little(one)
                self._later(fault, lambda: setattr(self._server, "maxmemory", ROOM))
            case Kind.READ_ONLY:
                self._server.misconf = True
                self._later(fault, lambda: setattr(self._server, "misconf", False))
            case Kind.ARCHIVE_FULL:
                if self._archive_disk is not None:
                    self._archive_disk.is_full = True
                    self._later(fault, lambda: setattr(self._archive_disk, "is_full", False))
            case Kind.BREAK:
                for _ in range(1 + one % 3):
                    self._net.break_one()
            case Kind.CUT:
                pair = self._pair(one, other)
                self._net.cut(*pair)
                self._later(fault, lambda: self._net.mend(*pair))
            case Kind.JUMP:
                loop = self._hosts[one % len(self._hosts)].loop
                if loop is not None:
                    loop.wall_offset += (other % (2 * JUMP_SECONDS + 1) - JUMP_SECONDS) * SECOND
            case Kind.MOVE:
                self._registrar.move(fault.draws)
            case Kind.SEIZE:
                self._registrar.seize(fault.draws)
            case Kind.FREEZE_COORDINATOR:
                if isinstance(self._registrar, Coordination):
                    self._frost(self._registrar, fault)
            case Kind.RESTART:
                if isinstance(self._registrar, Coordination):
                    self._registrar.restart(fault.draws)
            case _:
                raise AssertionError(fault.kind)

    def _later(self, fault: Fault, call: Callable[[], Any]) -> None:
        self._time.at(self._time.now + fault.lasts, call)

    def _down(self, node: Node, fault: Fault) -> None:
        node.kill()
        self._later(fault, node.start)

    def _frost(self, node: Node, fault: Fault) -> None:
        node.freeze()
        self._later(fault, node.thaw)

    def _server_down(self, fault: Fault, start: Callable[[], None]) -> None:
        """The server dies, and comes back on whatever data `start` finds."""
        if not self._node.is_up:
            return
        self._node.kill()

        def back() -> None:
            start()
            self._node.start()

        self._later(fault, back)
