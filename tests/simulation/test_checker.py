"""The judge finds nothing where nothing is wrong, and each kind of wrong where there is one."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from engine.codec import Position, checksum_of, decode_record, encode_record
from engine.messages import (
    Answer,
    AuditView,
    Commit,
    Committed,
    Event,
    Expired,
    Find,
    GetReservation,
    GetStock,
    Head,
    Homes,
    LineRequest,
    Opened,
    Receive,
    Received,
    Reserve,
    Reserved,
    Ship,
    ShortfallChanged,
    SnapshotTaken,
    Status,
)
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
    world.batch(tenure, [Reserve("cart-1", [LineRequest("apple", 1)], None, 5)])
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


def with_stamp_before(history: History) -> None:
    position, data = history.lineage[0][-1]
    before = checksum_of(history.lineage[0][-2][1])
    events = decode_record(data, 0, position).events
    snapshot = Position(0, 0)
    record, _ = encode_record(0, position, 1, before, snapshot, events)
    history.lineage[0][-1] = (position, record)
    history.stored[-1] = history.stored[-1]._replace(record=record)


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
    (count_wrongly, "finds"),
    (stop, "has stopped without a reason: no record"),
    (serve_nothing, "is not served in the end"),
    (serve_something_else, "is served with digest 00000000000000000000000000000000"),
]


@pytest.mark.parametrize(("spoil", "expected"), WRONGS, ids=[f"{n}" for n in range(len(WRONGS))])
def test_what_is_wrong_is_found(spoil: Callable[[History], None], expected: str) -> None:
    """One thing made wrong in the story is found, and said."""
    history = story()
    spoil(history)

    found = judge(history)

    assert [sentence for sentence in found if expected in sentence], found
