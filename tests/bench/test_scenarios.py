"""Parcels: how buyers spread over SKUs, and SKUs over shards."""

from collections import Counter
from random import Random

import pytest

from bench.scenarios import ANY, SCENARIOS, draw, parcels
from engine.placement import shard_of

NAMES = [f"sku-{number:04}" for number in range(1_000)]
RESERVE, CHECKOUT = SCENARIOS["reserve"], SCENARIOS["checkout"]


def test_a_seed_gives_the_same_parcels_again() -> None:
    """Two runs with one seed send the same requests in the same order."""
    first = parcels(CHECKOUT, "zipf", NAMES, 4, None, Random(7))

    assert first == parcels(CHECKOUT, "zipf", NAMES, 4, None, Random(7))
    assert first != parcels(CHECKOUT, "zipf", NAMES, 4, None, Random(8))


def test_hot_means_one_sku() -> None:
    """Everybody wants the same SKU."""
    assert {0} == set(draw("hot", 1_000, 500, Random(1)))


def test_uniform_treats_all_alike() -> None:
    """No SKU of a thousand gets much more than its share of a hundred thousand draws."""
    counts = Counter(draw("uniform", 1_000, 100_000, Random(1)))

    assert 1_000 == len(counts)
    assert max(counts.values()) < 160


def test_zipf_prefers_the_first() -> None:
    """With theta 0.99 the hottest of a thousand SKUs gets about an eighth, the second half that."""
    counts = Counter(draw("zipf", 1_000, 100_000, Random(1)))

    assert 0.12 == pytest.approx(counts[0] / 100_000, abs=0.02)
    assert 2.0 == pytest.approx(counts[0] / counts[1], rel=0.1)


def test_parcels_for_hosts_share_a_shard_and_keep_the_spread() -> None:
    """Filled shard by shard, parcels still hold the SKUs in their shares."""
    made = parcels(RESERVE, "zipf", NAMES, 16, 8, Random(1))

    for parcel in made:
        assert {parcel.shard} == {shard_of(NAMES[sku], 8) for sku in parcel.skus}
    counts = Counter(sku for parcel in made for sku in parcel.skus)
    assert 0.12 == pytest.approx(counts[0] / counts.total(), abs=0.02)


def test_parcels_are_full_whatever_the_number_of_shards() -> None:
    """Frames of 64 over 4,096 shards can be filled as well."""
    made = parcels(RESERVE, "uniform", NAMES, 64, 4_096, Random(1))

    assert made
    assert {64} == {len(parcel.skus) for parcel in made}


def test_a_share_of_the_parcels_is_brief() -> None:
    """As many as the scenario leaves to expire; none where it leaves none."""
    brief = [parcel.brief for parcel in parcels(CHECKOUT, "uniform", NAMES, 1, None, Random(1))]

    assert CHECKOUT.expire == pytest.approx(sum(brief) / len(brief), abs=0.005)
    none = parcels(RESERVE, "uniform", NAMES, 1, None, Random(1))
    assert not any(parcel.brief for parcel in none)
    assert {ANY} == {parcel.shard for parcel in none}
