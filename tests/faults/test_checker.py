"""The oracle itself: it must notice what it is there for, and believe what is possible."""

import pytest

from engine.codec import Position, decode_record, encode_record
from engine.messages import (
    AuditView,
    Command,
    Commit,
    Committed,
    Dedicated,
    Event,
    Genesis,
    Head,
    Line,
    LineRequest,
    Part,
    Received,
    Release,
    Reserve,
    Reserved,
    State,
    Status,
)
from engine.placement import HASH
from engine.shard import Shard
from tests.faults.checker import (
    Books,
    Contradiction,
    Journal,
    check_heads,
    check_journal,
    possible,
)
from tests.faults.history import Attempt, History

NAME = "order"
RESERVE = Reserve(NAME, [LineRequest("sku", 1)])
COMMIT, RELEASE = Commit(NAME, 0), Release(NAME, 0)
LOST, UNKNOWN = None, Status.OUTCOME_UNKNOWN
OK, REPLAYED, NOT_DONE = Status.OK, Status.REPLAYED, Status.NOT_DONE
EVERYWHERE = {None, State.RESERVED, State.COMMITTED}

Told = tuple[Command, Status | None]


def attempts(told: tuple[Told, ...], *, direct: bool = False) -> list[Attempt]:
    return [
        Attempt(command, 0, direct, float(moment), moment + 0.5, status, None)
        for moment, (command, status) in enumerate(told)
    ]


@pytest.mark.parametrize(
    ("told", "stands"),
    [
        (((RESERVE, OK),), {State.RESERVED}),
        (((RESERVE, NOT_DONE),), {None}),
        (((RESERVE, Status.INSUFFICIENT_STOCK),), {None}),
        (((RESERVE, LOST),), {None, State.RESERVED}),
        (((RESERVE, UNKNOWN), (RESERVE, REPLAYED)), {State.RESERVED}),
        (((RESERVE, LOST), (RESERVE, OK)), {State.RESERVED}),
        (((RESERVE, OK), (COMMIT, OK), (COMMIT, REPLAYED)), {State.COMMITTED}),
        (((RESERVE, OK), (COMMIT, LOST)), {State.RESERVED, State.COMMITTED}),
        (((RESERVE, LOST), (COMMIT, Status.UNKNOWN_RESERVATION)), {None, State.RESERVED}),
        (((RESERVE, LOST), (COMMIT, LOST)), EVERYWHERE),
        (((RESERVE, OK), (RELEASE, LOST), (RELEASE, REPLAYED)), {State.RELEASED}),
    ],
)
def test_what_is_possible(told: tuple[Told, ...], stands: set[State | None]) -> None:
    """What nobody was told may have happened, may happen later, or never."""
    assert stands == possible(attempts(told))


@pytest.mark.parametrize(
    "told",
    [
        ((RESERVE, OK), (RESERVE, OK)),
        ((RESERVE, OK), (RESERVE, Status.INSUFFICIENT_STOCK)),
        ((RESERVE, OK), (COMMIT, Status.UNKNOWN_RESERVATION)),
        ((RESERVE, OK), (COMMIT, OK), (COMMIT, OK)),
        ((RESERVE, OK), (COMMIT, OK), (RELEASE, OK)),
        ((RESERVE, NOT_DONE), (COMMIT, OK)),
        ((RESERVE, OK), (RELEASE, OK), (COMMIT, REPLAYED)),
    ],
)
def test_answers_that_contradict_each_other(told: tuple[Told, ...]) -> None:
    """Lost, done twice, or done although it was said not to be: no course of events has that."""
    with pytest.raises(Contradiction):
        possible(attempts(told))


def test_a_gateway_may_replay_itself_a_host_may_not() -> None:
    """A gateway sends again what it may; a host that says REPLAYED has done it before."""
    told = ((RESERVE, REPLAYED),)

    assert {State.RESERVED} == possible(attempts(told))
    with pytest.raises(Contradiction):
        possible(attempts(told, direct=True))


# --- the journal -----------------------------------------------------------------------------

STOCKED = Received("sku", "here", 10, key="first")
HELD = Reserved(NAME, b"", None, 10**18, [Line("sku", [Part("here", 1)])])
PLACE = Position(1, 1)


def journal(*batches: list[Event]) -> Journal:
    """One shard's, each batch a record after genesis."""
    found = []
    records: list[tuple[Position, list[Event]]] = [(Position(0, 1), [Genesis("x", 1, HASH)])]
    records += [(Position(1, number), batch) for number, batch in enumerate(batches)]
    for position, events in records:
        data, _ = encode_record(0, position, 1, 0, Position(0, 0), events)
        found.append(decode_record(data, 0, position))
    return {0: found}


def audit(found: Journal) -> dict[int, AuditView]:
    """Of a shard that serves what its journal says."""
    shard = Shard(0, 1)
    for record in found[0]:
        shard.replay(record.stamp, record.events)
    view = AuditView(0, *found[0][-1].position, shard.digest(), 1, 0, 0, 0, 0, 0, {}, {}, 0, [])
    return {0: view}


def findings(
    found: Journal,
    stands: dict[str, State],
    *,
    head: Position = PLACE,
    served: Journal | None = None,
) -> list[str]:
    """Of a client that was told that its reserve was done, in record `head`."""
    history = History()
    history.record(Attempt(RESERVE, 0, True, 0, 1, OK, Head(0, *head)))
    audits = audit(served or found)
    return check_journal(found, history, stands, audits, Books(), whole=True)


def test_a_journal_that_agrees() -> None:
    """Each effect once, where its answer said, and what is served is what was replayed."""
    assert [] == findings(journal([STOCKED], [HELD]), {NAME: State.RESERVED})


def test_an_effect_that_is_lost() -> None:
    """Acknowledged, and not journaled."""
    (found,) = findings(journal([STOCKED]), {})

    assert "order: Reserve was acknowledged and is not in the journal" == found


def test_an_effect_that_is_there_twice() -> None:
    """The same movement in two records."""
    (found,) = findings(journal([STOCKED], [HELD], [STOCKED]), {NAME: State.RESERVED})

    assert found.startswith("first: Received 2 times: ")


def test_an_answer_from_elsewhere() -> None:
    """The record that the answer named does not hold the effect."""
    head = Position(1, 7)
    (found,) = findings(journal([STOCKED], [HELD]), {NAME: State.RESERVED}, head=head)

    assert found.startswith("order: Reserve is at ")


def test_a_state_that_is_not_the_journals() -> None:
    """A commit that is served and not journaled, in the sums as in the reservation."""
    there = journal([STOCKED], [HELD])
    served = journal([STOCKED], [HELD], [Committed(NAME)])

    found = findings(there, {NAME: State.COMMITTED}, served=served)

    assert "shard 0: what is served is not what its journal says at 1-2" in found
    assert any("unlike its events" in each for each in found)


def test_a_shard_that_has_moved_since_the_audit() -> None:
    """What is audited is held against the journal as it was then, whatever has come since."""
    there = journal([STOCKED], [HELD], [Committed(NAME)])
    served = journal([STOCKED], [HELD])

    assert [] == findings(there, {NAME: State.COMMITTED}, served=served)


@pytest.mark.parametrize(
    ("shards", "told"),
    [((0, 1), [0, 1]), ((0,), [0]), ((1,), None)],
    ids=["in both", "in the hashed one", "where it lives"],
)
def test_a_sku_that_lives_elsewhere(shards: tuple[int, ...], told: list[int] | None) -> None:
    """What was dedicated has effects in its dedicated shard, and nowhere else."""
    found = journal([Dedicated("sku", 1)])[0]
    begun = journal()[0]
    stocked = [journal([Received("sku", "here", 1, key=f"in-{each}")])[0][1:] for each in shards]
    both = {0: found, 1: begun}
    for shard, records in zip(shards, stocked, strict=True):
        both[shard] = both[shard] + records

    said = check_journal(both, History(), {}, {}, Books(), whole=False, hashed=1)

    assert [f"sku: has effects in shards {told}, lives in 1"] * bool(told) == said


def test_answers_out_of_order() -> None:
    """What was sent after an answer had come rests on no earlier record."""
    books = Books()
    answers = [
        Attempt(RESERVE, 0, True, 0.0, 1.0, OK, Head(0, 1, 5)),
        Attempt(COMMIT, 0, True, 0.5, 1.5, OK, Head(0, 1, 4)),
        Attempt(COMMIT, 0, True, 2.0, 3.0, OK, Head(0, 1, 4)),
    ]

    check_heads(answers, books)

    assert 1 == len(books.findings)
