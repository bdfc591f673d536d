"""A host as a member of the engine: what it says to the coordinator, and does at its word.

    coordinator ──Assign, Release──► claims and leaves shards
    coordinator ──Follow──►          keeps up with shards of others
    coordinator ──Map──►             who owns what, for clients that come straight here
    coordinator ◄──Beat──            which it owns, is recovering, refuses, and how far they reach;
                                     which of the journal's servers it cannot ask; how busy
                                     it is, and with which shards
    coordinator ──Leave──►           all that it had is another's: what was answered leaves, and the
                                     process ends
    coordinator ──Stop──►            serves what is queued, writes its marks, says Left

It decides nothing and keeps nothing: who owns what is the journal's to say, and which shards to
claim the coordinator's.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from actors.claim import Floor
from actors.control import (
    Assign,
    Beat,
    ControlMember,
    Follow,
    FromCoordinator,
    Join,
    Leave,
    Map,
    Release,
    ShardHead,
    Stop,
    tell_failure,
)
from actors.host import Host
from engine.codec import Position

_log = structlog.get_logger(__name__)


class HostMember:
    """The word between one host and its coordinator."""

    def __init__(
        self, end: Callable[[str], None], spent: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`end`: the process ends, for the reason given, and somebody starts it again, empty;
        `spent`: the seconds of CPU that this thread has used."""
        self._end = end
        self._spent = spent
        self._serial = 0
        self._version = 0
        self._stopping: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._control: ControlMember | None = None

    async def run(
        self, control: str, join: Join, host: Host, close: Callable[[], Awaitable[None]]
    ) -> None:
        """Be a member of the coordinator at `control`, for `host`, until it is gone for good.

        `close`: accept no more requests.
        """
        self._host, self._close = host, close
        self._control = ControlMember(control, join, self._beat, self._receive)
        await self._control.run()

    def notice(self) -> None:
        """Something changed in the host."""
        if self._control is not None:
            self._control.notice()

    def emptied(self) -> None:
        """The host has lost every shard that it had."""
        if self._stopping is None:
            self._end("fenced out of every shard")

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
            near=status.near,
            servers=status.servers,
            spent=self._spent(),
            taken=status.taken,
        )

    def _receive(self, message: FromCoordinator) -> None:
        if isinstance(message, Assign):
            floor = message.floor
            self._serial = message.serial
            self._host.assign(message.shard, None if floor is None else _floor(floor))
            self.notice()
        elif isinstance(message, Release):
            self._serial = message.serial
            self._host.release(message.shard, message.host)
            self.notice()
        elif isinstance(message, Follow):
            self._host.follow(message.shards)
        elif isinstance(message, Map):
            self._version = message.version
            self._host.board.post(
                message.version, message.owners(), message.failures.keys(), message.hosts()
            )
        elif isinstance(message, Leave) and self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())
            self._leaving.add_done_callback(tell_failure)
        elif isinstance(message, Stop) and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
            self._stopping.add_done_callback(tell_failure)

    async def _leave(self) -> None:
        """Whoever was answered in the last moments gets that answer; but if anything is here that
        another has by now, somebody waits for it to be given up."""
        self._host.board.close()
        try:
            if not self._host.status().owned:
                await self._close()
        finally:
            self._end("superseded")

    async def _stop(self) -> None:
        """No more requests; what is queued is served; marks are written."""
        await self._host.stop()
        self._host.board.close()
        await self._close()
        if self._control is not None:
            self._control.leave()
        _log.info("stopped")


def _floor(head: ShardHead) -> Floor:
    return Floor(Position(head.epoch, head.sequence), head.checksum or None)
