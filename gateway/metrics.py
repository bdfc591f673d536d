"""Metrics: plain integers while serving, Prometheus only when somebody scrapes.

Counting a request costs two dictionary updates and a bisection; nothing is formatted, locked or
summed until `render` is called, with what hosts and other gateways count as well. Names start with
`onhand_`, units are base units, totals end in `_total`; no label holds a SKU, an id or anything
else that a caller can invent, so the number of series is bounded.

| of a gateway | what |
|---|---|
| `onhand_http_requests_total{operation,code}` | answered requests |
| `onhand_http_request_duration_seconds{operation}` | from a request's last byte to its answer |
| `onhand_http_requests_in_flight` | requests that wait for their answer |
| `onhand_http_connections` | open connections |
| `onhand_http_connections_refused_total` | connections beyond the limit |
| `onhand_http_malformed_total` | requests that were not HTTP, too large or too slow |
| `onhand_import_rows_total{outcome}` | imported rows: applied, replayed, failed |
| `onhand_router_answers_total{status}` | answers of hosts, or for want of them of the router |
| `onhand_router_in_flight` `_waiting` | commands without answer; of those, not yet sent |
| `onhand_router_links` `_links_up` `_map_version` `_homes_remembered` | as they are now |
| `onhand_router_frames_total` `_commands_sent_total` `_resends_total` | what went to hosts |
| `onhand_router_searches_total` `_shed_total` | lookups of a home; commands refused for load |
| `onhand_map_shards{state}` | as the newest map says: served, waiting for an owner, stopped |
| `onhand_map_shards_near` | that a host beside the owner could take over in a moment |
| `onhand_map_shards_hot{state}` | most of what a busy host does; others are beside it, or none |
| `onhand_map_members{kind,state}` | hosts and gateways that are alive, or silent |
| `onhand_map_hosts{node}` | hosts that are alive, by machine |
| `onhand_members_wanted{kind}` `onhand_machines_wanted` | what was asked for (`gateway.roster`) |
| `onhand_backup_age_seconds` | since the newest backup, or the first start (`actors.last_backup`) |
| `onhand_map_alarms` | shards in which the newest audit has found something |
| `onhand_map_moves_given_up_total` | moves of shards that the coordinator has given up |
| `onhand_map_heard_seconds` | since the coordinator, which speaks every second, was last heard |
| `onhand_scrape_hosts_silent` | hosts whose counters could not be had for this scrape |
| `onhand_scrape_gateways_silent` | the same of other gateways |

All of that is labelled `gateway`: several gateways share a port, a scrape reaches one of them, and
that one asks the others (`gateway.siblings`), so that all of them are on every page, whichever has
answered. What a host samples (`actors.statistics`) appears
under the names it has there, labelled `host`, and what it says of the journal's servers
(`onhand_journal_*`) also by the number of the `server`; what any process does (`actors.usage`: its
CPU time, memory, start time, disk, binary protocol) and is (`actors.edition`: its version, its
formats) under the one label or the other.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from actors.control import Kind, Map
from engine.messages import Histogram, Sample, Statistics, Status
from gateway.router import RouterStatistics

PREFIX: Final = "onhand_"
BOUNDS_SECONDS: Final = (
    *(0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016),
    *(0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_BUG: Final = 500
_NOW: Final = {"in_flight", "waiting", "links", "links_up", "map_version", "homes_remembered"}
"""Of a router's statistics, those that do not only grow."""
HELP: Final = {
    "http_requests": "Answered requests.",
    "http_request_duration_seconds": "From a request's last byte to its answer.",
    "http_requests_in_flight": "Requests that wait for their answer.",
    "http_connections": "Open connections.",
    "http_connections_refused": "Connections beyond the limit.",
    "http_malformed": "Requests that were not HTTP, too large or too slow.",
    "import_rows": "Imported rows.",
    "router_answers": "Answers of hosts, or for want of them of the router.",
    "router_in_flight": "Commands without an answer.",
    "router_waiting": "Commands that have not been sent yet.",
    "router_links": "Hosts that own a shard, to which there ought to be a link.",
    "router_links_up": "Links to hosts that are up.",
    "router_map_version": "Version of the map of shards.",
    "router_frames": "Frames sent to hosts.",
    "router_commands_sent": "Commands sent to hosts, repetitions included.",
    "router_resends": "Commands sent again.",
    "router_searches": "Reservations whose home had to be looked for.",
    "router_shed": "Commands refused for load.",
    "router_homes_remembered": "Homes of reservations that are remembered.",
    "journal_up": "1 if this host can ask that server of the journal.",
    "map_shards": "Shards by what the newest map says of them.",
    "map_members": "Processes of the engine by what the newest map says of them.",
    "map_hosts": "Hosts that are alive, by machine.",
    "members_wanted": "Processes that were asked for.",
    "machines_wanted": "Machines that were to be waited for.",
    "backup_age_seconds": "Since the newest backup was begun, or, without any, the installation.",
    "build_info": "The version of the program.",
    "format_info": "Formats that the program writes, and up to which it reads.",
    "map_shards_near": "Shards that a host beside their owner could take over in a moment.",
    "map_shards_hot": "Shards that take most of what their hosts can do.",
    "map_alarms": "Shards in which the newest audit has found something.",
    "map_moves_given_up": "Moves of shards that the coordinator has given up.",
    "map_heard_seconds": "Since the coordinator, which speaks every second, was last heard.",
    "process_cpu_seconds": "CPU time that the process has used.",
    "process_resident_bytes": "Memory that the process has.",
    "process_start_time_seconds": "When the program of the process began, since 1970.",
    "disk_free_bytes": "Free on the disk of the data, or of the archive if it has its own.",
    "disk_bytes": "Size of that disk.",
    "binary_connections": "Open connections of the binary protocol.",
    "binary_connections_refused": "Connections beyond the limit, or without a valid key.",
    "binary_commands": "Commands that came over them.",
    "binary_received_bytes": "Bytes that came over them.",
    "binary_sent_bytes": "Bytes that left over them.",
    "binary_protocol_errors": "Connections ended for what they sent.",
    "binary_handler_errors": "Requests that ended in a bug.",
    "binary_stalled": "Connections ended because the peer did not keep up.",
    "journal_silence_seconds": "Since the journal last proved the shard it proved longest ago.",
    "marks_failed": "Failed tries to write the marks.",
    "clock_error_seconds": "How far the wall clock is ahead of a shard's, of the worst shard.",
    "recovery_seconds": "From the claim of a shard to its first batch.",
    "recovering_records": "Records and chunks that recoveries under way have read so far.",
    "owners_ended": "Ownerships of shards that have ended, by how.",
    "archive_lag_seconds": "For how long journal that may be trimmed has waited to be archived.",
    "unsnapshotted_events": "Events since the newest snapshots, which a recovery would replay.",
    "unsnapshotted_bytes": "Bytes of the journal that they are in.",
    "queue_ratio": "Fill of the longest queue of a shard.",
    "remembered_ratio": "Fill of what a shard may remember, of the fullest one.",
    "journal_appends": "Records appended.",
    "journal_appended_bytes": "Bytes of those records.",
    "journal_barriers": "Reads that proved ownership instead of an append.",
    "journal_append_seconds": "From sending a record to its acknowledgement.",
    "journal_memory_ratio": "Used part of the memory that Redis may use.",
    "journal_retries": "Operations of the journal that were tried again.",
    "journal_resent": "Records sent again after Redis went back in time.",
    "batch_events": "Events of one batch.",
    "commands": "Commands that were answered.",
    "queued_commands": "Commands that wait for a batch.",
    "in_flight_commands": "Commands whose batch is being journaled.",
    "skus": "SKUs that have stock.",
    "shortfalls": "Locations where more is promised than there is.",
    "remembered": "Reservations and keys of movements that are remembered.",
    "shards": "Shards by phase.",
    "reservations": "Reservations by state.",
    "snapshots": "Snapshots taken.",
    "archive_errors": "Failed tries to archive what is to be trimmed, which stays till it is.",
    "archive_segments": "Segments of the journal that were archived.",
    "archive_bytes": "Bytes of the records in them.",
    "archive_snapshots": "Snapshots that were archived.",
    "history_questions": "Questions about the past, by what came of them.",
    "history_records": "Records that were replayed to answer them.",
    "audits": "Audits that replayed the journal, or should have.",
    "drift": "Disagreements that the newest audit of the shard has found.",
    "journal_damage": "Of those, places where what is stored does not prove itself.",
    "audit_complete": "1 if the newest audit of the shard has replayed all that its journal has.",
    "audit_age_seconds": "Since the newest audit of the shard.",
    "audit_seconds": "What the newest audit of the shard took.",
    "audit_records": "Records that the newest audit of the shard has replayed.",
    "scrape_hosts_silent": "Hosts whose counters could not be had for this scrape.",
    "scrape_gateways_silent": "Other gateways whose counters could not be had for this scrape.",
}


class Others(NamedTuple):
    """What the hosts, and the other gateways, told for one scrape, each under its name."""

    hosts: list[tuple[str, Statistics]]
    hosts_silent: int = 0
    """How many did not answer in time."""
    gateways: Sequence[tuple[str, Statistics]] = ()
    gateways_silent: int = 0


class OperationCounters:
    """Of one operation: answers by HTTP status, and how long they took."""

    __slots__ = ("codes", "counts", "seconds")

    def __init__(self) -> None:
        self.codes = {_BUG: 0}  # from 0 on: of a total that begins with 1, no increase has that one
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.seconds = 0.0

    def observe(self, code: int, seconds: float) -> None:
        """Count one answer."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.seconds += seconds


class EdgeCounters:
    """What the HTTP side of one gateway counts."""

    def __init__(self, operations: Iterable[str]) -> None:
        self.operations = {name: OperationCounters() for name in operations}
        self.in_flight = 0
        self.connections = 0
        self.connections_refused = 0
        self.malformed = 0
        self.rows = {"applied": 0, "replayed": 0, "failed": 0}

    def samples(self) -> list[Sample]:
        """All of it, as it stands."""
        found = [
            Sample("onhand_http_requests_in_flight", [], self.in_flight),
            Sample("onhand_http_connections", [], self.connections),
            Sample("onhand_http_connections_refused_total", [], self.connections_refused),
            Sample("onhand_http_malformed_total", [], self.malformed),
        ]
        for outcome, rows in self.rows.items():
            found.append(Sample("onhand_import_rows_total", [("outcome", outcome)], rows))
        for name, counters in self.operations.items():
            labels = [("operation", name)]
            for code, count in sorted(counters.codes.items()):
                found.append(
                    Sample("onhand_http_requests_total", [*labels, ("code", str(code))], count)
                )
            if any(counters.counts):
                latency = Histogram([*BOUNDS_SECONDS], [*counters.counts], counters.seconds)
                found.append(Sample("onhand_http_request_duration_seconds", labels, latency))
        return found


def render(
    accept: str,
    gateway: str,
    own: Iterable[Sample],
    router: RouterStatistics,
    others: Others,
) -> tuple[bytes, str]:
    """The page, and its media type as `accept` prefers it; `own`: samples of this gateway."""
    silent = [
        Sample("onhand_scrape_hosts_silent", [], others.hosts_silent),
        Sample("onhand_scrape_gateways_silent", [], others.gateways_silent),
    ]
    samples = [*_labelled(("gateway", gateway), [*own, *silent, *router_samples(router)])]
    for name, statistics in others.gateways:
        samples += _labelled(("gateway", name), statistics.samples)
    for host, statistics in others.hosts:
        samples += _labelled(("host", host), statistics.samples)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(samples))
    encode, media = choose_encoder(accept)
    return encode(registry), media


def _labelled(label: tuple[str, str], samples: Iterable[Sample]) -> Iterator[Sample]:
    for sample in samples:
        yield Sample(sample.name, [label, *sample.labels], sample.value)


def map_samples(map_: Map, heard_seconds: float) -> list[Sample]:
    """What the coordinator's newest map says: the same at every gateway, but for its age; and since
    when the coordinator has said nothing at all."""
    served, stopped = len(map_.routes), len(map_.failures.keys() - {r.shard for r in map_.routes})
    near = {shard for each in map_.members if each.alive for shard in each.near}
    shards = {"served": served, "waiting": map_.shards - served - stopped, "stopped": stopped}
    return [
        *(
            Sample("onhand_map_shards", [("state", state)], count)
            for state, count in shards.items()
        ),
        *(
            Sample(
                "onhand_map_members",
                [("kind", kind.name.lower()), ("state", state)],
                sum(each.kind is kind and each.alive is alive for each in map_.members),
            )
            for kind in Kind
            for state, alive in (("alive", True), ("silent", False))
        ),
        Sample("onhand_map_shards_near", [], len(near)),
        *(
            Sample(
                "onhand_map_shards_hot",
                [("state", state)],
                sum(each.is_alone is alone for each in map_.hot),
            )
            for state, alone in (("alone", True), ("beside_others", False))
        ),
        Sample("onhand_map_alarms", [], len(map_.alarms)),
        Sample("onhand_map_moves_given_up_total", [], map_.moves_given_up),
        Sample("onhand_map_heard_seconds", [], heard_seconds),
    ]


def router_samples(statistics: RouterStatistics) -> Iterator[Sample]:
    """What the router of one gateway counts."""
    for name, value in statistics._asdict().items():
        if name == "answers":
            for status in Status:  # from 0 on: of a total that begins with 7, no rate has those 7
                labels = [("status", status.name.lower())]
                count = statistics.answers.get(status, 0)
                yield Sample("onhand_router_answers_total", labels, count)
        else:
            yield Sample(f"onhand_router_{name}{'' if name in _NOW else '_total'}", [], value)


class _Scrape(Collector):
    """One scrape: samples as Prometheus families."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for sample in self._samples:
            name = sample.name.removeprefix(PREFIX).removesuffix("_total")
            family = families.get(name)
            if family is None:
                family = families[name] = _family(name, sample)
            _add(family, sample)
        yield from families.values()


def _family(name: str, sample: Sample) -> Metric:
    text = HELP.get(name, f"{name.replace('_', ' ').capitalize()}.")
    kind = "counter" if sample.name.endswith("_total") else "gauge"
    if isinstance(sample.value, Histogram):
        kind = "histogram"
    return Metric(PREFIX + name, text, kind)


def _add(family: Metric, sample: Sample) -> None:
    labels, reading = dict(sample.labels), sample.value
    if not isinstance(reading, Histogram):
        suffix = "_total" if family.type == "counter" else ""
        family.add_sample(family.name + suffix, labels, reading)
        return
    total = 0
    for bound, count in zip([*reading.bounds, inf], reading.counts, strict=True):
        total += count
        le = "+Inf" if bound == inf else repr(bound)
        family.add_sample(f"{family.name}_bucket", labels | {"le": le}, total)
    family.add_sample(f"{family.name}_count", labels, total)
    family.add_sample(f"{family.name}_sum", labels, reading.total)
