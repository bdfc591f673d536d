"""Who has which shard: addresses keep their numbers, and a shard stays where it was last."""

from bench.owners import Owners
from engine.messages import GetMap, MapView, RouteView


def test_changes_are_learnt() -> None:
    """Whether anything moved is told; a shard without an owner is still its former one's."""
    owners = Owners(2)
    assert GetMap() == owners.question

    assert owners.learn(MapView("run", 1, 2, [RouteView(0, 1, "a"), RouteView(1, 0, "")]))
    assert not owners.complete
    assert owners.learn(MapView("run", 2, 2, [RouteView(1, 1, "b")]))
    assert owners.complete
    assert (["a", "b"], [0, 1]) == (owners.addresses, owners.routes)
    assert not owners.learn(MapView("run", 3, 2, [RouteView(0, 0, "")]))
    assert not owners.learn(MapView("run", 4, 2, [RouteView(0, 2, "a")]))
    assert owners.learn(MapView("run", 5, 2, [RouteView(0, 3, "c")]))
    assert (["a", "b", "c"], [2, 1]) == (owners.addresses, owners.routes)
    assert GetMap("run", 5) == owners.question


def test_dedicated_shards_are_nobodys_concern() -> None:
    """No SKU of a run is in one: it is neither waited for nor followed."""
    owners = Owners(1)

    assert not owners.learn(MapView("run", 1, 1, [RouteView(1, 1, "b")], dedicated=1))
    assert not owners.complete
    assert owners.learn(MapView("run", 2, 1, [RouteView(0, 1, "a")], dedicated=1))
    assert owners.complete
    assert (["a"], [0]) == (owners.addresses, owners.routes)
