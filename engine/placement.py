"""Which shard owns what.

A SKU belongs to shard `crc32(sku) mod N`, its *hashed* shard; N and the hash are journaled at
genesis and never change. Shards from N on are *dedicated*: each is for one SKU, and that it lives
there its hashed shard says (`engine.dedication_rules`). N is called `shards` everywhere, as the
genesis has it; the number of dedicated ones `dedicated`, and both together `total`.

A reservation's home is the shard of the smallest SKU, by bytes, in the request as sent. Where the
journal is on n servers, shard k is on server `k mod n`; n is as fixed as N is, but it belongs to
the place, not to the journal: a backup may be restored to another number of servers.
"""

from collections.abc import Iterable
from typing import Final
from zlib import crc32

HASH: Final = "crc32"


def shard_of(sku: str, shards: int) -> int:
    """The shard, in [0, shards), that owns `sku`."""
    return crc32(sku.encode()) % shards


def home_of(skus: Iterable[str], shards: int) -> int:
    """The home of a reservation whose request names `skus` (at least one)."""
    return shard_of(min(skus, key=str.encode), shards)


def is_dedicated(shard: int, shards: int) -> bool:
    """Whether `shard` is beyond the hashed ones."""
    return shard >= shards


def server_of(shard: int, servers: int) -> int:
    """Which of `servers` servers, from 0 on, has the journal of `shard`."""
    return shard % servers
