"""What follows when nothing goes wrong any more: everything must come back, and be asked for.

    faults end ─► all is served ─► SKUs that were to be dedicated are ─► calls in doubt are asked
               again ─► everything is read
               ─► in every second world: new work through every gateway
               ─► in every third: every host dies once more, recovers, and everything is read

A world's safety is judged from all that it has answered; here its liveness is demanded. A call that
may be asked again is, until it is told what came of it; who answers for ever that nothing was done,
that it does not know, or that it has no room, has not come back.

Where the server has lost what was durable, hosts do not die once more: one that has stopped because
it remembers more than the journal has would be forgotten, and with it that anything was lost.
"""

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final

from actors.journal import journal_key
from actors.phase import Phase
from engine.codec import Position
from engine.messages import (
    UNKNOWN_HOME,
    Answer,
    Command,
    Dedicate,
    GetStock,
    LineRequest,
    Receive,
    Reserve,
    Status,
)
from engine.placement import shard_of
from tests.simulation.calls import is_repeatable
from tests.simulation.faults import ROOM
from tests.simulation.history import History
from tests.simulation.loop import SECOND
from tests.simulation.nodes import ClientNode
from tests.simulation.redis_store import Stream
from tests.simulation.workload import PLACES, Step, final_reads

if TYPE_CHECKING:
    from tests.simulation.world import World

HEALING: Final = 40 * SECOND
"""In which everything must be served again, and every call answered."""
FINDING: Final = 7 * SECOND
"""In which clients who were told nothing for as long as can be have asked somebody else."""
UNFOUND: Final = (Status.NOT_DONE, Status.OUTCOME_UNKNOWN, Status.OVERLOADED)
WORKS_ANEW: Final = 2
DIES_ONCE_MORE: Final = 3
"""One world in so many; what it finds it finds in every world of its kind, and it takes time."""
NO_ANSWER: Final = frozenset(
    {
        Status.NOT_DONE,
        Status.OUTCOME_UNKNOWN,
        Status.OVERLOADED,
        Status.MEMORY_FULL,
        Status.MOVED,
    }
)
"""What may be said for a while, and not for ever."""


class Aftermath:
    """The end of one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._time = world.time
        self._history = world.history
        self._bugs = world.bugs
        self._hosts = world.hosts
        self._registrar = world.registrar
        self._witness = world.witness

    def run(self) -> None:
        """All of it; what does not come back is a bug."""
        self._heal()
        if self._bugs or not self._comes_back():
            return
        if self._history.lossy:  # whoever has not noticed it yet gets the time to
            self._pass(3 * SECOND)
        self._dedicate_again()
        self._ask(self._witness, unknown_calls(self._history))
        self._look_at_everything()
        self._history.lived = self._take_digests()
        seed = self._world.scenario.seed
        if seed % WORKS_ANEW == 0:
            self._work_anew()
        if self._world.scenario.follows:
            self._find_the_owners()
        if seed % DIES_ONCE_MORE == 0 and not self._history.lossy:
            self._die_once_more()
            self._look_at_everything()
        digests = self._take_digests()
        self._history.digests = {shard: digest for shard, (_, digest) in digests.items()}

    def _pass(self, duration: int) -> None:
        self._time.run(self._time.now + duration)

    def _until(self, condition: Callable[[], bool], within: int) -> bool:
        """Let time pass until it is so; who leaves meanwhile is started again."""
        deadline = self._time.now + within
        while not condition():
            if self._bugs or self._time.now >= deadline:
                return False
            self._pass(SECOND // 20)
            for host in self._hosts:
                host.start()
        return True

    # --- what must come back ---

    def _heal(self) -> None:
        """Nothing goes wrong any more."""
        world = self._world
        world.server.loading = world.server.misconf = False
        world.server.maxmemory = ROOM
        if world.archive_disk is not None:
            world.archive_disk.is_full = False
        world.node.fsync_ns = min(world.node.fsync_ns, SECOND // 1_000)
        world.net.mend_all()
        world.net.weather.calm()
        for node in world.nodes:
            node.thaw()
            node.start()

    def _comes_back(self) -> bool:
        def is_back() -> bool:
            busy = any(each.is_stopping for each in self._hosts)
            waiting = any(each.waiting for each in self._world.clients)
            return self._registrar.is_settled and not busy and not waiting

        if self._until(is_back, HEALING):
            return True
        if not self._bugs:
            waiting = [each.name for each in self._world.clients if each.waiting]
            self._bugs.append(
                f"not all is well {HEALING // SECOND} s after the last fault: routes"
                f" {self._registrar.routes}, stopped {self._registrar.stopped}, waiting {waiting}"
            )
        return False

    def _die_once_more(self) -> None:
        for host in self._hosts:
            host.kill()
            host.start()
        self._registrar.look()
        self._comes_back()

    # --- what is asked ---

    def _ask(self, client: ClientNode, commands: list[Command]) -> list[Answer]:
        """Ask until there is an answer to each."""
        deadline, answers = self._time.now + HEALING, list[Answer]()
        while commands and not self._bugs:
            first = len(self._history.asked)
            for command in commands:
                client.send(Step(self._time.now, 0, command))
            if not self._until(lambda: not client.waiting, HEALING):
                self._bugs.append("a client waits for ever")
                break
            told = {each.call: each.answer for each in self._history.told}
            asked = [(each.command, told[each.call]) for each in self._history.asked[first:]]
            again = [each for each in asked if self._is_none(*each)]
            answers += [answer for command, answer in asked if not self._is_none(command, answer)]
            commands = [command for command, _ in again]
            if again and self._time.now >= deadline:
                command, answer = again[0]
                self._bugs.append(
                    f"{command} is answered {answer} still, {HEALING // SECOND} s after all was"
                    " served again"
                )
            self._pass(SECOND // 20 if again else 0)
        return answers

    def _is_none(self, command: Command, answer: Answer) -> bool:
        """Whether an answer must come yet. Where a shard has stopped, nobody knows whether it is
        the home of what is not found elsewhere."""
        status = answer.status
        if self._stopped and hasattr(command, "home"):
            return status in NO_ANSWER and status is not Status.NOT_DONE
        return status in NO_ANSWER or (status is Status.SHARD_STOPPED and not self._stopped)

    def _dedicate_again(self) -> None:
        """Whoever has not got to the end of it takes the same steps again."""
        skus = {
            step.command.sku
            for step in self._world.scenario.steps
            if isinstance(step.command, Dedicate)
        }
        deadline = self._time.now + HEALING
        for sku in sorted(skus) if not self._stopped else ():
            is_done = False
            while not is_done and not self._bugs:
                self._witness.send(Step(self._time.now, 0, Dedicate(sku, UNKNOWN_HOME)))
                self._until(lambda: not self._witness.waiting, HEALING)
                refused = self._witness.refused
                is_done = refused is None or not refused.kind.retryable
                if self._time.now >= deadline:
                    self._bugs.append(f"{sku} cannot be dedicated: {refused}")

    def _work_anew(self) -> None:
        """Every shard takes stock and sells it, through every gateway."""
        world = self._world
        shards = [each for each in range(self._history.shards) if each not in self._stopped]
        for number, gateway in enumerate(world.gateways):
            client = self._witness if not number else world.add_client(gateway.address)
            skus = [_sku_of(shard, self._history.shards) for shard in shards]
            names = [f"{gateway.name}-{sku}" for sku in skus]
            named = list(zip(names, skus, strict=True))
            received = [Receive(sku, PLACES[0], 1, key=name) for name, sku in named]
            reserved = [Reserve(name, [LineRequest(sku, 1)], ttl_seconds=9) for name, sku in named]
            for commands in (received, reserved):
                for answer in self._ask(client, [*commands]):
                    if answer.status not in (Status.OK, Status.REPLAYED, Status.SHARD_STOPPED):
                        self._bugs.append(f"{gateway.name} sells nothing: {answer}")

    def _find_the_owners(self) -> None:
        """Clients who follow the map themselves have found back to everybody who serves."""
        self._pass(FINDING)
        asked, history = len(self._history.asked), self._history
        for client in self._world.clients:
            for sku in self._world.scenario.skus:
                client.send(Step(self._time.now, 0, GetStock(sku)))
        self._until(lambda: not any(each.waiting for each in self._world.clients), HEALING)
        for told in history.told if not self._bugs else ():
            call = history.asked[told.call]
            if told.call >= asked and told.answer.status in UNFOUND:
                assert isinstance(call.command, GetStock), "nothing else is under way"
                places = {shard_of(call.command.sku, history.shards)}
                if places.isdisjoint(self._stopped) and not (history.dedicated and self._stopped):
                    self._bugs.append(f"{call.client} does not find who has {call.command.sku}")

    @property
    def _stopped(self) -> dict[int, str]:
        return self._registrar.stopped

    def _look_at_everything(self) -> None:
        scenario = self._world.scenario
        reads = final_reads(
            *(scenario.skus, scenario.shards, scenario.steps),
            are_homes_known=not scenario.dedicated,
        )
        self._ask(self._witness, reads)

    # --- what is there ---

    def _take_digests(self) -> dict[int, tuple[Position, bytes]]:
        """Of every shard, as it lives: between two batches."""
        found: dict[int, tuple[Position, bytes] | None] = {}

        def is_there() -> bool:
            shards = set(range(self._history.total)) - set(self._stopped)
            found.clear()
            found.update((shard, self._digest(shard)) for shard in shards)
            return None not in found.values()

        if not self._until(is_there, 9 * SECOND) and not self._bugs:
            silent = [shard for shard, digest in found.items() if digest is None]
            self._bugs.append(f"the owners of shards {silent} do not have what the journal has")
        return {shard: digest for shard, digest in found.items() if digest is not None}

    def _digest(self, shard: int) -> tuple[Position, bytes] | None:
        """Of the owner that wrote the last record there is, if it has nothing to do."""
        stream = self._world.server.key(journal_key(shard).encode())
        for host in self._hosts:
            for owner in host.host.owners if host.host is not None else []:
                idle = owner.phase is Phase.SERVING and owner.is_idle
                if owner.number != shard or not idle or not isinstance(stream, Stream):
                    continue
                if owner.position == Position(*stream.last):
                    return owner.position, owner.shard.digest()
        return None


def _sku_of(shard: int, shards: int) -> str:
    """One that nobody has had anything to do with."""
    return next(sku for sku in map("new-{}".format, count()) if shard_of(sku, shards) == shard)


def unknown_calls(history: History) -> list[Command]:
    """Commands that may be asked again without a second effect, and whose outcome is not known."""
    told = {each.call: each.answer.status for each in history.told}
    return [
        each.command
        for each in history.asked
        if told.get(each.call, Status.OUTCOME_UNKNOWN) is Status.OUTCOME_UNKNOWN
        and is_repeatable(each.command)
    ]
