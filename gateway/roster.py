"""The roster: which processes there ought to be, and on which machines there are how many hosts.

The map has only members that have joined once. Who was placed and never came, because its machine
was not there or had no room, is missing from it without a trace; so what was asked for is told
beside it, from the settings, and an alert compares the two. Hosts stay where they were placed: how
many share a machine is how many are lost with it.
"""

from collections import Counter

from actors.config import Settings
from actors.control import Kind, Map
from engine.messages import Sample


def roster(settings: Settings, map_: Map) -> list[Sample]:
    """What was asked for; and of the hosts that are alive, how many each machine has."""
    hosts = Counter(each.node for each in map_.members if each.kind is Kind.HOST and each.alive)
    wanted = {"host": settings.hosts + settings.spares, "gateway": settings.gateways}
    return [
        *(
            Sample("onhand_members_wanted", [("kind", kind)], count)
            for kind, count in wanted.items()
        ),
        Sample("onhand_machines_wanted", [], settings.machines),
        *(Sample("onhand_map_hosts", [("node", node)], count) for node, count in hosts.items()),
    ]
