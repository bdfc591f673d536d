"""One simulated world: it begins, things go wrong in it, it heals, and it is judged.

    draw(seed) ──► World(scenario).run() ──► Outcome: what was wrong, and a trace to compare by

    time ──────────────────────────────────────────────────────────────────────────────────►
    │ commands, faults …                │ all faults end │ every call is │ everybody │ judged
    │                                   │ all is served  │ asked again   │ looks     │

First anything may happen, and only safety counts; then nothing goes wrong any more, and everything
must come back: what was asked with an unknown outcome is asked again, every reservation and SKU is
read, and the living states are compared with the journal.
"""

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Final

import structlog

from actors import recovery
from actors.archive import Archive
from actors.config import Settings
from actors.journal import journal_key
from actors.owner import Phase
from engine import limits, maps
from engine.codec import Position
from engine.messages import Command, GetStock, Status
from engine.placement import shard_of
from gateway import router
from gateway.lane import is_repeatable
from tests.simulation.checker import judge
from tests.simulation.coordination import Coordination, Nursery
from tests.simulation.disk import MemoryDisk
from tests.simulation.faults import ROOM, Faults
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
from tests.simulation.workload import Step, final_reads

EPOCH: Final = 1_700_000_000 * SECOND
"""What wall clocks say when a world begins."""
FINDING: Final = 7 * SECOND
"""In which clients who were told nothing for as long as can be have asked somebody else."""
UNFOUND: Final = (Status.NOT_DONE, Status.OUTCOME_UNKNOWN, Status.OVERLOADED)
HEALING: Final = 40 * SECOND
"""In which everything must be served again."""
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
        self.history = History(scenario.shards, lossy=scenario.lossy)
        self.bugs: list[str] = []
        self._loops: list[SimulatedLoop] = []
        self.net = Network(self.time, self.random, Weather(self.random, *scenario.weather))
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
            self.registrar = Registrar(
                self.time, self.random, scenario.shards, self.hosts, self.gateways, told
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
        )
        self.hosts.append(node)
        return node

    def _gateway(self, name: str) -> GatewayNode:
        for node in self.gateways:
            if node.name == name:
                return node
        shards = self.scenario.shards
        node = GatewayNode(name, self._make_loop, self.net, shards, self.registrar)
        self.gateways.append(node)
        return node

    def _client(self, name: str, address: str, straight: bool = False) -> ClientNode:
        return ClientNode(
            *(name, self._make_loop, self.time, self.history, address),
            *(self.scenario.deadline_ms, straight, self.random),
        )

    def _settings(self) -> Settings:
        finished, keys, returns = self.scenario.windows_us
        return Settings(
            shards=self.scenario.shards,
            hosts=min(self.scenario.hosts, self.scenario.shards),
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
        loop.monotonic_offset = self.random.randrange(SECOND)
        return loop

    def _stored(self, key: bytes, entry: str, record: bytes) -> None:
        epoch, _, sequence = entry.partition("-")
        position = Position(int(epoch), int(sequence))
        self.history.stored.append(Stored(_shard_of(key), position, record, self.time.now))

    # --- a life ------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """From the beginning to the judgement."""
        for node in (self.node, *self.clients, self.witness):
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
        self._heal()
        if not self.bugs and self._comes_back():
            if self.scenario.lossy:  # whoever has not noticed it yet gets the time to
                self.time.run(self.time.now + 3 * SECOND)
            self._ask_again()
            if self.scenario.follows:
                self._find_the_owners()
            self._look_at_everything()
            self._take_digests()
        if self.server.serving:
            self.streams = [self._stream(shard) for shard in range(self.scenario.shards)]
        for node in self._nodes():
            node.kill()
        outcome = self._judge()
        for loop in self._loops:
            loop.bury()
        return outcome

    def _nodes(self) -> list[Node]:
        """All there are."""
        nodes = [self.node, *self.hosts, *self.gateways, *self.clients, self.witness]
        return [*nodes, self.registrar] if isinstance(self.registrar, Coordination) else nodes

    def _judge(self) -> Outcome:
        history = self.history
        alarms = [f"an auditor's alarm: {alarm}" for alarm in self.registrar.alarms]
        if history.lossy:
            alarms = []  # they may be right
        history.stopped = dict(self.registrar.stopped)
        for effect in self.server.log:
            if isinstance(effect, Append):
                entry = Position(*effect.id), effect.record
                history.lineage.setdefault(_shard_of(effect.key), []).append(entry)
            elif isinstance(effect, Unlink):
                for shard in range(history.shards):
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
        if self.archive_disk is None or self.scenario.lossy or not self.streams:
            return
        archive = Archive(ARCHIVE, None, self.archive_disk)
        for shard, lineage in self.history.lineage.items():
            kept = set(self.streams[shard])
            for segment in archive.segments(shard):
                kept |= {(entry.position, entry.record) for entry in archive.read(segment)}
            for position, record in lineage:
                if (position, record) not in kept:
                    yield f"shard {shard}: record {position} is kept nowhere"

    def _until(self, condition: Callable[[], bool], within: int) -> bool:
        """Let time pass until it is so."""
        deadline = self.time.now + within
        while not condition():
            if self.bugs or self.time.now >= deadline:
                return False
            self.time.run(self.time.now + SECOND // 20)
        return True

    def _heal(self) -> None:
        """Nothing goes wrong any more."""
        self.server.loading = self.server.misconf = False
        self.server.maxmemory = ROOM
        if self.archive_disk is not None:
            self.archive_disk.is_full = False
        self.node.fsync_ns = min(self.node.fsync_ns, SECOND // 1_000)
        self.net.mend_all()
        self.net.weather.calm()
        for node in self._nodes():
            node.thaw()
            node.start()

    def _comes_back(self) -> bool:
        def is_back() -> bool:
            for host in self.hosts:
                host.start()
            busy = any(each.is_stopping for each in self.hosts)
            waiting = any(each.waiting for each in self.clients)
            return self.registrar.is_settled and not busy and not waiting

        if self._until(is_back, HEALING):
            return True
        if not self.bugs:
            waiting = [each.name for each in self.clients if each.waiting]
            self.bugs.append(
                f"not all is well {HEALING // SECOND} s after the last fault: routes"
                f" {self.registrar.routes}, stopped {self.registrar.stopped}, waiting {waiting}"
            )
        return False

    def _ask(self, steps: list[Step]) -> None:
        for step in steps:
            self.witness.send(step)
        if not self._until(lambda: not self.witness.waiting, HEALING) and not self.bugs:
            self.bugs.append("a client waits for ever")

    def _ask_again(self) -> None:
        """Whoever does not know what came of a call finds out, under the same name."""
        unsure = unknown_calls(self.history)
        self._ask([Step(self.time.now, 0, command) for command in unsure])

    def _find_the_owners(self) -> None:
        """Clients who follow the map themselves have found back to everybody who serves."""
        self.time.run(self.time.now + FINDING)
        asked, history = len(self.history.asked), self.history
        for client in self.clients:
            for sku in self.scenario.skus:
                client.send(Step(self.time.now, 0, GetStock(sku)))
        self._until(lambda: not any(each.waiting for each in self.clients), HEALING)
        for told in history.told if not self.bugs else ():
            call = history.asked[told.call]
            if told.call >= asked and told.answer.status in UNFOUND:
                assert isinstance(call.command, GetStock), "nothing else is under way"
                if shard_of(call.command.sku, history.shards) not in self.registrar.stopped:
                    self.bugs.append(f"{call.client} does not find who has {call.command.sku}")

    def _look_at_everything(self) -> None:
        scenario = self.scenario
        reads = final_reads(scenario.skus, scenario.shards, scenario.steps)
        self._ask([Step(self.time.now, 0, command) for command in reads])

    def _take_digests(self) -> None:
        """Of every shard, as it lives: between two batches."""
        wanted = set(range(self.scenario.shards)) - set(self.registrar.stopped)
        self._until(lambda: all(self._digest(shard) is not None for shard in wanted), 9 * SECOND)
        for shard in wanted:
            digest = self._digest(shard)
            if digest is not None:
                self.history.digests[shard] = digest

    def _digest(self, shard: int) -> bytes | None:
        """Of the owner that wrote the last record there is, if it has nothing to do."""
        stream = self.server.key(journal_key(shard).encode())
        for host in self.hosts:
            for owner in host.host.owners if host.host is not None else []:
                idle = owner.phase is Phase.SERVING and owner.is_idle
                if owner.number != shard or not idle or not isinstance(stream, Stream):
                    continue
                if owner.position == Position(*stream.last):
                    return owner.shard.digest()
        return None


def _shard_of(key: bytes) -> int:
    return int(key[key.index(b"{") + 1 : key.index(b"}")])


def unknown_calls(history: History) -> list[Command]:
    """Commands that may be asked again without a second effect, and whose outcome is not known."""
    told = {each.call: each.answer.status for each in history.told}
    return [
        each.command
        for each in history.asked
        if told.get(each.call, Status.OUTCOME_UNKNOWN) is Status.OUTCOME_UNKNOWN
        and is_repeatable(each.command)
    ]


# --- the interpreter -------------------------------------------------------------------------


@contextmanager
def prepared() -> Iterator[None]:
    """An interpreter in which worlds can be run: quiet, and without surprise collections."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False
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
    "BUCKET_MASK": (maps, "_MASK"),
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
    with tuned(scenario.tuning):
        outcome = World(scenario).run()
    gc.collect(1)
    return outcome
