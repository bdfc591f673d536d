"""The processes of a simulated world: what each runs is the product's own code.

    ServerNode    the simulated Redis, with a disk that takes its time
    HostNode      `Host` behind `BinaryServer`, on `RedisJournal`s
    GatewayNode   `Router` behind `Forwarder` and `BinaryServer`
    ClientNode    `Client`, and the commands that it is told to send

A node is a name; its process comes and goes. Here is only what `actors.host_process` and
`gateway.gateway` are in production: putting the parts together.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

from actors import binary_server, control
from actors import host as host_module
from actors.archive import Archive
from actors.binary_server import BinaryServer
from actors.claim import Floor
from actors.clock import Clock
from actors.config import Settings
from actors.host import Host
from actors.journal import JournalError, RedisJournal
from actors.map_board import MapBoard
from actors.marks import Mark, Marks
from actors.pending import Pending, Single
from engine.codec import Position
from engine.messages import (
    UNKNOWN_HOME,
    Answer,
    AnyAnswer,
    Command,
    Dedicate,
    Head,
    Outgoing,
    Request,
    Statistics,
)
from engine.scope import OPERATOR, Scope
from engine.wire import decode_answer
from gateway.client import Client, Unavailable
from gateway.dedication import Steps
from gateway.forwarder import Forwarder
from gateway.problems import RefusedError
from gateway.router import Router
from tests.simulation.disk import MemoryDisk
from tests.simulation.history import Arrived, Asked, Given, History, Told
from tests.simulation.loop import SECOND, SimulatedLoop, Time
from tests.simulation.network import Network, Transport, bind
from tests.simulation.patch import Place
from tests.simulation.redis_server import Session, SimulatedServer
from tests.simulation.workload import Step

SERVER: Final = ("server", 6379)
JOURNAL_URL: Final = "redis://server:6379/0"
JOURNALS: Final = 2
"""Connections of one host to the server."""
CLUSTER_ID: Final = "simulated"
ARCHIVE: Final = Path("/archive")
MakeLoop = Callable[[str], SimulatedLoop]


class Node(ABC):
    """A name, and the process that has it now."""

    def __init__(self, name: str, make_loop: MakeLoop) -> None:
        self.name = name
        self._make_loop = make_loop
        self.loop: SimulatedLoop | None = None
        self.life = 0
        """How many processes have had the name."""

    @property
    def is_up(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self.loop is not None and self.loop.alive

    @property
    def is_frozen(self) -> bool:
        return self.loop is not None and self.loop.frozen

    def start(self) -> None:
        """A new process, unless there is one."""
        if not self.is_up:
            self.life += 1
            self.loop = self._make_loop(self.name)
            self.loop.inject(self._begin, self.loop)

    def kill(self) -> None:
        if self.loop is not None:
            self.loop.kill()

    def end_soon(self) -> None:
        """The process ends by itself."""
        if self.loop is not None:
            self.loop.call_soon(self.kill)

    def freeze(self) -> None:
        if self.loop is not None:
            self.loop.freeze()

    def thaw(self) -> None:
        if self.loop is not None:
            self.loop.thaw()

    @abstractmethod
    def _begin(self, loop: SimulatedLoop) -> None:
        """What the new process does first."""


class Overseer(Protocol):
    """Who tells hosts what to own, and gateways who owns it."""

    def notice(self, host: "HostNode") -> None:
        """Something changed in `host`."""

    def emptied(self, host: "HostNode") -> None:
        """`host` has lost every shard that it had."""

    def host_begins(self, host: "HostNode") -> None:
        """There is a new process."""

    def host_serves(self, node: "HostNode", loop: SimulatedLoop, host: Host) -> None:
        """`host` is what runs in the process."""

    def gateway_serves(self, node: "GatewayNode", loop: SimulatedLoop) -> None:
        """The same for a gateway."""


# --- the server ------------------------------------------------------------------------------


class _ServerConnection(asyncio.Protocol):
    """A client of the server."""

    def __init__(self, node: "ServerNode", loop: SimulatedLoop) -> None:
        self._node = node
        self._loop = loop
        self.session: Session | None = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.session = self._node.server.session()

    def data_received(self, data: bytes) -> None:
        self._node.take(self._loop, self, data)


class ServerNode(Node):
    """Takes what has come in, executes it, syncs, and only then replies: turn by turn."""

    def __init__(
        self, make_loop: MakeLoop, net: Network, server: SimulatedServer, random: Random
    ) -> None:
        super().__init__("server", make_loop)
        self.server = server
        self.fsync_ns = 100_000
        self._net = net
        self._random = random
        self._inbox: list[tuple[_ServerConnection, bytes]] = []
        self._is_busy = False

    def kill(self) -> None:
        """Of what is not on disk, some may survive."""
        if not self.is_up:
            return
        super().kill()
        low, high = self.server.durable, len(self.server.log)
        self.server.crash(self._random.randint(low, high))

    def _begin(self, loop: SimulatedLoop) -> None:
        self._inbox, self._is_busy = [], False
        self._net.listen(loop, SERVER, lambda: _ServerConnection(self, loop))

    def take(self, loop: SimulatedLoop, connection: _ServerConnection, data: bytes) -> None:
        self._inbox.append((connection, data))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: SimulatedLoop) -> None:
        inbox, self._inbox = self._inbox, []
        before = len(self.server.log)
        replies = []
        for connection, data in inbox:
            assert connection.session is not None
            replies.append((connection.transport, connection.session.feed(data)))
        if len(self.server.log) == before:
            self._reply(loop, replies)
        else:
            delay = self.fsync_ns * self._random.random()
            loop.call_later(delay / SECOND, self._synced, loop, replies)

    def _synced(self, loop: SimulatedLoop, replies: list[tuple[Transport, bytes]]) -> None:
        self.server.sync()
        self._reply(loop, replies)

    def _reply(self, loop: SimulatedLoop, replies: list[tuple[Transport, bytes]]) -> None:
        for transport, reply in replies:
            if reply:
                transport.write(reply)
        if self._inbox:
            loop.call_soon(self._turn, loop)
        else:
            self._is_busy = False


# --- hosts -----------------------------------------------------------------------------------


class MarksDisk(dict[int, Mark]):
    """What the disk says of each shard, and when it came to say what."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self.written: list[tuple[int, int, Position]] = []
        """When, of which shard, up to where."""
        self._time = time

    def __setitem__(self, shard: int, mark: Mark) -> None:
        super().__setitem__(shard, mark)
        self.written.append((self._time.now, shard, mark.position))


class SimulatedMarks(Marks):
    """Marks on a disk that hosts share; what was noted and not written dies with its process."""

    def __init__(self, disk: MarksDisk) -> None:
        super().__init__(Path("/nowhere"))
        self._disk = disk

    def read(self, shard: int) -> Mark | None:
        found = [mark for mark in (self._newest.get(shard), self._disk.get(shard)) if mark]
        return max(found, default=None)

    async def write(self) -> int:
        changed = {
            shard: mark for shard, mark in self._newest.items() if self._written.get(shard) != mark
        }
        if changed:
            await asyncio.to_thread(self._put, changed)
            self._written |= changed
        return len(changed)

    def _put(self, changed: dict[int, Mark]) -> None:
        for shard, mark in changed.items():
            there = self._disk.get(shard)
            if there is None or there.position < mark.position:
                self._disk[shard] = mark


class _Tap:
    """Writes down what a host answers, command by command."""

    current: "_Tap"
    """Of the request that is being submitted: hosts submit one at a time."""

    def __init__(self, history: History, time: Time, host: str, request: Request) -> None:
        self._history = history
        self._time = time
        self._host = host
        self._commands = request.commands
        self._arrived = time.now
        self._open = set(range(len(request.commands)))
        history.arrived += [Arrived(host, each, time.now) for each in request.commands]

    def note(self, index: int, answer: Answer, head: Head | None) -> None:
        if index in self._open:
            self._open.discard(index)
            command, now = self._commands[index], self._time.now
            self._history.given.append(Given(self._host, command, answer, head, self._arrived, now))


class _Tapped:
    """What is common to both ways to collect a request's answers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._tap = _Tap.current

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        self._tap.note(index, decode_answer(answer), head)
        super().answer(index, answer, head)  # type: ignore[misc]  # of the class mixed in


class _TappedSingle(_Tapped, Single):
    """Of one command."""


class _TappedPending(_Tapped, Pending):
    """Of several."""

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        for number, answer in enumerate(answers, index):
            self._tap.note(number, decode_answer(answer), head)
        super().answer_all(index, answers, head)


TAPS: Final[list[Place]] = [
    (host_module, "Pending", _TappedPending),
    (host_module, "Single", _TappedSingle),
    (control, "bind", bind),
]
"""What to patch, to listen to every host of this interpreter, and to keep off real sockets."""


class _Listening:
    """A host that is listened to."""

    def __init__(self, node: "HostNode", host: Host) -> None:
        self._node = node
        self._host = host

    def submit(self, request: Request, scope: Scope, reply: Callable[[Outgoing], None]) -> None:
        node = self._node
        _Tap.current = _Tap(node.history, node.time, node.name, request)
        self._host.submit(request, scope, reply)


class HostNode(Node):
    """A host, and who tells it what to own."""

    def __init__(
        self,
        name: str,
        make_loop: MakeLoop,
        net: Network,
        time: Time,
        history: History,
        settings: Settings,
        disk: MarksDisk,
        archive_disk: MemoryDisk | None,
        random: Random,
        overseer: Overseer,
        *,
        comes_back: bool,
    ) -> None:
        """`disk`: of the marks; `archive_disk`: None = hosts archive nothing; `comes_back`: when it
        has left of its own accord."""
        super().__init__(name, make_loop)
        self.time = time
        self.history = history
        self.host: Host | None = None
        self.address = f"tcp:{name}:7000"
        self.incarnation = 0
        self.is_stopping = False
        self._net = net
        self._settings = settings
        self._disk = disk
        self._archive_disk = archive_disk
        self._random = random
        self._overseer = overseer
        self._comes_back = comes_back
        self.server: BinaryServer | None = None

    def leave_alone(self) -> None:
        """It has nothing left to do here, or cannot begin."""
        self.kill()
        if self._comes_back:
            self.time.at(self.time.now + SECOND // 4, self.start)

    def kill(self) -> None:
        super().kill()
        self.host = None
        self.is_stopping = False

    def assign(self, shard: int, floor: Floor | None) -> None:
        """The word of the coordinator, on its way."""
        loop, host = self.loop, self.host
        if loop is not None and host is not None:
            loop.inject(host.assign, shard, floor)

    def release(self, shard: int) -> None:
        loop, host = self.loop, self.host
        if loop is not None and host is not None:
            loop.inject(host.release, shard)

    def tell(self, version: int, routes: dict[int, tuple[int, str]], stopped: set[int]) -> None:
        """A map, on its way."""
        loop, host = self.loop, self.host
        if loop is not None and host is not None:
            loop.inject(host.board.post, version, routes, stopped)

    def stop(self) -> None:
        """The process ends in order: it serves what it has, and leaves."""
        loop, host = self.loop, self.host
        if loop is not None and host is not None and not self.is_stopping:
            self.is_stopping = True
            loop.inject(lambda: loop.create_task(self._leave(loop, host)))

    async def _leave(self, loop: SimulatedLoop, host: Host) -> None:
        await host.stop()
        loop.call_soon(self.kill)

    def _begin(self, loop: SimulatedLoop) -> None:
        self.is_stopping = False
        self.incarnation += 1
        self._overseer.host_begins(self)
        loop.create_task(self._run(loop))

    async def _run(self, loop: SimulatedLoop) -> None:
        journals = [RedisJournal(JOURNAL_URL, jitter=self._random.random) for _ in range(JOURNALS)]
        try:
            await asyncio.gather(*(journal.open(10.0) for journal in journals))
        except JournalError:
            loop.call_soon(self.leave_alone)
            return
        disk = self._archive_disk
        host = Host(
            self.name,
            self._settings,
            CLUSTER_ID,
            journals,
            SimulatedMarks(self._disk),
            self._random.randbytes,
            lambda: self._overseer.notice(self),
            lambda: self._overseer.emptied(self),
            lambda stamp: Clock(stamp, wall=loop.wall, monotonic=loop.monotonic),
            None if disk is None else Archive(ARCHIVE, None, disk),
        )
        settings = self._settings
        server = BinaryServer(
            *(self.name, settings.shards, _Listening(self, host), _anybody),
            dedicated=settings.dedicated,
        )
        self._net.listen(loop, (self.name, 7000), lambda: binary_server.Connection(server))
        host.start()
        self.host, self.server = host, server
        self._overseer.host_serves(self, loop, host)


def _anybody(key: str | None, peer: str) -> Scope | None:
    return OPERATOR


# --- the edge --------------------------------------------------------------------------------


class GatewayNode(Node):
    """A gateway, and who tells it who owns what."""

    def __init__(
        self,
        name: str,
        make_loop: MakeLoop,
        net: Network,
        shards: tuple[int, int],
        overseer: Overseer,
    ) -> None:
        """`shards`: hashed and dedicated ones."""
        super().__init__(name, make_loop)
        self.address = f"tcp:{name}:8000"
        self.router: Router | None = None
        self.board: MapBoard | None = None
        self._net = net
        self._shards = shards
        self._overseer = overseer
        self.server: BinaryServer | None = None

    def kill(self) -> None:
        super().kill()
        self.router = None

    def tell(self, version: int, routes: dict[int, tuple[int, str]], stopped: set[int]) -> None:
        """A map, on its way."""
        loop, router, board = self.loop, self.router, self.board
        if loop is not None and router is not None and board is not None:
            loop.inject(router.update_map, version, routes, stopped)
            loop.inject(board.post, version, routes, stopped)

    def _begin(self, loop: SimulatedLoop) -> None:
        shards, dedicated = self._shards
        self.router = Router(shards, dedicated=dedicated)
        self.board = MapBoard("token", shards, dedicated)
        forwarder = Forwarder(self.router, self.board, lambda: Statistics([]))
        server = BinaryServer(self.name, shards, forwarder, _anybody, dedicated=dedicated)
        self._net.listen(loop, (self.name, 8000), lambda: binary_server.Connection(server))
        self.server = server
        self._overseer.gateway_serves(self, loop)


class ClientNode(Node):
    """A client of one address, or straight to the owners; every command is a call of its own."""

    def __init__(
        self,
        name: str,
        make_loop: MakeLoop,
        time: Time,
        history: History,
        address: str,
        deadline_ms: int,
        straight: bool,
        random: Random,
    ) -> None:
        super().__init__(name, make_loop)
        self._time = time
        self._straight = straight
        self._random = random
        self._history = history
        self._address = address
        self._deadline_ms = deadline_ms
        self._client: Client | None = None
        self._connected: asyncio.Event
        self.waiting = 0
        """Calls that have not been told anything."""
        self.refused: RefusedError | None = None
        """Why the last SKU was not dedicated, if it was not."""

    def _begin(self, loop: SimulatedLoop) -> None:
        self._connected = asyncio.Event()
        loop.create_task(self._stay_connected())

    async def _stay_connected(self) -> None:
        while True:
            try:
                async with Client.connect(
                    self._address,
                    straight=self._straight,
                    deadline_ms=self._deadline_ms,
                    jitter=self._random.random,
                ) as client:
                    self._client = client
                    self._connected.set()
                    await asyncio.get_running_loop().create_future()
            except Unavailable:
                continue  # nobody answers yet

    def send(self, step: Step) -> None:
        """Do a step of the workload."""
        assert self.loop is not None
        self.waiting += 1
        self.loop.inject(self._start_call, self.loop, step)

    def _start_call(self, loop: SimulatedLoop, step: Step) -> None:
        loop.create_task(self._call(step))

    async def _call(self, step: Step) -> None:
        await self._connected.wait()
        if isinstance(step.command, Dedicate):
            await self._dedicate(step.command)
        else:
            await self.ask(step.command)
        self.waiting -= 1

    async def ask(self, command: Command) -> Answer:
        """One call."""
        assert self._client is not None
        number = len(self._history.asked)
        self._history.asked.append(Asked(number, self.name, command, self._time.now))
        answer = await self._client.submit(command)
        self._history.told.append(Told(number, answer, self._time.now))
        return answer

    async def _dedicate(self, command: Dedicate) -> None:
        """The steps to it, as the edge takes them; to whichever shard is free, or that very one."""
        assert self._client is not None
        client = self._client
        steps = Steps(self, client.shards, client.total, command.sku)
        try:
            await steps.take(None if command.shard == UNKNOWN_HOME else command.shard)
            self.refused = None
        except RefusedError as refused:
            self.refused = refused
