"""One benchmark run, from stocking the shelves to the audit.

    stock ─► generators connect ─► warm-up ─► measured time ─► last answers ─► audit ─► report

The SKUs of a run bear a name that no other run has used, so it may be repeated against the same
engine, and what the audit finds in them is this run's doing alone.
"""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from bench.audit import (
    AuditReport,
    Expected,
    check_entry,
    check_shards,
    check_stock,
    conclude,
    expect,
    is_certain,
)
from bench.caller import Caller, CallerError
from bench.environment import Clocks, environment, read_clocks
from bench.exposition import difference
from bench.latencies import merge
from bench.options import BenchError, Options, Target
from bench.owners import Owners
from bench.plan import (
    Arrivals,
    Failed,
    Go,
    Moved,
    Plan,
    Progress,
    Ready,
    Result,
    decode,
    encode,
)
from bench.report import SCHEMA_VERSION, Load, Report, operations, spectrum
from bench.requests import PREFIX_CHARS, reservation_id
from bench.screen import Moment, Screen
from engine.messages import (
    Answer,
    Audit,
    GetReservation,
    GetStock,
    MapView,
    Receive,
    Status,
)
from engine.placement import shard_of
from gateway.http_client import HttpClient

LOCATION: Final = "bench"
SAMPLE: Final = 1_000
LEAD_SECONDS: Final = 0.2
"""From the moment at which all generators are ready to the first request."""
EXPIRY_SECONDS_MAX: Final = 20.0
"""How long after their time reservations may take to expire."""
POLL_SECONDS: Final = 0.5
UNLIMITED: Final = 1 << 53
CLOCK_READINGS: Final = 2
MAP_SECONDS: Final = 0.5
"""Until a gateway that did not answer is asked for the shard map again."""


class Generator:
    """One generator process, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin, self._stdout = process.stdin, process.stdout

    def say(self, message: Plan | Go | Moved) -> None:
        self._stdin.write(encode(message))

    async def hear(self) -> Ready | Progress | Result:
        """Raises BenchError if it has failed."""
        try:
            head = await self._stdout.readexactly(4)
            message = decode(await self._stdout.readexactly(int.from_bytes(head)))
        except asyncio.IncompleteReadError:
            raise BenchError("a generator process has died") from None
        if isinstance(message, Failed):
            raise BenchError(f"the generator gave up: {message.reason}")
        assert isinstance(message, Ready | Progress | Result)
        return message

    async def end(self) -> None:
        self._stdin.close()
        await self.process.wait()


@asynccontextmanager
async def generator(plan: Plan) -> AsyncIterator[Generator]:
    """A process that has been given its plan, and ends with the block."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.generator", stdin=pipe, stdout=pipe
    )
    started = Generator(process)
    try:
        started.say(plan)
        yield started
    finally:
        await started.end()


async def run(options: Options, target: Target, screen: Screen) -> Report:
    """The whole run. Raises BenchError, CallerError or UnreachableError if it cannot be done."""
    options.check()
    return await Run(options, target, screen).run()


class Run:
    """A run in progress."""

    def __init__(self, options: Options, target: Target, screen: Screen) -> None:
        self._options = options
        self._target = target
        self._screen = screen
        self._nonce = secrets.token_hex(4)
        self._names = [f"{self._nonce}-{number:07}" for number in range(options.sku_count)]
        self._prefixes = [
            f"bench-{self._nonce}-{number:03}-".ljust(PREFIX_CHARS, "0")
            for number in range(options.processes)
        ]
        self._http = HttpClient(target.url, target.key)
        self._shards = 1
        self._owners: Owners | None = None
        """Of the shards, if the generators go to the hosts themselves."""
        self._arrivals: Arrivals = "closed"
        if options.rate is not None:
            self._arrivals = "poisson" if options.poisson else "fixed"
        self._clocks: list[Clocks] = []

    async def run(self) -> Report:
        """Everything, in order."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._screen.say(f"stocking {len(self._names):,} SKUs")
        addresses, routes = await self._prepare()
        before = await self._metrics()
        results = await self._drive(addresses, routes)
        after = await self._metrics()
        audit = None
        if self._target.is_engine:
            self._screen.say("auditing what the engine holds against what buyers were told")
            audit = await self._audit(results)
        return self._report(started_at, results, difference(before, after), audit)

    # --- before --------------------------------------------------------------------------

    async def _prepare(self) -> tuple[list[str], list[int]]:
        """Stock the SKUs; where to connect to, and which shard is where."""
        if self._target.is_engine:
            async with Caller(self._target.binary, self._target.key) as caller:
                self._shards = caller.shards
                await self._stock(caller)
        via = self._options.via
        if via == "http":
            parts = urlsplit(self._target.url)
            return [f"tcp:{parts.hostname}:{parts.port or 80}"], []
        if via == "gateway":
            return [self._target.binary], []
        self._owners = await self._find_owners()
        return self._owners.addresses, self._owners.routes

    async def _find_owners(self) -> Owners:
        """The hosts, and which of them has which shard."""
        owners = Owners(self._shards)
        async with Caller(self._target.binary, self._target.key) as caller:
            await self._ask_for_news(caller, owners)
        if not owners.complete:
            raise BenchError("some shards are not served by any host")
        return owners

    @staticmethod
    async def _ask_for_news(caller: Caller, owners: Owners) -> bool:
        """Wait until something of the map has changed; whether that was an owner."""
        [answer] = await caller.ask([owners.question], tries=1)
        return isinstance(answer.body, MapView) and owners.learn(answer.body)

    async def _stock(self, caller: Caller) -> None:
        units = self._options.unit_count
        answers = await caller.ask(
            [Receive(name, LOCATION, units, key=f"bench-{name}") for name in self._names]
        )
        for name, answer in zip(self._names, answers, strict=True):
            if answer.status not in (Status.OK, Status.REPLAYED):
                raise BenchError(f"{name} could not be stocked: {answer.status.name.lower()}")

    async def _metrics(self) -> str:
        if not self._target.is_engine:
            return ""
        reply = await asyncio.to_thread(self._http.get, "/metrics")
        return str(reply.body) if reply.ok else ""

    # --- during --------------------------------------------------------------------------

    def _plan(self, number: int, addresses: list[str], routes: list[int]) -> Plan:
        options, processes = self._options, self._options.processes
        connections = share(options.connection_count, processes, number)
        return Plan(
            scenario=options.shape,
            distribution=options.distribution,
            names=self._names,
            shards=self._shards,
            via=options.via,
            addresses=addresses,
            routes=routes,
            host_header=urlsplit(self._target.url).netloc,
            key=self._target.key,
            prefix=self._prefixes[number],
            connections=connections,
            in_flight=max(share(options.in_flight_count, processes, number), 1),
            frame=options.frame,
            arrivals=self._arrivals,
            rate=(options.rate or 0) / processes,
            warm_up_ns=int(options.warm_up * 1e9),
            duration_ns=int(options.duration * 1e9),
            drain_ns=int(options.drain * 1e9),
            operations=share(options.operations or UNLIMITED, processes, number),
            sample=share(SAMPLE, processes, number),
            seed=options.seed + number,
        )

    async def _drive(self, addresses: list[str], routes: list[int]) -> list[Result]:
        async with AsyncExitStack() as stack:
            numbers = range(self._options.processes)
            plans = [self._plan(number, addresses, routes) for number in numbers]
            generators = [await stack.enter_async_context(generator(plan)) for plan in plans]
            for each in generators:
                if not isinstance(await each.hear(), Ready):
                    raise BenchError("a generator spoke out of turn")
            start = time.monotonic() + LEAD_SECONDS
            for each in generators:
                each.say(Go(int(start * 1e9)))
            pids = [each.process.pid for each in generators]
            roles = {"generator": pids, **self._target.pids}
            meter = asyncio.create_task(self._meter(start, roles))
            follower = asyncio.create_task(self._follow(generators))
            try:
                return await self._watch(generators)
            finally:
                meter.cancel()
                follower.cancel()
                await asyncio.gather(meter, follower, return_exceptions=True)
                if len(self._clocks) < CLOCK_READINGS:  # it ended before its time
                    self._clocks.append(read_clocks(roles))

    async def _follow(self, generators: Sequence[Generator]) -> None:
        """Tell the generators when shards have moved, if they go to the hosts themselves."""
        owners = self._owners
        while owners is not None:
            try:
                async with Caller(self._target.binary, self._target.key) as caller:
                    while True:
                        if await self._ask_for_news(caller, owners):
                            for each in generators:
                                each.say(Moved(owners.addresses, owners.routes))
            except CallerError:
                await asyncio.sleep(MAP_SECONDS)  # the gateway is gone, and comes back

    async def _meter(self, start: float, roles: Mapping[str, Sequence[int]]) -> None:
        """Read the CPU clocks when the measured time begins and when it ends."""
        begin = start + self._options.warm_up
        for moment in (begin, begin + self._options.duration):
            await asyncio.sleep(moment - time.monotonic())
            self._clocks.append(read_clocks(roles))

    async def _watch(self, generators: Sequence[Generator]) -> list[Result]:
        """Show each second until every generator has its result."""
        seconds = int(self._options.warm_up + self._options.duration)
        heard = [await each.hear() for each in generators]
        second = 0
        while progress := [each for each in heard if isinstance(each, Progress)]:
            second += 1
            self._screen.show(Moment(second, seconds, second <= self._options.warm_up, progress))
            heard = [
                each if isinstance(each, Result) else await generators[number].hear()
                for number, each in enumerate(heard)
            ]
        return [each for each in heard if isinstance(each, Result)]

    # --- after ---------------------------------------------------------------------------

    async def _audit(self, results: Sequence[Result]) -> AuditReport:
        expected = expect(group for result in results for group in result.groups)
        sample = [
            (entry, reservation_id(self._prefixes[number], entry.number))
            for number, result in enumerate(results)
            for entry in result.sample
            if is_certain(entry.mark)
        ]
        reads = [
            GetReservation(name, shard_of(self._names[entry.sku], self._shards))
            for entry, name in sample
        ]
        async with Caller(self._target.binary, self._target.key) as caller:
            shards = range(caller.total)
            stocks, findings = await self._settle(caller, expected)
            found = await caller.ask(reads)
            audits = await caller.ask([Audit(shard, quick=True) for shard in shards], tries=1)
        drift, disagreements = check_shards(dict(zip(shards, audits, strict=True)))
        findings += disagreements
        for (entry, name), answer in zip(sample, found, strict=True):
            wrong = check_entry(entry, name, self._names[entry.sku], answer)
            findings += [wrong] if wrong else []
        units = self._options.unit_count
        return conclude(findings, drift, units, stocks, expected, len(sample))

    async def _settle(
        self, caller: Caller, expected: Mapping[int, Expected]
    ) -> tuple[list[Answer], list[str]]:
        """The stock of every SKU and what is wrong with it; what is to expire may take its time."""
        shape = self._options.shape
        patience = shape.brief_seconds + EXPIRY_SECONDS_MAX if shape.expire else 0.0
        deadline = time.monotonic() + patience
        commands = [GetStock(name) for name in self._names]
        while True:
            stocks = await caller.ask(commands)
            findings = check_stock(self._names, self._options.unit_count, stocks, expected)
            if not findings or time.monotonic() >= deadline:
                return stocks, findings
            await asyncio.sleep(POLL_SECONDS)

    # --- the report ----------------------------------------------------------------------

    def _report(
        self,
        started_at: str,
        results: list[Result],
        metrics: dict[str, float],
        audit: AuditReport | None,
    ) -> Report:
        made = operations(results)
        where = environment(dict(self._target.about))
        first, last = self._clocks
        cost = last.since(first)
        return Report(
            schema=SCHEMA_VERSION,
            started_at=started_at,
            measured_seconds=max(result.measured_ns for result in results) / 1e9,
            environment=where,
            load=self._load(results),
            operations=made,
            metrics=metrics,
            audit=audit,
            cpu_seconds_per_1000={
                role: seconds * 1_000 / max(1, sum(each.answered for each in made))
                for role, seconds in cost.by_role.items()
            },
            machine_busy=cost.machine / (cost.wall * where.cores),
        )

    def _load(self, results: Sequence[Result]) -> Load:
        options = self._options
        return Load(
            scenario=options.scenario,
            distribution=options.distribution,
            skus=options.sku_count,
            units=options.unit_count,
            via=options.via,
            arrivals=self._arrivals,
            rate=options.rate or 0.0,
            connections=options.connection_count,
            in_flight=options.in_flight_count,
            frame=options.frame,
            processes=options.processes,
            warm_up_seconds=options.warm_up,
            duration_seconds=options.duration,
            seed=options.seed,
            lateness=spectrum(merge(result.lateness for result in results)),
            held_back=sum(result.held_back for result in results),
            unanswered=sum(result.unanswered for result in results),
            reconnects=sum(result.reconnects for result in results),
        )


def share(total: int, parts: int, number: int) -> int:
    """What part `number` of `parts` gets of `total`, so that all get about the same."""
    return total // parts + (number < total % parts)
