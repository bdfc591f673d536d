"""What was asked for, beside what there is."""

from actors.config import Settings
from actors.control import Kind, Map, MemberView
from gateway.roster import roster


def member(name: str, node: str, kind: Kind = Kind.HOST, *, alive: bool = True) -> MemberView:
    return MemberView(kind, name, 4711, node, "tcp:192.0.2.1:9000", "", alive, [])


def test_who_is_wanted_and_where_hosts_are() -> None:
    """Spares are hosts; who is dead shares no machine with anybody."""
    settings = Settings(
        hosts=2, spares=1, gateways=2, machines=3, address="a:1", redis=("redis://r",)
    )
    members = [
        member("host-1", "here"),
        member("host-2", "here"),
        member("host-3", "there", alive=False),
        member("gateway-1", "here", Kind.GATEWAY),
    ]
    found = [
        (each.name, *each.labels, each.value)
        for each in roster(settings, Map(1, 8, [], members, {}))
    ]

    assert [
        ("onhand_members_wanted", ("kind", "host"), 3),
        ("onhand_members_wanted", ("kind", "gateway"), 2),
        ("onhand_machines_wanted", 3),
        ("onhand_map_hosts", ("node", "here"), 2),
    ] == found
