"""A host: shards come and go, commands find their owner, and what is lost is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.config import Settings
from actors.host import Host, HostStatus
from actors.journal import BusyError, JournalError, LostError, Memory
from actors.marks import Marks, read_mark
from actors.owner import Owner
from actors.recovery import Floor
from engine import limits
from engine.codec import Position, checksum_of
from engine.messages import (
    Answer,
    Audit,
    ChannelPolicy,
    Command,
    Commit,
    Find,
    GetChannel,
    GetReservation,
    GetStatistics,
    GetStock,
    Homes,
    LineRequest,
    ListShortfalls,
    MovedTo,
    Release,
    Request,
    Reserve,
    Response,
    SetChannel,
    Statistics,
    Status,
)
from engine.placement import shard_of
from engine.scope import OPERATOR
from tests.actors.servers import eventually
from tests.actors.trial import FaultyJournal, Trial, receive, reserve, timeless

SKUS = [next(f"s{n}" for n in range(99) if shard_of(f"s{n}", 2) == shard) for shard in (0, 1)]
"""One of each of two shards."""
MOVED = [Answer(Status.MOVED, MovedTo(shard, 0, "")) for shard in (0, 1)]


class RoomyJournal(FaultyJournal):
    """A connection to a server that says how full it is."""

    memory_is: Memory | Exception = Memory(0, 100)

    async def memory(self) -> Memory:
        if isinstance(self.memory_is, Exception):
            raise self.memory_is
        return self.memory_is


class Tenure:
    """A host on trial: what it says, and what it answers."""

    def __init__(
        self, trial: Trial, *, journal: RoomyJournal | None = None, name: str = "host"
    ) -> None:
        self.journal = journal or RoomyJournal(trial.store)
        self.said: list[HostStatus] = []
        self.empty = 0
        self._requests = 0
        self._nonces = 0
        self.name = name
        self.host = Host(
            name,
            Settings(shards=trial.shards, hosts=1, grace_us=0),
            "here",
            [self.journal],
            Marks(trial.directory),
            self._random,
            lambda: self.said.append(self.host.status()),
            self._emptied,
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

    def send(self, *commands: Command, deadline_ms: int = 5_000) -> list[Response]:
        """What will have been answered to a request of these commands."""
        answered: list[Response] = []
        self._requests += 1
        request = Request(self._requests, deadline_ms, list(commands))
        self.host.submit(request, OPERATOR, answered.append)
        return answered

    async def ask(self, *commands: Command) -> list[Answer]:
        answered = self.send(*commands)
        await eventually(lambda: bool(answered))
        assert 1 == len(answered)
        return answered[0].answers

    async def statuses(self, *commands: Command) -> list[Status]:
        return [answer.status for answer in await self.ask(*commands)]

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


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path, shards=2)


# --- shards come and go ----------------------------------------------------------------------


@timeless
async def test_what_is_assigned_is_served(trial: Trial) -> None:
    """An assigned shard is claimed, said to come up, and then served; nothing else is."""
    host = Tenure(trial)
    assert [MOVED[0], MOVED[1]] == await host.ask(receive(1, SKUS[0]), receive(1, SKUS[1]))
    host.host.assign(0, None)
    assert ({}, {0: 0}) == host.host.status()[:2]
    await eventually(lambda: bool(host.host.status().owned))

    assert ({0: 1}, {}, {}) == host.host.status()[:3]
    assert [Status.OK, Status.MOVED] == await host.statuses(
        receive(1, SKUS[0]), receive(1, SKUS[1])
    )
    await host.host.stop()
    assert ({}, {}, {}, {}, {}) == host.host.status()


@timeless
async def test_assigned_twice_is_assigned(trial: Trial) -> None:
    """Who hears it again does not claim again."""
    async with tenure(trial, 0) as host:
        host.host.assign(0, None)
        await asyncio.sleep(5)
        assert {0: 1} == host.host.status().owned


@timeless
async def test_commands_wait_for_a_shard_that_comes_up(trial: Trial) -> None:
    """They are answered once it has, or at their deadline."""
    host = Tenure(trial)
    host.journal.freeze()
    host.host.assign(0, None)
    patient = host.send(receive(1, SKUS[0]))
    hasty = host.send(receive(1, SKUS[0]), deadline_ms=100)
    await asyncio.sleep(1)
    assert [Answer(Status.NOT_DONE)] == hasty[0].answers
    assert [] == patient
    host.journal.thaw()
    await eventually(lambda: bool(patient))

    assert Status.OK is patient[0].answers[0].status
    await host.host.stop()


@timeless
async def test_every_step_is_told(trial: Trial) -> None:
    """Whoever listens hears of each change at once."""
    async with tenure(trial, 0) as host:
        host.host.release(0)
        await eventually(lambda: not host.host.status().owned)

    said = [(bool(each.recovering), bool(each.owned)) for each in host.said]
    assert [(True, False), (False, True), (False, True), (False, False)] == said[:4]


@timeless
async def test_heads_and_proofs_are_told(trial: Trial) -> None:
    """How far each shard has come, and how long ago the journal said that it is ours."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(1, SKUS[0]))
        await asyncio.sleep(0.5)
        status = host.host.status()

        last = trial.store.entries(0)[-1]
        assert (last.position, checksum_of(last.record)) == status.heads[0]
        assert [Position(1, 2), Position(1, 1)] == [status.heads[shard][0] for shard in (0, 1)]
        assert 0.4 < status.proven[0] < 0.6
        await asyncio.sleep(10)
        assert max(host.host.status().proven.values()) < 2 * limits.PROVE_SECONDS


@timeless
async def test_released_in_order(trial: Trial) -> None:
    """A shard that is given away is served to the end of its queue, and then another's."""
    async with tenure(trial, 0, 1) as host:
        host.journal.freeze()
        flying = host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.1)
        queued = host.send(receive(1, SKUS[0]))
        host.host.release(0)
        late = host.send(receive(1, SKUS[0]))
        assert Answer(Status.MOVED, MovedTo(0, 1, "")) == late[0].answers[0]
        assert {0: 1, 1: 1} == host.host.status().owned
        host.journal.thaw()
        await eventually(lambda: {1: 1} == host.host.status().owned)

        assert [Status.OK, Status.OK] == [each[0].answers[0].status for each in (flying, queued)]
        assert 0 == host.empty


@timeless
async def test_assigned_again_while_it_leaves(trial: Trial) -> None:
    """The shard comes back, under a new epoch."""
    async with tenure(trial, 0) as host:
        host.host.release(0)
        host.host.assign(0, None)
        await eventually(lambda: {0: 2} == host.host.status().owned)


@timeless
async def test_released_again_while_it_leaves(trial: Trial) -> None:
    """The last word counts."""
    async with tenure(trial, 0) as host:
        host.journal.freeze()
        host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.1)
        host.host.release(0)
        host.host.assign(0, None)
        host.host.release(0)
        host.journal.thaw()
        await asyncio.sleep(10)

        assert {} == host.host.status().owned
        assert [] == host.host.owners


@timeless
async def test_released_without_having_it(trial: Trial) -> None:
    """There is nothing to do."""
    async with tenure(trial, 0) as host:
        host.host.release(1)
        assert {0: 1} == host.host.status().owned


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_of_a_host(trial: Trial, frozen: bool) -> None:
    """Stopped, it keeps no task, and takes no shard any more, whatever it was told before."""

    @timeless
    async def run() -> None:
        host = Tenure(trial)
        await host.own(0)
        host.host.assign(1, None)
        host.host.release(0)
        host.host.assign(0, None)
        if frozen:
            host.journal.freeze()
        began = asyncio.get_running_loop().time()
        await host.host.stop()
        host.host.assign(1, None)
        await asyncio.sleep(1)

        assert asyncio.get_running_loop().time() - began < limits.STOP_SECONDS_MAX + 2
        assert {asyncio.current_task()} == asyncio.all_tasks()
        assert {} == host.host.status().owned

    run()


@timeless
async def test_a_shard_that_does_not_prove_itself(trial: Trial) -> None:
    """It is said why, its commands are refused, the others are served; another try may succeed."""
    host = Tenure(trial)
    host.host.assign(0, Floor(Position(5, 5), None))
    await host.own(1)
    await eventually(lambda: bool(host.host.status().failed))

    assert {0} == set(host.host.status().failed)
    assert "5-5 was acknowledged" in host.host.status().failed[0]
    assert [Status.SHARD_STOPPED, Status.OK] == await host.statuses(
        receive(1, SKUS[0]), receive(1, SKUS[1])
    )
    await host.own(0)
    assert {} == host.host.status().failed
    await host.host.stop()


# --- fenced ----------------------------------------------------------------------------------


@timeless
async def test_a_host_without_shards_is_empty(trial: Trial) -> None:
    """Fenced out of its last shard, and only then, a host says that it is of no more use."""
    async with tenure(trial, 0, 1) as host:
        other = Tenure(trial, name="other")
        await other.own(0)
        await eventually(lambda: {1: 1} == host.host.status().owned)
        assert 0 == host.empty
        await other.own(1)
        await eventually(lambda: {} == host.host.status().owned)

        assert 1 == host.empty
        await other.host.stop()


@timeless
async def test_released_and_then_fenced(trial: Trial) -> None:
    """It does not matter how it lost the shards before."""
    async with tenure(trial, 0, 1) as host:
        host.host.release(0)
        await eventually(lambda: {1: 1} == host.host.status().owned)
        await trial.serve(number=1)
        await eventually(lambda: bool(host.empty))


@timeless
async def test_released_is_not_empty(trial: Trial) -> None:
    """Who gave its shards away waits for others."""
    async with tenure(trial, 0) as host:
        host.host.release(0)
        await asyncio.sleep(10)
        assert 0 == host.empty


@timeless
async def test_a_frozen_host_wakes_up(trial: Trial) -> None:
    """Of what it had in flight nobody knows, what it had queued is another's; then it is empty."""
    host = Tenure(trial)
    await host.own(0, 1)
    host.journal.freeze()
    flying = host.send(receive(1, SKUS[0]), receive(1, SKUS[1]), deadline_ms=60_000)
    await asyncio.sleep(0.1)
    queued = host.send(receive(1, SKUS[0]), deadline_ms=60_000)
    other = Tenure(trial, name="other")
    await other.own(0, 1)
    host.journal.thaw()
    await eventually(lambda: bool(host.empty))

    assert [Status.OUTCOME_UNKNOWN] * 2 == [answer.status for answer in flying[0].answers]
    assert [Answer(Status.MOVED, MovedTo(0, 1, ""))] == queued[0].answers
    assert [Status.UNKNOWN_SKU] * 2 == await other.statuses(*map(GetStock, SKUS))
    await host.host.stop()
    await other.host.stop()


# --- bugs ------------------------------------------------------------------------------------


@timeless
async def test_a_bug_costs_a_moment(trial: Trial) -> None:
    """The shard is recovered at once, under a new epoch, and never said to be nowhere."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(5, SKUS[0]))
        break_rules(host.owner(0), Commit)
        host.said.clear()
        [answer] = await host.ask(Commit("r1", 0))
        assert Status.INVALID is answer.status
        await eventually(lambda: {0: 2} == host.host.status().owned)

        assert all(each.owned or each.recovering for each in host.said)
        assert [Status.OK] == await host.statuses(GetStock(SKUS[0]))


@timeless
async def test_bugs_are_bounded(trial: Trial) -> None:
    """A shard that breaks again and again is given up, and says why; the host goes on."""
    async with tenure(trial, 0, 1) as host:
        for epoch in range(1, 7):
            await host.own(0)
            assert {0: epoch, 1: 1} == host.host.status().owned
            break_rules(host.owner(0), Commit)
            await host.ask(Commit("r1", 0))
        await eventually(lambda: bool(host.host.status().failed))

        assert {0: "RuntimeError: a bug"} == host.host.status().failed
        assert [Status.SHARD_STOPPED] == await host.statuses(Commit("r1", 0))
        assert [Status.OK] == await host.statuses(receive(1, SKUS[1]))


@timeless
async def test_a_bug_while_it_leaves(trial: Trial) -> None:
    """What is given away is not taken back."""
    async with tenure(trial, 0) as host:
        break_rules(host.owner(0), Commit)
        asked = host.send(Commit("r1", 0))
        host.host.release(0)
        await eventually(lambda: bool(asked))
        await asyncio.sleep(10)

        assert [] == host.host.owners


@timeless
async def test_a_bug_when_all_stops(trial: Trial) -> None:
    """A host that goes down mends nothing."""
    host = Tenure(trial)
    await host.own(0)
    break_rules(host.owner(0), Commit)
    host.send(Commit("r1", 0))
    await host.host.stop()

    assert {asyncio.current_task()} == asyncio.all_tasks()


@timeless
async def test_assigned_while_it_is_mended(trial: Trial) -> None:
    """One owner comes up, not two that fence each other."""
    async with tenure(trial, 0) as host:
        break_rules(host.owner(0), Commit)
        asked = host.send(Commit("r1", 0))
        async with asyncio.timeout(5):
            while not asked:  # noqa: ASYNC110 - the very next turn of the loop is too late
                await asyncio.sleep(0)
        host.host.assign(0, None)
        await asyncio.sleep(10)

        assert {0: 2} == host.host.status().owned
        assert 1 == len(host.host.owners)


# --- commands --------------------------------------------------------------------------------


@timeless
async def test_each_command_goes_to_its_shard(trial: Trial) -> None:
    """One frame, several shards: the answers stand in the order of the commands."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(5, SKUS[0]), receive(6, SKUS[1]))
        commands: list[Command] = [GetStock(SKUS[n]) for n in (0, 1, 1, 0, 0)]
        answered = host.send(*commands)
        await eventually(lambda: bool(answered))

        assert [SKUS[n] for n in (0, 1, 1, 0, 0)] == [a.body.sku for a in answered[0].answers]  # type: ignore[union-attr]
        assert {0, 1} == {head.shard for head in answered[0].heads}
        assert 2 == len(answered[0].heads)


@timeless
async def test_lines_of_several_shards_go_home(trial: Trial) -> None:
    """The shard of the smallest SKU decides, and knows the reservation."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(5, SKUS[0]))
        home = shard_of(min(SKUS), 2)
        lines = [LineRequest(sku, 1) for sku in SKUS]
        assert [Status.LINES_SPAN_SHARDS] == await host.statuses(Reserve("r1", lines))
        host.host.release(home)
        await eventually(lambda: home not in host.host.status().owned)

        assert [MOVED[home]] == await host.ask(Reserve("r1", lines))


@pytest.mark.parametrize(
    "command",
    [Audit(-1), GetChannel(-1, "c"), ListShortfalls(-1), SetChannel(-1, "c", ChannelPolicy())],
    ids=lambda command: type(command).__name__,
)
def test_what_is_about_a_shard_names_one(trial: Trial, command: Command) -> None:
    """A command about a shard that does not say which is refused."""

    @timeless
    async def run() -> None:
        async with tenure(trial, 0, 1) as host:
            assert [Status.INVALID] == await host.statuses(command)

    run()


@timeless
async def test_shards_that_there_are_not(trial: Trial) -> None:
    """A number beyond the last shard is nobody's."""
    async with tenure(trial, 0, 1) as host:
        assert [Status.MOVED, Status.MOVED] == await host.statuses(Audit(9), Commit("r1", 9))


@timeless
async def test_everybody_is_found(trial: Trial) -> None:
    """Find is put to every shard that is here; those who know the reservation are named."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(5, SKUS[0]), reserve("r0", 1, SKUS[0]))
        assert [Answer(Status.OK, Homes([0], [0]))] == await host.ask(Find("r0"))
        await host.own(1)
        await host.ask(receive(5, SKUS[1]), reserve("r1", 1, SKUS[1]))

        expected = [Homes([0], [0, 1]), Homes([1], [0, 1]), Homes([], [0, 1])]
        found = await host.ask(Find("r0"), Find("r1"), Find("r2"))
        assert expected == [answer.body for answer in found]


@timeless
async def test_nobody_is_asked(trial: Trial) -> None:
    """A host without shards says that it asked none."""
    host = Tenure(trial)
    assert [Answer(Status.OK, Homes([], []))] == await host.ask(Find("r0"))
    await host.host.stop()


@timeless
async def test_a_silent_shard_is_no_answer(trial: Trial) -> None:
    """If one of the shards does not answer in time, nobody can say who knows."""
    async with tenure(trial, 0) as host:
        host.journal.freeze()
        host.host.assign(1, None)
        asked = host.send(Find("r0"), deadline_ms=500)
        await eventually(lambda: bool(asked))
        host.journal.thaw()

        assert asked[0].answers[0].status in (Status.NOT_DONE, Status.OUTCOME_UNKNOWN)


@timeless
async def test_without_a_home(trial: Trial) -> None:
    """Who comes straight to a host and does not know the home is helped, if that is certain."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(5, SKUS[1]), reserve("r1", 1, SKUS[1]))
        assert [Status.OK] == await host.statuses(Commit("r1"))
        assert [Status.OK] == await host.statuses(GetReservation("r1"))
        assert [Status.UNKNOWN_RESERVATION] * 2 == await host.statuses(
            Commit("r2"), Release("r2", bury=True)
        )
        assert [Status.OK] == await host.statuses(reserve("r2", 1, SKUS[1]))


@timeless
async def test_without_a_home_in_two_places(trial: Trial) -> None:
    """The same name in two shards: the caller has to say which."""
    async with tenure(trial, 0, 1) as host:
        for sku in SKUS:
            await host.ask(receive(5, sku), reserve("r1", 1, sku))

        assert [Status.AMBIGUOUS_RESERVATION] == await host.statuses(Commit("r1"))


@timeless
async def test_without_a_home_and_without_a_shard(trial: Trial) -> None:
    """Where a shard is missing nobody can say that a reservation is not there."""
    async with tenure(trial, 0) as host:
        assert [Status.NOT_DONE] == await host.statuses(Commit("r1"))


@timeless
async def test_without_a_home_while_a_shard_comes_up(trial: Trial) -> None:
    """Nor while one is being recovered."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(5, SKUS[1]), reserve("there", 1, SKUS[1]))
    journal = RoomyJournal(trial.store)
    host = Tenure(trial, journal=journal)
    await host.own(0)
    journal.once("append", journal.freeze)
    host.host.assign(1, None)
    await eventually(lambda: journal.waiting > 0)

    asked = host.send(Commit("there"), deadline_ms=500)
    await eventually(lambda: bool(asked))
    assert [Status.NOT_DONE] == [answer.status for answer in asked[0].answers]
    journal.thaw()
    await host.own(1)
    assert [Status.OK] == await host.statuses(Commit("there"))
    await host.host.stop()


# --- too much --------------------------------------------------------------------------------


@pytest.fixture
def small_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SHARD_QUEUE_SHED_RESERVES", 10)
    monkeypatch.setattr(limits, "SHARD_QUEUE_COMMANDS_MAX", 20)


@timeless
async def test_reserves_are_shed_first(trial: Trial, small_queues: None) -> None:
    """A long queue takes no more reserves, so that what frees or sells the units still passes."""
    async with tenure(trial, 0) as host:
        host.journal.freeze()
        host.send(receive(5, SKUS[0]))
        await asyncio.sleep(0.1)
        reserves = [host.send(reserve(f"r{n}", 1, SKUS[0])) for n in range(15)]
        commits = [host.send(Commit(f"r{n}", 0)) for n in range(15)]

        overloaded = [Answer(Status.OVERLOADED)]
        assert [False] * 10 + [True] * 5 == [bool(each) for each in reserves]
        assert [False] * 10 + [True] * 5 == [bool(each) for each in commits]
        assert all(each[0].answers == overloaded for each in reserves[10:] + commits[10:])
        host.journal.thaw()
        await eventually(lambda: all(reserves + commits))
        assert [Status.OK] * 5 == [each[0].answers[0].status for each in commits[:5]]


@timeless
async def test_searches_are_bounded(trial: Trial, small_queues: None) -> None:
    """What is put to every shard counts in every queue."""
    async with tenure(trial, 0, 1) as host:
        host.journal.freeze()
        host.send(receive(5, SKUS[0]), receive(5, SKUS[1]))
        await asyncio.sleep(0.1)
        searches = [host.send(*[Find(f"r{n}") for n in range(5)]) for _ in range(9)]

        assert max(len(owner.inbox) for owner in host.host.owners) <= 20
        assert [Answer(Status.OVERLOADED)] * 5 == searches[-1][0].answers
        host.journal.thaw()
        await eventually(lambda: all(searches))


@timeless
async def test_a_full_server(trial: Trial) -> None:
    """At 80 % new work is refused, what is under way goes on; below it all is taken again."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(5, SKUS[0]), reserve("r1", 1, SKUS[0]))
        host.journal.memory_is = Memory(80, 100)
        await asyncio.sleep(1.5)
        expected = [Status.MEMORY_FULL, Status.OK, Status.MEMORY_FULL, Status.MEMORY_FULL]
        assert expected == await host.statuses(
            reserve("r2", 1, SKUS[0]),
            Commit("r1", 0),
            receive(1, SKUS[0]),
            Reserve("r3", [LineRequest(sku, 1) for sku in SKUS]),
        )
        assert 0.8 == host.host.fill == await host.sample("onhand_journal_memory_ratio")
        host.journal.memory_is = Memory(79, 100)
        await asyncio.sleep(1.5)

        assert [Status.OK] == await host.statuses(reserve("r2", 1, SKUS[0]))


@timeless
async def test_a_filling_server_is_trimmed(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60 % every shard that has something to trim takes two: the second one trims to the first,
    and then there is nothing more to be had."""
    monkeypatch.setattr(limits, "SNAPSHOT_AT_LEAST_BYTES", 2_000)
    async with tenure(trial, 0, 1) as host:
        for number in range(60):
            await host.ask(receive(1, f"{number}"))
            await asyncio.sleep(0.1)
        assert 0 == await host.sample("onhand_snapshots_total")
        host.journal.memory_is = Memory(65, 100)
        await asyncio.sleep(30)
        assert 4 == await host.sample("onhand_snapshots_total")
        for _ in range(60):
            await host.ask(receive(1, SKUS[0]))
            await asyncio.sleep(1)

        assert await host.sample("onhand_snapshots_total") <= 8


@pytest.mark.parametrize(
    "trouble", [BusyError("away"), LostError("away"), JournalError("NOPERM"), Memory(5, 0)]
)
def test_a_server_that_does_not_say(trial: Trial, trouble: Memory | Exception) -> None:
    """How full it is may be unknown for a while; everything else is looked after."""

    @timeless
    async def run() -> None:
        async with tenure(trial, 0) as host:
            host.journal.memory_is = trouble
            await asyncio.sleep(3)
            host.journal.memory_is = Memory(90, 100)
            await asyncio.sleep(2)
            assert [Status.MEMORY_FULL] == await host.statuses(reserve("r1", 1, SKUS[0]))

    run()


# --- chores ----------------------------------------------------------------------------------


@timeless
async def test_marks_are_written(trial: Trial) -> None:
    """At the opening, every second, and at the end: how far each shard is acknowledged."""
    async with tenure(trial, 0, 1) as host:
        await eventually(lambda: read_mark(trial.directory, 1) is not None)
        await host.ask(receive(1, SKUS[0]))
        await asyncio.sleep(1.5)
        mark = read_mark(trial.directory, 0)
        assert mark is not None
        assert host.host.status().heads[0] == (mark.position, mark.checksum)
        await host.ask(receive(1, SKUS[0]))

    marks = [read_mark(trial.directory, shard) for shard in (0, 1)]
    assert [trial.store.positions(n)[-1] for n in (0, 1)] == [m and m.position for m in marks]


@timeless
async def test_marks_that_cannot_be_written(trial: Trial) -> None:
    """A disk that is out of order costs the marks, not the shards."""
    async with tenure(trial, 0) as host:
        (trial.directory / "marks").write_bytes(b"short")
        await asyncio.sleep(3)
        assert [Status.OK] == await host.statuses(receive(1, SKUS[0]))


@timeless
async def test_a_mark_outlives_its_host(trial: Trial) -> None:
    """What this machine knows to be acknowledged is not missed by the next host on it."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(1, SKUS[0]))
    trial.store.forget(0, Position(1, 2))
    host = Tenure(trial)
    host.host.assign(0, None)
    await eventually(lambda: bool(host.host.status().failed))

    assert "1-2 was acknowledged" in host.host.status().failed[0]
    await host.host.stop()


@timeless
async def test_statistics(trial: Trial) -> None:
    """What a scrape sees of the shards, their commands and what they hold."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(2, SKUS[0]), receive(2, SKUS[1]))
        await host.ask(reserve("r1", 1, SKUS[0]), reserve("r2", 5, SKUS[0]))
        await host.ask(Commit("r1", 0))
        host.host.release(1)
        await eventually(lambda: {0} == set(host.host.status().owned))

        outcome = {"command": "reserve", "outcome": "ok"}
        assert 1 == await host.sample("onhand_commands_total", **outcome)
        outcome = {"command": "reserve", "outcome": "insufficient_stock"}
        assert 1 == await host.sample("onhand_commands_total", **outcome)
        assert 1 == await host.sample("onhand_shards", phase="serving")
        assert 0 == await host.sample("onhand_shards", phase="failed")
        assert 1 == await host.sample("onhand_skus")
        assert 1 == await host.sample("onhand_reservations", state="committed")
        assert 0 == await host.sample("onhand_reservations", state="reserved")
        assert 1 == await host.sample("onhand_remembered")
        assert 0 == await host.sample("onhand_queued_commands")
        host.journal.freeze()
        host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.1)
        host.send(receive(1, SKUS[0]), receive(1, SKUS[0]))
        assert 1 == await host.sample("onhand_in_flight_commands")
        assert 2 == await host.sample("onhand_queued_commands")
        host.journal.thaw()


@timeless
async def test_retries_are_counted(trial: Trial) -> None:
    """An operator sees that the journal's server is in trouble."""
    async with tenure(trial, 0) as host:
        host.journal.fault_next("busy", "busy")
        await host.ask(receive(1, SKUS[0]))
        assert 2 == await host.sample("onhand_journal_retries_total")
        assert 0 == await host.sample("onhand_journal_resent_total")
