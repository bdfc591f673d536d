"""The table of SKUs: what was put in is found, however often it has grown."""

from engine import limits
from engine.skus import Skus


def test_every_sku_is_found_while_the_table_grows() -> None:
    """Each of them, after each that is added: also while only a part of the table has moved."""
    skus = Skus()
    for number in range(700):
        skus.add(f"sku-{number}", "here").version = number
        assert all(skus.row(f"sku-{each}") for each in range(number + 1))
        assert 0 == skus.row(f"sku-{number + 1}")
    found = [skus.get(f"sku-{number}") for number in range(700)]

    assert list(range(700)) == [each.version for each in found if each is not None]
    assert 700 == skus.size
    assert 2 * skus.size <= len(skus.slots)


def test_further_locations_are_no_skus() -> None:
    """A row without a name belongs to the SKU whose row knows it."""
    skus = Skus()
    first = skus.add("apple", "north")
    for place in ("south", "west"):
        first.add_place(place).on_hand = 7
    skus.add("pear", "south").place("south").on_hand = 5

    assert ["apple", "pear"] == [each.sku for each in skus.values()]
    assert 2 == skus.size
    assert None is skus.get("")
    north, *others = first.locations.items()
    assert ("north", 0) == (north[0], north[1].on_hand)
    assert [("south", 7), ("west", 7)] == [(name, place.on_hand) for name, place in others]


def test_who_looks_through_sees_what_was_there() -> None:
    """SKUs that come while somebody looks through are not his."""
    skus = Skus()
    skus.add("apple", "here")
    seen = skus.values()
    skus.add("pear", "here")

    assert ["apple"] == [each.sku for each in seen]


def test_parts_of_the_names_stay_the_same() -> None:
    """A listing sorts part by part; what is added meanwhile moves nothing from one to another."""
    skus = Skus()
    names = [f"sku-{number}" for number in range(3 * limits.BUCKETS)]
    for name in names:
        skus.add(name, "here").add_place("there")
    before = [skus.keys_of(number) for number in range(limits.BUCKETS)]
    skus.add("late", "here")
    after = [skus.keys_of(number) for number in range(limits.BUCKETS)]

    assert sorted(names) == sorted(name for part in before for name in part)
    assert before == [[name for name in part if name != "late"] for part in after]
