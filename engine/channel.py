"""Channel policy: what of a SKU's stock one channel may sell now.

`pour` is the waterfall. All of the SKU's `available`, short locations included, less what pools
ring-fence for others, bounded by what the channel's own locations hold, less its buffer. A channel
that may not draw from common stock gets no more than its own pools hold. A reserve is accepted just
when it asks for no more than this: levels shown and units sold follow one rule.
"""

from collections.abc import Mapping
from typing import NamedTuple

from engine.messages import AvailabilityView, ChannelPolicy


class Waterfall(NamedTuple):
    """Units; each field is a step of the essay above."""

    available: int
    served: int
    ring_fenced: int
    own_pools: int
    buffer: int
    available_to_promise: int


def pour(
    available: int, served: int, pools: Mapping[str, int], policy: ChannelPolicy | None
) -> Waterfall:
    """`available` of the SKU, `served` of that in the channel's locations, `pools` of the SKU."""
    if policy is None:
        policy = EVERYTHING
    own = sum(pools.get(name, 0) for name in set(policy.pools))
    fenced = sum(pools.values()) - own
    units = min(served, available - fenced)
    if not policy.common_stock:
        units = min(units, own)
    return Waterfall(available, served, fenced, own, policy.buffer, max(0, units - policy.buffer))


def view(sku: str, channel: str | None, version: int, waterfall: Waterfall) -> AvailabilityView:
    return AvailabilityView(sku, channel, version, *waterfall)


EVERYTHING = ChannelPolicy()
"""The policy of a channel that has none."""
