"""`GET /v1/status`: the processes of the engine and the shards of each, as the gateway was told.

It is what `onhand status` prints. The gateway learns it from the coordinator's map, so it is as
fresh as the map is: a dead host is missing from its shards within milliseconds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from actors.control import Kind, Map
from engine.messages import GetStatistics
from engine.placement import server_of
from gateway import problems
from gateway.http_pages import json_reply
from gateway.http_routes import Operation
from gateway.problems import RefusedError, Reply

if TYPE_CHECKING:
    from gateway.http_pages import Page


class HostEntry(Struct):
    """A host, the shards that it was given, and the epochs of those that it serves; `near` are
    others' shards that it could take over in a moment."""

    name: str
    pid: int
    node: str
    address: str
    alive: bool
    shards: list[int]
    epochs: dict[str, int]
    near: list[int] = []


class GatewayEntry(Struct):
    name: str
    pid: int
    node: str
    http: str
    binary: str
    alive: bool


class FailedShard(Struct):
    """A shard whose journal did not prove itself, and what was found."""

    shard: int
    reason: str


class AlarmedShard(Struct):
    """A shard that is served although its newest audit has found something: the first of it."""

    shard: int
    finding: str


class HotEntry(Struct):
    """A shard that takes most of what its host, which is busy, can do: `share` of its commands;
    `alone`: no other shard waits for that."""

    shard: int
    host: str
    share: float
    alone: bool


class ProposedMove(Struct):
    """A move that an operator had better make, so that a hot shard is alone."""

    shard: int
    host: str


class ServerEntry(Struct):
    """A server that the journal is on, its shards, and why which hosts cannot ask it."""

    server: int
    address: str
    up: bool
    shards: list[int]
    troubles: dict[str, str]


class StatusReport(Struct):
    version: int
    shards: int
    served: int
    hosts: list[HostEntry]
    gateways: list[GatewayEntry]
    failed: list[FailedShard]
    alarms: list[AlarmedShard] = []
    servers: list[ServerEntry] = []
    hot: list[HotEntry] = []
    proposal: ProposedMove | None = None


EXAMPLE: Final = StatusReport(
    7,
    2,
    2,
    [
        HostEntry(
            "host-1", 4711, "node-a", "unix:/run/onhand/host-1", True, [0, 1], {"0": 1, "1": 1}
        )
    ],
    [GatewayEntry("gateway-1", 4712, "node-a", "tcp:127.0.0.1:8080", "tcp:127.0.0.1:8081", True)],
    [],
    [],
    [ServerEntry(0, "10.0.0.5:6379", True, [0, 1], {})],
)


def report(map_: Map) -> StatusReport:
    """What the map says, for people."""
    epochs: dict[str, dict[str, int]] = {}
    for route in map_.routes:
        epochs.setdefault(route.host, {})[str(route.shard)] = route.epoch
    hosts = [
        HostEntry(
            *(each.name, each.pid, each.node, each.address, each.alive, each.shards),
            epochs.get(each.name, {}),
            each.near,
        )
        for each in map_.members
        if each.kind is Kind.HOST
    ]
    gateways = [
        GatewayEntry(each.name, each.pid, each.node, each.http, each.address, each.alive)
        for each in map_.members
        if each.kind is Kind.GATEWAY
    ]
    failed = [FailedShard(shard, reason) for shard, reason in sorted(map_.failures.items())]
    alarms = [AlarmedShard(shard, finding) for shard, finding in sorted(map_.alarms.items())]
    servers = [
        ServerEntry(
            *(each.number, each.address, not each.troubles),
            [
                shard
                for shard in range(map_.shards)
                if server_of(shard, len(map_.servers)) == each.number
            ],
            each.troubles,
        )
        for each in map_.servers
    ]
    return StatusReport(
        map_.version,
        map_.shards,
        len(map_.routes),
        hosts,
        gateways,
        failed,
        alarms,
        servers,
        [HotEntry(each.shard, each.host, each.share, each.is_alone) for each in map_.hot],
        None if map_.proposal is None else ProposedMove(map_.proposal.shard, map_.proposal.host),
    )


def status_operation(current: Callable[[], Map]) -> Operation:
    """The call, over whatever map is `current`."""

    async def answer(page: "Page") -> Reply:
        if page.scope.channel is not None:
            raise RefusedError(problems.FORBIDDEN, "This is for operators' keys.")
        if (now := current()).version < 0:
            raise RefusedError(problems.NOT_READY, "The coordinator has not said anything yet.")
        return json_reply(report(now))

    return Operation(
        name="status",
        method="GET",
        path="/v1/status",
        tag="engine",
        summary="Which processes run, and which shards each host has",
        command=GetStatistics,
        answers={200: EXAMPLE},
        refusals=(problems.NOT_READY,),
        page=answer,
    )
