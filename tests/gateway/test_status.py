"""What operators see of the map: every process, and whose shards are served."""

import pytest
from msgspec import to_builtins

from actors.control import HotShard, Kind, Map, MemberView, Proposal, Route
from gateway.command_line_engine import _show_status
from gateway.status import (
    AlarmedShard,
    FailedShard,
    GatewayEntry,
    HostEntry,
    HotEntry,
    ProposedMove,
    StatusReport,
    report,
)


def test_hosts_gateways_and_failures_each_have_their_place() -> None:
    """A host lists what it was given, and the epochs of what it serves; a dead one is shown."""
    one = MemberView(Kind.HOST, "host-1", 7, "node", "unix:/1", "", True, [0, 2])
    two = MemberView(Kind.HOST, "host-2", 8, "node", "unix:/2", "", False, [], [0])
    edge = MemberView(Kind.GATEWAY, "gateway-1", 9, "node", "tcp:b", "tcp:h", True, [])
    routes = [Route(0, 5, "host-1", "unix:/1")]

    found = report(Map(3, 3, routes, [one, edge, two], {1: "a gap"}, {0: "on_hand 2, not 1"}))

    assert found == StatusReport(
        version=3,
        shards=3,
        served=1,
        hosts=[
            HostEntry("host-1", 7, "node", "unix:/1", True, [0, 2], {"0": 5}),
            HostEntry("host-2", 8, "node", "unix:/2", False, [], {}, [0]),
        ],
        gateways=[GatewayEntry("gateway-1", 9, "node", "tcp:h", "tcp:b", True)],
        failed=[FailedShard(1, "a gap")],
        alarms=[AlarmedShard(0, "on_hand 2, not 1")],
    )


def test_what_is_hot_and_what_would_help() -> None:
    """Shares, whether anybody suffers from it, and the move that would leave it alone."""
    hot = [HotShard(2, "host-1", 0.75, False)]

    found = report(Map(3, 3, [], [], {}, {}, hot=hot, proposal=Proposal(0, "host-2")))

    assert [HotEntry(2, "host-1", 0.75, alone=False)] == found.hot
    assert ProposedMove(0, "host-2") == found.proposal


def test_how_a_hot_shard_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """With what would help, in words that can be typed."""
    hot = [HotShard(2, "host-1", 0.754, False), HotShard(5, "host-2", 1.0, True)]
    found = report(Map(3, 8, [], [], {}, {}, hot=hot, proposal=Proposal(4, "host-2")))

    _show_status(to_builtins(found))

    assert [
        "shard 2 is hot: 75% of what host-1 does",
        "shard 5 is hot: 100% of what host-2 does, alone there",
        "it would help to: onhand move --shard 4 --to host-2",
    ] == capsys.readouterr().out.splitlines()[-3:]
