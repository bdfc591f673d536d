"""The judge finds nothing where nothing is wrong, and each kind of wrong where there is one."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from engine import limits
from engine.codec import Position, checksum_of, decode_record, encode_record
from engine.messages import (
    Answer,
    AuditView,
    Command,
    Commit,
    Committed,
    Detail,
    Event,
    Expired,
    Find,
    GetReservation,
    GetStock,
    GetStockAsOf,
    Head,
    Homes,
    LineRequest,
    Opened,
    Receive,
    Received,
    Release,
    Reserve,
    Reserved,
    Ship,
    ShortfallChanged,
    SnapshotTaken,
    Status,
    StockAsOf,
    StockView,
)
from engine.placement import shard_of
from engine.shard import Shard
from tests.simulation import checker
from tests.simulation.checker import judge
from tests.simulation.history import Asked, History
from tests.simulation.small_world import SmallWorld

WINDOWS = [3_600, 20, 200]


@pytest.mark.parametrize("seed", range(120))
def test_what_a_real_shard_does_is_right(seed: int) -> None:
    """Whatever is asked, lost, repeated and recovered, the judge has nothing to say."""
    history = SmallWorld(seed, seed % 3 + 1, WINDOWS[seed % 3]).run(30)

    assert [] == judge(history)


# --- a story, and what can be wrong with it ------------------------------------------------------


def story() -> History:
    """One shard under two owners, with a reservation that is shipped, and one that expires."""
    world = SmallWorld(1, 1, calm=True)
    (tenure,) = world.tenures
    world.batch(tenure, [Receive("apple", "north", 5, key="k-1"), Receive("brick", "south", 3)])
    world.batch(tenure, [Reserve("cart-0", [LineRequest("apple", 2, "north")])])
    world.batch(tenure, [GetStock("apple"), Commit("cart-0"), GetReservation("cart-0")])
    world.announce(tenure)
    world.batch(tenure, [Reserve("cart-1", [LineRequest("apple", 1)], None, 5)])
    world.announce(tenure)
    world.find("cart-1")
    world.take_over(tenure)
    world.batch(tenure, [Receive("apple", "north", 5, key="k-1")])
    world.batch(tenure, [Ship("cart-0"), GetStock("apple")])
    world.audit(tenure)
    world.pass_by(30_000)
    world.batch(tenure, [GetReservation("cart-1"), GetReservation("cart-9")])
    return world.run(0)


def test_the_story_is_right() -> None:
    """What is spoilt below is right before."""
    assert [] == judge(story())


def rewrite(history: History, change: Callable[[Position, list[Event]], list[Event]]) -> None:
    """Every record anew, with other events, but proving itself."""
    lineage, previous, claimed_after = [], 0, 0
    for position, data in history.lineage[0]:
        record = decode_record(data, 0, position)
        events = change(position, record.events)
        if position.sequence == 0:
            claimed_after, previous = previous, 0
        for event in events:
            if isinstance(event, Opened):
                event.previous_checksum = claimed_after
        link = 0 if position == (0, 1) else previous
        head = (0, position, record.stamp, link, record.snapshot)
        again, previous = encode_record(*head, events)
        lineage.append((position, again))
    history.lineage[0] = lineage
    history.stored = [
        stored._replace(record=record)
        for stored, (_, record) in zip(history.stored, lineage, strict=True)
    ]


def rewritten(kind: type[Any], change: Callable[[Any], list[Event]]) -> Callable[[History], None]:
    """Spoil the first event of a kind."""

    def spoil(history: History) -> None:
        seen: list[Event] = []

        def each(position: Position, events: list[Event]) -> list[Event]:
            result: list[Event] = []
            for event in events:
                first = isinstance(event, kind) and not seen
                seen.extend([event] if first else [])
                result += change(event) if first else [event]
            return result

        rewrite(history, each)
        assert seen

    return spoil


def given_of(history: History, kind: type[Any]) -> int:
    """The first answer to a command of a kind."""
    return next(n for n, each in enumerate(history.given) if type(each.command) is kind)


def answered(kind: type[Any], **fields: Any) -> Callable[[History], None]:
    """Spoil the first answer to a command of a kind."""

    def spoil(history: History) -> None:
        number = given_of(history, kind)
        history.given[number] = history.given[number]._replace(**fields)

    return spoil


def told(kind: type[Any], answer: Answer) -> Callable[[History], None]:
    """Tell the first call of a kind something else."""

    def spoil(history: History) -> None:
        call = next(each.call for each in history.asked if type(each.command) is kind)
        history.told = [
            each._replace(answer=answer) if each.call == call else each for each in history.told
        ]

    return spoil


def flip_a_bit(history: History) -> None:
    position, data = history.lineage[0][4]
    spoilt = data[:70] + bytes((data[70] ^ 1,)) + data[71:]
    history.lineage[0][4] = (position, spoilt)
    history.stored[4] = history.stored[4]._replace(record=spoilt)


def lose_a_record(history: History) -> None:
    del history.lineage[0][4]
    del history.stored[4]


def lose_the_last_record(history: History) -> None:
    del history.lineage[0][-1]


def store_out_of_order(history: History) -> None:
    claims = [n for n, each in enumerate(history.stored) if each.position == (2, 0)]
    number = claims[0]
    history.stored[number] = history.stored[number]._replace(at=history.stored[3].at)


def store_twice(history: History) -> None:
    history.stored.append(history.stored[-1])


def forget_who_asked(history: History) -> None:
    (call,) = [each.call for each in history.asked if isinstance(each.command, Commit)]
    history.asked = [each for each in history.asked if each.call != call]
    history.told = [each for each in history.told if each.call != call]


def forget_who_asked_and_was_answered(history: History) -> None:
    forget_who_asked(history)
    del history.given[given_of(history, Commit)]


def apply_twice(history: History) -> None:
    """A movement without a key, journaled again under another record."""

    def each(position: Position, events: list[Event]) -> list[Event]:
        twice = [event for event in events if isinstance(event, Received) and event.key is None]
        return events + [event for event in twice if event.sku == "brick" and position > (1, 10)]

    rewrite(history, each)


def answer_before_storing(history: History) -> None:
    number = given_of(history, Commit)
    history.given[number] = history.given[number]._replace(at=history.given[number].arrived)


def ask_late(history: History) -> None:
    call = next(each.call for each in history.asked if isinstance(each.command, Ship))
    history.asked = [
        each._replace(at=10**15) if each.call == call else each for each in history.asked
    ]


def answer_from_the_past(history: History) -> None:
    """The new owner's first reader is answered by the old owner."""
    number = next(n for n, each in enumerate(history.given) if each.head and each.head.epoch == 2)
    before = history.given[number - 2]
    history.given[number] = history.given[number]._replace(head=before.head, host=before.host)


def pretend_to_have_received(history: History) -> None:
    last = history.given[-1]
    command = Receive("apple", "west", 1, key="k-new")
    history.asked.append(Asked(999, "till", command, last.at))
    history.given.append(last._replace(command=command, answer=Answer(Status.OK)))


def stop(history: History) -> None:
    history.stopped[0] = "no record"


def serve_nothing(history: History) -> None:
    history.digests.clear()


def serve_something_else(history: History) -> None:
    history.digests[0] = bytes(16)


def count_wrongly(history: History) -> None:
    number = next(n for n, each in enumerate(history.given) if each.head is None)
    body = history.given[number].answer.body
    assert isinstance(body, AuditView)
    view = msgspec.structs.replace(body, reserved=body.reserved + 1)
    history.given[number] = history.given[number]._replace(answer=Answer(Status.OK, view))


def tell_a_false_past(history: History) -> None:
    """The stock of another moment."""
    last = history.given[-1]
    number = given_of(history, GetStock)
    view, stamp = history.given[number].answer.body, decode_record(*second_opening(history)).stamp
    assert isinstance(view, StockView)
    wrong = msgspec.structs.replace(view, on_hand=view.on_hand + 1)
    answer = Answer(Status.OK, StockAsOf(2, 1, stamp, wrong))
    command = GetStockAsOf("apple", stamp)
    history.given.append(last._replace(command=command, answer=answer, head=None))


def second_opening(history: History) -> tuple[bytes, int, Position]:
    position, data = next(each for each in history.lineage[0] if each[0] == (2, 1))
    return data, 0, position


def with_stamp_before(history: History) -> None:
    position, data = history.lineage[0][-1]
    before = checksum_of(history.lineage[0][-2][1])
    events = decode_record(data, 0, position).events
    snapshot = Position(0, 0)
    record, _ = encode_record(0, position, 1, before, snapshot, events)
    history.lineage[0][-1] = (position, record)
    history.stored[-1] = history.stored[-1]._replace(record=record)


def run_the_clock_ahead(history: History) -> None:
    """The first record of the second owner says that an hour has gone by."""
    number = next(n for n, each in enumerate(history.lineage[0]) if each[0] == (2, 2))
    position, data = history.lineage[0][number]
    before, record = history.lineage[0][number - 1], decode_record(data, 0, position)
    stamp = record.stamp + 3_600 * limits.SECOND_US
    head = (0, position, stamp, checksum_of(before[1]), record.snapshot)
    spoilt, _ = encode_record(*head, record.events)
    history.lineage[0][number] = (position, spoilt)
    history.stored[number] = history.stored[number]._replace(record=spoilt)
    del history.lineage[0][number + 1 :]
    del history.stored[number + 1 :]


def lose_an_arrival(history: History) -> None:
    history.arrived = [each for each in history.arrived if not isinstance(each.command, Commit)]


def tell_twice(history: History) -> None:
    history.told.append(history.told[-1])


def fail(history: History) -> None:
    """The rules give up on a command."""
    answer = Answer(Status.INVALID, Detail("the engine failed on this command"))
    answered(GetStock, answer=answer, head=None)(history)


def known(**fields: Any) -> Callable[[History], None]:
    """The world says of itself what the story does not fit."""

    def spoil(history: History) -> None:
        for name, value in fields.items():
            setattr(history, name, value)

    return spoil


def act_before_it_arrived(history: History) -> None:
    """The shipment's record bears a stamp of a minute before it was asked for."""
    minute, number = 60 * 10**9, given_of(history, Ship)
    given = history.given[number]
    history.given[number:] = [given._replace(arrived=given.arrived + minute, at=given.at + minute)]
    for n, arrived in enumerate(history.arrived):
        if isinstance(arrived.command, Ship):
            history.arrived[n] = arrived._replace(at=arrived.at + minute)
    stored = next(n for n, each in enumerate(history.stored) if each.position == (2, 2))
    history.stored[stored] = history.stored[stored]._replace(at=history.stored[stored].at + minute)
    del history.stored[stored + 1 :]
    del history.lineage[0][stored + 1 :]


NOWHERE = Answer(Status.UNKNOWN_RESERVATION)
WRONGS: list[tuple[Callable[[History], None], str]] = [
    (flip_a_bit, "does not prove itself"),
    (lose_a_record, "stands after"),
    (lose_the_last_record, "was durable, and is not in the journal"),
    (store_out_of_order, "behind which it stands"),
    (store_twice, "was stored twice"),
    (with_stamp_before, "has stamp 1, after"),
    (forget_who_asked, "but nobody asked for it"),
    (forget_who_asked_and_was_answered, "which is nobody's doing"),
    (ask_late, "asked for it only later"),
    (told(Commit, Answer(Status.NOT_DONE)), "was told NOT_DONE"),
    (told(Commit, Answer(Status.OK)), "which no host gave to it"),
    (told(GetStock, Answer(Status.UNKNOWN_SKU)), "which no host gave to it"),
    (told(Commit, NOWHERE), "which no host gave to it"),
    (told(GetReservation, Answer(Status.AMBIGUOUS_RESERVATION)), "which no host gave to it"),
    (told(Find, Answer(Status.OK, Homes([], [0]))), "which no host gave to it"),
    (answered(GetStock, answer=Answer(Status.UNKNOWN_SKU)), "where that is never right"),
    (answered(Commit, answer=Answer(Status.REPLAYED)), "where that is never right"),
    (answered(Reserve, answer=Answer(Status.OK)), "right is Answer"),
    (answered(GetStock, head=None), "which rests on no record"),
    (answered(GetStock, head=Head(0, 1, 99)), "upon 1-99, which is missing"),
    (answered(GetStock, host="host-9"), "had claimed that epoch"),
    (answered(Find, answer=Answer(Status.OK, Homes([], [0]))), "wrongly"),
    (answered(Commit, answer=Answer(Status.NOT_DONE), head=None), "it has refused"),
    (answered(GetReservation, answer=NOWHERE, head=None), "though it was known all the time"),
    (lose_an_arrival, "it has refused"),
    (run_the_clock_ahead, "µs on, after"),
    (tell_twice, "was told twice"),
    (fail, "the engine failed on this command"),
    (pretend_to_have_received, "which has no such effect"),
    (answer_before_storing, "durable only at"),
    (answer_from_the_past, "by then 2-1 stood"),
    (apply_twice, "has had its effect already"),
    (rewritten(Expired, lambda event: []), "there fell due"),
    (rewritten(Committed, lambda event: [event, Expired("cart-1")]), "which was not due"),
    (rewritten(Committed, lambda event: [event, event]), "the answer is"),
    (rewritten(Committed, lambda event: []), "no such effect"),
    (
        rewritten(Reserved, lambda event: [msgspec.structs.replace(event, expires_at=5)]),
        "cannot have done",
    ),
    (
        rewritten(Received, lambda event: [msgspec.structs.replace(event, quantity=99)]),
        "which is nobody's doing",
    ),
    (
        rewritten(Committed, lambda event: [event, ShortfallChanged("apple", "north", 1)]),
        "cannot have done",
    ),
    (
        rewritten(Opened, lambda event: [msgspec.structs.replace(event, previous_sequence=7)]),
        "stands before its claim",
    ),
    (
        rewritten(Committed, lambda event: [event, SnapshotTaken(1, 4, 1, b"")]),
        "not begun at 1-4",
    ),
    (count_wrongly, "of 2-"),
    (tell_a_false_past, "of 2-1, right is"),
    (stop, "has stopped without a reason: no record"),
    (serve_nothing, "is not served in the end"),
    (serve_something_else, "is served with digest 00000000000000000000000000000000"),
    (known(lived={0: (Position(1, 3), bytes(16))}), "is served at 1-3 with digest 000000"),
    (known(once_stopped={0: "no record"}), "had stopped without a reason: no record"),
    (known(impossible={Status.UNKNOWN_RESERVATION}), "with Answer(status=<Status.UNKNOWN_RES"),
    (known(impossible={Status.REPLAYED}), "and was told Answer(status=<Status.REPLAYED"),
    (known(settings=(1, 2, 3, 4)), "has settings ("),
    (known(wall_us=0), "no clock shows"),
    (known(deadline_ns=-checker.LATE_NS), "only what it asked at"),
    (act_before_it_arrived, "it has refused"),
    (
        rewritten(SnapshotTaken, lambda event: [msgspec.structs.replace(event, digest=b"other")]),
        "has digest 6f74686572, its journal makes",
    ),
]


@pytest.mark.parametrize(("spoil", "expected"), WRONGS, ids=[f"{n}" for n in range(len(WRONGS))])
def test_what_is_wrong_is_found(spoil: Callable[[History], None], expected: str) -> None:
    """One thing made wrong in the story is found, and said."""
    history = story()
    spoil(history)

    found = judge(history)

    assert [sentence for sentence in found if expected in sentence], found


def test_a_state_that_nobody_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the journal makes of every SKU and reservation is compared, asked for or not."""

    class Wrong(Shard):
        def execute(self, command: Command) -> Answer:
            return NOWHERE

    monkeypatch.setattr(checker, "Shard", Wrong)
    found = judge(story())

    assert 4 == len([sentence for sentence in found if "ends in a state in which" in sentence])


def test_what_was_lost_may_be_missing_where_a_shard_has_stopped() -> None:
    """A server that went back in time excuses a shard that stopped, and no other."""
    history = story()
    del history.lineage[0][-3:]
    history.stopped[0] = "Regressed: its end is gone"
    history.digests.clear()

    assert [] != judge(history)
    history.lossy = True
    assert [] == judge(history)
    history.stopped[0] = "CorruptRecord: a record does not prove itself"
    assert [] != judge(history)
    history.stopped.clear()
    assert [] != judge(history)


def test_what_the_world_has_spoilt_may_stop() -> None:
    """A record with a flipped bit is no fault of the engine, if its shard then refuses to serve."""
    history = story()
    flip_a_bit(history)
    history.stopped[0] = "CorruptRecord"
    history.digests.clear()

    assert [] != judge(history)
    history.damaged.add(0)
    assert [] == judge(history)


def test_a_reply_that_was_lost() -> None:
    """An effect that no host has told of is still its caller's, if the outcome is unknown."""
    history = story()
    del history.given[given_of(history, Commit)]
    told(Commit, Answer(Status.OUTCOME_UNKNOWN))(history)

    assert [] == judge(history)


def test_an_answer_after_a_window_has_ended() -> None:
    """What is forgotten without a record is known before, and not after."""
    world = SmallWorld(1, 1, 20, calm=True)
    (tenure,) = world.tenures
    world.batch(tenure, [Reserve("cart-0", [LineRequest("apple", 1)])])
    world.batch(tenure, [Release("cart-0")])
    world.pass_by(19_000)
    world.batch(tenure, [GetReservation("cart-0")])
    world.pass_by(2_000)
    world.batch(tenure, [GetReservation("cart-0", 0)])
    early, late = world.history.given[-2:]
    history = world.run(0)

    assert [] == judge(history)
    assert (Status.OK, Status.UNKNOWN_RESERVATION) == (early.answer.status, late.answer.status)
    history.given[-2:] = [early._replace(answer=late.answer), late._replace(answer=early.answer)]
    never = [sentence for sentence in judge(history) if "where that is never right" in sentence]
    assert 2 == len(never)


def test_an_id_that_two_shards_know() -> None:
    """An edge may say that an id is ambiguous while it is, and that it is nowhere while it is."""
    world = SmallWorld(1, 3, calm=True)
    apples, others = (world.tenures[shard_of(sku, 3)] for sku in ("apple", "chimera"))
    assert apples is not others
    ambiguous = Answer(Status.AMBIGUOUS_RESERVATION)

    def judged(answer: Answer) -> list[str]:
        call = world.ask(GetReservation("cart-0"))
        world.tell(call, answer)
        found = judge(world.run(0))
        del world.history.asked[-1], world.history.told[-1]
        return found

    assert [] == judged(NOWHERE)
    world.batch(apples, [Reserve("cart-0", [LineRequest("apple", 1)])])
    assert [] != judged(NOWHERE)
    assert [] != judged(ambiguous)
    world.batch(others, [Receive("chimera", "north", 1)])
    world.batch(others, [Reserve("cart-0", [LineRequest("chimera", 1)])])
    assert [] == judged(ambiguous)
