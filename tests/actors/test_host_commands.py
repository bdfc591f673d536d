"""A host's commands: each finds its owner, and there may be too many of them."""

import asyncio
from pathlib import Path

import pytest

from actors.journal import BusyError, JournalError, LostError, Memory
from engine import limits
from engine.messages import (
    Answer,
    Audit,
    ChannelPolicy,
    Command,
    Commit,
    Find,
    GetChannel,
    GetMap,
    GetReservation,
    GetStock,
    Homes,
    LineRequest,
    ListShortfalls,
    MapView,
    MovedTo,
    MovementView,
    Release,
    Reserve,
    RouteView,
    SetChannel,
    Status,
    StockView,
)
from engine.placement import shard_of
from tests.actors.servers import eventually
from tests.actors.tenure import MOVED, SKUS, RoomyJournal, Tenure, tenure
from tests.actors.trial import BUSY, Trial, receive, reserve, timeless


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path, shards=2)


# --- commands --------------------------------------------------------------------------------


@timeless
async def test_each_command_goes_to_its_shard(trial: Trial) -> None:
    """One frame, several shards: the answers stand in the order of the commands."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(5, SKUS[0]), receive(6, SKUS[1]))
        commands: list[Command] = [GetStock(SKUS[n]) for n in (0, 1, 1, 0, 0)]
        answered = host.send(*commands)
        await eventually(lambda: bool(answered))

        views = [answer.body for answer in answered[0].answers]
        skus = [view.sku for view in views if isinstance(view, StockView)]
        assert [SKUS[n] for n in (0, 1, 1, 0, 0)] == skus
        assert {0, 1} == {head.shard for head in answered[0].heads}
        assert 2 == len(answered[0].heads)


@timeless
async def test_a_frame_may_say_its_shard(trial: Trial) -> None:
    """Then nobody looks at its SKUs any more, but a wrong shard knows better."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(5, SKUS[0]), receive(6, SKUS[1]))
        there: list[Command] = [Reserve(f"a{n}", [LineRequest(SKUS[0], 1)]) for n in range(3)]
        assert [Status.OK] * 3 == await host.statuses(*there, dedicated=0)
        wrong: list[Command] = [Reserve(f"b{n}", [LineRequest(SKUS[1], 1)]) for n in range(2)]
        assert [Status.LINES_SPAN_SHARDS] * 2 == await host.statuses(*wrong, dedicated=0)
        mixed = [GetReservation("a1"), wrong[0], Commit("a2", 0)]
        assert [Status.OK, Status.OK, Status.OK] == await host.statuses(*mixed, dedicated=1)
        assert [Status.MOVED] * 2 == await host.statuses(*wrong, dedicated=7)


@pytest.mark.parametrize(
    ("limit", "value", "batches"),
    [
        ("BATCH_COMMANDS_MAX", 10, [10, 10, 10]),
        ("BATCH_BYTES_MAX", 100, [6, 6, 6, 6, 6]),
        ("BATCH_COMMANDS_MAX", 100, [30]),
    ],
)
def test_long_requests_are_split(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, batches: list[int]
) -> None:
    """A batch takes what it has room for, and every command of a request is decided, in order."""

    @timeless
    async def run() -> None:
        async with tenure(trial, 0) as host:
            host.journal.freeze()
            host.send(receive(1, SKUS[0]))
            await asyncio.sleep(0.1)
            monkeypatch.setattr(limits, limit, value)
            requests = [host.send(*[receive(1, SKUS[0]) for _ in range(15)]) for _ in range(2)]
            host.journal.thaw()
            await eventually(lambda: all(requests))

            views = [answer.body for each in requests for answer in each[0].answers]
            versions = [view.version for view in views if isinstance(view, MovementView)]
            assert list(range(2, 32)) == versions
            assert batches == [len(record.events) for record in trial.store.records()[4:]]

    run()


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


@timeless
async def test_the_map_is_told_and_successors_are_named(trial: Trial) -> None:
    """Who asks hears of the map as soon as the host does; who comes to the wrong host hears who is
    the right one, unless that one is of an earlier epoch."""
    async with tenure(trial, 0) as host:
        told = host.send(GetMap(), deadline_ms=2_000)
        there = (9, "unix:/there")
        host.host.board.post(4, {0: (1, "unix:/here"), 1: there})
        [answer] = told[0].answers
        assert isinstance(answer.body, MapView)
        routes = [RouteView(0, 1, "unix:/here"), RouteView(1, *there)]
        assert (4, 2, routes) == (answer.body.version, answer.body.shards, answer.body.routes)

        successor = Answer(Status.MOVED, MovedTo(1, *there))
        assert [successor] == await host.ask(GetStock(SKUS[1]))
        again = host.send(GetMap(answer.body.run, 4), deadline_ms=2_000)
        await asyncio.sleep(1)
        assert [] == again
        await asyncio.sleep(2)
        nothing_new = MapView(answer.body.run, 4, 2, [])
        assert [Answer(Status.OK, nothing_new)] == again[0].answers


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

    def delay(name: str) -> None:
        if name == "append":
            journal.fault_last(BUSY)

    journal.before = delay
    host.host.assign(1, None)
    await asyncio.sleep(1)
    assert {1: 0} == host.host.status().recovering
    assert [Status.NOT_DONE] == await host.statuses(Commit("there"))
    journal.before = lambda name: None
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
        assert 0.8 == await host.sample("onhand_journal_memory_ratio", server="0")
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
