"""The process around a host: its journal, its server, its word to the coordinator, and its end.

    journal opens ─► server listens ─► joined, beating ─► assigned, serving …
      … told to stop:                 everything flushed and marked, then Left; waits to be ended
      … superseded, or nobody is left: ends at once, and Ray starts it again, empty

An end without ceremony is always safe: what was answered is in the journal, what was not is for the
caller to ask again. So whatever cannot go on here ends the process, and nothing is mended in place.
"""

import asyncio
import contextlib
import logging
import os
import socket
from typing import Final, NoReturn

import structlog

from actors.address import TcpAddress, UnixAddress, parse_address
from actors.archive import Archive
from actors.binary_server import BinaryServer
from actors.config import Settings
from actors.control import Kind, ShardHead, introduce
from actors.data_directory import DataDirectory
from actors.host import Host
from actors.host_member import HostMember
from actors.journal import CONNECTIONS_PER_HOST, RedisJournal
from actors.keys import Authenticator
from actors.log import set_up_logs
from actors.marks import CorruptMarkError, Marks

JOURNAL_SECONDS: Final = 60.0
"""For the journal's server to answer; after that Ray starts the process again."""

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
        assert settings.redis is not None, "resolved"
        journals = [
            RedisJournal(settings.redis, fsync=settings.fsync) for _ in range(CONNECTIONS_PER_HOST)
        ]
        await asyncio.gather(*(journal.open(JOURNAL_SECONDS) for journal in journals))
        member = HostMember(_end)
        marks = Marks(directory.marks)
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
        )
        server = BinaryServer(
            self._name, settings.shards, host, Authenticator(settings, directory.keys)
        )
        address = await server.listen(self._listen_address())
        host.start()
        _log.info("serves", name=self._name, address=address)
        await member.run(
            self._control,
            introduce(
                settings, Kind.HOST, self._name, address, marks=_heads(marks, settings.shards)
            ),
            host,
            server.close,
        )
        _log.warning("the coordinator is gone")

    def _listen_address(self) -> str:
        """A unix socket, or the address by which this machine reaches the coordinator's."""
        control = parse_address(self._control)
        if isinstance(control, UnixAddress):
            return f"unix:{self._settings.run_dir}/{self._name}-{os.getpid()}"
        return str(TcpAddress(_own_address(control), 0))


def _heads(marks: Marks, shards: int) -> list[ShardHead]:
    """What this machine's marks say. An illegible one is for the shard's recovery to refuse."""
    found = []
    for shard in range(shards):
        with contextlib.suppress(CorruptMarkError):
            if (mark := marks.read(shard)) is not None:
                found.append(ShardHead(shard, *mark.position, mark.checksum))
    return found


def _end(reason: str) -> NoReturn:
    """The process ends; Ray starts it again, empty."""
    _log.warning("ends", reason=reason)
    logging.shutdown()
    os._exit(os.EX_OK)


def _own_address(peer: TcpAddress) -> str:
    """The address of this machine towards `peer`; nothing is sent."""
    family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(peer)
        return str(probe.getsockname()[0])
