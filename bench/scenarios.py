"""Scenarios: what buyers do, as data.

A scenario names how many SKUs there are, how many units of each, how the buyers spread over them,
and what becomes of an accepted reservation: committed at once, released at once, left to expire, or
simply held. Every request mints an id of its own, so nothing is ever a replay.

From a scenario and a seed follow the *parcels*: short lists of SKUs, each to be reserved by one
request. They are drawn before the run and cycled through while it lasts, so that choosing costs
the generator nothing. Whoever sends straight to the hosts wants the SKUs of one parcel to share a
shard; the parcels are then filled shard by shard, and the spread over SKUs stays what it was.
"""

from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Final, Literal, NamedTuple

import msgspec

from engine.placement import shard_of

Distribution = Literal["uniform", "zipf", "hot"]

ZIPF_THETA: Final = 0.99
DRAWS_MIN: Final = 1 << 16
PARCELS_MIN: Final = 1 << 10
ANY: Final = -1
"""The shard of a parcel whose SKUs may belong to several."""


class Scenario(msgspec.Struct, frozen=True):
    """`commit`, `release` and `expire` are shares of the accepted reservations; the rest is held.

    `skus` and `units` are defaults: those of a `hot` run are `hot_units` of one SKU.
    """

    name: str
    about: str
    skus: int = 10_000
    units: int = 1_000_000
    hot_units: int = 1_000_000_000
    commit: float = 0.0
    release: float = 0.0
    expire: float = 0.0
    hold_seconds: int = 3_600
    brief_seconds: int = 2
    """For how long those are reserved that are left to expire."""


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("reserve", "reserve one unit, and hold it"),
        Scenario(
            "order",
            "reserve one unit, then commit it (90 %) or release it (10 %)",
            commit=0.90,
            release=0.10,
        ),
        Scenario(
            "checkout",
            "reserve one unit, then commit it (85 %), release it (10 %) or let it expire (5 %)",
            commit=0.85,
            release=0.10,
            expire=0.05,
        ),
    )
}


class Parcel(NamedTuple):
    """The SKUs, by number, that one request reserves one unit of each."""

    shard: int
    skus: tuple[int, ...]
    brief: bool
    """Reserved for a short time only, and left to expire."""


def draw(distribution: Distribution, skus: int, count: int, random: Random) -> list[int]:
    """`count` SKUs by number, spread as `distribution` says. SKU 0 is the hottest."""
    if distribution == "hot":
        return [0] * count
    if distribution == "uniform":
        return random.choices(range(skus), k=count)
    weights = accumulate(1 / rank**ZIPF_THETA for rank in range(1, skus + 1))
    return random.choices(range(skus), cum_weights=list(weights), k=count)


def parcels(
    scenario: Scenario,
    distribution: Distribution,
    names: Sequence[str],
    size: int,
    shards: int | None,
    random: Random,
) -> list[Parcel]:
    """Parcels of `size` SKUs; of one shard each, out of `shards`, or mixed if that is None."""
    count = max(DRAWS_MIN, PARCELS_MIN * size, 4 * size * (shards or 1))
    homes = [ANY if shards is None else shard_of(name, shards) for name in names]
    filling: dict[int, list[int]] = {}
    made = []
    for sku in draw(distribution, len(names), count, random):
        parcel = filling.setdefault(homes[sku], [])
        parcel.append(sku)
        if len(parcel) == size:
            brief = random.random() < scenario.expire
            made.append(Parcel(homes[sku], tuple(parcel), brief))
            parcel.clear()
    return made
