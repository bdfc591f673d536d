"""An engine over the nodes of a Ray cluster, with a journal that all of them reach over TCP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from gateway.status import HostEntry
from tests.faults.checker import Books, check
from tests.faults.engine_process import EngineProcess, gone, running
from tests.faults.history import History
from tests.faults.ray_nodes import START_SECONDS, Node, RayNodes, free_port
from tests.faults.redis_process import RedisProcess, redis_running


class Site(NamedTuple):
    """An engine over several nodes."""

    nodes: RayNodes
    redis: RedisProcess
    engine: EngineProcess

    async def hosts_on(self, node: Node) -> list[HostEntry]:
        return [each for each in await self.engine.hosts() if node.has(each.pid)]

    async def check(self, history: History) -> Books:
        return await check(self.engine, history, redis_url=self.redis.url)

    def heard(self, event: str, since: float) -> list[float]:
        """When the coordinator logged this, in seconds after `since`."""
        return [
            datetime.fromisoformat(each["timestamp"]).timestamp() - since
            for each in self.engine.log("coordinator")
            if each["event"] == event
            and datetime.fromisoformat(each["timestamp"]).timestamp() > since
        ]


@asynccontextmanager
async def site(
    nodes: RayNodes, directory: Path, shards: int, *flags: str, redis_address: str = ""
) -> AsyncIterator[Site]:
    """An engine with a host on each node, of which nothing is left running in the end."""
    address = redis_address or nodes.head.address
    where = f"{address}:{free_port(address)}"
    shape = ("--hosts", str(len(nodes.nodes)), "--shards", str(shards))
    async with redis_running(directory / "redis", where=where) as redis:
        to_join = ("--address", nodes.address, "--redis", redis.url)
        async with running(
            directory / "data",
            *to_join,
            *shape,
            *flags,
            environment=nodes.environment,
            seconds=START_SECONDS,
        ) as engine:
            yield Site(nodes, redis, engine)
            assert 0 == await engine.stop()
        await gone(each for node in nodes.nodes for each in node.actors())
