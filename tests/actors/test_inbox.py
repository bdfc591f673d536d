"""Commands wait in the order in which they came, in portions that a batch may split."""

from actors.inbox import Inbox, Portion, Waiter
from engine.messages import (
    Answer,
    AnyAnswer,
    Command,
    Commit,
    GetStock,
    Head,
    Release,
    Status,
)

NOT_DONE = Answer(Status.NOT_DONE)


class Asker:
    """A request that remembers what was answered."""

    def __init__(self, deadline: float = 1.0) -> None:
        self.deadline = deadline
        self.answers: list[tuple[int, list[AnyAnswer]]] = []

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        self.answers.append((index, [answer]))

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        self.answers.append((index, answers))


def commands(*names: str) -> list[Command]:
    return [GetStock(name) for name in names]


def portion(*names: str, first: int = 0, deadline: float = 1.0) -> Portion:
    return Portion(Asker(deadline), first, commands(*names))


def test_first_come_first_served() -> None:
    """Portions leave whole and in order if there is room; the inbox counts commands."""
    inbox, one, other = Inbox(), portion("a", "b"), portion("c")
    inbox.put(one)
    inbox.put(other)
    assert 3 == len(inbox)

    assert [one, other] == [inbox.take(2), inbox.take(9)]
    assert not inbox


def test_a_portion_is_split() -> None:
    """A batch takes what it has room for; the rest stays in front, and knows its numbers."""
    inbox, one = Inbox(), portion("a", "b", "c", first=4)
    inbox.put(one)
    inbox.put(portion("d"))
    head = inbox.take(2)
    assert (4, commands("a", "b")) == head[1:]
    assert 2 == len(inbox)
    rest = inbox.take(9)

    assert (one.waiter, 6, commands("c")) == rest
    assert commands("d") == inbox.take(9).commands


def test_what_was_taken_may_come_back() -> None:
    """A batch that closes early gives back what it has not decided."""
    inbox = Inbox()
    inbox.put(portion("a", "b"))
    inbox.put(portion("c"))
    _, rest = inbox.take(9).split(1)
    inbox.put_back(rest)

    assert 2 == len(inbox)
    assert [commands("b"), commands("c")] == [inbox.take(9).commands, inbox.take(9).commands]


def test_the_late_are_taken_out() -> None:
    """At any moment, wherever they stand, and the count stays right."""
    inbox = Inbox()
    for deadline, names in ((9.0, "ab"), (1.0, "c"), (5.0, "def"), (2.0, "g")):
        inbox.put(portion(*names, deadline=deadline))
    assert [] == inbox.take_late(0.9)
    assert [commands("c"), commands("g")] == [each.commands for each in inbox.take_late(2.0)]
    assert 5 == len(inbox)
    assert [] == inbox.take_late(4.9)
    assert [commands(*"def")] == [each.commands for each in inbox.take_late(5.0)]
    assert 2 == len(inbox)


def test_deadlines_of_what_came_back() -> None:
    """Neither an empty inbox nor a split forgets how long anybody waits."""
    inbox = Inbox()
    inbox.put(portion("a", "b", deadline=1.0))
    inbox.take(1)
    assert [commands("b")] == [each.commands for each in inbox.take_late(1.0)]
    inbox.put(portion("c", deadline=7.0))
    inbox.take(9)
    inbox.put(portion("d", deadline=8.0))

    assert [] == inbox.take_late(7.5)
    assert [commands("d")] == [each.commands for each in inbox.take_late(8.0)]


def test_all_are_drained() -> None:
    """At the end everybody is answered, those who come meanwhile, too."""
    inbox = Inbox()
    inbox.put(portion("a", "b"))
    inbox.put(portion("c"))
    seen = []
    for each in inbox.drain():
        seen.append(each.commands)
        if len(seen) == 1:
            inbox.put(portion("d"))

    assert [commands("a", "b"), commands("c"), commands("d")] == seen
    assert 0 == len(inbox)


def test_a_portion_is_answered_alike() -> None:
    """One answer each for as many commands as it has."""
    asker = Asker()
    Portion(asker, 3, commands("a")).answer(NOT_DONE)
    Portion(asker, 5, commands("b", "c")).answer(NOT_DONE)

    assert [(3, [NOT_DONE]), (5, [NOT_DONE, NOT_DONE])] == asker.answers


def test_some_kinds_are_taken_out() -> None:
    """They leave with their place in the request, wherever they stand; the others stay in order,
    and the places that they have."""
    a, b, c = GetStock("a"), GetStock("b"), GetStock("c")
    out, gone = Commit("r", 0), Release("r", 0)
    inbox, one, other = Inbox(), Asker(), Asker()
    inbox.put(Portion(one, 3, [out, a, b, gone, out, c]))
    inbox.put(Portion(other, 0, [out]))
    expected: list[tuple[Waiter, int]] = [(one, 3), (one, 6), (one, 7), (other, 0)]
    assert expected == inbox.take_kinds({Commit, Release})

    assert 3 == len(inbox)
    assert [Portion(one, 4, [a, b]), Portion(one, 8, [c])] == list(inbox.drain())
