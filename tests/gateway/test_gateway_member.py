"""A gateway's word with a real coordinator, which has nobody else."""

import asyncio
from pathlib import Path

import msgspec

from actors.address import dial
from actors.config import Settings
from actors.control import Channel, Join, Kind, introduce
from actors.coordinator import Coordinator
from actors.map_board import MapBoard
from actors.process import Identity
from engine.wire import encode_frame
from gateway.gateway_member import GatewayMember
from gateway.router import Router
from tests.actors.peer import until

SHARDS = 2
QUIET_SECONDS = 0.5


class Nowhere:
    """Places nothing."""

    async def place(self, kind: Kind, name: str) -> None:
        return

    async def kill(self, join: Join) -> None:
        return

    async def restart(self, join: Join) -> None:
        return


async def nothing() -> None:
    return


async def test_a_coordinator_that_lives_is_heard(tmp_path: Path) -> None:
    """Also where nothing changes, for hours: it says so every second, and silence is told."""
    settings = Settings(hosts=1, shards=SHARDS, control_token="token")
    coordinator = Coordinator(settings, Nowhere())
    control = await coordinator.listen(f"unix:{tmp_path}/control")
    await coordinator.start()
    router = Router(SHARDS)
    member = GatewayMember(router, MapBoard("secret", SHARDS), nothing)
    join = introduce(settings, Kind.GATEWAY, "gateway-1", "unix:/binary", "unix:/http")
    running = asyncio.create_task(member.run(control, join))
    await until(lambda: member.map.version > 0)
    version = member.map.version

    await until(lambda: member.heard_seconds > QUIET_SECONDS)
    await until(lambda: member.heard_seconds < QUIET_SECONDS)
    assert version == member.map.version

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await coordinator.stop()
    await router.close()


async def test_it_leaves_when_another_has_its_name(tmp_path: Path) -> None:
    """Even if that one is dead by now, whose word came late: whoever stays would be told nothing
    any more."""
    settings = Settings(hosts=1, shards=SHARDS, control_token="token")
    coordinator = Coordinator(settings, Nowhere())
    control = await coordinator.listen(f"unix:{tmp_path}/control")
    await coordinator.start()
    router = Router(SHARDS)
    member = GatewayMember(router, MapBoard("secret", SHARDS), nothing)
    join = introduce(settings, Kind.GATEWAY, "gateway-1", "unix:/binary", "unix:/http")
    running = asyncio.create_task(member.run(control, join))
    await until(lambda: member.map.version > 0)

    late = msgspec.structs.replace(join, process=Identity(1, 0, "/bin/dead"))
    other = await dial(control, lambda: Channel(lambda *_: None, lambda _: None))
    other.send(encode_frame(late))

    assert "superseded" == await asyncio.wait_for(running, 5)
    other.close()
    await coordinator.stop()
