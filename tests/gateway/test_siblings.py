"""The other gateways: each asked for itself, and none waited for beyond the deadline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.binary_server import BinaryServer, Reply
from engine.messages import Answer, Outgoing, Request, Sample, Statistics, Status
from engine.scope import ENGINE, Scope
from gateway.siblings import Siblings, address_of
from tests.actors.peer import DEADLINE_SECONDS, until

SHORT_SECONDS = 0.2
TOKEN = "token"


class Gateway:
    """Tells of itself, unless it is frozen."""

    def __init__(self, name: str) -> None:
        self.statistics = Statistics([Sample(f"onhand_of_{name}", [], 1)])
        self.frozen = False

    def submit(self, request: Request, scope: Scope, reply: Reply) -> None:
        if not self.frozen:
            reply(Outgoing(request.request_id, [Answer(Status.OK, self.statistics)]))


@asynccontextmanager
async def gateway(directory: Path, name: str) -> AsyncIterator[tuple[Gateway, BinaryServer]]:
    """One that can be asked under its name, by whoever knows the token."""
    handler = Gateway(name)
    server = BinaryServer(name, 1, handler, lambda key, _: ENGINE if key == TOKEN else None)
    await server.listen(address_of(str(directory), name))
    try:
        yield handler, server
    finally:
        await server.close()


async def test_each_is_asked_under_its_name(tmp_path: Path) -> None:
    """Over one connection that is kept for as long as it is asked for."""
    siblings = Siblings(str(tmp_path), TOKEN)
    async with gateway(tmp_path, "a") as (one, at_one), gateway(tmp_path, "b") as (other, at_other):
        for _ in range(2):
            told = await siblings.ask(["a", "b"], DEADLINE_SECONDS)
            assert {"a": one.statistics, "b": other.statistics} == told
        assert {"b": other.statistics} == await siblings.ask(["b"], DEADLINE_SECONDS)
        assert (1, 1) == (at_one.accepted, at_other.accepted)
        await siblings.close()


async def test_who_is_silent_is_left_out(tmp_path: Path) -> None:
    """Frozen or not there: the others are heard in time, and it as soon as it is back."""
    siblings = Siblings(str(tmp_path), TOKEN)
    async with gateway(tmp_path, "a") as (one, _), gateway(tmp_path, "b") as (other, _):
        other.frozen = True
        assert {"a": one.statistics} == await siblings.ask(["a", "b", "c"], SHORT_SECONDS)
        other.frozen = False
        async with gateway(tmp_path, "c") as (third, _):
            told = await siblings.ask(["b", "c"], DEADLINE_SECONDS)
            assert {"b": other.statistics, "c": third.statistics} == told
        await siblings.close()


async def test_a_scrape_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    """Whoever scraped may have gone; the next one is answered."""
    siblings = Siblings(str(tmp_path), TOKEN)
    async with gateway(tmp_path, "a") as (one, server):
        one.frozen = True
        asking = asyncio.create_task(siblings.ask(["a"], DEADLINE_SECONDS))
        await until(lambda: server.frames)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        one.frozen = False
        assert {"a": one.statistics} == await siblings.ask(["a"], DEADLINE_SECONDS)
        await siblings.close()
