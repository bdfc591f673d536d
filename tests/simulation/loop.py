"""Processes of a simulated world: event loops that share one thread and one virtual time.

    Time ──an event is due──► SimulatedLoop ──its callbacks──► the code of that process

Every process of the world has an event loop of its own, which asyncio takes for a real one; all of
them share one `Time`, that jumps from event to event. A loop runs in iterations as asyncio's does:
what is ready is run in order, what that makes ready comes in the next iteration. Between two
iterations a little time passes, drawn from the seed, in which other processes get on: that is how
one seed's interleaving differs from another's.

    alive ──freeze──► frozen ──thaw──► alive          callbacks wait, nothing is lost: SIGSTOP
      └──kill──► dead                                 nothing of it ever runs again: SIGKILL

What a dead process still had in hand is kept in a graveyard until the world ends: coroutines that
are closed run their `finally` clauses, and the dead do not act.
"""

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from heapq import heappop, heappush
from math import ceil
from typing import Any, Final, Protocol

SECOND: Final = 1_000_000_000
IN_A_ROW: Final = 3
"""Iterations of one process before others get on: most follow from one another."""
_set_running: Final = events._set_running_loop


class Time:
    """Virtual nanoseconds, and what happens when."""

    def __init__(self) -> None:
        self.now = 0
        self.steps = 0
        self._number = 0
        self._due: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, when: int, call: Callable[..., None], *args: Any) -> None:
        """Call then; what is due at one moment is called in the order in which it was asked for."""
        self._number = number = self._number + 1
        heappush(self._due, (when, number, call, args))

    def run(self, until: int) -> None:
        """Let time pass up to `until`."""
        due = self._due
        while due and due[0][0] <= until:
            when, _, call, args = heappop(due)
            if when > self.now:
                self.now = when
            self.steps += 1
            call(*args)
        self.now = max(self.now, until)


class Handle:
    """A callback that may be cancelled, until it is called."""

    __slots__ = ("_when", "args", "callback")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], when: float) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args
        self._when = when

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self._when


class Net(Protocol):
    """What a loop needs of the network."""

    async def connect(
        self, loop: "SimulatedLoop", factory: Callable[[], Any], address: tuple[Any, ...]
    ) -> tuple[Any, Any]:
        """As `loop.create_connection`."""

    def listen(
        self, loop: "SimulatedLoop", address: tuple[Any, ...], factory: Callable[[], Any]
    ) -> None:
        """`loop` accepts connections there."""

    def died(self, loop: "SimulatedLoop") -> None:
        """The process is gone, and its connections with it."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """One process. See above."""

    def __init__(
        self,
        name: str,
        time: Time,
        net: Net,
        pace: Sequence[int],
        on_bug: Callable[[str], None],
    ) -> None:
        """`pace`: nanoseconds between iterations, taken in turn; `on_bug` is told of exceptions
        that nobody catches."""
        self.name = name
        self.alive = True
        self.frozen = False
        self.wall_offset = 0
        """By how much this process's wall clock is off, in nanoseconds."""
        self.monotonic_offset = 0
        self.threads_go_on = False
        """What a thread has begun it ends, even if nobody waits for it any more."""
        self.origin = 0
        """What its wall clock says when the world begins."""
        self._time = time
        self._net = net
        self._pace = pace
        self._turns = 0
        self._on_bug = on_bug
        self._ready: deque[Handle] = deque()
        self._is_scheduled = False
        self._is_running = False
        self._graveyard: list[object] = []

    # --- the life of a process ---------------------------------------------------------------

    def freeze(self) -> None:
        """It stops where it is."""
        self.frozen = True

    def thaw(self) -> None:
        """It goes on as if nothing had happened."""
        self.frozen = False
        if self._ready:
            self._schedule()

    def kill(self) -> None:
        """It is gone, between two iterations."""
        if not self.alive:
            return
        self.alive = False
        self._graveyard += self._ready
        self._ready.clear()
        self._net.died(self)

    def bury(self) -> None:
        """The world has ended: let go of everything, in an order of our own."""
        assert not self.alive
        graves, self._graveyard = self._graveyard, []
        for grave in graves:
            if isinstance(grave, asyncio.Task) and not grave.done():
                _close(grave.get_coro())

    def wall(self) -> int:
        """Nanoseconds since 1970, as this process sees them."""
        return self.origin + self._time.now + self.wall_offset

    def monotonic(self) -> int:
        """Nanoseconds since some moment, as this process sees them."""
        return self._time.now + self.monotonic_offset

    def inject(self, call: Callable[..., Any], *args: Any) -> None:
        """From outside: have this process call something, as soon as it runs."""
        self.call_soon(call, *args)

    def _schedule(self) -> None:
        if not self._is_scheduled and self.alive and not self.frozen:
            self._is_scheduled = True
            self._turns = turns = self._turns + 1
            pace = self._pace
            self._time.at(self._time.now + pace[turns % len(pace)], self._iterate)

    def _iterate(self) -> None:
        """Some iterations in a row, as many as nobody comes between."""
        self._is_scheduled = False
        if not self.alive or self.frozen:
            return
        ready = self._ready
        self._is_running = True
        _set_running(self)
        try:
            for _ in range(IN_A_ROW):
                for _ in range(len(ready)):
                    handle = ready.popleft()
                    callback = handle.callback
                    if callback is not None:
                        try:
                            callback(*handle.args)
                        except Exception as error:
                            self._on_bug(f"{self.name}: {callback!r} raised {error!r}")
                        if not self.alive:  # it has killed itself
                            return
                if not ready:
                    return
        finally:
            _set_running(None)
            self._is_running = False
        self._schedule()

    def _fire(self, handle: Handle) -> None:
        if self.alive and handle.callback is not None:
            self._ready.append(handle)
            if not self._is_scheduled:
                self._schedule()

    # --- what asyncio asks of a loop ---------------------------------------------------------

    def time(self) -> float:
        return self._time.now / SECOND

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, 0.0)
        if self.alive:
            self._ready.append(handle)
            if not self._is_scheduled and not self._is_running:
                self._schedule()
        else:
            self._graveyard.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        return self.call_at(self._time.now / SECOND + delay, callback, *args)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, when)
        if self.alive and when != float("inf"):
            self._time.at(max(self._time.now, ceil(when * SECOND)), self._fire, handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name or "task")
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._graveyard.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """The thread's work is done all at once, some time later."""
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                if self.threads_go_on:
                    with suppress(Exception):  # nobody waits for it
                        func(*args)
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._turns += 1
        self.call_later(self._pace[self._turns % len(self._pace)] / SECOND, work)
        return future

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        return await self._net.connect(self, protocol_factory, (host, port))

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **more: Any
    ) -> Any:
        """Of a socket that is none (`BoundSocket`)."""
        self._net.listen(self, more["sock"].getsockname(), protocol_factory)
        return more["sock"]

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return not self.alive

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.alive:
            self._on_bug(f"{self.name}: {context.get('message')} {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """asyncio's own timer handles are not used here."""


def _close(coroutine: Any) -> None:
    """End a coroutine, whatever it still wants to wait for."""
    for _ in range(4):
        try:
            coroutine.close()
        except RuntimeError:
            continue
        return
