"""Frames through a gateway: taken apart, routed, and put together in their order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.binary_server import BinaryServer
from actors.map_board import MapBoard
from engine.messages import (
    GetMap,
    GetStatistics,
    GetStock,
    LineRequest,
    MapView,
    Receive,
    ReservationView,
    Reserve,
    Sample,
    Statistics,
    Status,
    StockView,
)
from engine.scope import OPERATOR, Scope
from gateway.forwarder import Forwarder
from gateway.router import Router
from tests.actors.peer import Peer, connect
from tests.gateway.hosts import SHARDS, map_of, sku_at, two_hosts

OWN = Statistics([Sample("http_requests_total", [], 1)])


@asynccontextmanager
async def gateway(tmp_path: Path) -> AsyncIterator[Peer]:
    """A peer of a gateway before two hosts."""
    async with two_hosts(tmp_path) as hosts:
        router = Router(SHARDS)
        router.update_map(1, map_of(*hosts))
        board = MapBoard("secret", SHARDS)
        board.post(1, map_of(*hosts))
        forwarder = Forwarder(router, board, lambda: OWN)
        server = BinaryServer("gateway", SHARDS, forwarder, authenticate)
        async with connect(await server.listen("tcp:127.0.0.1:0")) as peer:
            await peer.greet()
            yield peer
        await server.close()
        await router.close()


def authenticate(key: str | None, peer: str) -> Scope:
    return OPERATOR


async def test_answers_come_in_the_order_of_the_commands(tmp_path: Path) -> None:
    """One frame over all shards, and over the gateway itself, is answered as one."""
    skus = [sku_at(shard) for shard in range(SHARDS)]
    async with gateway(tmp_path) as peer:
        received = await peer.ask(1, *[Receive(sku, "l", 9) for sku in skus])
        assert [Status.OK] * SHARDS == [answer.status for answer in received.answers]
        response = await peer.ask(
            2,
            *[GetStock(sku) for sku in reversed(skus)],
            GetStatistics(),
            GetMap(),
            Reserve("r", [LineRequest(skus[3], 1)]),
        )
        bodies = [answer.body for answer in response.answers]
        view = bodies.pop(SHARDS + 1)
        assert isinstance(view, MapView)
        assert (1, list(range(SHARDS))) == (view.version, [each.shard for each in view.routes])
        assert skus[::-1] == [body.sku for body in bodies if isinstance(body, StockView)]
        assert OWN == bodies[SHARDS]
        assert isinstance(bodies[-1], ReservationView)
        assert 3 == bodies[-1].home
