"""The watch of a client that goes straight to the hosts: it learns who owns what, and its router.

    entry  ◄── GetMap: newer than what we have? ── held until there is ──► the router's next map
    a host ◄── the same, beside it ────────────────────────────────────►

What it guarantees: as long as the entry or one of the hosts is alive and knows, so does the client,
as soon as they do: a question is always open with two of them, so that no single one who is dead or
frozen keeps the news from it. There is never a storm: a client has two questions open, never more;
after each it pauses, for longer and longer while nothing comes of it, and by chance a little more
or less, so that clients who have lost the same host do not ask as one; and who is asked has nothing
to send but what has changed (`actors.map_board`).

Only the entry may tell of another life of the engine. A host of an earlier one, frozen and awake
again, knows of nothing newer than itself.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from engine import limits
from engine.messages import GetMap, MapView
from gateway.link import Link
from gateway.router import Router

PAUSE_SECONDS_MIN: Final = 0.01
PAUSE_SECONDS_MAX: Final = 0.25
SLACK_SECONDS: Final = 1.0
"""What an answer may take beyond the time for which it may be held."""


class MapWatch:
    """Keeps one router told."""

    def __init__(self, entry: Link, router: Router, jitter: Callable[[], float]) -> None:
        """`jitter`: a number from 0 to 1, every time another."""
        self.told = asyncio.Event()
        """A map was heard of."""
        self._entry = entry
        self._router = router
        self._jitter = jitter
        self._run = ""
        self._version = -1
        self._routes: dict[int, tuple[int, str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._ask_on(choose)) for choose in (self._the_entry, self._some_host)
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _the_entry(self) -> Link | None:
        return self._entry if self._entry.up else None

    def _some_host(self) -> Link | None:
        """Any that we are connected to; not who is asked as the entry, if there is another."""
        up = self._router.links()
        others = [link for link in up if link.address != self._entry.address] or up
        return others[int(self._jitter() * len(others)) % len(others)] if others else None

    async def _ask_on(self, choose: Callable[[], Link | None]) -> None:
        pause = PAUSE_SECONDS_MIN
        while True:
            link = choose()
            if link is not None and await self._ask(link):
                pause = PAUSE_SECONDS_MIN
            else:
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
            await asyncio.sleep(pause * (0.5 + self._jitter()))

    async def _ask(self, link: Link) -> bool:
        """Whether anything came of it: news, or the word, after a while, that there is none."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        question = GetMap(self._run, self._version)
        deadline = asked + limits.MAP_HOLD_MS / 1_000 + SLACK_SECONDS
        response = await link.ask([question], deadline, limits.MAP_HOLD_MS)
        body = response.answers[0].body if response is not None and response.answers else None
        if not isinstance(body, MapView):
            return False
        return self._learn(body, link) or loop.time() - asked > SLACK_SECONDS

    def _learn(self, view: MapView, link: Link) -> bool:
        """Whether `view` is news; the router has it by then."""
        if view.run != self._run:
            if self._run and link is not self._entry:
                return False
            self._run, self._version = view.run, -1
            self._router.forget_map()
        if view.version <= self._version:
            return False
        self._version = view.version
        for route in view.routes:
            self._routes[route.shard] = route.epoch, route.address
        owned = {shard: route for shard, route in self._routes.items() if route[1]}
        self._router.update_map(view.version, owned, frozenset(view.stopped), frozenset(view.alive))
        self.told.set()
        return True
