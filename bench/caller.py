"""Asking the engine about many things at once, before and after a run; speed is no concern here."""

import asyncio
from collections.abc import Sequence
from typing import Final, Self

from engine import limits
from engine.messages import Answer, Command, Response, Status
from gateway.link import Link

COMMANDS_PER_FRAME: Final = 500
FRAMES_IN_FLIGHT: Final = 4
CONNECT_SECONDS: Final = 10.0
TRIES: Final = 5
_AGAIN: Final = frozenset({Status.NOT_DONE, Status.OUTCOME_UNKNOWN, Status.OVERLOADED})


class CallerError(Exception):
    """The engine does not answer; says why."""


class Caller:
    """One connection of the binary protocol, in an `async with`."""

    def __init__(
        self, address: str, key: str | None, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._connect_seconds = connect_seconds
        self._settled = asyncio.Event()
        self._link = Link(address, key, lambda link: self._settled.set())
        self.shards = 0
        """Of the installation, hashed: what a run's SKUs spread over."""
        self.total = 0
        """With the dedicated ones."""

    async def __aenter__(self) -> Self:
        self._link.start()
        try:
            async with asyncio.timeout(self._connect_seconds):
                await self._settled.wait()
        except TimeoutError:
            await self._link.close()
            raise CallerError(f"{self._link.address} does not answer") from None
        if self._link.hello is None:
            await self._link.close()
            raise CallerError(f"{self._link.address} refuses this key")
        self.shards = self._link.hello.shards
        self.total = self.shards + self._link.hello.dedicated
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._link.close()

    async def ask(self, commands: Sequence[Command], tries: int = TRIES) -> list[Answer]:
        """One answer each. Commands must be safe to repeat: whatever was not done is sent again."""
        answers = await self._ask(commands)
        for _ in range(tries - 1):
            again = [number for number, answer in enumerate(answers) if answer.status in _AGAIN]
            if not again:
                break
            for number, answer in zip(
                again, await self._ask([commands[number] for number in again]), strict=True
            ):
                answers[number] = answer
        return answers

    async def _ask(self, commands: Sequence[Command]) -> list[Answer]:
        room = asyncio.Semaphore(FRAMES_IN_FLIGHT)

        async def send(start: int) -> list[Answer]:
            async with room:
                return await self._frame(commands[start : start + COMMANDS_PER_FRAME])

        starts = range(0, len(commands), COMMANDS_PER_FRAME)
        frames = await asyncio.gather(*(send(start) for start in starts))
        return [answer for frame in frames for answer in frame]

    async def _frame(self, commands: Sequence[Command]) -> list[Answer]:
        if not self._link.up:
            raise CallerError(f"{self._link.address} closed the connection")
        done: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()

        def settle(response: Response | None) -> None:
            if not done.done():  # whoever asked may have left
                done.set_result(response)

        self._link.send(commands, limits.DEADLINE_MS_MAX, settle)
        response = await done
        if response is None:
            raise CallerError(f"{self._link.address} closed the connection")
        return response.answers
