"""The shard map as one process has heard it, on show for clients that go straight to the hosts.

    coordinator ──Map──► post ──► whoever waits is told what has changed
    client ──GetMap──► ask ──► told at once, if it lags behind; else when something changes, or,
                               at its deadline, that nothing has

What it guarantees: every question is answered once. A client that lags asks for what is newer and
gets just that: the routes that have changed since the version that it has, so that a change costs
each client one small frame, however many shards there are. One whose version lies before what was
seen here without a gap, or in another life of the engine (versions begin anew with each), gets
everything.

It is a cache of a cache: the journal's claims are the truth of ownership. Whoever follows an old
board is told MOVED by the host that it leads to, and waits here for the next version meanwhile.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Set

from engine import limits
from engine.messages import Answer, GetMap, MapView, RouteView, Status

Put = Callable[[Answer], None]
_NOBODY = (0, "")


class MapBoard:
    """Lives on one event loop."""

    def __init__(self, secret: str, shards: int, dedicated: int = 0) -> None:
        """`secret`: the one that all processes of this life of the engine share; `dedicated`: how
        many shards there are beside the hashed ones."""
        self.version = -1
        self._run = hashlib.sha256(secret.encode()).hexdigest()[:16]
        self._shards = shards
        self._dedicated = dedicated
        self._routes: dict[int, tuple[int, str]] = {}
        self._changed = dict.fromkeys(range(shards + dedicated), -1)
        """shard → the version in which its route changed last"""
        self._unbroken = -1
        """From this version on none was missed here, so that changes can be told."""
        self._stopped: list[int] = []
        self._alive: list[str] = []
        self._waiting: dict[int, tuple[GetMap, Put, asyncio.TimerHandle]] = {}
        self._asked = 0
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """How many questions are open."""
        return len(self._waiting)

    def post(
        self,
        version: int,
        routes: Mapping[int, tuple[int, str]],
        stopped: Set[int] = frozenset(),
        alive: Set[str] = frozenset(),
    ) -> None:
        """Shard → (epoch, its owner's address); missing = no owner. `alive`: addresses of all hosts
        that live. An older map is ignored."""
        if version <= self.version:
            return
        if version != self.version + 1:
            self._unbroken = version
        for shard in self._changed:
            if routes.get(shard, _NOBODY) != self._routes.get(shard, _NOBODY):
                self._changed[shard] = version
        self.version, self._routes = version, dict(routes)
        self._stopped, self._alive = sorted(stopped), sorted(alive)
        self._answer_all()

    def close(self) -> None:
        """Nobody waits here any more: those who do are told that nothing has changed."""
        self._is_closed = True
        self._answer_all()

    def _answer_all(self) -> None:
        """Most who wait know the same version, so few answers are made, however many they are."""
        waiting, self._waiting = self._waiting, {}
        made: dict[tuple[str, int], Answer] = {}
        for question, put, timer in waiting.values():
            timer.cancel()
            known = question.run, question.after
            if known not in made:
                made[known] = self._answer(question)
            put(made[known])

    def owner(self, shard: int) -> tuple[int, str]:
        """Epoch and address of a shard's owner; 0 and "" if there is none."""
        return self._routes.get(shard, _NOBODY)

    def ask(self, question: GetMap, seconds: float, put: Put) -> None:
        """Answer as soon as there is something new for who asks, in `seconds` at the latest."""
        lags = self.version >= 0 and (question.run != self._run or question.after < self.version)
        if lags or self._is_closed or self.waiting >= limits.MAP_WAITERS_MAX:
            put(self._answer(question))
            return
        self._asked = number = self._asked + 1
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, number)
        self._waiting[number] = question, put, timer

    def _expire(self, number: int) -> None:
        question, put, _ = self._waiting.pop(number)
        put(self._answer(question))

    def _answer(self, question: GetMap) -> Answer:
        if self.version < 0:
            return Answer(Status.NOT_DONE)  # nobody has told us anything yet
        knows = question.run == self._run and question.after >= self._unbroken
        routes = [
            RouteView(shard, *self.owner(shard))
            for shard, version in self._changed.items()
            if not knows or version > question.after
        ]
        view = MapView(
            *(self._run, self.version, self._shards, routes, self._stopped, self._alive),
            self._dedicated,
        )
        return Answer(Status.OK, view)
