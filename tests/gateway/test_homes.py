"""Where reservations live: minted ids, and the memory of the others."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.messages import UNKNOWN_HOME
from gateway.homes import GENERATION_ENTRIES, GENERATIONS, HomeMemory, home_in, mint

homes = st.integers(0, limits.SHARDS_MAX - 1)
times = st.integers(0, 2**48 - 1)


@given(homes, times, st.binary(min_size=8, max_size=8))
def test_minted_id_names_its_home(home: int, now_ms: int, random_bytes: bytes) -> None:
    """A minted id is a valid id and a valid UUID, and gives back the home that went in."""
    minted = mint(home, now_ms, random_bytes)
    assert re.fullmatch(limits.ID_PATTERN, minted)
    assert home == home_in(minted)
    assert (8, uuid.RFC_4122) == (uuid.UUID(minted).version, uuid.UUID(minted).variant)


@pytest.mark.parametrize("digits", ["-ff", "+1f", " 1f", "1_f", "xyz", "0x1"])
def test_a_home_is_three_digits(digits: str) -> None:
    """What merely parses as a number is no home."""
    minted = mint(0, 0, bytes(8))
    assert UNKNOWN_HOME == home_in(minted[:15] + digits + minted[18:])


@given(homes, times, times)
def test_minted_ids_sort_by_time(home: int, one: int, other: int) -> None:
    """Ids of one time lie together, in the order of their milliseconds."""
    earlier, later = sorted((one, other))
    assert mint(home, earlier, bytes(8)) <= mint(home, later, bytes(8))


@given(st.text(max_size=40) | st.uuids(version=4).map(str) | st.from_regex(limits.ID_PATTERN))
def test_other_ids_name_no_home(reservation_id: str) -> None:
    """An id that was not minted is taken as it is, whatever it looks like."""
    if reservation_id[13:15] != "-8":
        assert UNKNOWN_HOME == home_in(reservation_id)
    assert UNKNOWN_HOME <= home_in(reservation_id) < limits.SHARDS_MAX


def test_memory_recalls_what_it_learned_last() -> None:
    """The newest home counts; an unknown id has none; minted ids take no room."""
    memory = HomeMemory()
    memory.learn("cart-1", 3)
    memory.learn("cart-1", 2)
    memory.learn(mint(5, 0, bytes(8)), 5)
    assert 2 == memory.recall("cart-1")
    assert UNKNOWN_HOME == memory.recall("cart-2")
    assert 1 == len(memory)


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    """However many ids go by, no dict outgrows its bound, and the newest are still known."""
    memory = HomeMemory()
    ids = GENERATIONS * GENERATION_ENTRIES + 1
    for number in range(ids):
        memory.learn(f"cart-{number}", number % 7)
    assert len(memory) <= GENERATIONS * GENERATION_ENTRIES
    assert max(map(len, memory._generations)) <= GENERATION_ENTRIES
    assert UNKNOWN_HOME == memory.recall("cart-0")
    assert (ids - 1) % 7 == memory.recall(f"cart-{ids - 1}")
