"""The lane does what the rules do, byte for byte."""

from random import Random
from typing import Any

import pytest

from engine import limits
from engine.codec import encode_event
from engine.messages import (
    Adjust,
    Answer,
    AnyAnswer,
    ChannelPolicy,
    Command,
    Commit,
    Extend,
    LineRequest,
    Policy,
    Receive,
    Release,
    Reserve,
    SetChannel,
    SetStock,
    Ship,
    Status,
)
from engine.shard import Outcomes, Shard
from engine.wire import decode_answer, encode_answer

START = 1_700_000_000_000_000


class Twins:
    """Two shards that are told the same: one decides it in portions, as an owner does, the other
    command by command, by the rules alone."""

    def __init__(self, remembered_max: int = limits.REMEMBERED_MAX, start: int = START) -> None:
        self.quick = Shard(0, 1, remembered_max)
        self.plain = Shard(0, 1, remembered_max)
        self.now = start
        self.outcomes: Outcomes = {}
        self.counted: Outcomes = {}
        self.in_lane = 0

    def batch(self, commands: list[Command], after: int = 1_000) -> list[Answer]:
        """One batch, `after` µs after the one before; what both have answered."""
        self.now += after
        quick, events = self._quickly(commands)
        plain, others = self._plainly(commands)
        assert [encode_answer(decode_answer(each)) for each in quick] == [
            each if isinstance(each, bytes) else encode_answer(each) for each in quick
        ], "an answer is encoded as it would be"
        assert plain == [decode_answer(each) for each in quick]
        assert others == events
        assert self.plain.digest() == self.quick.digest()
        assert self.counted == self.outcomes
        self.in_lane += sum(isinstance(each, bytes) for each in quick)
        return plain

    def _quickly(self, commands: list[Command]) -> tuple[list[AnyAnswer], list[bytes]]:
        answers: list[AnyAnswer] = []
        self.quick.begin(self.now)
        encoded = [encode_event(each) for each in self.quick.events]
        self.quick.events.clear()
        self.quick.decide(commands, answers, encoded, 0, self.outcomes)
        self.quick.close()
        return answers, encoded

    def _plainly(self, commands: list[Command]) -> tuple[list[Answer], list[bytes]]:
        self.plain.begin(self.now)
        answers = [self.plain.execute(each) for each in commands]
        for command, answer in zip(commands, answers, strict=True):
            counts = self.counted.setdefault(type(command), [0] * limits.STATUSES_MAX)
            counts[answer.status] += 1
        return answers, [encode_event(each) for each in self.plain.close()]


def stocked(**places: int) -> Twins:
    """Apples and pears, as many at each of these places."""
    twins = Twins()
    twins.batch(
        [Receive(sku, place, n) for sku in ("apple", "pear") for place, n in places.items()]
    )
    return twins


def reserve(name: str, quantity: int = 1, sku: str = "apple", **others: Any) -> Reserve:
    return Reserve(name, [LineRequest(sku, quantity)], **others)


def test_what_buyers_send_goes_by_the_lane() -> None:
    """Single lines of plain SKUs: reserved, committed, released, all without the rules."""
    twins = stocked(here=1_000)
    twins.batch([reserve(f"r{number}", number + 1, "pear") for number in range(40)])
    twins.batch([Commit("r1"), Release("r2"), reserve("s", 200), Commit("r3", 0), Release("s")])

    assert 45 == twins.in_lane


@pytest.mark.parametrize(
    "command",
    [
        reserve("r"),
        reserve("not an id"),
        reserve("ï"),
        reserve("new", 10),
        reserve("new", sku="plum"),
        reserve("new", channel="policed"),
        reserve("new", channel="not an id"),
        Reserve("new", [LineRequest("apple", 1, "there")]),
        Reserve("new", [LineRequest("apple", 1), LineRequest("pear", 1)]),
        Reserve("new", [LineRequest("pooled", 1)]),
        Reserve("new", [LineRequest("spread", 1)]),
        Commit("unknown"),
        Commit("r", lines=[LineRequest("apple", 1)]),
        Commit("r", if_available=True),
        Commit("r", scope="shop"),
        Commit("wide"),
        Release("unknown", bury=True),
        Release("r", scope="shop"),
    ],
    ids=str,
)
def test_what_the_lane_leaves_to_the_rules(command: Command) -> None:
    """Everything that is not quite common is decided by the rules."""
    twins = stocked(here=8)
    twins.batch(
        [
            SetChannel(0, "policed", ChannelPolicy()),
            Receive("pooled", "here", 5),
            SetStock("pooled", pools={"few": 2}),
            Receive("spread", "here", 5),
            Receive("spread", "there", 5),
            reserve("r", 2),
            Reserve("wide", [LineRequest("apple", 1), LineRequest("pear", 1)]),
        ]
    )
    before = twins.in_lane
    twins.batch([command])

    assert before == twins.in_lane


def test_a_channel_goes_by_the_lane_once_it_is_known_to_have_no_policy() -> None:
    """And no more from the moment at which it has one."""
    twins = stocked(here=100)
    twins.batch([reserve("a", channel="shop")])
    assert 0 == twins.in_lane
    twins.batch([reserve("b", channel="shop"), Commit("b", scope="shop"), Commit("a")])
    assert 3 == twins.in_lane
    twins.batch([SetChannel(0, "shop", ChannelPolicy(buffer=97)), reserve("c", channel="shop")])
    assert 3 == twins.in_lane


def test_nothing_is_reserved_beyond_what_can_be_remembered() -> None:
    """The lane stops where memory does."""
    twins = Twins(remembered_max=3)
    twins.batch([Receive("apple", "here", 100)])
    answers = twins.batch([reserve(str(number)) for number in range(5)])

    assert [Status.OK] * 3 + [Status.MEMORY_FULL] * 2 == [each.status for each in answers]


def test_what_is_overdue_is_not_committed() -> None:
    """A deadline that has passed is the rules' business, and so is one that grace has moved."""
    twins = stocked(here=100)
    twins.batch([reserve("a", ttl_seconds=1), reserve("b", ttl_seconds=10)])
    answers = twins.batch([Commit("a"), Commit("b")], after=2_000_000)

    assert [Status.RESERVATION_EXPIRED, Status.OK] == [each.status for each in answers]


def test_a_batch_closes_when_its_bytes_are_full() -> None:
    """What is decided then is the head of what was asked."""
    shard = stocked(here=1_000_000).quick
    shard.begin(START * 2)
    answers: list[AnyAnswer] = []
    encoded: list[bytes] = []
    commands: list[Command] = [reserve(f"{number:0128}") for number in range(4_000)]
    size = shard.decide(commands, answers, encoded, 0, {})

    assert sum(map(len, encoded)) == size
    assert len(encoded) == len(answers) < len(commands)
    assert limits.BATCH_BYTES_MAX <= size < limits.BATCH_BYTES_MAX + 1_024


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("start", [10_000_000, START])
def test_twins_agree(seed: int, start: int) -> None:
    """Whatever comes in whatever order, while a snapshot is taken or not."""
    random = Random(seed)
    twins = Twins(start=start)
    skus = ["apple", "pear", "plum", "fig-" * 20]
    twins.batch([Receive(sku, "here", random.randint(1, 300)) for sku in skus])
    for _ in range(30):
        if random.random() < 0.2:
            for each in (twins.quick, twins.plain):
                each.state.copying += 1
                each.state.reservations.begin_copy()
        commands = [any_command(random, skus) for _ in range(random.randint(1, 12))]
        twins.batch(commands, after=random.choice((1, 1_000, 400_000)))
        assert sorted(twins.plain.state.copies) == sorted(twins.quick.state.copies)


def any_command(random: Random, skus: list[str]) -> Command:
    """One of what the lane takes, most of the time."""
    name = f"r{random.randint(0, 60)}" + "x" * random.choice((0, 0, 30))
    sku, quantity = random.choice(skus), random.choice((1, 1, 2, 3, 127, 128, 300))
    channel = random.choice((None, None, "shop", "fair"))
    scope = random.choice((None, None, channel))
    place = random.choice((None, None, "here", "there"))
    ttl = random.choice((1, 1, 2, 60))
    kind = random.randint(0, 19)
    if kind < 8:
        request = [LineRequest(sku, quantity, place)]
        return Reserve(name, request, channel, ttl, random.choice((Policy.ALL, Policy.PARTIAL)))
    if kind < 13:
        return Commit(name, scope=scope, if_available=random.random() < 0.1)
    if kind < 16:
        return Release(name, scope=scope, bury=random.random() < 0.3)
    rare: list[Command] = [
        Adjust(sku, "here", random.randint(-20, 40)),
        Receive(sku, random.choice(("here", "here", "there")), 5),
        SetStock(sku, {"here": random.randint(0, 5)}, {"vip": 1} if random.random() < 0.1 else {}),
        Ship(name),
        Extend(name, 5),
        SetChannel(0, "fair", ChannelPolicy(buffer=random.randint(0, 2))),
    ]
    return random.choice(rare)
