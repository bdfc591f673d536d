"""Lists: everything once and in order, in pages of bounded work, while the map changes."""

import random

import pytest

from engine import limits
from engine.listing import ByText, Listings
from engine.maps import BucketMap
from engine.messages import (
    Commit,
    ListReservations,
    ListStock,
    Receive,
    Release,
    ReservationPage,
    State,
    StockPage,
)
from tests.engine.shop import Shop, line, reserve


class Named(ByText[int]):
    """A map with strings for names, to be changed."""

    def __init__(self) -> None:
        self.map: BucketMap[int] = BucketMap()
        super().__init__(self.map)

    def put(self, name: str, value: int) -> None:
        self.map.put(name.encode(), value)

    def remove(self, name: str) -> None:
        self.map.remove(name.encode())

    def names(self) -> list[str]:
        return sorted(name.decode() for name, _ in self.map.items())


def filled(entries: int) -> Named:
    made = Named()
    for number in range(entries):
        made.put(f"id-{number:06}", number)
    return made


def show(name: str, value: int) -> str | None:
    return name


def width(row: str) -> int:
    return 1


def walk(listings: Listings[int], most: int, after: str = "") -> list[list[str]]:
    """All pages after `after`."""
    pages: list[list[str]] = []
    place: str | None = after
    while place is not None:
        rows, place = listings.page(place, most, 0, show, width)
        pages.append(rows)
    return pages


def rows_of(pages: list[list[str]]) -> list[str]:
    return [row for page in pages for row in page]


@pytest.mark.parametrize("entries", [0, 1, 255, 256, 257, 3_000])
@pytest.mark.parametrize("most", [1, 7, 256])
def test_everything_is_listed_once_and_in_order(entries: int, most: int) -> None:
    """Whatever the size of a page."""
    source = filled(entries)
    pages = walk(Listings(source), most)

    assert source.names() == rows_of(pages)
    assert all(len(page) <= most for page in pages)


def test_a_page_sorts_so_many_ids_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all are sorted, pages are empty and say where they were asked for."""
    monkeypatch.setattr(limits, "LISTING_SORTED_MAX", 1_000)
    listings = Listings(filled(5_000))
    empty = 0
    while not (page := listings.page("", 10, 0, show, width)).rows:
        assert "" == page.next
        empty += 1

    assert 4 <= empty <= 5
    assert "id-000009" == page.next


def test_a_page_ends_early_where_rows_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that is too much is the last one."""
    monkeypatch.setattr(limits, "LISTING_WIDTH_MAX", 100)
    page = Listings(filled(50)).page("", 50, 0, show, lambda row: 40)

    assert (["id-000000", "id-000001", "id-000002"], "id-000002") == page


def test_a_page_ends_early_where_much_is_left_out() -> None:
    """It may be empty, and yet not the last."""
    entries = limits.LISTING_LOOKED_MAX + 10
    listings = Listings(filled(entries))

    def show_last(name: str, value: int) -> str | None:
        return name if value == entries - 1 else None

    first = listings.page("", 5, 0, show_last, width)
    assert ([], f"id-{limits.LISTING_LOOKED_MAX - 1:06}") == first
    assert ([f"id-{entries - 1:06}"], None) == listings.page("id-001023", 5, 0, show_last, width)


def test_who_has_not_begun_the_list_goes_on_with_it() -> None:
    """The place is all that it takes: after a move of the shard, or for a page that is repeated."""
    source = filled(100)
    page = Listings(source).page("", 30, 0, show, width)
    assert page.next is not None

    for _ in range(2):
        rest = rows_of(walk(Listings(source), 30, page.next))
        assert source.names() == page.rows + rest


def test_a_map_that_changes_is_listed_as_it_is() -> None:
    """What stays is listed once, what has gone is not; what comes may be missing."""
    numbers = random.Random(3)
    source = filled(2_000)
    listings = Listings(source)
    stays = {f"id-{number:06}" for number in range(0, 2_000, 2)}
    found: list[str] = []
    place: str | None = ""
    while place is not None:
        rows, place = listings.page(place, 50, 0, show, width)
        found += rows
        for number in numbers.sample(range(1, 2_000, 2), 20):
            if source.get(f"id-{number:06}") is not None:
                source.remove(f"id-{number:06}")
            else:
                source.put(f"id-{number:06}", number)

    assert sorted(set(found)) == found
    assert stays <= set(found)


def test_few_lists_go_on_at_once() -> None:
    """Lists that nobody ends are given up, the oldest first; their pages can still be had."""
    listings = Listings(filled(500))
    places = [listings.page(f"id-{9 * number:06}", 3, 0, show, width).next for number in range(50)]

    assert limits.LISTINGS_MAX == len(listings)
    assert 500 - 4 == len(rows_of(walk(listings, 64, places[0] or "")))


def test_a_list_that_was_left_is_begun_anew() -> None:
    """Who comes by the same place later is shown what has come since."""
    source = filled(10)
    listings = Listings(source)
    assert "id-000004" == listings.page("", 5, 0, show, width).next
    source.put("id-000007-b", 1)

    fresh = listings.page("id-000004", 50, limits.LISTING_US, show, width)
    assert "id-000007-b" in fresh.rows


def test_of_two_lists_at_one_place_the_newer_goes_on() -> None:
    """What has come since the older one began is in it."""
    source = filled(10)
    listings = Listings(source)
    listings.page("", 5, 0, show, width)
    source.put("id-000007-b", 1)
    listings.page("", 5, 1, show, width)

    assert "id-000007-b" in listings.page("id-000004", 50, 2, show, width).rows


def test_stock_is_listed() -> None:
    """As GetStock would show each SKU."""
    shop = Shop()
    for sku in ("pear", "apple", "fig"):
        shop.ok(Receive(sku, "north", 3))
    page = shop.ok(ListStock(0, None, 2))
    assert isinstance(page, StockPage)
    assert (["apple", "fig"], "fig") == ([each.sku for each in page.stock], page.next)

    page = shop.ok(ListStock(0, "fig"))
    assert isinstance(page, StockPage)
    assert (["pear"], None) == ([each.sku for each in page.stock], page.next)
    assert [("north", 3)] == [(each.location, each.on_hand) for each in page.stock[0].locations]


def names(shop: Shop, command: ListReservations) -> list[str]:
    page = shop.ok(command)
    assert isinstance(page, ReservationPage)
    return [each.reservation_id for each in page.reservations]


def test_reservations_are_listed() -> None:
    """All, or those of a state; what is buried is none."""
    shop = Shop(north=9)
    for name in ("cart-3", "cart-1", "cart-2"):
        shop.ok(reserve(name, line("apple", 1)))
    shop.ok(Commit("cart-2"))
    shop.ask(Release("cart-9", bury=True))

    assert ["cart-1", "cart-2", "cart-3"] == names(shop, ListReservations(0))
    assert ["cart-2"] == names(shop, ListReservations(0, state=State.COMMITTED))
    assert ["cart-3"] == names(shop, ListReservations(0, "cart-1", state=State.RESERVED))


def test_who_is_overdue_is_listed_as_expired() -> None:
    """A deadline that no sweep has come to yet has passed all the same."""
    shop = Shop(north=9_999)
    swept = limits.SWEEP_PER_BATCH_MAX
    for number in range(swept + 3):
        shop.ok(reserve(f"cart-{number}", line("apple", 1)))
    shop.wait_us(limits.TTL_SECONDS_DEFAULT * limits.SECOND_US)

    assert [] == names(shop, ListReservations(0, state=State.RESERVED))


def test_a_channel_lists_its_own() -> None:
    """A scope sees what GetReservation would show it."""
    shop = Shop(north=9)
    for name, channel in (("cart-1", "web"), ("cart-2", None), ("cart-3", "shop")):
        wanted = reserve(name, line("apple", 1))
        wanted.channel = channel
        shop.ok(wanted)

    assert ["cart-1"] == names(shop, ListReservations(0, scope="web"))
    assert [] == names(shop, ListReservations(0, scope="nobody"))
