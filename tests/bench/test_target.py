"""What a run is sent to, where that is an engine of its own."""

import asyncio
import os
from pathlib import Path

import pytest

from actors.config import Settings
from actors.process import Identity, identify
from bench.target import Where, target
from gateway.http_client import HttpClient
from tests.actors.servers import binary_of

pytestmark = [pytest.mark.ray, pytest.mark.redis]


def is_of(process: Identity, program: Path) -> bool:
    """Whether the process runs that program, which may be a link."""
    return program.resolve() == Path(process.program)


async def test_a_server_of_ones_choice() -> None:
    """`--redis-binary`: that program keeps the journal, the report says so, and nothing of the
    engine is left."""
    binary = binary_of("redis")
    settings = Settings(hosts=1, shards=2)
    where = Where(echo=False, url=None, key=None, settings=settings, redis_binary=binary)
    async with target(where) as found:
        assert binary.name == found.about["journal"]
        (server,) = [identify(pid) for pid in found.pids["redis"]]
        assert server is not None
        assert is_of(server, binary)
        assert (await asyncio.to_thread(HttpClient(found.url, None).get, "/readyz")).ok
        started = [identify(pid) for pids in found.pids.values() for pid in pids]

    left = [each for each in started if each is not None and each.pid != os.getpid()]
    assert [] == [each for each in left if identify(each.pid) == each]
