"""The ways from a client to the engine: through one address, or straight to every shard's host.

    Client ──commands──► Through  ──one link──► a gateway (or a host that owns everything)
                         Straight ──Router────► the host of each command's shard
                             └── MapWatch: who that is; asks the address that the client was given

What both guarantee: one answer per command, in their order, at the deadline at the latest. Neither
remembers anything of a command that it has answered; trying again is the client's business. What
the straight way survives it survives as a gateway does, because the router is the same: a shard
that moves, a host that dies or freezes, and commands that must stay in order meanwhile.
"""

import asyncio
import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from engine import limits
from engine.messages import Answer, Command, Detail, Status
from gateway.gathering import Gathering
from gateway.link import Link
from gateway.map_watch import MapWatch
from gateway.router import ABOUT_RESERVATION, Router


class Way(Protocol):
    """What a client needs of either. Times are of the event loop."""

    @property
    def shards(self) -> int:
        """How many hashed shards the installation has; known once it is open."""

    @property
    def total(self) -> int:
        """How many shards it has, hashed and dedicated."""

    async def open(self, deadline: float) -> Answer | None:
        """None, or why it could not be opened."""

    async def ask(self, commands: Sequence[Command], deadline: float) -> list[Answer]:
        """One answer per command, whatever happens. The commands are valid, and not changed."""

    async def close(self) -> None:
        """Answer what is still here."""


class Through:
    """One link; what is at its other end finds the owners."""

    def __init__(self, address: str, key: str | None) -> None:
        self.link = Link(address, key, self._on_change)
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def shards(self) -> int:
        assert self.link.hello is not None
        return self.link.hello.shards

    @property
    def total(self) -> int:
        assert self.link.hello is not None
        return self.link.hello.shards + self.link.hello.dedicated

    async def open(self, deadline: float) -> Answer | None:
        self.link.start()
        if await self._is_up(deadline):
            return None
        return self.link.refusal or not_done(f"nobody answers at {self.link.address}")

    async def ask(self, commands: Sequence[Command], deadline: float) -> list[Answer]:
        if not self.link.up and not await self._is_up(deadline):
            return [self.link.refusal or not_done("not connected")] * len(commands)
        response = await self.link.ask(commands, deadline)
        if response is None:
            return [_UNKNOWN] * len(commands)
        if len(response.answers) != len(commands):
            return [response.answers[0] if response.answers else not_done("")] * len(commands)
        return response.answers

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        await self.link.close()

    @property
    def locked_out(self) -> Answer | None:
        """That the key opens nothing, or does no longer."""
        refusal = self.link.refusal
        return refusal if refusal and refusal.status is Status.UNAUTHENTICATED else None

    def _on_change(self, link: Link) -> None:
        self._changed.set()

    async def _is_up(self, deadline: float) -> bool:
        """Whether the link is up, at the deadline at the latest; a refused key never opens it."""
        while not self.link.up:
            if self._closed or self.locked_out:
                return False
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return True


class Straight:
    """A router of one's own. The link to the entry is for the map only."""

    def __init__(self, address: str, key: str | None, jitter: Callable[[], float]) -> None:
        self._entry = Through(address, key)
        self._key = key
        self._jitter = jitter
        self._router: Router | None = None
        self._watch: MapWatch | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def shards(self) -> int:
        return self._entry.shards

    @property
    def total(self) -> int:
        return self._entry.total

    async def open(self, deadline: float) -> Answer | None:
        if (refusal := await self._entry.open(deadline)) is not None:
            return refusal
        self._router = Router(self.shards, self._key, self.total - self.shards)
        self._watch = MapWatch(self._entry.link, self._router, self._jitter)
        self._watch.start()
        try:
            async with asyncio.timeout_at(deadline):
                await self._watch.told.wait()
        except TimeoutError:
            return not_done(f"{self._entry.link.address} does not say who owns what")
        return None

    async def ask(self, commands: Sequence[Command], deadline: float) -> list[Answer]:
        assert self._router is not None, "it is open"
        if (refusal := self._entry.locked_out) is not None:
            return [refusal] * len(commands)
        all_: asyncio.Future[list[Answer]] = self._loop.create_future()
        gathering = Gathering(len(commands), partial(_resolve, all_))
        remaining_ms = max(1, int((deadline - self._loop.time()) * 1_000))
        for index, command in enumerate(commands):
            if isinstance(command, ABOUT_RESERVATION):  # in which the router writes the home
                command = copy.copy(command)
            self._router.forward(command, remaining_ms, partial(gathering.put, index))
        answers = await all_
        if any(each.status is Status.NOT_DONE for each in answers) and not self._router.links():
            answers = [_LONELY if each.status is Status.NOT_DONE else each for each in answers]
        return answers

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        if self._router is not None:
            await self._router.close()
        await self._entry.close()


def _resolve(future: asyncio.Future[list[Answer]], answers: list[Answer]) -> None:
    if not future.done():  # whoever asked may have been cancelled
        future.set_result(answers)


def not_done(why: str) -> Answer:
    return Answer(Status.NOT_DONE, Detail(why[: limits.TEXT_CHARS_MAX]) if why else None)


_UNKNOWN: Final = Answer(Status.OUTCOME_UNKNOWN)
_LONELY: Final = not_done("no host can be reached from here")
