"""The process around a host: its journal, its server, its word to the coordinator, and its end.

    journals open ─► server listens ─► joined, beating ─► assigned, serving …
      … told to stop:                 everything flushed and marked, then Left; waits to be ended
      … superseded, or nobody is left: ends at once, and Ray starts it again, empty

An end without ceremony is always safe: what was answered is in the journal, what was not is for the
caller to ask again. So whatever cannot go on here ends the process, and nothing is mended in place.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import time
from typing import Final, NoReturn

import structlog

from actors.address import TcpAddress, parse_address
from actors.archive import Archive
from actors.binary_server import BinaryServer
from actors.config import Settings
from actors.control import Kind, ShardHead, introduce
from actors.data_directory import DataDirectory
from actors.edition import edition
from actors.host import Host
from actors.host_member import HostMember
from actors.journal import CONNECTIONS_PER_HOST, RedisJournal
from actors.journal_servers import seats_of
from actors.keys import Authenticator
from actors.log import set_up_logs
from actors.marks import CorruptMarkError, Marks
from actors.usage import Usage, served
from engine.messages import Sample

JOURNAL_SECONDS: Final = 3.0
"""For the journal's servers to answer; after that the host joins without those that do not."""

_FAR_AWAY: Final = {4: TcpAddress("192.0.2.1", 9), 6: TcpAddress("2001:db8::1", 9)}
"""Addresses of documentation (RFC 5737, RFC 3849), to ask by which of its own one would go."""

_log = structlog.get_logger(__name__)


class HostProcess:
    """The program of a host (`actors.cluster.Program`)."""

    def __init__(self, settings: bytes, name: str, control: str) -> None:
        self._settings = Settings.decode(settings)
        self._name = name
        self._control = control

    async def run(self) -> None:
        """Serve until the coordinator is gone for good."""
        settings = self._settings
        directory = DataDirectory(settings.data_path)
        set_up_logs(directory.logs / f"{self._name}.log", settings.log_level)
        journals = _journals(settings)
        await asyncio.gather(*(each.open(JOURNAL_SECONDS, demand=False) for each in journals))
        member = HostMember(_end, time.thread_time)
        marks, usage = Marks(directory.marks), Usage(settings.data_path)

        def around() -> list[Sample]:
            return [*edition(), *usage.samples(), *served(server.statistics())]

        host = Host(
            self._name,
            settings,
            settings.cluster_id,
            journals,
            marks,
            os.urandom,
            member.notice,
            member.emptied,
            archive=Archive(directory.archive, settings.archive_us),
            around=around,
        )
        server = BinaryServer(
            self._name,
            settings.shards,
            host,
            Authenticator(settings, directory.keys),
            dedicated=settings.dedicated,
        )
        address = await server.listen(listen_address(settings, self._name, self._control))
        host.start()
        _log.info("serves", name=self._name, address=address)
        await member.run(
            self._control,
            introduce(
                settings, Kind.HOST, self._name, address, marks=_heads(marks, settings.total)
            ),
            host,
            server.close,
        )
        _log.warning("the coordinator is gone")


def _journals(settings: Settings) -> list[RedisJournal]:
    """Connections to the journal's servers, to each of them in turn; see `Host`."""
    assert settings.redis, "resolved"
    seats = seats_of(settings.cluster_id, settings.servers, settings.shards)
    return [
        RedisJournal(url, fsync=settings.fsync, seat=seat)
        for _ in range(CONNECTIONS_PER_HOST)
        for url, seat in zip(settings.redis, seats, strict=True)
    ]


def _heads(marks: Marks, total: int) -> list[ShardHead]:
    """What this machine's marks say. An illegible one is for the shard's recovery to refuse."""
    found = []
    for shard in range(total):
        with contextlib.suppress(CorruptMarkError):
            if (mark := marks.read(shard)) is not None:
                found.append(ShardHead(shard, *mark.position, mark.checksum))
    return found


def _end(reason: str) -> NoReturn:
    """The process ends; Ray starts it again, empty."""
    _log.warning("ends", reason=reason)
    logging.shutdown()
    os._exit(os.EX_OK)


def listen_address(settings: Settings, name: str, control: str) -> str:
    """Where gateways, and clients that go straight to the hosts, reach this one.

    On several machines: the address by which this one reaches the coordinator's. On one whose
    gateways only it can reach itself: a unix socket, for processes of this user. Else the address
    that gateways bind, or, if that is every one, that by which this machine reaches the others.
    """
    coordinator = parse_address(control)
    if isinstance(coordinator, TcpAddress):
        return str(TcpAddress(_own_address(coordinator), 0))
    bound = ipaddress.ip_address(settings.bind)
    if not bound.is_loopback:
        try:
            far = _FAR_AWAY[bound.version]
            return str(TcpAddress(_own_address(far) if bound.is_unspecified else settings.bind, 0))
        except OSError:
            _log.warning("clients elsewhere cannot come straight here: no way leads out")
    return f"unix:{settings.run_dir}/{name}-{os.getpid()}"


def _own_address(peer: TcpAddress) -> str:
    """The address of this machine towards `peer`; nothing is sent."""
    family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(peer)
        return str(probe.getsockname()[0])
