"""Who has which shard, for generators that go to the hosts themselves.

Addresses keep their places in the list, because generators know them by number; a shard that nobody
has at the moment stays with whoever had it, who will say so.
"""

from engine.messages import GetMap, MapView


class Owners:
    """What was learnt of the shard map."""

    def __init__(self, shards: int) -> None:
        """`shards`: hashed ones; no SKU of a run is in any other."""
        self.addresses: list[str] = []
        self.question = GetMap()
        """What to ask next: for whatever is newer."""
        self._owner: dict[int, int] = {}
        self._shards = shards

    @property
    def complete(self) -> bool:
        """Whether every shard has had an owner."""
        return len(self._owner) == self._shards

    @property
    def routes(self) -> list[int]:
        """Of each shard, which of the addresses has it."""
        return [self._owner[shard] for shard in range(self._shards)]

    def learn(self, view: MapView) -> bool:
        """Whether any shard has gone elsewhere."""
        before = dict(self._owner)
        for route in view.routes:
            if route.address and route.shard < self._shards:
                if route.address not in self.addresses:
                    self.addresses.append(route.address)
                self._owner[route.shard] = self.addresses.index(route.address)
        self.question = GetMap(view.run, view.version)
        return self._owner != before
