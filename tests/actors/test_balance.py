"""The balance: a hot shard is left alone, by whoever may make moves, and then nothing moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.assignment import Assignment, Phase, Report
from actors.balance import AT_EASE, Balance
from actors.config import HotShards
from actors.control import HotShard, Proposal

HOSTS = ("a", "b", "c")


class Shop:
    """A table whose hosts do as they are told, and of which some shards are hot by decree."""

    def __init__(self, owners: list[str], hot_shards: HotShards = "tell") -> None:
        self.table = Assignment(len(owners))
        self.balance = Balance(self.table, hot_shards)
        self.hosts = sorted(set(owners))
        for shard, host in enumerate(owners):
            slot = self.table.slots[shard]
            slot.phase, slot.host, slot.epoch = Phase.OWNED, host, 1
        self.full: set[str] = set()
        self.balance.heat.look = lambda now: self.balance.heat.hot  # type: ignore[method-assign]
        self.balance.heat.full = lambda: self.full  # type: ignore[method-assign]

    def heat(self, *hot: int) -> "Shop":
        self.balance.heat.hot = set(hot)
        return self

    def owners(self) -> list[str]:
        return [slot.host for slot in self.table.slots]

    def move(self, shard: int, host: str) -> None:
        """As a host and its heir do."""
        grant = self.table.release(shard, host)
        owned = {each: 1 for each in self.table.shards_of(grant.host) if each != shard}
        self.table.report(grant.host, Report(grant.serial, owned, {}, {}))
        [given] = self.table.place(self.hosts)
        owned = dict.fromkeys(self.table.shards_of(host), 1)
        self.table.report(host, Report(given.serial, owned, {}, {}))

    def rest(self, *, obeys: bool = False) -> list[tuple[int, str]]:
        """Every move until there is none; `obeys`: an operator makes those that are proposed."""
        moves: list[tuple[int, str]] = []
        for _ in range(100):
            advice = self.balance.look(0.0, self.hosts)
            move = advice.move
            if move is None and obeys and advice.proposal is not None:
                move = advice.proposal.shard, advice.proposal.host
            if move is None:
                return moves
            moves.append(move)
            self.move(*move)
            if advice.move is None:
                self.table.pin(move[0])
        raise AssertionError(f"no rest: {moves[-6:]}")


def test_nothing_hot_is_nothing_new() -> None:
    """Loads are evened out by number, and there is nothing to tell."""
    shop = Shop(["a"] * 4 + ["b"])

    assert AT_EASE._replace(move=(0, "b")) == shop.balance.look(0.0, shop.hosts)
    assert [(0, "b")] == shop.rest()


@pytest.mark.parametrize("hot", range(8))
def test_the_others_leave(hot: int) -> None:
    """Each moves once, to where there are fewest; the hot one stays, and nothing comes back."""
    shop = Shop(list("abababab"), "move").heat(hot)
    home = shop.owners()[hot]

    moves = shop.rest()

    assert 3 == len(moves)
    assert [hot] == shop.table.shards_of(home)
    assert [] == shop.rest()


def test_to_tell_is_not_to_move() -> None:
    """The proposal is what would be done; nothing is."""
    shop = Shop(list("abababab")).heat(2)

    advice = shop.balance.look(0.0, shop.hosts)

    told = HotShard(2, "a", 0.0, is_alone=False)
    assert (None, [told], Proposal(0, "b")) == advice
    assert [] == shop.rest()


def test_who_does_as_is_proposed_is_not_undone() -> None:
    """Evening out by number would bring back, for each shard that left, another."""
    shop = Shop(list("abababab")).heat(2)

    moves = shop.rest(obeys=True)

    assert [(0, "b"), (4, "b"), (6, "b")] == moves
    assert [HotShard(2, "a", 0.0, is_alone=True)] == shop.balance.look(0.0, shop.hosts).hot
    assert [] == shop.rest()


def test_who_comes_back_gets_its_share() -> None:
    """Also while a shard is hot, and nobody has said that anything may move for that."""
    shop = Shop(["a"] * 8).heat(0)
    shop.hosts.append("b")

    assert [(1, "b"), (2, "b"), (3, "b"), (4, "b")] == shop.rest()


def test_when_it_is_cold_all_is_even() -> None:
    """As few moves as there must be."""
    shop = Shop(list("abababab"), "move").heat(0)
    shop.rest()

    shop.heat()

    assert 3 == len(shop.rest())
    assert sorted("aaaabbbb") == sorted(shop.owners())


@pytest.mark.parametrize("hot_shards", ["tell", "move"])
def test_nowhere_to_go(hot_shards: HotShards) -> None:
    """There is one host; or the others are busy themselves."""
    alone = Shop(["a"] * 4, hot_shards).heat(1)
    busy = Shop(list("abcabc"), hot_shards).heat(1)
    busy.full = {"a", "b", "c"}

    for shop in (alone, busy):
        advice = shop.balance.look(0.0, shop.hosts)
        assert (None, None) == (advice.move, advice.proposal)
        assert [1] == [each.shard for each in advice.hot]


def test_only_who_has_room_gets_any() -> None:
    """Of two other hosts one is busy."""
    shop = Shop(list("abcabcabc"), "move").heat(0)
    shop.full = {"a", "b"}

    assert [(3, "c"), (6, "c")] == shop.rest()


def test_what_is_pinned_stays() -> None:
    """Then it is the hot shard that can be alone elsewhere, if anything better is there."""
    shop = Shop(["a", "a", "b"], "move").heat(0)
    shop.table.pin(1)
    assert [] == shop.rest()

    shop = Shop(["a", "a", "a", "b"], "move").heat(0)
    for shard in (1, 2):
        shop.table.pin(shard)
    assert [(0, "b"), (3, "a")] == shop.rest()


def test_two_that_are_hot_part() -> None:
    """Each has a host, and what is left is shared by those."""
    shop = Shop(["a"] * 4 + ["b"] * 4, "move").heat(0, 1)

    shop.rest()

    assert shop.owners()[0] != shop.owners()[1]
    assert 4 == shop.owners().count("a")


def test_orphans_go_past_a_hot_shard() -> None:
    """Its host has fewest, and gets none of what a dead one had."""
    shop = Shop(["a", "b", "b", "c", "c"], "move").heat(0)
    shop.table.drop("c")

    shop.table.place(["a", "b"], weights=shop.balance.weights)

    assert ["a", "b", "b", "b", "b"] == shop.owners()


def test_what_is_worth_telling() -> None:
    """Who is hot, where, whether alone, and what to do; not that a share is a little other."""
    told = HotShard(1, "a", 0.8, is_alone=False)
    before = AT_EASE._replace(hot=[told], proposal=Proposal(2, "b"))

    def tells(*hot: HotShard, proposal: Proposal | None = Proposal(2, "b")) -> bool:  # noqa: B008
        return AT_EASE._replace(hot=list(hot), proposal=proposal).tells_more_than(before)

    assert not tells(HotShard(1, "a", 0.7, is_alone=False))
    assert tells()
    assert tells(HotShard(1, "b", 0.8, is_alone=False))
    assert tells(HotShard(1, "a", 0.8, is_alone=True))
    assert tells(told, proposal=None)


@given(st.data(), st.sampled_from(["tell", "move"]), st.booleans())
def test_it_comes_to_rest(data: st.DataObject, hot_shards: HotShards, obeys: bool) -> None:
    """Wherever shards are, whichever are hot or pinned, whoever is busy: moves end. Then no cold
    one that may leave is beside a hot one while a host without any has room."""
    owners = data.draw(st.lists(st.sampled_from(HOSTS), min_size=1, max_size=12))
    shop = Shop(owners, hot_shards)
    shop.hosts = list(HOSTS)
    numbers = st.sets(st.integers(0, len(owners) - 1))
    shop.heat(*data.draw(numbers))
    shop.full = data.draw(st.sets(st.sampled_from(HOSTS)))
    pinned = data.draw(numbers)
    for shard in pinned:
        shop.table.pin(shard)

    moves = shop.rest(obeys=obeys)

    assert not pinned & {shard for shard, _ in moves}
    assert [] == shop.rest(obeys=obeys)
    hot_hosts = {shop.owners()[shard] for shard in shop.balance.heat.hot}
    if (hot_shards == "move" or obeys) and set(HOSTS) - hot_hosts - shop.full:
        beside = [
            shard
            for shard, host in enumerate(shop.owners())
            if host in hot_hosts and shard not in shop.balance.heat.hot
        ]
        assert all(shop.table.slots[shard].is_pinned for shard in beside)
