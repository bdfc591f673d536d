"""The members of a coordinator that are real at the socket and obedient behind it.

A `Puppet` joins over a real control connection and answers assignments as a host would: claimed at
once, under the next epoch of a journal that all puppets share. It can freeze, thaw and die.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from actors.config import HotShards, Settings
from actors.control import (
    Assign,
    Beat,
    Channel,
    ControlMember,
    Follow,
    FromCoordinator,
    Join,
    Kind,
    Leave,
    Map,
    Release,
    ShardHead,
    Stop,
)
from actors.coordinator import Coordinator
from actors.member import Patience
from actors.process import Identity

PATIENCE = Patience(0.6, 1.2, 1.2, 0.4, 1.0, 2.0)
SHARDS = 4


class Puppet:
    """A host, or a gateway, whose journal is a dict of epochs."""

    def __init__(self, world: "World", kind: Kind, name: str, pid: int) -> None:
        self.world = world
        identity, marks = Identity(pid, 0, "/bin/x"), world.marks.get(name, [])
        self.join = Join("token", kind, name, identity, "here", f"unix:/{name}", "", marks)
        self.beat = Beat()
        self.got: list[FromCoordinator] = []
        self.recovers = False
        self.is_far = False
        """It never keeps up with what it is to follow."""
        self.is_host = kind is Kind.HOST
        self.deaf = False
        """To being sent away."""
        self.frozen: Channel | None = None
        self.control = ControlMember(
            world.address, self.join, self._beat, self._receive, gone_seconds=0.2
        )
        self.task = asyncio.create_task(self.control.run())

    def _beat(self) -> Beat:
        return self.beat

    def _receive(self, message: FromCoordinator) -> None:
        self.got.append(message)
        if isinstance(message, Assign):
            self.beat.serial = message.serial
            if self.recovers:
                self.beat.recovering[message.shard] = 1
            else:
                self.own(message.shard)
        elif isinstance(message, Release):
            self.beat.serial = message.serial
            del self.beat.owned[message.shard]
        elif isinstance(message, Follow):
            self.beat.near = [] if self.is_far else message.shards
        elif isinstance(message, Map):
            self.beat.version = message.version
        elif isinstance(message, Stop) and not self.deaf:
            self.control.leave()
        elif isinstance(message, Leave) and not self.deaf:
            self.die()
        self.control.notice()

    def own(self, shard: int) -> None:
        self.world.epochs[shard] = epoch = self.world.epochs.get(shard, 0) + 1
        self.beat.owned[shard] = epoch
        self.beat.recovering.pop(shard, None)

    def freeze(self) -> None:
        """Says nothing and reads nothing, but stays connected."""
        self.frozen = self.control._channel
        assert self.frozen is not None
        assert self.frozen._transport is not None
        self.frozen._transport.pause_reading()
        self.task.cancel()

    def dial_again(self) -> None:
        """The connection is dead that it froze on, and only it has noticed."""
        self.control = ControlMember(
            self.world.address, self.join, self._beat, self._receive, gone_seconds=0.2
        )
        self.task = asyncio.create_task(self.control.run())

    def thaw(self) -> None:
        assert self.frozen is not None
        assert self.frozen._transport is not None
        self.frozen._transport.resume_reading()
        self.control._beat_now()

    def die(self) -> None:
        self.task.cancel()
        if self.control._channel is not None:
            self.control._channel.abort()
        if self.frozen is not None:
            self.frozen.abort()


class World:
    """Places puppets where Ray would place processes."""

    def __init__(self) -> None:
        self.address = ""
        self.epochs: dict[int, int] = {}
        self.puppets: dict[str, Puppet] = {}
        self.killed: list[str] = []
        self.restarted: list[str] = []
        self.marks: dict[str, list[ShardHead]] = {}
        """Of each host's machine."""
        self.pids = 0
        self.coordinator: Coordinator | None = None

    async def place(self, kind: Kind, name: str) -> None:
        self.pids += 1
        self.puppets[name] = Puppet(self, kind, name, self.pids)

    async def kill(self, join: Join) -> None:
        self.killed.append(join.name)
        self.puppets[join.name].die()

    async def restart(self, join: Join) -> None:
        self.restarted.append(join.name)
        self.puppets[join.name].die()


@asynccontextmanager
async def puppets() -> AsyncIterator[World]:
    """A world, of which nobody is left afterwards."""
    world = World()
    yield world
    if world.coordinator is not None:
        await world.coordinator.stop()
    for puppet in world.puppets.values():
        puppet.die()
    await asyncio.gather(
        *(puppet.task for puppet in world.puppets.values()), return_exceptions=True
    )


async def started(
    world: World, tmp_path: Path, hosts: int, spares: int = 0, hot_shards: HotShards = "tell"
) -> Coordinator:
    """A coordinator whose hosts and gateway have joined, all shards served."""
    settings = Settings(
        hosts=hosts, spares=spares, shards=SHARDS, control_token="token", hot_shards=hot_shards
    )
    coordinator = world.coordinator = Coordinator(settings, world, PATIENCE)
    world.address = await coordinator.listen(f"unix:{tmp_path}/c")
    await coordinator.start()
    assert await coordinator.wait_until(coordinator.is_ready, 5)
    return coordinator


def owners(coordinator: Coordinator) -> dict[int, str]:
    """shard → host, of those that are served."""
    return {route.shard: route.host for route in coordinator.map().routes}


async def come(coordinator: Coordinator, condition: Callable[[], bool]) -> None:
    """Wait for it, as long as anything may take."""
    assert await coordinator.wait_until(condition, 5)
