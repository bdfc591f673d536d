"""One connection of the binary protocol that asks, waits for the answer, and never asks twice."""

import asyncio
from collections.abc import Sequence
from typing import Self

from engine.messages import UNKNOWN_HOME, Answer, Command, Hello, Response, Status
from gateway.link import Link

DEADLINE_MS = 2_000
PATIENCE_SECONDS = 3.0
"""What an answer gets beyond its deadline; then the client hangs up."""
AGAIN = (None, Status.NOT_DONE, Status.OUTCOME_UNKNOWN, Status.OVERLOADED)


class Till:
    """Dials again whenever its connection is lost."""

    def __init__(self, address: str, key: str | None = None) -> None:
        self._up = asyncio.Event()
        self._link = Link(address, key, self._changed)

    async def __aenter__(self) -> Self:
        self._link.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._link.close()

    def _changed(self, link: Link) -> None:
        if link.up:
            self._up.set()
        else:
            self._up.clear()

    @property
    def name(self) -> str:
        """Who answers."""
        return self._link.hello.name if self._link.hello is not None else ""

    @property
    def hello(self) -> Hello:
        """What the other side has said of itself. Must have been `up`."""
        assert self._link.hello is not None
        return self._link.hello

    @property
    def up(self) -> bool:
        return self._link.up

    async def connected(self, seconds: float) -> bool:
        """Whether there is a connection within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not self._link.up:
                    await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def ask(
        self,
        commands: Sequence[Command],
        deadline_ms: int = DEADLINE_MS,
        dedicated: int = UNKNOWN_HOME,
    ) -> Response | None:
        """What came of a frame that was sent once. None: cut off, or no answer. Must be `up`.
        `dedicated`: the shard that it is for, if that is a dedicated one and this a host."""
        done: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        request_id = self._link.send(commands, deadline_ms, done.set_result, shard=dedicated)
        try:
            async with asyncio.timeout(deadline_ms / 1_000 + PATIENCE_SECONDS):
                return await done
        except TimeoutError:
            return None
        finally:
            self._link.forget(request_id)

    async def insist(
        self,
        commands: Sequence[Command],
        seconds: float = 30,
        frame: int = 500,
        deadline_ms: int = DEADLINE_MS,
    ) -> list[Answer]:
        """An answer for each; what was not done is sent again. Commands must be repeatable."""
        answers: dict[int, Answer] = {}
        async with asyncio.timeout(seconds):
            while missing := [each for each in range(len(commands)) if each not in answers]:
                await self.connected(seconds)
                for start in range(0, len(missing), frame):
                    numbers = missing[start : start + frame]
                    if not self.up:
                        break
                    response = await self.ask([commands[each] for each in numbers], deadline_ms)
                    if response is not None:
                        found = zip(numbers, response.answers, strict=True)
                        answers |= {n: each for n, each in found if each.status not in AGAIN}
        return [answers[each] for each in range(len(commands))]
