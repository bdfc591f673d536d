"""The process around a host: its journal, its server, its word to the coordinator, and its end.

    journal opens ─► server listens ─► joined, beating ─► assigned, serving …
      … told to stop:                 everything flushed and marked, then Left; waits to be ended
      … superseded, or nobody is left: ends at once, and Ray starts it again, empty

An end without ceremony is always safe: what was answered is in the journal, what was not is for the
caller to ask again. So whatever cannot go on here ends the process, and nothing is mended in place.
"""

import asyncio
import logging
import os
import socket
from typing import Final, NoReturn

import structlog

from actors.address import TcpAddress, UnixAddress, parse_address
from actors.archive import Archive
from actors.binary_server import BinaryServer
from actors.config import Settings
from actors.control import (
    Assign,
    Beat,
    ControlMember,
    FromCoordinator,
    Kind,
    Leave,
    Map,
    Release,
    ShardHead,
    Stop,
    introduce,
)
from actors.data_directory import DataDirectory
from actors.host import Host
from actors.journal import CONNECTIONS_PER_HOST, RedisJournal
from actors.keys import Authenticator
from actors.log import set_up_logs
from actors.marks import Marks
from actors.recovery import Floor
from engine.codec import Position

JOURNAL_SECONDS: Final = 60.0
"""For the journal's server to answer; after that Ray starts the process again."""

_log = structlog.get_logger(__name__)


class HostProcess:
    """The program of a host (`actors.cluster.Program`)."""

    def __init__(self, settings: bytes, name: str, control: str) -> None:
        self._settings = Settings.decode(settings)
        self._name = name
        self._control = control
        self._serial = 0
        self._version = 0
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the coordinator is gone for good."""
        settings = self._settings
        directory = DataDirectory(settings.data_path)
        set_up_logs(directory.logs / f"{self._name}.log", settings.log_level)
        assert settings.redis is not None, "resolved"
        journals = [
            RedisJournal(settings.redis, fsync=settings.fsync) for _ in range(CONNECTIONS_PER_HOST)
        ]
        await asyncio.gather(*(journal.open(JOURNAL_SECONDS) for journal in journals))
        self._host = Host(
            self._name,
            settings,
            settings.cluster_id,
            journals,
            Marks(directory.marks),
            os.urandom,
            self._changed,
            self._emptied,
            archive=Archive(directory.archive, settings.archive_us),
        )
        self._server = BinaryServer(
            self._name, settings.shards, self._host, Authenticator(settings, directory.keys)
        )
        address = await self._server.listen(self._listen_address())
        self._host.start()
        self._member = ControlMember(
            self._control,
            introduce(settings, Kind.HOST, self._name, address),
            self._beat,
            self._receive,
        )
        _log.info("serves", name=self._name, address=address)
        await self._member.run()
        _log.warning("the coordinator is gone")

    def _listen_address(self) -> str:
        """A unix socket, or the address by which this machine reaches the coordinator's."""
        control = parse_address(self._control)
        if isinstance(control, UnixAddress):
            return f"unix:{self._settings.run_dir}/{self._name}-{os.getpid()}"
        return str(TcpAddress(_own_address(control), 0))

    def _beat(self) -> Beat:
        status = self._host.status()
        return Beat(
            serial=self._serial,
            version=self._version,
            owned=status.owned,
            recovering=status.recovering,
            failed=status.failed,
            heads=[
                ShardHead(shard, position.epoch, position.sequence, checksum)
                for shard, (position, checksum) in status.heads.items()
            ],
            alarms=status.alarms,
        )

    def _receive(self, message: FromCoordinator) -> None:
        if isinstance(message, Assign):
            floor = message.floor
            self._serial = message.serial
            self._host.assign(message.shard, None if floor is None else _floor(floor))
            self._member.notice()
        elif isinstance(message, Release):
            self._serial = message.serial
            self._host.release(message.shard)
            self._member.notice()
        elif isinstance(message, Map):
            self._version = message.version
        elif isinstance(message, Leave):
            _end("superseded")
        elif isinstance(message, Stop) and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        """No more requests; what is queued is served; marks are written."""
        await self._host.stop()
        await self._server.close()
        self._member.leave()
        _log.info("stopped")

    def _changed(self) -> None:
        self._member.notice()

    def _emptied(self) -> None:
        if self._stopping is None:
            _end("fenced out of every shard")


def _end(reason: str) -> NoReturn:
    """The process ends; Ray starts it again, empty."""
    _log.warning("ends", reason=reason)
    logging.shutdown()
    os._exit(os.EX_OK)


def _floor(head: ShardHead) -> Floor:
    return Floor(Position(head.epoch, head.sequence), head.checksum or None)


def _own_address(peer: TcpAddress) -> str:
    """The address of this machine towards `peer`; nothing is sent."""
    family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(peer)
        return str(probe.getsockname()[0])
