"""Dedicated shards: one SKU each, declared before its first stock; never stock in two shards."""

from itertools import permutations

import pytest

from engine import limits
from engine.codec import Position
from engine.messages import (
    Adjust,
    Answer,
    Audit,
    AuditView,
    Bind,
    Binding,
    ChannelPage,
    ChannelPolicy,
    ChannelView,
    Command,
    Count,
    Dedicate,
    DedicatedTo,
    GetAvailability,
    GetBinding,
    GetStock,
    GetStockAsOf,
    LineRequest,
    ListChannels,
    ListMovements,
    Receive,
    Release,
    Reserve,
    SetChannel,
    SetStock,
    Settle,
    Status,
    Transfer,
    Unbind,
)
from engine.shard import Shard
from engine.snapshot import SnapshotReader, SnapshotWriter

HASHED, DEDICATED = 0, 1
START_US = 1_796_000_000 * limits.SECOND_US
HOT = "hot"
STEPS: list[Command] = [Bind(1, HOT), Dedicate(HOT, 1), Settle(1, HOT)]
ABOUT_HOT: list[Command] = [
    Receive(HOT, "north", 1),
    Adjust(HOT, "north", 1),
    Count(HOT, "north", 1, expected_on_hand=5),
    Transfer(HOT, "north", "south", 1),
    SetStock(HOT, {"north": 1}),
    GetStock(HOT),
    GetAvailability(HOT),
    GetStockAsOf(HOT, 1),
    ListMovements(HOT),
    Reserve("cart", [LineRequest(HOT, 1)]),
]


class Pair:
    """The only hashed shard, and a dedicated one."""

    def __init__(self) -> None:
        self.shards = [Shard(HASHED, 1), Shard(DEDICATED, 1)]
        self.now = START_US

    def at(self, shard: int, command: Command) -> Answer:
        self.now += 1
        self.shards[shard].begin(self.now)
        answer = self.shards[shard].execute(command)
        self.shards[shard].close()
        return answer

    def status(self, shard: int, command: Command) -> Status:
        return self.at(shard, command).status

    def step(self, command: Command) -> Status:
        return self.status(HASHED if isinstance(command, Dedicate) else DEDICATED, command)

    def audited(self, shard: int) -> list[str]:
        body = self.at(shard, Audit(shard, True)).body
        assert isinstance(body, AuditView)
        return body.findings

    @property
    def holders(self) -> list[int]:
        """The shards that have a record of the SKU."""
        return [each.number for each in self.shards if each.state.skus.get(HOT) is not None]


@pytest.fixture
def pair() -> Pair:
    """The SKU lives in the dedicated shard."""
    made = Pair()
    assert [Status.OK] * 3 == [made.step(each) for each in STEPS]
    return made


@pytest.mark.parametrize("command", ABOUT_HOT, ids=lambda each: type(each).__name__)
def test_the_hashed_shard_only_says_where(pair: Pair, command: Command) -> None:
    """Whatever names the SKU is told where it lives, and does nothing."""
    before = pair.shards[HASHED].digest()

    assert Answer(Status.DEDICATED, DedicatedTo(HOT, 1)) == pair.at(HASHED, command)
    assert before == pair.shards[HASHED].digest()


def test_it_sells_where_it_lives(pair: Pair) -> None:
    """The dedicated shard is a shard like any other, for one SKU."""
    assert Status.OK is pair.status(DEDICATED, Receive(HOT, "north", 2))
    assert Status.OK is pair.status(DEDICATED, Reserve("cart", [LineRequest(HOT, 2)]))
    assert Status.INSUFFICIENT_STOCK is pair.status(
        DEDICATED, Reserve("late", [LineRequest(HOT, 1)])
    )
    assert [] == pair.audited(DEDICATED)
    assert [DEDICATED] == pair.holders


@pytest.mark.parametrize("order", [*permutations(range(4))])
def test_never_stock_in_two_shards(order: tuple[int, ...]) -> None:
    """In whatever order steps and stock come, and are sent again, only one shard has stock."""
    pair = Pair()
    commands = [*STEPS, Receive(HOT, "north", 1)]
    for index in (*order, *order, *order):
        command = commands[index]
        if isinstance(command, Receive):
            pair.at(DEDICATED, command)
            pair.at(HASHED, command)
        elif not (isinstance(command, Settle) and HOT not in _declared(pair)):
            pair.step(command)  # nobody settles what was not declared
        assert len(pair.holders) <= 1
    assert 1 == len(pair.holders)


def _declared(pair: Pair) -> dict[str, int]:
    return pair.shards[HASHED].state.dedications.dedicated


def test_known_stock_stays() -> None:
    """A SKU that has had stock is not dedicated any more, and the shard that was bound is free."""
    pair = Pair()
    pair.at(HASHED, Receive(HOT, "north", 1))
    pair.at(HASHED, Adjust(HOT, "north", -1))

    assert Status.OK is pair.step(Bind(1, HOT))
    assert Status.SKU_KNOWN is pair.step(Dedicate(HOT, 1))
    assert Status.OK is pair.step(Unbind(1, HOT))
    assert Status.OK is pair.status(HASHED, Receive(HOT, "north", 1))
    assert Status.OK is pair.step(Bind(1, "another"))


def test_until_it_is_settled_it_has_nothing() -> None:
    """A shard that is bound, and no more, does nothing, not even for whoever comes straight to it;
    and that is no last word."""
    pair = Pair()
    pair.step(STEPS[0])

    assert {Status.NOT_DONE} == {pair.status(DEDICATED, each) for each in ABOUT_HOT}
    assert [] == pair.holders


def test_again_is_a_replay(pair: Pair) -> None:
    """Each step, taken again, changes nothing."""
    before = [each.digest() for each in pair.shards]

    assert [Status.REPLAYED] * 3 == [pair.step(each) for each in STEPS]
    assert before == [each.digest() for each in pair.shards]


def test_never_undone(pair: Pair) -> None:
    """Neither shard goes back on it."""
    assert Status.SHARD_TAKEN is pair.step(Unbind(1, HOT))
    assert Status.DEDICATED is pair.step(Dedicate(HOT, 2))
    assert Status.SHARD_TAKEN is pair.step(Bind(1, "another"))
    assert Status.SHARD_TAKEN is pair.step(Settle(1, "another"))
    assert Status.SHARD_TAKEN is pair.step(Dedicate("another", 1))


@pytest.mark.parametrize("command", ABOUT_HOT, ids=lambda each: type(each).__name__)
def test_no_other_sku(command: Command) -> None:
    """A dedicated shard has nothing to do with any SKU but its own."""
    pair = Pair()
    for step in (Bind(1, "another"), Dedicate("another", 1), Settle(1, "another")):
        assert Status.OK is pair.step(step)

    assert Status.INVALID is pair.status(DEDICATED, command)


def test_only_where_it_belongs() -> None:
    """Hashed shards are not bound, dedicated ones declare nothing, and names are ids."""
    pair = Pair()
    for command in (Bind(0, HOT), Unbind(0, HOT), Settle(0, HOT), GetBinding(0)):
        assert Status.INVALID is pair.status(HASHED, command)
    for shard, sku in ((0, HOT), (1, "no id")):
        assert Status.INVALID is pair.status(HASHED, Dedicate(sku, shard))
    assert Status.INVALID is pair.status(DEDICATED, Dedicate(HOT, 1))
    assert Status.INVALID is pair.status(DEDICATED, Bind(1, "no id"))


def test_the_binding_is_told(pair: Pair) -> None:
    """Which SKU a dedicated shard is for."""
    assert Binding(1, HOT, True) == pair.at(DEDICATED, GetBinding(1)).body
    assert Binding(1, None, False) == Pair().at(DEDICATED, GetBinding(1)).body


def test_lines_with_others_span_shards(pair: Pair) -> None:
    """A dedicated SKU shares no shard with any other; the smaller one's shard says so."""
    pair.at(HASHED, Receive("apple", "north", 1))
    pair.at(HASHED, Receive("zebra", "north", 1))
    apple, hot, zebra = (LineRequest(sku, 1) for sku in ("apple", HOT, "zebra"))

    assert Status.LINES_SPAN_SHARDS is pair.status(HASHED, Reserve("a", [hot, apple]))
    assert Status.DEDICATED is pair.status(HASHED, Reserve("b", [zebra, hot]))
    assert Status.LINES_SPAN_SHARDS is pair.status(DEDICATED, Reserve("b", [zebra, hot]))


def test_a_tombstone_is_seen_first(pair: Pair) -> None:
    """A reserve that comes late, after its release, is refused on the way already."""
    pair.at(HASHED, Release("cart", HASHED, bury=True))

    assert Status.RESERVATION_RELEASED is pair.status(HASHED, ABOUT_HOT[-1])


@pytest.mark.parametrize("shard", [HASHED, DEDICATED])
def test_it_is_in_snapshots(pair: Pair, shard: int) -> None:
    """What is known of dedicated shards survives a snapshot, and is in its digest."""
    state = pair.shards[shard].state
    writer = SnapshotWriter(state, shard, Position(1, 1), 7)
    chunks = []
    while (chunk := writer.next_chunk()) is not None:
        chunks.append(chunk[1])
    again = Shard(shard, 1)
    reader = SnapshotReader(again.state, shard, Position(1, 1))
    for data in chunks:
        reader.feed(data)

    assert state.dedications == again.state.dedications
    assert writer.digest == reader.digest() == again.digest()
    assert writer.digest != Pair().shards[shard].digest()


def test_policies_page_by_page() -> None:
    """All policies of a shard are told, in order; who has one already may keep it."""
    pair = Pair()
    names = [f"channel-{number:02}" for number in range(20)]
    for name in names:
        pair.at(HASHED, SetChannel(0, name, ChannelPolicy(buffer=1)))
    found, after = [], None
    while True:
        page = pair.at(HASHED, ListChannels(0, after)).body
        assert isinstance(page, ChannelPage)
        found += [each.channel for each in page.channels]
        if (after := page.next) is None:
            break
    pair.at(HASHED, SetChannel(0, names[0], ChannelPolicy(buffer=2), unless_known=True))

    assert names == found
    view = pair.at(HASHED, ListChannels(0)).body
    assert isinstance(view, ChannelPage)
    assert ChannelView(names[0], ChannelPolicy(buffer=1)) == view.channels[0]
