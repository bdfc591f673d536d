"""What a shard knows of dedicated shards, which of most shards is nothing.

A hashed shard knows which of its SKUs live elsewhere, and where; a dedicated one, which SKU it is
for, and whether that has been declared (`engine.dedication_rules`). It is a part of the state like
any other: digests, snapshots and comparisons have it. Where there is nothing to know nothing is
said, in digests and snapshots too: those of an installation without dedicated shards are as they
were before there could be any, and whoever does not know of them refuses what he cannot read.
"""

from typing import Final

import msgspec
from msgspec import field

from engine.messages import Bound, Dedicated, Exact, Settled, Unbound

_encode: Final = msgspec.msgpack.Encoder().encode


class Dedications(Exact):
    """Of a hashed shard, or of a dedicated one."""

    dedicated: dict[str, int] = field(default_factory=dict)
    """SKU → the dedicated shard that it lives in. There are at most as many as such shards."""
    bound: str = ""
    """The SKU that this dedicated shard is kept for."""
    settled: bool = False
    """Whether that SKU lives here."""

    def apply(self, event: Bound | Unbound | Settled | Dedicated) -> bool:
        """Change it; whether the event was in place."""
        if isinstance(event, Dedicated):
            found = event.sku not in self.dedicated
            self.dedicated[event.sku] = event.shard
        elif isinstance(event, Bound):
            found = not self.bound
            self.bound = event.sku
        elif isinstance(event, Settled):
            found = self.bound == event.sku
            self.settled = True
        else:
            found = self.bound == event.sku and not self.settled
            self.bound = ""
        return found

    def pack(self) -> bytes | None:
        """As snapshots and digests hold it; None: there is nothing to say."""
        if not (self.dedicated or self.bound):
            return None
        return _encode((dict(sorted(self.dedicated.items())), self.bound, self.settled))


unpack_dedications: Final = msgspec.msgpack.Decoder(Dedications).decode
