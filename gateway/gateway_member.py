"""A gateway as a member of the engine: what it is told by the coordinator, and passes on to it.

    coordinator ──Map──►              who owns what: the router sends accordingly from now on,
                                      and who asks is told
    coordinator ──Pulse──►            that it lives: operators are told since when it does not
    coordinator ◄──Beat──             which map is known here, and the newest records heard of
    coordinator ◄──Move, Restart──    what an operator wishes
    coordinator ──Stop──►             accepts nothing more, answers what it has, says Left
    coordinator ──Leave──►            the same, and ends: another has its name, as it seems, and
                                      nobody would tell it anything any more

It knows nothing that it could not learn again.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from actors.control import (
    Beat,
    ControlMember,
    FromCoordinator,
    Join,
    Leave,
    Map,
    Move,
    MoveAnswer,
    Restart,
    ShardHead,
    Stop,
    tell_failure,
)
from actors.map_board import MapBoard
from gateway.router import Router

ANSWER_SECONDS: Final = 2.0
_log = structlog.get_logger(__name__)


class GatewayMember:
    """The word between one gateway and its coordinator."""

    def __init__(
        self, router: Router, board: MapBoard, close: Callable[[], Awaitable[None]]
    ) -> None:
        """`close`: accept nothing more, and answer what is here; the router is closed after
        that."""
        self.map = Map(-1, router.total, [], [], {})
        """The newest that was heard."""
        self._heard_at = asyncio.get_running_loop().time()
        self._router = router
        self._board = board
        self._close = close
        self._stopping: asyncio.Task[None] | None = None
        self._superseded = asyncio.Event()
        """Nothing is left to do."""
        self._wishes: dict[int, asyncio.Future[str | None]] = {}
        self._wish_ids = itertools.count()
        self._control: ControlMember | None = None

    async def run(self, control: str, join: Join) -> str:
        """Be a member of the coordinator at `control`; why that is over for good."""
        self._control = ControlMember(control, join, self._beat, self._receive)
        serving = asyncio.create_task(self._control.run())
        superseded = asyncio.create_task(self._superseded.wait())
        try:
            await asyncio.wait([serving, superseded], return_when=asyncio.FIRST_COMPLETED)
        finally:
            superseded.cancel()
            serving.cancel()
        return "superseded" if self._superseded.is_set() else "the coordinator is gone"

    @property
    def heard_seconds(self) -> float:
        """Since the coordinator said anything; from the beginning on, if it never has."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def move(self, shard: int, host: str) -> str | None:
        """Ask the coordinator. What is in the way, or None: it is under way."""
        return await self._wish(Move(next(self._wish_ids), shard, host))

    async def restart(self, name: str) -> str | None:
        """The same, for a process that is to end in order and come back."""
        return await self._wish(Restart(next(self._wish_ids), name))

    async def _wish(self, wish: Move | Restart) -> str | None:
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._wishes[wish.request_id] = future
        try:
            if self._control is None or not self._control.say(wish):
                return "the coordinator is not there at the moment"
            return await asyncio.wait_for(future, ANSWER_SECONDS)
        except TimeoutError:
            return "the coordinator does not answer"
        finally:
            del self._wishes[wish.request_id]

    def _beat(self) -> Beat:
        heads = [ShardHead(shard, *position) for shard, position in self._router.heads.items()]
        return Beat(version=self.map.version, heads=heads)

    def _receive(self, message: FromCoordinator) -> None:
        assert self._control is not None, "whoever is heard is running"
        self._heard_at = asyncio.get_running_loop().time()
        if isinstance(message, Map):
            self.map = message
            known = (
                message.version,
                message.owners(),
                message.failures.keys(),
                message.hosts(),
            )
            self._router.update_map(*known)
            self._board.post(*known)
            self._control.notice()
        elif isinstance(message, MoveAnswer):
            if (future := self._wishes.get(message.request_id)) is not None and not future.done():
                future.set_result(message.problem)
        elif isinstance(message, Stop | Leave) and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(message))
            self._stopping.add_done_callback(tell_failure)

    async def _stop(self, message: Stop | Leave) -> None:
        """Accept nothing more, answer what is here."""
        self._board.close()
        await self._close()
        await self._router.close()
        if isinstance(message, Leave):
            self._superseded.set()
        elif self._control is not None:
            self._control.leave()
        _log.info("stopped")
