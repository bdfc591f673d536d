"""Whole runs: generator processes, the binary protocol, real shards, the audit."""

import asyncio
from typing import Self

import msgspec
import pytest

from bench.caller import Caller, CallerError
from bench.ceiling import echo
from bench.options import BenchError, Options, Target
from bench.report import Report
from bench.run import run, share
from bench.screen import Moment
from engine.messages import (
    Answer,
    Audit,
    Command,
    Commit,
    GetStock,
    Release,
    Request,
    Reserve,
    Status,
)
from tests.bench.shelf import Shelf, serve

SHORT = {"warm_up": 0.0, "duration": 0.4, "drain": 1.0, "skus": 50}


async def measure(shelf: Shelf, **options: object) -> Report:
    async with serve(shelf) as target:
        wanted = msgspec.convert({**SHORT, **options}, Options)
        return await run(wanted, target, Nobody())


class Nobody:
    """Is watching."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, moment: Moment) -> None:
        return None

    def say(self, step: str) -> None:
        return None


def outcomes(report: Report) -> dict[str, set[str]]:
    return {each.name: set(each.outcomes) for each in report.operations}


@pytest.mark.parametrize("via", ["gateway", "host"])
@pytest.mark.parametrize("frame", [1, 16])
async def test_a_run_ends_with_an_audit_that_passes(via: str, frame: int) -> None:
    """Reserves over every path are counted, measured, and found again to the unit."""
    report = await measure(Shelf(4), via=via, frame=frame, operations=4_000)

    assert report.audit is not None
    assert [] == report.audit.findings
    assert report.audit.passed
    assert {"reserve": {"ok"}} == outcomes(report)
    assert 0 == report.audit.unknown
    assert report.audit.told == report.audit.held
    assert 0 < report.audit.held.reserved <= 4_000
    (reserve,) = report.operations
    assert 0 < reserve.latency.p50 <= reserve.latency.p99 <= reserve.latency.max
    assert reserve.latency.count == reserve.outcomes["ok"]


@pytest.mark.parametrize("via", ["gateway", "host"])
async def test_dedicated_shards_are_audited_too(via: str) -> None:
    """No SKU of a run is in one, but what is wrong with it is the engine's fault all the same."""
    shelf = Shelf(2, dedicated=1)
    shelf.lie = lambda command, answer: (
        Answer(Status.NOT_DONE) if command == Audit(2, quick=True) else answer
    )

    report = await measure(shelf, via=via, operations=500)

    assert {"reserve": {"ok"}} == outcomes(report)
    assert report.audit is not None
    assert ["shard 2 could not be audited: not_done"] == report.audit.findings


async def test_a_checkout_commits_releases_and_lets_expire() -> None:
    """All four fates occur, and the audit waits for what is left to expire."""
    report = await measure(Shelf(4), scenario="checkout", frame=16, operations=6_000, processes=2)

    assert report.audit is not None
    assert [] == report.audit.findings
    assert {"reserve": {"ok"}, "commit": {"ok"}, "release": {"ok"}} == outcomes(report)
    assert 0 == report.audit.held.reserved
    assert report.audit.told.allocated == report.audit.held.allocated > 0


async def test_a_sold_out_sku_is_refused_and_never_oversold() -> None:
    """Of one hot SKU exactly the units that there are get sold."""
    report = await measure(Shelf(2), distribution="hot", units=100, operations=2_000)

    assert report.audit is not None
    assert [] == report.audit.findings
    assert 100 == report.audit.held.reserved
    (reserve,) = report.operations
    assert "insufficient_stock" in reserve.outcomes


@pytest.mark.parametrize("poisson", [False, True])
async def test_an_open_loop_keeps_its_rate(poisson: bool) -> None:
    """What is planned is sent, and how late it was sent is reported."""
    report = await measure(Shelf(2), rate=500.0, poisson=poisson, warm_up=0.2, duration=1.0)

    (reserve,) = report.operations
    assert 500 == pytest.approx(reserve.outcomes["ok"], rel=0.2)
    assert report.load.lateness.count > 0
    assert report.audit is not None
    assert report.audit.passed


async def test_answers_that_never_come_widen_the_bounds_and_no_more() -> None:
    """Unanswered requests are counted, and what they may have done is accepted."""
    shelf = Shelf(2)
    shelf.forget = lambda request: (
        isinstance(request.commands[0], Reserve) and (request.request_id % 100 == 7)
    )

    report = await measure(shelf, in_flight=32, operations=500)

    assert report.audit is not None
    assert [] == report.audit.findings
    assert report.load.unanswered == report.audit.unknown == 5
    assert report.audit.told.reserved + 5 == report.audit.held.reserved


def lie_about(kind: type[Command], status: Status) -> Shelf:
    """A shelf that answers every 50th command of this kind falsely."""
    shelf = Shelf(2)
    seen = 0

    def lie(command: Command, answer: Answer) -> Answer:
        nonlocal seen
        seen += isinstance(command, kind)
        return Answer(status) if isinstance(command, kind) and seen % 50 == 0 else answer

    shelf.lie = lie
    return shelf


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Reserve, Status.INSUFFICIENT_STOCK),
        (Commit, Status.ILLEGAL_TRANSITION),
        (Release, Status.NOT_DONE),
    ],
)
async def test_an_engine_that_lies_to_buyers_fails(kind: type[Command], status: Status) -> None:
    """Refused to the buyer, done all the same: the audit counts it and says where."""
    report = await measure(lie_about(kind, status), scenario="order", frame=8, operations=2_000)

    assert report.audit is not None
    assert not report.audit.passed
    assert any("the buyers were told" in finding for finding in report.audit.findings)


async def test_an_engine_that_loses_a_reservation_fails() -> None:
    """Acknowledged and then gone: one unit of one SKU is enough."""
    shelf = Shelf(2)
    lost: list[str] = []

    def lose_one(command: Command, answer: Answer) -> Answer:
        if isinstance(command, Reserve) and not lost:
            lost.append(command.reservation_id)
            home = next(shard.number for shard in shelf.shards if shard.knows(lost[0], None))
            shelf.execute(Release(lost[0], home))
        return answer

    shelf.lie = lose_one

    report = await measure(shelf, operations=500)

    assert report.audit is not None
    assert not report.audit.passed
    (finding, *rest) = report.audit.findings
    assert "the buyers were told" in finding
    assert all(lost[0] in each for each in rest)


async def test_a_lost_connection_is_opened_again() -> None:
    """What was under way when a connection ended is unknown; the run goes on over a new one."""
    shelf = Shelf(2)
    seen = 0

    def cut_off(request: Request) -> bool:
        nonlocal seen
        seen += isinstance(request.commands[0], Reserve)
        if seen == 200:
            shelf.disconnect()
        return False

    shelf.forget = cut_off

    report = await measure(shelf, operations=500, connections=2)

    assert report.audit is not None
    assert [] == report.audit.findings
    assert 2 == report.load.reconnects
    assert 500 == report.audit.told.reserved + report.audit.unknown
    assert report.load.unanswered == report.audit.unknown > 0


async def test_shards_that_move_are_followed() -> None:
    """Whoever goes to the hosts themselves is sent away by the former owner for a moment, goes to
    the new one with that very request, and is told once what came of it."""
    shelf = Shelf(2)
    async with serve(shelf) as target, serve(shelf) as other:
        shelf.give(target.binary)
        asyncio.get_running_loop().call_later(0.5, shelf.give, target.binary, other.binary)
        wanted = {**SHORT, "via": "host", "duration": 2.0, "rate": 400.0}
        report = await run(msgspec.convert(wanted, Options), target, Nobody())

    assert report.audit is not None
    assert [] == report.audit.findings
    (reserve,) = report.operations
    assert {"ok"} == set(reserve.outcomes)
    assert shelf.taken[other.binary] > 50


async def test_the_generator_is_measured_alone() -> None:
    """Against the target that does nothing there is a rate, and no audit."""
    for via in ("gateway", "http"):
        async with echo() as target:
            report = await run(
                msgspec.convert({**SHORT, "via": via, "scenario": "checkout"}, Options),
                target,
                Nobody(),
            )

        assert report.audit is None
        assert {"reserve": {"ok"}, "commit": {"ok"}, "release": {"ok"}} == outcomes(report)
        assert {"generator", "echo"} == set(report.cpu_seconds_per_1000)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scenario": "siege"}, "no scenario 'siege'; there is reserve, order, checkout"),
        ({"skus": 0}, "--skus must be above 0"),
        ({"frame": 5_000}, "--frame must be 1 to 4096"),
        ({"via": "http", "frame": 2}, "--frame needs the binary protocol"),
        ({"poisson": True}, "--poisson needs a --rate"),
        ({"duration": 0.0}, "--duration and --processes must be above 0"),
    ],
)
def test_what_cannot_be_run_is_refused(options: dict[str, object], reason: str) -> None:
    """In one line, before anything is started."""
    with pytest.raises(BenchError, match=reason):
        msgspec.convert(options, Options).check()


async def test_nobody_there_is_one_clear_line() -> None:
    """A target that does not answer ends the run before it begins."""
    target = Target(url="http://127.0.0.1:1", binary="tcp:127.0.0.1:1")

    with pytest.raises(CallerError, match="does not answer"):
        async with Caller(target.binary, None, connect_seconds=0.1):
            pass


async def test_the_caller_asks_about_many_things() -> None:
    """More commands than fit a frame get one answer each, in order."""
    async with serve(Shelf(2)) as target, Caller(target.binary, None) as caller:
        answers = await caller.ask([GetStock(f"sku-{number}") for number in range(1_300)])

    assert [Status.UNKNOWN_SKU] * 1_300 == [answer.status for answer in answers]


def test_shares_add_up() -> None:
    """What is dealt out to the processes is what there was."""
    assert [4, 3, 3] == [share(10, 3, number) for number in range(3)]
