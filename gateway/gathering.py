"""Answers to the commands of one frame, or one call: they come one by one, and leave together."""

from collections.abc import Callable
from typing import cast

from engine.messages import Answer


class Gathering:
    """Waits until there is an answer for each of `commands`, which are one at least; then all of
    them are `done`, in the order of their commands."""

    __slots__ = ("_answers", "_done", "_missing")

    def __init__(self, commands: int, done: Callable[[list[Answer]], None]) -> None:
        self._answers: list[Answer | None] = [None] * commands
        self._missing = commands
        self._done = done

    def put(self, index: int, answer: Answer) -> None:
        """The answer to the command in that place, once."""
        self._answers[index] = answer
        self._missing -= 1
        if not self._missing:
            self._done(cast(list[Answer], self._answers))
