"""The process of a gateway: puts the edge together, and keeps it told of who owns what.

    HTTP ────► HttpEdge ──► Api ──┐
    binary ──► BinaryServer ──────┴─► Router ──► hosts
                                         ▲ Map          heads │
                                         └──── coordinator ◄──┘

A gateway keeps nothing that cannot be learnt again, so it may be killed at any time; told to stop,
it accepts nothing more and answers what it has. Several of them share the same two ports.
"""

import asyncio
import os
import time
from typing import Final

import structlog

from actors.address import TcpAddress
from actors.binary_server import BinaryServer
from actors.config import Settings
from actors.control import Kind, introduce
from actors.data_directory import DataDirectory
from actors.edition import edition
from actors.keys import Authenticator
from actors.last_backup import backup_age
from actors.log import set_up_logs
from actors.map_board import MapBoard
from actors.usage import Usage, served
from engine.messages import GetStatistics, Sample, Statistics
from gateway.diary import Diary
from gateway.forwarder import Forwarder
from gateway.gateway_member import GatewayMember
from gateway.homes import RANDOM_BYTES, mint
from gateway.http_api import LOOPBACK_NAMES, Api
from gateway.http_edge import HttpEdge
from gateway.http_routes import RouteTable
from gateway.http_table import OPERATIONS
from gateway.metrics import Others, map_samples, router_samples
from gateway.moves import move_operation
from gateway.restarts import restart_operation
from gateway.roster import roster
from gateway.router import Router
from gateway.siblings import Siblings, address_of
from gateway.status import status_operation

SCRAPE_MS: Final = 1_500
_log = structlog.get_logger(__name__)


class GatewayProcess:
    """The program of a gateway (`actors.cluster.Program`)."""

    def __init__(self, settings: bytes, name: str, control: str) -> None:
        self._settings = Settings.decode(settings)
        self._name = name
        self._control = control

    async def run(self) -> None:
        """Serve until the coordinator is gone for good, or another has the name."""
        settings = self._settings
        directory = DataDirectory(settings.data_path)
        set_up_logs(directory.logs / f"{self._name}.log", settings.log_level)
        authenticate = Authenticator(settings, directory.keys)
        self._usage = Usage(settings.data_path)
        self._router = Router(settings.shards, settings.control_token, settings.dedicated)
        board = MapBoard(settings.control_token, settings.shards, settings.dedicated)
        self._siblings = Siblings(settings.run_dir, settings.control_token)
        self._member = GatewayMember(self._router, board, self._close)
        self._edge = HttpEdge(self._api(authenticate))
        self._server = BinaryServer(
            self._name,
            settings.shards,
            Forwarder(self._router, board, self._statistics),
            authenticate,
            dedicated=settings.dedicated,
        )
        await self._server.listen(address_of(settings.run_dir, self._name))
        address = await self._server.listen(self._bind(settings.binary_port), reuse_port=True)
        http = await self._edge.listen(self._bind(settings.port), reuse_port=True)
        _log.info("serves", name=self._name, http=http, binary=address)
        reason = await self._member.run(
            self._control, introduce(settings, Kind.GATEWAY, self._name, address, http)
        )
        _log.warning("ends", reason=reason)

    def _api(self, authenticate: Authenticator) -> Api:
        settings = self._settings
        keyless = settings.is_loopback and not settings.require_keys
        return Api(
            self._router,
            settings.shards,
            RouteTable(
                [
                    *OPERATIONS,
                    status_operation(lambda: self._member.map),
                    move_operation(self._member.move),
                    restart_operation(self._member.restart),
                ]
            ),
            authenticate,
            lambda home: mint(home, time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES)),
            self._ask_others,
            dedicated=settings.dedicated,
            names={*LOOPBACK_NAMES, settings.bind} if keyless else None,
            servers_down=self._servers_down,
            diary=Diary(settings.slow_seconds),
            name=self._name,
            around=self._around,
        )

    def _servers_down(self) -> list[int]:
        return [each.number for each in self._member.map.servers if each.troubles]

    def _bind(self, port: int) -> str:
        return str(TcpAddress(self._settings.bind, port))

    def _statistics(self) -> Statistics:
        """What this gateway counts: its part of a scrape, whichever gateway is scraped."""
        return Statistics(
            [
                *self._edge.api.counters.samples(),
                *self._around(),
                *router_samples(self._router.statistics()),
            ]
        )

    def _around(self) -> list[Sample]:
        return [
            *edition(),
            *map_samples(self._member.map, self._member.heard_seconds),
            *roster(self._settings, self._member.map),
            *backup_age(self._settings.data_path),
            *self._usage.samples(),
            *served(self._server.statistics()),
        ]

    async def _ask_others(self) -> Others:
        members = self._member.map.members
        siblings = [
            each.name
            for each in members
            if each.kind is Kind.GATEWAY and each.alive and each.name != self._name
        ]
        answers, gateways = await asyncio.gather(
            self._router.ask_hosts(GetStatistics, SCRAPE_MS),
            self._siblings.ask(siblings, SCRAPE_MS / 1_000),
        )
        names = {each.address: each.name for each in members}
        hosts = [
            (names.get(address, address), answer.body)
            for address, answer in answers.items()
            if isinstance(answer.body, Statistics)
        ]
        return Others(
            hosts, len(answers) - len(hosts), [*gateways.items()], len(siblings) - len(gateways)
        )

    async def _close(self) -> None:
        await asyncio.gather(self._edge.close(), self._server.close())
        await self._siblings.close()
