"""Hosts on trial: two shards on a journal in memory, on a server that says how full it is."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from actors.config import Settings
from actors.host import Host, HostStatus
from actors.journal import Memory
from actors.marks import Marks
from actors.owner import Owner
from engine.lane import Lane
from engine.messages import (
    UNKNOWN_HOME,
    Answer,
    Command,
    GetStatistics,
    MovedTo,
    Request,
    Response,
    Statistics,
    Status,
)
from engine.placement import shard_of
from engine.scope import OPERATOR
from engine.wire import decode_outgoing
from tests.actors.servers import eventually
from tests.actors.trial import FaultyJournal, Trial

SKUS = [next(f"s{n}" for n in range(99) if shard_of(f"s{n}", 2) == shard) for shard in (0, 1)]
"""One of each of two shards."""
MOVED = [Answer(Status.MOVED, MovedTo(shard, 0, "")) for shard in (0, 1)]


class RoomyJournal(FaultyJournal):
    """A connection to a server that says how full it is."""

    memory_is: Memory | Exception = Memory(0, 100)

    async def memory(self) -> Memory:
        if self._store.limit is not None:
            return Memory(self._store.used, self._store.limit)
        if isinstance(self.memory_is, Exception):
            raise self.memory_is
        return self.memory_is


class Tenure:
    """A host on trial: what it says, and what it answers."""

    def __init__(
        self,
        trial: Trial,
        *,
        journal: RoomyJournal | None = None,
        name: str = "host",
        others: Sequence[RoomyJournal] = (),
        dedicated: int = 0,
    ) -> None:
        """`others`: servers that the journal is on, beside that of the trial; `dedicated`: shards
        beside those of the trial."""
        self.journal = journal or RoomyJournal(trial.store)
        journals = [self.journal, *others]
        redis = tuple(f"unix:///{number}" for number in range(len(journals))) if others else ()
        self.said: list[HostStatus] = []
        self.empty = 0
        self._requests = 0
        self._nonces = 0
        self.name = name
        self.host = Host(
            name,
            Settings(shards=trial.shards, dedicated=dedicated, hosts=1, grace_us=0, redis=redis),
            "here",
            journals,
            Marks(trial.directory),
            self._random,
            lambda: self.said.append(self.host.status()),
            self._emptied,
            archive=trial.archive,
        )
        self.host.start()

    def _random(self, count: int) -> bytes:
        self._nonces += 1
        return self.name.encode().ljust(8) + self._nonces.to_bytes(count - 8)

    def _emptied(self) -> None:
        self.empty += 1

    async def own(self, *shards: int) -> None:
        """Be assigned the shards, and wait until they are served."""
        for shard in shards:
            self.host.assign(shard, None)
        await eventually(lambda: set(shards) <= set(self.host.status().owned))

    def send(
        self, *commands: Command, deadline_ms: int = 5_000, dedicated: int = UNKNOWN_HOME
    ) -> list[Response]:
        """What will have been answered to a request of these commands, for that shard."""
        answered: list[Response] = []
        self._requests += 1
        request = Request(self._requests, deadline_ms, list(commands), None, dedicated)
        self.host.submit(
            request, OPERATOR, lambda outgoing: answered.append(decode_outgoing(outgoing))
        )
        return answered

    async def ask(self, *commands: Command, dedicated: int = UNKNOWN_HOME) -> list[Answer]:
        answered = self.send(*commands, dedicated=dedicated)
        await eventually(lambda: bool(answered))
        assert 1 == len(answered)
        return answered[0].answers

    async def statuses(self, *commands: Command, dedicated: int = UNKNOWN_HOME) -> list[Status]:
        return [answer.status for answer in await self.ask(*commands, dedicated=dedicated)]

    def owner(self, shard: int) -> Owner:
        [found] = [each for each in self.host.owners if each.number == shard]
        return found

    async def sample(self, name: str, **labels: str) -> float:
        """A metric of the host."""
        [answer] = await self.ask(GetStatistics())
        assert isinstance(answer.body, Statistics)
        [found] = [
            sample
            for sample in answer.body.samples
            if sample.name == name and dict(sample.labels) == labels
        ]
        assert isinstance(found.value, float | int)
        return found.value


@asynccontextmanager
async def tenure(trial: Trial, *shards: int) -> AsyncIterator[Tenure]:
    """A host that serves these shards, and is stopped in the end."""
    host = Tenure(trial)
    await host.own(*shards)
    yield host
    await host.host.stop()


def break_rules(owner: Owner, command: type[Command]) -> None:
    """From now on the rules fail on such a command."""

    def bug(command: Any) -> Answer:
        raise RuntimeError("a bug")

    owner.shard.handlers[command] = bug
    owner.shard.lane = _ClosedLane(owner.shard.lane)


class _ClosedLane(Lane):
    """Everything is left to the rules."""

    def __init__(self, lane: Lane) -> None:
        self.done = lane.done

    def run(self, commands: list[Command], start: int, *_: Any) -> int:
        return start
