"""The containers: what they hold, that a copy is of one moment, and that time comes in order."""

import random

import pytest

from engine import limits
from engine.maps import BucketMap, TimeBuckets

SECOND = limits.SECOND_US


def taken(found: BucketMap[bytes]) -> list[tuple[bytes, bytes]]:
    """What is left to take of the copy."""
    entries: list[tuple[bytes, bytes]] = []
    while (bucket := found.take_copy()) is not None:
        entries += bucket.items()
    return entries


def test_a_map_is_a_map() -> None:
    """Put, get, replace, remove and count behave as those of a dict do."""
    numbers = random.Random(1)
    expected: dict[bytes, int] = {}
    found: BucketMap[int] = BucketMap()
    for step in range(3_000):
        key = b"key-%d" % numbers.randrange(400)
        if key in expected and numbers.random() < 0.4:
            del expected[key]
            found.remove(key)
        else:
            assert expected.get(key) == found.put(key, step)
            expected[key] = step
        assert expected.get(key) == found.get(key)
        assert len(expected) == found.size
    assert expected == dict(found.items())
    assert sorted(expected.values()) == sorted(found.values())


def test_what_is_not_there() -> None:
    """An unknown key has no value, and cannot be removed."""
    found: BucketMap[int] = BucketMap()
    assert found.get(b"nobody") is None
    with pytest.raises(KeyError):
        found.remove(b"nobody")
    assert 0 == found.size


def test_entries_spread() -> None:
    """No bucket holds so much more than the others that its dict could stop the world."""
    found: BucketMap[int] = BucketMap()
    for number in range(40_000):
        found.put(b"reservation-%d" % number, number)
    found.begin_copy()
    sizes = []
    while (bucket := found.take_copy()) is not None:
        sizes.append(len(bucket))
    assert limits.BUCKETS == len(sizes)
    assert max(sizes) < 2 * 40_000 / limits.BUCKETS


@pytest.mark.parametrize("seed", range(20))
def test_a_copy_is_of_one_moment(seed: int) -> None:
    """Whatever changes while a copy is taken, it holds each entry once, as it was at the start."""
    numbers = random.Random(seed)
    found: BucketMap[bytes] = BucketMap()
    for number in range(500):
        found.put(b"key-%d" % number, b"before")
    expected = dict(found.items())
    found.begin_copy()
    entries: list[tuple[bytes, bytes]] = []
    while True:
        for _ in range(numbers.randrange(6)):
            key = b"key-%d" % numbers.randrange(700)
            if found.get(key) is not None and numbers.random() < 0.5:
                found.remove(key)
            else:
                found.put(key, b"after")
        bucket = found.take_copy()
        if bucket is None:
            break
        entries += bucket.items()
    assert len(expected) == len(entries)
    assert expected == dict(entries)


def test_a_new_copy_ends_an_unfinished_one() -> None:
    """After `begin_copy` what is taken is of the new moment only."""
    found: BucketMap[bytes] = BucketMap()
    for number in range(500):
        found.put(b"key-%d" % number, b"first")
    found.begin_copy()
    for number in range(100):
        found.put(b"key-%d" % number, b"second")
        found.take_copy()
    found.begin_copy()
    for number in range(500):
        found.put(b"key-%d" % number, b"third")
    expected = {b"key-%d" % n: b"second" if n < 100 else b"first" for n in range(500)}
    assert expected == dict(taken(found))


def test_nothing_is_copied_unless_asked_for() -> None:
    """Without a copy under way there is nothing to take, before and after one."""
    found: BucketMap[bytes] = BucketMap()
    found.put(b"key", b"value")
    assert found.take_copy() is None
    found.begin_copy()
    taken(found)
    found.put(b"key", b"other")
    assert found.take_copy() is None


def test_an_empty_map_has_a_copy() -> None:
    """A copy of nothing has no entries, also when the map is filled meanwhile."""
    found: BucketMap[bytes] = BucketMap()
    found.begin_copy()
    found.put(b"key", b"value")
    assert [] == taken(found)


@pytest.mark.parametrize("seed", range(20))
def test_names_come_when_they_are_due(seed: int) -> None:
    """Every name is taken once, none before its second, the earlier seconds first, none late."""
    numbers = random.Random(seed)
    found = TimeBuckets()
    waiting: dict[bytes, int] = {}
    now = 0
    for step in range(600):
        name, due = b"name-%d" % step, now + numbers.randrange(-2 * SECOND, 20 * SECOND)
        waiting[name] = max(0, due) // SECOND
        found.add(max(0, due), name)
        now += numbers.randrange(SECOND // 10)
        second, most = now // SECOND, numbers.randrange(4)
        expected = [each for each in waiting.values() if each <= second]
        assert bool(expected) == found.due(now)
        names = found.take(now, most)
        assert min(most, len(expected)) == len(names)
        seconds = [waiting.pop(each) for each in names]
        assert sorted(expected)[: len(seconds)] == seconds
    assert sorted(waiting) == sorted(found.take(now + 30 * SECOND, len(waiting) + 1))
    assert not found.due(2**62)


def test_a_name_may_be_put_back() -> None:
    """Who takes a name too early adds it again, even to the very second it came from."""
    found = TimeBuckets()
    found.add(5 * SECOND + 7, b"name")
    assert [b"name"] == found.take(5 * SECOND, 10)
    found.add(5 * SECOND + 7, b"name")
    assert found.due(5 * SECOND)
    assert [b"name"] == found.take(5 * SECOND + 7, 10)
    assert [] == found.take(5 * SECOND + 7, 10)
