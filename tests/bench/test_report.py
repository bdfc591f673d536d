"""What people see: the tables at the end, and each second while a run lasts."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench.audit import AuditReport, Totals
from bench.environment import commit, environment
from bench.latencies import fold, merge
from bench.plan import NO_ANSWER, Latencies, Progress, Result
from bench.report import Load, Report, operations, render, spectrum
from bench.screen import LineScreen, LiveScreen, Moment, screen, sparkline
from engine.messages import Status

NOTHING = fold([], [])


def result(answered: int, outcomes: dict[int, int], latency_ms: int) -> Result:
    """Of one process that only reserved, for a second."""
    latencies = fold([latency_ms * 1_000_000] * answered, [1] * answered)
    none = Latencies(NOTHING, NOTHING)
    return Result(
        outcomes=[outcomes, {}, {}],
        answered=[answered, 0, 0],
        measured_ns=1_000_000_000,
        latencies=[Latencies(latencies, latencies), none, none],
        lateness=NOTHING,
        held_back=0,
        unanswered=0,
        reconnects=0,
        cpu_ns=0,
        groups=[],
        sample=[],
    )


RESULTS = [
    result(90, {Status.OK: 80, Status.INSUFFICIENT_STOCK: 10}, latency_ms=1),
    result(10, {Status.OK: 9, NO_ANSWER: 1}, latency_ms=50),
]


def report(audit: AuditReport | None) -> Report:
    load = Load(
        *("reserve", "uniform", 10, 100, "gateway", "poisson", 100.0),
        *(8, 128, 1, 2, 1.0, 1.0, 1),
        spectrum(merge([NOTHING])),
        *(0, 1, 0),
    )
    return Report(
        schema=1,
        started_at="2030-01-01T00:00:00+00:00",
        measured_seconds=1.0,
        environment=environment({"fsync": "always"}),
        load=load,
        operations=operations(RESULTS),
        cpu_seconds_per_1000={"hosts": 0.0125},
        machine_busy=0.5,
        metrics={"onhand_commands_total": 100.0},
        audit=audit,
    )


def test_processes_are_added_up() -> None:
    """Rates, outcomes by name, and percentiles over both; what never occurred is left out."""
    (reserve,) = operations(RESULTS)

    assert ("reserve", 100, 100.0) == (reserve.name, reserve.answered, reserve.per_second)
    assert {"ok": 89, "insufficient_stock": 10, "no_answer": 1} == reserve.outcomes
    assert 1.0 == pytest.approx(reserve.latency.p50, rel=0.001)
    assert 50.0 == pytest.approx(reserve.latency.p99, rel=0.001)


def test_the_report_fits_a_terminal() -> None:
    """Everything that matters is on a screen of 80 columns, failed audits above all."""
    audit = AuditReport(False, ["a: 1 unit too many"], 1, 0, Totals(9, 2, 3), 0, Totals(9, 3, 3), 7)
    console = Console(file=io.StringIO(), width=80)

    console.print(render(report(audit)))

    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert 80 >= max(len(line) for line in shown.splitlines())
    for part in ("reserve", "50.", "ok 89", "no_answer 1", "0.0125", "fsync always", "poisson"):
        assert part in shown
    assert "FAILED: 1 findings" in shown
    assert "a: 1 unit too many" in shown


def test_the_report_is_read_back() -> None:
    """The JSON document holds all of it."""
    whole = report(None)

    assert whole == msgspec.json.decode(msgspec.json.encode(whole), type=Report)


def moment(warming_up: bool = False) -> Moment:
    return Moment(3, 10, warming_up, [Progress(100, 5, 7, [1_000, 2_000]), Progress(50, 0, 1, [9])])


def test_each_second_is_a_line() -> None:
    """Where there is no terminal; latencies once the warm-up is over."""
    console = Console(file=io.StringIO(), width=80)

    with screen(console) as shown:
        assert isinstance(shown, LineScreen)
        shown.show(moment())
        shown.show(moment(warming_up=True))
        shown.say("auditing")

    assert isinstance(console.file, io.StringIO)
    first, second, third = console.file.getvalue().splitlines()
    assert "3/10 s" in first
    assert "150/s" in first
    assert "5 refused" in first
    assert "8 in flight" in first
    assert "max 2.00 ms" in first
    assert second.endswith("warming up")
    assert "auditing" == third


def test_a_terminal_shows_it_in_place() -> None:
    """With the last minute as bars."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True)

    with screen(console) as shown:
        assert isinstance(shown, LiveScreen)
        shown.show(moment())

    assert isinstance(console.file, io.StringIO)
    assert "150/s" in console.file.getvalue()
    assert "▁▄█" == sparkline([0, 50, 100])
    assert "▁" == sparkline([0])


def test_a_directory_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    """An installed package does not know its commit, and says nothing."""
    assert "" == commit(tmp_path)
