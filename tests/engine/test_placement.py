"""Where SKUs and reservations live: fixed for ever, because the journal is cut by it."""

from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.placement import HASH, home_of, shard_of

skus = st.text(min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("sku", "expected"),
    [("apple", 0), ("brick", 12), ("SKU-000001", 10), ("a.b:c_d-e", 7), ("größe", 9)],
)
def test_places_are_for_ever(sku: str, expected: int) -> None:
    """Of sixteen shards these SKUs own these, in every release."""
    assert expected == shard_of(sku, 16)


def test_the_hash_is_named() -> None:
    """What genesis journals is the name of what is computed."""
    assert "crc32" == HASH
    assert crc32(b"apple") == shard_of("apple", 2**32)


@given(sku=skus, shards=st.integers(1, limits.SHARDS_MAX))
def test_every_sku_has_a_shard(sku: str, shards: int) -> None:
    """The shard is one of those there are."""
    assert 0 <= shard_of(sku, shards) < shards


@given(names=st.lists(skus, min_size=1), shards=st.integers(1, 64), data=st.data())
def test_a_home_does_not_depend_on_order(
    names: list[str], shards: int, data: st.DataObject
) -> None:
    """However the lines are ordered or repeated, the home is the smallest SKU's shard."""
    mixed = data.draw(st.permutations(names + names[:1]))

    assert home_of(names, shards) == home_of(mixed, shards)
    assert shard_of(min(names, key=str.encode), shards) == home_of(names, shards)


def test_the_smallest_is_by_bytes() -> None:
    """SKUs compare by their UTF-8 bytes: capitals before small letters, short before long."""
    assert shard_of("Z", 4_096) == home_of(["a", "Z"], 4_096)
    assert shard_of("a", 4_096) == home_of(["aa", "a", "ab"], 4_096)
    assert shard_of("10", 4_096) == home_of(["9", "10"], 4_096)


def test_no_shard_is_favoured() -> None:
    """Ten thousand numbered SKUs spread over sixteen shards within a tenth of evenly."""
    counts = Counter(shard_of(f"SKU-{number:06}", 16) for number in range(10_000))

    assert 16 == len(counts)
    assert max(counts.values()) < 1.1 * 10_000 / 16
    assert min(counts.values()) > 0.9 * 10_000 / 16
