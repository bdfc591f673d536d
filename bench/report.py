"""The result of a run: one document for programs, the same in tables for people."""

from collections.abc import Sequence

import msgspec
from hdrh.histogram import HdrHistogram
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.audit import AuditReport
from bench.environment import Environment
from bench.latencies import PERCENTILES, merge
from bench.plan import NO_ANSWER, OPERATIONS, Result
from engine.messages import Status

SCHEMA_VERSION = 1
METRICS_SHOWN = 24


class Spectrum(msgspec.Struct):
    """Latencies in milliseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    histogram: str
    """HdrHistogram of microseconds, encoded (V2, compressed), so that runs can be added up."""


class Operation(msgspec.Struct):
    """What came of one kind of operation. `outcomes` are of those begun in the measured time."""

    name: str
    answered: int
    per_second: float
    outcomes: dict[str, int]
    latency: Spectrum
    """From the moment at which the request ought to have been sent."""
    service: Spectrum
    """From the moment at which it was sent."""


class Load(msgspec.Struct):
    """What was asked of the generator, and how well it did."""

    scenario: str
    distribution: str
    skus: int
    units: int
    via: str
    arrivals: str
    rate: float
    """Requests a second that were planned; 0 in a closed loop, which only sends after an answer."""
    connections: int
    in_flight: int
    frame: int
    processes: int
    warm_up_seconds: float
    duration_seconds: float
    seed: int
    lateness: Spectrum
    """How long after its time a request was sent, though it could have been."""
    held_back: int
    unanswered: int
    reconnects: int


class Report(msgspec.Struct):
    """A whole run."""

    schema: int
    started_at: str
    measured_seconds: float
    environment: Environment
    load: Load
    operations: list[Operation]
    cpu_seconds_per_1000: dict[str, float]
    """CPU that each role spent per 1,000 answered operations."""
    machine_busy: float
    """Share of the machine's cores that was in use, by whomever."""
    metrics: dict[str, float]
    """By how much the engine's own counters grew from before the run to after it."""
    audit: AuditReport | None
    """None only against the target that does nothing."""


def spectrum(histogram: HdrHistogram) -> Spectrum:
    values = [histogram.get_value_at_percentile(percentile) / 1_000 for percentile in PERCENTILES]
    p50, p90, p99, p999 = values
    return Spectrum(
        histogram.get_total_count(),
        round(histogram.get_mean_value() / 1_000, 3),
        p50,
        p90,
        p99,
        p999,
        histogram.get_max_value() / 1_000,
        str(histogram.encode(), "ascii"),
    )


def operations(results: Sequence[Result]) -> list[Operation]:
    """Of all generator processes together; kinds that never occurred are left out."""
    made = []
    seconds = max(result.measured_ns for result in results) / 1e9
    for number, name in enumerate(OPERATIONS):
        answered = sum(result.answered[number] for result in results)
        outcomes: dict[str, int] = {}
        for result in results:
            for status, count in result.outcomes[number].items():
                label = "no_answer" if status == NO_ANSWER else Status(status).name.lower()
                outcomes[label] = outcomes.get(label, 0) + count
        if answered or outcomes:
            latency = spectrum(merge(result.latencies[number].intended for result in results))
            service = spectrum(merge(result.latencies[number].service for result in results))
            rate = answered / seconds
            made.append(Operation(name, answered, rate, outcomes, latency, service))
    return made


# --- for people ------------------------------------------------------------------------------


def render(report: Report) -> RenderableType:
    """Everything that fits a terminal."""
    parts: list[RenderableType] = [_environment(report), _load(report), _operations(report)]
    parts += [_outcomes(report), _cpu(report)]
    if report.metrics:
        parts += [_metrics(report)]
    parts += [_audit(report.audit)] if report.audit else []
    return Group(*parts)


def _grid(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _environment(report: Report) -> Table:
    here = report.environment
    versions = ", ".join(f"{name} {value}" for name, value in here.versions.items() if value)
    engine = ", ".join(f"{name} {value}" for name, value in here.engine.items())
    return _grid(
        "Environment",
        [
            ("machine", f"{here.cpu}, {here.cores} cores, {here.memory_gib} GiB, {here.kernel}"),
            ("software", f"Python {here.python}, {versions}"),
            ("commit", here.commit or "unknown"),
            ("engine", engine or "unknown"),
            ("started", report.started_at),
        ],
    )


def _load(report: Report) -> Table:
    load = report.load
    if load.arrivals == "closed":
        model = f"closed loop, {load.in_flight} requests in flight (omits what it did not send)"
    else:
        model = f"open loop, {load.rate:,.0f} requests/s planned, {load.arrivals} arrivals"
    late = f"p50 {load.lateness.p50:.2f} ms, p99 {load.lateness.p99:.2f} ms"
    rows = [
        ("scenario", f"{load.scenario}, {load.distribution} over {load.skus:,} SKUs"),
        ("target", f"{load.via}, {load.connections} connections, frames of {load.frame}"),
        ("model", model),
        ("generator", f"{load.processes} processes; {load.unanswered} requests unanswered"),
    ]
    if load.arrivals != "closed":
        rows.append(("sent late", f"{late}; {load.held_back} held back: too many in flight"))
    return _grid("Load", rows)


def _operations(report: Report) -> Table:
    title = f"Operations in {report.measured_seconds:.1f} s; latencies in ms"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for name in ("operation", "per second", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="left" if name == "operation" else "right", no_wrap=True)
    for each in report.operations:
        found = each.latency
        values = (found.p50, found.p90, found.p99, found.p999, found.max)
        rate = f"{each.per_second:,.0f}"
        table.add_row(each.name, rate, *(f"{value:.2f}" for value in values))
    return table


def _outcomes(report: Report) -> Table:
    return _grid(
        "Outcomes",
        [
            (each.name, ", ".join(f"{name} {count:,}" for name, count in each.outcomes.items()))
            for each in report.operations
        ],
    )


def _cpu(report: Report) -> Table:
    rows = [(role, f"{value:.4f}") for role, value in report.cpu_seconds_per_1000.items()]
    rows.append(("machine", f"{report.machine_busy:.0%} of its cores busy"))
    return _grid("CPU seconds per 1,000 operations", rows)


def _metrics(report: Report) -> Table:
    largest = sorted(report.metrics.items(), key=lambda item: -item[1])[:METRICS_SHOWN]
    return _grid(
        "The engine's counters grew by", [(name, f"{value:,.3f}") for name, value in largest]
    )


def _audit(audit: AuditReport) -> Table:
    told, held = audit.told, audit.held
    rows = [
        ("result", "passed" if audit.passed else f"FAILED: {audit.findings_count} findings"),
        ("buyers were told", f"{told.reserved:,} units reserved, {told.allocated:,} allocated"),
        ("engine holds", f"{held.reserved:,} units reserved, {held.allocated:,} allocated"),
        ("unknown", f"{audit.unknown:,} reservations"),
        ("drift", f"{audit.drift:,} units"),
        ("read back", f"{audit.sample:,} reservations"),
    ]
    rows += [("finding", finding) for finding in audit.findings]
    return _grid("Audit", rows)
