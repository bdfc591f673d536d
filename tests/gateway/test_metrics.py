"""Metrics: counted as plain numbers, shown as Prometheus wants them, documented in one place."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.control import HotShard, Kind, Map, MemberView, Route
from engine.messages import Histogram, Sample, Statistics, Status
from gateway import metrics
from gateway.metrics import (
    BOUNDS_SECONDS,
    EdgeCounters,
    OperationCounters,
    Others,
    map_samples,
    render,
)
from gateway.router import RouterStatistics

ROUTER = RouterStatistics(1, 2, 3, 4, {Status.OK: 5, Status.MOVED: 6}, 7, 8, 9, 10, 11, 12)
NO_OTHERS = Others([])
MAP = Map(
    4,
    4,
    [Route(shard, 1, "host-1", "unix:1") for shard in (0, 1)],
    [
        MemberView(
            Kind.HOST, f"host-{number}", number, "node", f"unix:{number}", "", alive, [], near
        )
        for number, alive, near in ((1, True, [1, 3]), (2, False, [0]))
    ],
    {2: "damaged"},
    {0: "drift"},
    moves_given_up=3,
    hot=[HotShard(0, "host-1", 0.8, False), HotShard(1, "host-1", 0.2, False)],
)


def page(accept: str = "", others: Others = NO_OTHERS) -> str:
    counters = EdgeCounters(["reserve", "commit"])
    counters.operations["reserve"].observe(201, 0.003)
    counters.operations["reserve"].observe(201, 0.001)
    counters.operations["reserve"].observe(409, 99.0)
    counters.connections = 2
    own = [*counters.samples(), *map_samples(MAP, 0.5)]
    return render(accept, "gateway-1", own, ROUTER, others)[0].decode()


def readings(text: str) -> dict[str, float]:
    """By name and labels, save the gateway's, which must be on each that is not of a host."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            left = dict(sample.labels)
            assert "host" in left or "gateway-1" == left.pop("gateway")
            labels = ",".join(f"{name}={value}" for name, value in sorted(left.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_requests_are_counted_by_operation_and_status() -> None:
    """Totals, latencies, and what is the case now."""
    found = readings(page())

    assert 2 == found["onhand_http_requests_total{code=201,operation=reserve}"]
    assert 1 == found["onhand_http_requests_total{code=409,operation=reserve}"]
    assert 2 == found["onhand_http_connections{}"]
    assert 3 == found["onhand_http_request_duration_seconds_count{operation=reserve}"]
    assert (
        pytest.approx(99.004)
        == found["onhand_http_request_duration_seconds_sum{operation=reserve}"]
    )
    commits = {name: value for name, value in found.items() if "operation=commit" in name}
    assert {"onhand_http_requests_total{code=500,operation=commit}": 0} == commits


def test_buckets_are_cumulative_and_bounds_inclusive() -> None:
    """A bucket counts what took at most its bound, as Prometheus means it."""
    found = readings(page())
    prefix = "onhand_http_request_duration_seconds_bucket"

    assert 0 == found[f"{prefix}{{le=0.0005,operation=reserve}}"]
    assert 1 == found[f"{prefix}{{le=0.001,operation=reserve}}"]
    assert 2 == found[f"{prefix}{{le=0.004,operation=reserve}}"]
    assert 2 == found[f"{prefix}{{le=10.0,operation=reserve}}"]
    assert 3 == found[f"{prefix}{{le=+Inf,operation=reserve}}"]


def test_what_the_router_and_the_hosts_count_is_shown() -> None:
    """Each host under its own label; histograms too."""
    latency = Histogram([0.1, 1.0], [1, 2, 3], 7.5)
    hosts = [
        (name, Statistics([Sample("appends_total", [], 4), Sample("append_seconds", [], latency)]))
        for name in ("host-1", "host-2")
    ]
    found = readings(page(others=Others(hosts)))

    assert 5 == found["onhand_router_answers_total{status=ok}"]
    assert 9 == found["onhand_router_resends_total{}"]
    assert 1 == found["onhand_router_in_flight{}"]
    assert 4 == found["onhand_appends_total{host=host-2}"]
    assert 3 == found["onhand_append_seconds_bucket{host=host-1,le=1.0}"]
    assert 6 == found["onhand_append_seconds_count{host=host-1}"]
    assert 0 == found["onhand_scrape_hosts_silent{}"]


def test_silent_hosts_are_a_metric() -> None:
    """An alert can be raised on it, and the others are heard all the same."""
    told = [("host-1", Statistics([Sample("onhand_appends_total", [], 4)]))]
    found = readings(page(others=Others(told, 2)))

    assert 2 == found["onhand_scrape_hosts_silent{}"]
    assert 4 == found["onhand_appends_total{host=host-1}"]


def test_every_gateway_is_on_the_page_of_each() -> None:
    """Under its own name; and how many of the others were not heard."""
    told = [("gateway-2", Statistics([Sample("onhand_http_connections", [], 9)]))]
    text = page(others=Others([], 0, told, 1))

    assert 'onhand_http_connections{gateway="gateway-1"} 2.0' in text
    assert 'onhand_http_connections{gateway="gateway-2"} 9.0' in text
    assert 'onhand_scrape_gateways_silent{gateway="gateway-1"} 1.0' in text


def test_the_map_is_counted() -> None:
    """Of every shard and every process what is the case, also if it is none."""
    found = readings(page())

    assert [2, 1, 1] == [
        found[f"onhand_map_shards{{state={state}}}"] for state in ("served", "waiting", "stopped")
    ]
    assert [1, 1, 0, 0] == [
        found[f"onhand_map_members{{kind={kind},state={state}}}"]
        for kind in ("host", "gateway")
        for state in ("alive", "silent")
    ]
    assert 2 == found["onhand_map_shards_near{}"]
    assert [0, 2] == [
        found[f"onhand_map_shards_hot{{state={state}}}"] for state in ("alone", "beside_others")
    ]
    assert 1 == found["onhand_map_alarms{}"]
    assert 3 == found["onhand_map_moves_given_up_total{}"]
    assert 0.5 == found["onhand_map_heard_seconds{}"]


@pytest.mark.parametrize(
    "accept", ["", "text/plain", "application/openmetrics-text; version=1.0.0"]
)
def test_both_formats_are_served(accept: str) -> None:
    """OpenMetrics where it is asked for."""
    assert accept.startswith("application") == page(accept).endswith("# EOF\n")


def test_names_are_documented() -> None:
    """Every name of the gateway's own stands in the table at the top of the module."""
    documented = metrics.__doc__ or ""
    for name in readings(page()):
        bare = name.partition("{")[0]
        for suffix in ("_bucket", "_sum", "_count"):
            bare = bare.removesuffix(suffix)
        short = bare.removeprefix("onhand_router")
        assert bare in documented or f"`{short}`" in documented, bare


def test_names_follow_the_conventions() -> None:
    """One prefix, and no label that a caller can invent."""
    text = page()
    labels = {
        name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for name in sample.labels
    }

    labels -= {"gateway", "kind", "state"}
    assert {"operation", "code", "outcome", "status", "le"} == labels
    assert all(family.name.startswith("onhand_") for family in text_string_to_metric_families(text))


def test_observing_is_exact_at_every_bound() -> None:
    """Each bound's own value falls into its bucket."""
    counters = OperationCounters()
    for bound in BOUNDS_SECONDS:
        counters.observe(200, bound)
    counters.observe(200, 11.0)

    assert [1] * (len(BOUNDS_SECONDS) + 1) == counters.counts
    assert sorted(BOUNDS_SECONDS) == list(BOUNDS_SECONDS)
