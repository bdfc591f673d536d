"""A request waits for all of its answers, and is answered once."""

import pytest

from actors.pending import NOT_DONE, OUTCOME_UNKNOWN, Gathered, Pending, Single
from engine.messages import Answer, Detail, Head, Homes, Outgoing, Status

OK = Answer(Status.OK)
MOVED = Answer(Status.MOVED)


@pytest.fixture
def sent() -> list[Outgoing]:
    return []


def pending(sent: list[Outgoing], commands: int) -> Pending:
    return Pending(7, commands, 1.5, sent.append)


def test_the_response_leaves_with_the_last_answer(sent: list[Outgoing]) -> None:
    """Answers come in any order and leave in that of the commands, all at once."""
    request = pending(sent, 3)
    request.answer(2, MOVED)
    request.answer(0, OK)
    assert [] == sent
    request.answer(1, NOT_DONE)

    assert [Outgoing(7, [OK, NOT_DONE, MOVED])] == sent


def test_the_first_answer_counts(sent: list[Outgoing]) -> None:
    """What comes after the deadline's answer changes nothing, and is not sent again."""
    request = pending(sent, 2)
    request.answer(0, OUTCOME_UNKNOWN)
    request.answer(0, OK, Head(0, 1, 2))
    assert [] == sent
    request.answer(1, OK)
    request.answer(1, MOVED)

    assert [Outgoing(7, [OUTCOME_UNKNOWN, OK])] == sent


def test_each_head_is_told_once(sent: list[Outgoing]) -> None:
    """Commands of one batch rest on one record; those of other shards on theirs."""
    request = pending(sent, 4)
    request.answer(0, OK, Head(0, 1, 2))
    request.answer(1, OK, Head(0, 1, 2))
    request.answer(2, OK, Head(1, 1, 2))
    request.answer(3, OK)

    assert [Head(0, 1, 2), Head(1, 1, 2)] == sent[0].heads


def test_answers_come_in_portions(sent: list[Outgoing]) -> None:
    """All at once, or some at a time, among others that came before."""
    pending(sent, 2).answer_all(0, [OK, MOVED], Head(0, 1, 2))
    request = pending(sent, 4)
    request.answer_all(1, [OK, OK], Head(0, 1, 2))
    request.answer_all(0, [NOT_DONE, NOT_DONE], Head(1, 1, 2))
    assert 1 == len(sent)
    request.answer_all(2, [MOVED, MOVED])

    assert Outgoing(7, [OK, MOVED], [Head(0, 1, 2)]) == sent[0]
    assert Outgoing(7, [NOT_DONE, OK, OK, MOVED], [Head(0, 1, 2), Head(1, 1, 2)]) == sent[1]


def test_one_command_is_answered_once(sent: list[Outgoing]) -> None:
    """The shorter way keeps the same promises."""
    one, other = Single(7, 1.5, sent.append), Single(8, 1.5, sent.append)
    one.answer(0, OUTCOME_UNKNOWN)
    one.answer(0, OK, Head(0, 1, 2))
    other.answer_all(0, [OK], Head(0, 1, 2))
    other.answer(0, MOVED)

    assert [Outgoing(7, [OUTCOME_UNKNOWN]), Outgoing(8, [OK], [Head(0, 1, 2)])] == sent
    assert 1.5 == one.deadline


def test_answers_of_shards_are_gathered_into_one(sent: list[Outgoing]) -> None:
    """One command that is put to several shards has one answer, made of all of theirs."""

    def combine(answers: list[Answer]) -> Answer:
        return Answer(Status.OK, Detail(",".join(answer.status.name for answer in answers)))

    request = pending(sent, 2)
    gathered = Gathered(request, 1, 3, combine)
    request.answer(0, OK)
    gathered.answer(4, OK)
    gathered.answer(9, NOT_DONE)
    gathered.answer(9, OK)
    assert [] == sent
    gathered.answer(5, MOVED, Head(5, 1, 2))

    assert [Answer(Status.OK, Detail("OK,NOT_DONE,MOVED"))] == sent[0].answers[1:]
    assert [] == sent[0].heads


def test_gathering_is_done_once(sent: list[Outgoing]) -> None:
    """A shard that answers again after all have does not answer the request again."""
    gathered = Gathered(pending(sent, 1), 0, 1, lambda answers: answers[0])
    gathered.answer(0, Answer(Status.OK, Homes([0], [0])))
    gathered.answer(0, OUTCOME_UNKNOWN)

    assert [Outgoing(7, [Answer(Status.OK, Homes([0], [0]))])] == sent


def test_gathering_ends_with_the_request() -> None:
    """All who are asked on behalf of one request have its deadline."""
    request = pending([], 1)

    assert 1.5 == request.deadline
    assert 1.5 == Gathered(request, 0, 2, lambda answers: answers[0]).deadline
