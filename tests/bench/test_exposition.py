"""The difference of two pages of metrics."""

from bench.exposition import difference

BEFORE = """\
# HELP onhand_commands Commands.
# TYPE onhand_commands counter
onhand_commands_total{host="host-1",kind="reserve"} 10.0
onhand_commands_total{host="host-2",kind="reserve"} 3.0
onhand_connections 4.0
onhand_append_seconds_bucket{le="0.001"} 5.0
onhand_append_seconds_count 5.0
onhand_append_seconds_sum 0.5
"""


def test_only_counters_that_grew_are_named() -> None:
    """Gauges, buckets and what stood still are left out; what is new counts from zero."""
    after = (BEFORE.replace("10.0", "110.0").replace("connections 4.0", "connections 9.0")).replace(
        "count 5.0", "count 7.0"
    ) + "onhand_moves_total 2.0\n"

    assert {
        'onhand_commands_total{host="host-1",kind="reserve"}': 100.0,
        "onhand_append_seconds_count": 2.0,
        "onhand_moves_total": 2.0,
    } == difference(BEFORE, after)
