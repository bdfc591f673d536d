"""Commands that wait for an owner's next batch, in the order in which they came.

They come and go in portions: the commands of one request, all for this shard. A portion is taken
whole unless a batch has room for a part of it only; then its head goes and its rest stays in front.
A portion whose deadline has passed is not taken: it was certainly not done.
"""

from collections import deque
from collections.abc import Iterator, Set
from math import inf
from typing import NamedTuple, Protocol

from engine.messages import AnyAnswer, Command, Head


class Waiter(Protocol):
    """Who asked; see `actors.pending`."""

    deadline: float
    """In the event loop's time."""

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        """The request's command number `index` is answered."""

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        """As many commands are answered, from number `index` on."""


class Portion(NamedTuple):
    """Commands of one request, from its number `first` on."""

    waiter: Waiter
    first: int
    commands: list[Command]

    def split(self, at: int) -> tuple["Portion", "Portion"]:
        """The first `at` commands, and the others."""
        waiter, first, commands = self
        return Portion(waiter, first, commands[:at]), Portion(waiter, first + at, commands[at:])

    def answer(self, answer: AnyAnswer) -> None:
        """All of them are answered alike."""
        if len(self.commands) == 1:
            self.waiter.answer(self.first, answer)
        else:
            self.waiter.answer_all(self.first, [answer] * len(self.commands))


class Inbox:
    """The queue of one owner. `len` counts commands."""

    __slots__ = ("_commands", "_earliest", "_portions")

    def __init__(self) -> None:
        self._portions: deque[Portion] = deque()
        self._commands = 0
        self._earliest = inf
        """No deadline in here is before this."""

    def __len__(self) -> int:
        return self._commands

    def put(self, portion: Portion) -> None:
        """Queue a portion of at least one command."""
        self._portions.append(portion)
        self._commands += len(portion.commands)
        deadline = portion.waiter.deadline
        if deadline < self._earliest:
            self._earliest = deadline

    def take(self, most: int) -> Portion:
        """The next portion, or its first `most` commands; there is one."""
        portion = self._portions.popleft()
        self._commands -= len(portion.commands)
        if not self._commands:
            self._earliest = inf
        if len(portion.commands) <= most:
            return portion
        head, rest = portion.split(most)
        self.put_back(rest)
        return head

    def put_back(self, portion: Portion) -> None:
        """The rest of the portion that was taken last: it stays in front."""
        self._portions.appendleft(portion)
        self._commands += len(portion.commands)
        self._earliest = min(self._earliest, portion.waiter.deadline)

    def take_late(self, now: float) -> list[Portion]:
        """Every portion whose deadline has passed by `now`."""
        if self._earliest > now:
            return []
        late = [each for each in self._portions if each.waiter.deadline <= now]
        left = [each for each in self._portions if each.waiter.deadline > now]
        self._portions = deque(left)
        self._commands = sum(len(each.commands) for each in left)
        self._earliest = min((each.waiter.deadline for each in left), default=inf)
        return late

    def take_kinds(self, kinds: Set[type[Command]]) -> list[tuple[Waiter, int]]:
        """Every command of these kinds: who asked, and its number in the request."""
        taken: list[tuple[Waiter, int]] = []
        left: deque[Portion] = deque()
        for waiter, first, commands in self._portions:
            run: list[Command] = []
            for number, command in enumerate(commands, first):
                if type(command) not in kinds:
                    run.append(command)
                    continue
                taken.append((waiter, number))
                if run:
                    left.append(Portion(waiter, number - len(run), run))
                    run = []
            if run:
                left.append(Portion(waiter, first + len(commands) - len(run), run))
        self._portions = left
        self._commands -= len(taken)
        return taken

    def drain(self) -> Iterator[Portion]:
        """Every portion; those that come meanwhile, too."""
        while self._portions:
            self._commands -= len(self._portions[0].commands)
            yield self._portions.popleft()
