"""A request that waits for its answers.

Its commands may belong to several shards, which answer in their own time; the response leaves when
the last answer is in. At its deadline what is missing is answered by what is known: a command that
no batch has taken was certainly not done, of one that is in an unacknowledged batch nobody knows.
Answers that come later are dropped: the caller finds out by asking again under the same name.
"""

from collections.abc import Callable
from typing import Final, cast

from engine.messages import Answer, AnyAnswer, Head, Outgoing, Status
from engine.wire import decode_answer

NOT_DONE: Final = Answer(Status.NOT_DONE)
OUTCOME_UNKNOWN: Final = Answer(Status.OUTCOME_UNKNOWN)


class Pending:
    """One request of one caller, on its way."""

    __slots__ = ("_answers", "_heads", "_missing", "_reply", "_request_id", "deadline")

    def __init__(
        self, request_id: int, commands: int, deadline: float, reply: Callable[[Outgoing], None]
    ) -> None:
        """`deadline`: in the event loop's time."""
        self._request_id = request_id
        self._answers: list[AnyAnswer | None] = [None] * commands
        self._missing = commands
        self._heads: list[Head] = []
        self._reply = reply
        self.deadline = deadline

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        """Command number `index` is answered; the first answer counts."""
        if self._answers[index] is not None:
            return
        self._answers[index] = answer
        self._missing -= 1
        heads = self._heads
        if head is not None and (not heads or heads[-1] is not head) and head not in heads:
            heads.append(head)
        if not self._missing:
            answers = cast(list[AnyAnswer], self._answers)
            self._reply(Outgoing(self._request_id, answers, heads))

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        """As many commands are answered, from number `index` on; the first answers count."""
        if self._missing == len(self._answers) == len(answers):
            self._answers[:] = answers
            self._missing = 0
            self._reply(Outgoing(self._request_id, answers, [] if head is None else [head]))
            return
        for number, answer in enumerate(answers, index):
            self.answer(number, answer, head)


class Single:
    """A request of one command, which is what most callers send: `Pending` without its lists."""

    __slots__ = ("_reply", "_request_id", "deadline")

    def __init__(self, request_id: int, deadline: float, reply: Callable[[Outgoing], None]) -> None:
        self._request_id = request_id
        self._reply: Callable[[Outgoing], None] | None = reply
        self.deadline = deadline

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        """The command is answered; the first answer counts."""
        reply, self._reply = self._reply, None
        if reply is not None:
            reply(Outgoing(self._request_id, [answer], [] if head is None else [head]))

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        """See Pending."""
        self.answer(index, answers[0], head)


class Gathered:
    """One command that was put to several shards: `Pending` of a single answer made of theirs,
    which rests on no one record."""

    __slots__ = ("_answers", "_combine", "_index", "_missing", "_pending", "deadline")

    def __init__(
        self,
        pending: Pending | Single,
        index: int,
        shards: int,
        combine: Callable[[list[Answer]], Answer],
    ) -> None:
        self._pending = pending
        self._index = index
        self._answers: dict[int, Answer] = {}
        self._missing = shards
        self._combine = combine
        self.deadline = pending.deadline

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        """Shard number `index` has answered."""
        if index in self._answers:
            return
        self._answers[index] = decode_answer(answer)
        if len(self._answers) == self._missing:
            self._pending.answer(self._index, self._combine(list(self._answers.values())))

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        """Each shard is asked one thing."""
        self.answer(index, answers[0], head)
