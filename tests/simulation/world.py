"""One simulated world: it begins, things go wrong in it, it heals, and it is judged.

    draw(seed) ──► World(scenario).run() ──► Outcome: what was wrong, and a trace to compare by

    time ──────────────────────────────────────────────────────────────────────────────────►
    │ commands, faults …                              │ all faults end, all comes back │ judged

First anything may happen, and only safety counts; then nothing goes wrong any more, and everything
must come back (`aftermath`).
"""

import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Final

import structlog
from structlog.typing import EventDict

from actors import recovery
from actors.archive import Archive
from actors.config import Settings
from actors.journal import journal_key
from engine import limits, maps
from engine.codec import Position
from engine.messages import Status
from gateway import router
from tests.simulation.aftermath import Aftermath
from tests.simulation.checker import judge
from tests.simulation.coordination import Coordination, Nursery
from tests.simulation.disk import MemoryDisk
from tests.simulation.faults import JUMP_SECONDS, ROOM, Faults
from tests.simulation.history import History, Stored
from tests.simulation.loop import SECOND, SimulatedLoop, Time
from tests.simulation.losses import unknowable
from tests.simulation.network import Network, Weather
from tests.simulation.nodes import (
    ARCHIVE,
    TAPS,
    ClientNode,
    GatewayNode,
    HostNode,
    MarksDisk,
    Node,
    ServerNode,
)
from tests.simulation.patch import patched
from tests.simulation.redis_server import SimulatedServer
from tests.simulation.redis_store import Append, Stream, Unlink
from tests.simulation.registrar import Registrar
from tests.simulation.scenario import Kind, Scenario

EPOCH: Final = 1_700_000_000 * SECOND
"""What wall clocks say when a world begins."""
MAKE_LOOP: Final[Any] = SimulatedLoop
"""Of all that an abstract loop declares it has what is used; a type checker would have it all."""
PACES: Final = ((1_000,), (5_000, 1_000, 30_000), (200_000, 1_000, 1_000, 20_000, 3_000_000))


@dataclass
class Outcome:
    """What came of a scenario."""

    violations: list[str]
    commands: int
    records: int
    steps: int
    history: History

    def trace(self) -> str:
        """A digest of all that happened: the same for the same world."""
        history = self.history
        happened = history.asked, history.told, history.given, history.stored
        return blake2b(repr(happened).encode()).hexdigest()[:16]


class World:
    """Everything there is."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.random = Random(scenario.seed ^ 0x5EED)
        self.time = Time()
        finished, keys, returns = scenario.windows_us
        self.history = History(
            scenario.shards,
            dedicated=scenario.dedicated,
            settings=(scenario.grace_us, finished, returns, keys),
            wall_us=EPOCH // 1_000 + _jumps(scenario) * JUMP_SECONDS * limits.SECOND_US,
            deadline_ns=scenario.deadline_ms * SECOND // 1_000,
            impossible=_impossible(scenario),
        )
        self.bugs: list[str] = []
        self._loops: list[SimulatedLoop] = []
        tears = Random(scenario.seed ^ 0x7EA5) if scenario.rough else None
        weather = Weather(self.random, *scenario.weather)
        self.net = Network(self.time, self.random, weather, tears)
        self.server = SimulatedServer(maxmemory=ROOM)
        self.server.on_stored = self._stored
        self.disk = MarksDisk(self.time)
        self.archive_disk = MemoryDisk() if scenario.archives else None
        self.node = ServerNode(self._make_loop, self.net, self.server, self.random)
        self.node.fsync_ns = scenario.fsync_ns
        settings = self._settings()
        self.hosts: list[HostNode] = []
        self.gateways: list[GatewayNode] = []
        self.registrar: Registrar | Coordination
        if scenario.coordinated:
            nursery = Nursery(self.time, self.random, self._host, self._gateway)
            self.registrar = Coordination(
                self._make_loop, self.time, settings, nursery, scenario.hosts
            )
        else:
            told = self.hosts if scenario.follows else []
            total = scenario.shards + scenario.dedicated
            self.registrar = Registrar(
                self.time, self.random, total, self.hosts, self.gateways, told
            )
        first = int(scenario.coordinated)
        for number in range(first, first + scenario.hosts):
            self._host(f"host-{number}")
        for number in range(first, first + scenario.gateways):
            self._gateway(f"gateway-{number}")
        addresses = [each.address for each in (self.hosts if scenario.straight else self.gateways)]
        self.clients = [
            self._client(f"client-{number}", addresses[number % len(addresses)], scenario.follows)
            for number in range(scenario.clients)
        ]
        self.witness = self._client("witness", self.gateways[0].address)
        self._witnesses = [self.witness]
        self.faults = Faults(self)
        self.streams: list[set[tuple[Position, bytes]]] = []
        """What stands in the server in the end, by shard."""

    def _host(self, name: str) -> HostNode:
        """The host of that name; it may have to be made."""
        for node in self.hosts:
            if node.name == name:
                return node
        node = HostNode(
            *(name, self._make_loop, self.net, self.time, self.history, self._settings()),
            *(self.disk, self.archive_disk, self.random, self.registrar),
            comes_back=self.scenario.rough and not self.scenario.coordinated,
        )
        self.hosts.append(node)
        return node

    def _gateway(self, name: str) -> GatewayNode:
        for node in self.gateways:
            if node.name == name:
                return node
        shards = self.scenario.shards, self.scenario.dedicated
        node = GatewayNode(name, self._make_loop, self.net, shards, self.registrar)
        self.gateways.append(node)
        return node

    def _client(self, name: str, address: str, straight: bool = False) -> ClientNode:
        return ClientNode(
            *(name, self._make_loop, self.time, self.history, address),
            *(self.scenario.deadline_ms, straight, self.random),
        )

    def add_client(self, address: str) -> ClientNode:
        """One more witness, who asks at this address."""
        client = self._client(f"witness-{address}", address)
        self._witnesses.append(client)
        client.start()
        return client

    def _settings(self) -> Settings:
        finished, keys, returns = self.scenario.windows_us
        return Settings(
            shards=self.scenario.shards,
            dedicated=self.scenario.dedicated,
            hosts=min(self.scenario.hosts, self.history.total),
            gateways=self.scenario.gateways,
            control_token="token",
            grace_us=self.scenario.grace_us,
            finished_window_us=finished,
            keys_window_us=keys,
            returns_window_us=returns,
            cluster_id="simulated",
            archive_snapshot_bytes=1 << 10,
            audit_interval_us=700_000 if self.scenario.archives else 0,
        )

    def _make_loop(self, name: str) -> SimulatedLoop:
        pace = self.random.choice(PACES)
        loop: SimulatedLoop = MAKE_LOOP(name, self.time, self.net, pace, self.bugs.append)
        self._loops.append(loop)
        loop.origin = EPOCH
        loop.threads_go_on = self.scenario.rough
        loop.monotonic_offset = self.random.randrange(SECOND)
        return loop

    def _stored(self, key: bytes, entry: str, record: bytes) -> None:
        epoch, _, sequence = entry.partition("-")
        position = Position(int(epoch), int(sequence))
        self.history.stored.append(Stored(_shard_of(key), position, record, self.time.now))

    # --- a life ------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """From the beginning to the judgement."""
        for node in (self.node, *self.clients, *self._witnesses):
            node.start()
        if not self.scenario.coordinated:
            for node in (*self.hosts, *self.gateways):
                node.start()
        self.registrar.begin()
        steps, faults = self.scenario.steps, self.scenario.faults
        for step in steps:
            self.time.at(step.at, self.clients[step.client].send, step)
        for fault in faults:
            self.time.at(fault.at, self.faults.strike, fault)
        ends = [step.at for step in steps] + [fault.at + fault.lasts for fault in faults]
        self.time.run(max(ends, default=0) + SECOND // 100)
        self.history.lossy = self.server.has_lost
        Aftermath(self).run()
        if self.server.serving:
            self.streams = [self._stream(shard) for shard in range(self.history.total)]
        for node in self.nodes:
            node.kill()
        outcome = self._judge()
        for loop in self._loops:
            loop.bury()
        return outcome

    @property
    def nodes(self) -> list[Node]:
        """All there are."""
        nodes = [self.node, *self.hosts, *self.gateways, *self.clients, *self._witnesses]
        return [*nodes, self.registrar] if isinstance(self.registrar, Coordination) else nodes

    def _judge(self) -> Outcome:
        history = self.history
        alarms = [f"an auditor's alarm: {alarm}" for alarm in self.registrar.alarms]
        if history.lossy:
            alarms = []  # they may be right
        alarms += _mishaps
        history.stopped = dict(self.registrar.stopped)
        history.once_stopped = dict(self.registrar.once_stopped)
        for effect in self.server.log:
            if isinstance(effect, Append):
                entry = Position(*effect.id), effect.record
                history.lineage.setdefault(_shard_of(effect.key), []).append(entry)
            elif isinstance(effect, Unlink):
                for shard in range(history.total):
                    if journal_key(shard).encode() in effect.keys:
                        history.lineage.pop(shard, None)
        if history.lossy:
            told = self.disk.written + self.registrar.told
            flushed = any(fault.kind is Kind.FLUSHED for fault in self.scenario.faults)
            history.unknowable = unknowable(history, told, flushed)
        violations = self.bugs + alarms + list(self._not_archived()) or judge(history)
        return Outcome(
            violations,
            len(history.asked),
            sum(map(len, history.lineage.values())),
            self.time.steps,
            history,
        )

    def _stream(self, shard: int) -> set[tuple[Position, bytes]]:
        stream = self.server.key(journal_key(shard).encode())
        entries = stream.entries if isinstance(stream, Stream) else []
        return {(Position(*each.id), each.record) for each in entries}

    def _not_archived(self) -> Iterator[str]:
        """What of the journal is neither in the archive nor in its stream any more."""
        if self.archive_disk is None or self.history.lossy or not self.streams:
            return
        archive = Archive(ARCHIVE, None, self.archive_disk)
        for shard, lineage in self.history.lineage.items():
            kept = set(self.streams[shard])
            for segment in archive.segments(shard):
                kept |= {(entry.position, entry.record) for entry in archive.read(segment)}
            for position, record in lineage:
                if (position, record) not in kept:
                    yield f"shard {shard}: record {position} is kept nowhere"


def _jumps(scenario: Scenario) -> int:
    return sum(fault.kind is Kind.JUMP for fault in scenario.faults)


def _impossible(scenario: Scenario) -> frozenset[Status]:
    """What nobody may be answered in such a world."""
    found = {Status.FORBIDDEN, Status.UNAUTHENTICATED, Status.TOO_MANY_REQUESTS}
    if all(fault.kind is not Kind.FULL for fault in scenario.faults):
        found.add(Status.MEMORY_FULL)
    return frozenset(found)


def _shard_of(key: bytes) -> int:
    return int(key[key.index(b"{") + 1 : key.index(b"}")])


# --- the interpreter -------------------------------------------------------------------------

NEVER: Final = frozenset(
    {
        *("answered_twice", "audit_failed", "bad_frame", "complaint", "handler_failed"),
        *("history_failed", "reply_failed", "shard_broken", "snapshot_failed"),
    }
)
"""What the product logs and lives on after, but which says that there is a bug in it."""
_mishaps: Final[list[str]] = []
"""Those of the world at hand."""


def _note_mishap(_: object, __: str, entry: EventDict) -> str:
    if entry["event"] in NEVER:
        entry.pop("exc_info", None)
        _mishaps.append(f"the product had a mishap: {entry}, {sys.exc_info()[1]!r}")
    raise structlog.DropEvent


@contextmanager
def prepared() -> Iterator[None]:
    """An interpreter in which worlds can be run: quiet, and without surprise collections."""
    structlog.configure(
        processors=[_note_mishap],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with warnings.catch_warnings(), patched(TAPS):
            warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines that never began
            yield
    finally:
        gc.enable()
        gc.unfreeze()
        gc.collect()
        sys.unraisablehook = hook
        structlog.reset_defaults()


_ELSEWHERE: Final = {
    "BUCKET_MASK": (maps, "BUCKET_MASK"),
    "RECOVERY_PAGE": (recovery, "_PAGE"),
    "SWEEP_SECONDS": (router, "SWEEP_SECONDS"),
}
"""Bounds that are not in `engine.limits`."""


@contextmanager
def tuned(tuning: dict[str, int | float]) -> Iterator[None]:
    """Bounds of `engine.limits` (and a few others), for one world."""
    with patched(
        [(*_ELSEWHERE.get(name, (limits, name)), value) for name, value in tuning.items()]
    ):
        yield


def run(scenario: Scenario) -> Outcome:
    """One world, in a prepared interpreter."""
    _mishaps.clear()
    with tuned(scenario.tuning):
        outcome = World(scenario).run()
    gc.collect(1)
    return outcome
