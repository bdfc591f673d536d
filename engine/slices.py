"""Work on very many entries, in slices, so that others can go on in between.

A function that returns `Slices` is a generator: after each slice it yields how many entries it has
looked at, and in the end it returns what it was for. Whoever drives it decides what happens in
between: nothing (`drained`), or pauses on an event loop.
"""

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from engine import limits

E = TypeVar("E")
T = TypeVar("T")
Slices = Generator[int, None, T]


def sliced(entries: Iterable[E], look: Callable[[E], object]) -> Slices[None]:
    """Look at each of the entries."""
    for number, each in enumerate(entries, 1):
        look(each)
        if number % limits.AUDIT_SLICE_ENTRIES == 0:
            yield limits.AUDIT_SLICE_ENTRIES


def drained(slices: Slices[T]) -> T:
    """All of the work at once: its result."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: T = end.value
            return result
