"""Buyers under whose feet things break: they reserve, commit, release, restock, and write it all
down.

Most of them come through the gateways, each frame one command; some go straight to the hosts, where
every answer names the record that it rests on. Half of those who do not know what came of a request
send the very same again until they do; the others leave it at that, so that the history always has
outcomes that nobody was told.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from random import Random
from typing import Final

from engine.messages import (
    UNKNOWN_HOME,
    Command,
    Commit,
    LineRequest,
    Receive,
    Release,
    Reserve,
    Status,
)
from engine.placement import shard_of
from tests.faults.engine_process import EngineProcess, eventually
from tests.faults.history import DONE, UNAVAILABLE, Attempt, History
from tests.faults.till import DEADLINE_MS, Till

SKUS = tuple(f"sku-{number}" for number in range(32))
LOCATION = "main"
PLENTY, FEW = 1_000_000, 200
BUYERS, DIRECT = 24, 6
CONNECTIONS = 4
WAIT_SECONDS = 0.2
AGAIN_SECONDS = 0.05
TTL_SECONDS = 7_200
"""Nothing expires by itself here."""
REFILL = 0.05
"""How often a buyer brings units in place of buying."""
NOWHERE_ELSE: Final[Mapping[str, int]] = {}


def units_of(sku: str) -> int:
    """Every fourth SKU sells out."""
    return FEW if sku in SKUS[::4] else PLENTY


async def stock(
    engine: EngineProcess,
    history: History,
    skus: Sequence[str] = SKUS,
    lives: Mapping[str, int] = NOWHERE_ELSE,
    units: int | None = None,
) -> None:
    """Receive the units that the buyers come for; `lives` as Doors has it; `units` of each, if not
    what `units_of` says."""
    loop = asyncio.get_running_loop()
    async with Till(engine.binary) as till:
        assert await till.connected(WAIT_SECONDS * 100)
        commands = [
            Receive(each, LOCATION, units or units_of(each), key=f"first-{each}") for each in skus
        ]
        sent = loop.time()
        for command, answer in zip(commands, await till.insist(commands), strict=True):
            shard = lives.get(command.sku, shard_of(command.sku, till.hello.shards))
            attempt = Attempt(command, shard, False, sent, loop.time(), answer.status, None)
            history.record(attempt)
            assert attempt.done, answer


class Doors:
    """Where commands go in."""

    def __init__(
        self, engine: EngineProcess, shards: int, lives: Mapping[str, int] = NOWHERE_ELSE
    ) -> None:
        """`shards`: hashed ones; `lives`: the dedicated shards of SKUs that have one."""
        self.engine = engine
        self.shards = shards
        self._lives = lives
        self._gateways = [Till(engine.binary) for _ in range(CONNECTIONS)]
        self._hosts: dict[str, Till] = {}
        self._owners: dict[int, str] = {}
        self._fresh = asyncio.Lock()

    async def __aenter__(self) -> "Doors":
        for each in self._gateways:
            await each.__aenter__()
        await self.learn({})
        return self

    async def __aexit__(self, *error: object) -> None:
        for each in (*self._gateways, *self._hosts.values()):
            await each.__aexit__(*error)

    def shard_of(self, sku: str) -> int:
        """Where its reservations are."""
        return self._lives.get(sku, shard_of(sku, self.shards))

    def gateway(self, number: int) -> Till:
        return self._gateways[number % CONNECTIONS]

    def host(self, shard: int) -> Till | None:
        """The owner of `shard`, as far as is known."""
        return self._hosts.get(self._owners.get(shard, ""))

    @property
    def owners(self) -> dict[int, str]:
        return dict(self._owners)

    async def learn(self, known: dict[int, str]) -> None:
        """Ask who owns what, unless somebody else has asked since `known` was all there was."""
        async with self._fresh:
            if known != self._owners:
                return
            try:
                status = await self.engine.status()
            except (OSError, asyncio.IncompleteReadError):
                return
            owners = {}
            for host in status.hosts:
                for shard in host.epochs:
                    owners[int(shard)] = host.address
                if host.address not in self._hosts:
                    self._hosts[host.address] = till = Till(host.address)
                    await till.__aenter__()
            self._owners = owners


class Load:
    """Buyers who buy until they are told to stop."""

    def __init__(
        self,
        doors: Doors,
        history: History,
        skus: Sequence[str],
        seed: int,
        name: str,
        refill: float = REFILL,
    ) -> None:
        self._doors = doors
        self._history = history
        self._skus = skus
        self._seed = seed
        self._name = name
        self._refill = refill
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._loop = asyncio.get_running_loop()

    def start(self, buyers: int, direct: int) -> None:
        for number in range(buyers + direct):
            work = self._buy(number, number >= buyers)
            self._tasks.append(self._loop.create_task(work))

    async def stop(self) -> None:
        """Let everybody hear, or not hear, what came of their last request."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def until(self, operations: int, seconds: float = 30) -> None:
        """Go on until so many more were acknowledged."""
        wanted, seen = operations, len(self._history)
        async with asyncio.timeout(seconds):
            while wanted > 0:
                await asyncio.sleep(WAIT_SECONDS / 10)
                fresh, seen = self._history.attempts[seen:], len(self._history)
                wanted -= sum(each.done for each in fresh)

    async def until_refused(self, seconds: float = 30) -> None:
        """Go on until the engine says that it cannot."""
        seen = len(self._history)

        async def refused() -> bool:
            return any(each.status in UNAVAILABLE for each in self._history.attempts[seen:])

        await eventually(refused, seconds)

    async def for_seconds(self, seconds: float) -> None:
        """Go on for so long."""
        await asyncio.sleep(seconds)

    async def until_served(
        self, shards: Sequence[int], seconds: float = 30, kind: type[Command] | None = None
    ) -> None:
        """Go on until every one of `shards` has had a success, of this kind of command, through a
        gateway."""
        seen, wanted = len(self._history), set(shards)
        after = self._loop.time()
        async with asyncio.timeout(seconds):
            while wanted:
                await asyncio.sleep(WAIT_SECONDS / 10)
                fresh, seen = self._history.attempts[seen:], len(self._history)
                wanted -= {
                    each.shard
                    for each in fresh
                    if each.done
                    and not each.direct
                    and each.sent >= after
                    and (kind is None or isinstance(each.command, kind))
                }

    # --- one buyer ---

    async def _buy(self, number: int, direct: bool) -> None:
        random = Random(f"{self._seed}-{self._name}-{number}")
        for order in count():
            if self._stopping:
                return
            sku = random.choice(self._skus)
            name = f"{self._name}-{number}-{order}"
            if random.random() < self._refill:
                received = Receive(sku, LOCATION, random.randint(1, 5), key=name)
                await self._insist(received, sku, number, direct, random)
            else:
                await self._order(name, sku, number, direct, random)

    async def _order(self, name: str, sku: str, number: int, direct: bool, random: Random) -> None:
        lines = [LineRequest(sku, random.randint(1, 3))]
        reserve = Reserve(name, lines, ttl_seconds=TTL_SECONDS)
        status = await self._insist(reserve, sku, number, direct, random)
        if status not in DONE:
            return
        fate = random.random()
        home = self._doors.shard_of(sku) if direct or fate < 0.5 else UNKNOWN_HOME
        if fate < 0.6:
            await self._insist(Commit(name, home), sku, number, direct, random)
        elif fate < 0.8:
            await self._insist(Release(name, home), sku, number, direct, random)

    async def _insist(
        self, command: Command, sku: str, number: int, direct: bool, random: Random
    ) -> Status | None:
        """Send it; what is unavailable or unknown, perhaps again. The last that was heard."""
        patient = random.random() < 0.5
        while True:
            attempt = await self._once(command, sku, number, direct)
            if attempt is None:
                return Status.NOT_DONE
            if attempt.status not in (None, *UNAVAILABLE):
                return attempt.status
            await asyncio.sleep(AGAIN_SECONDS)
            if attempt.status is Status.MOVED:
                await self._doors.learn(self._doors.owners)
            elif not patient or attempt.status is Status.MEMORY_FULL:
                return attempt.status
            if self._stopping:
                return attempt.status

    async def _once(self, command: Command, sku: str, number: int, direct: bool) -> Attempt | None:
        """One attempt; None if there was nobody to ask before the end."""
        shard = self._doors.shard_of(sku)
        till = await self._till(shard, number, direct)
        if till is None:
            return None
        sent = self._loop.time()
        dedicated = shard if direct and shard >= self._doors.shards else UNKNOWN_HOME
        response = await till.ask([command], dedicated=dedicated)
        answered = self._loop.time()
        if response is None:
            attempt = Attempt(command, shard, direct, sent, float("inf"), None, None)
        else:
            head = response.heads[0] if response.heads else None
            status = response.answers[0].status
            attempt = Attempt(command, shard, direct, sent, answered, status, head)
        self._history.record(attempt)
        return attempt

    async def _till(self, shard: int, number: int, direct: bool) -> Till | None:
        while not self._stopping:
            till = self._doors.host(shard) if direct else self._doors.gateway(number)
            if till is not None and await till.connected(WAIT_SECONDS):
                return till
            if direct:
                await self._doors.learn(self._doors.owners)
                await asyncio.sleep(AGAIN_SECONDS)
        return None


async def hashed(engine: EngineProcess) -> int:
    """How many of its shards are not dedicated ones."""
    async with Till(engine.binary) as till:
        assert await till.connected(WAIT_SECONDS * 100)
        return till.hello.shards


@asynccontextmanager
async def load(
    engine: EngineProcess,
    history: History,
    *,
    name: str,
    skus: Sequence[str] = SKUS,
    buyers: int = BUYERS,
    direct: int = DIRECT,
    seed: int = 1,
    lives: Mapping[str, int] = NOWHERE_ELSE,
    refill: float = REFILL,
) -> AsyncIterator[Load]:
    """Buyers for as long as the block lasts. `name` must be new to the history."""
    async with AsyncExitStack() as stack:
        doors = await stack.enter_async_context(Doors(engine, await hashed(engine), lives))
        made = Load(doors, history, skus, seed, name, refill)
        made.start(buyers, direct)
        stack.push_async_callback(made.stop)
        yield made


assert DEADLINE_MS < 1_000 * TTL_SECONDS
