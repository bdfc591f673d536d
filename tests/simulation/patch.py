"""Puts something else in the place of an attribute, for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Place = tuple[Any, str, Any]
"""A module or class, the name of an attribute of its own, and what it is to be."""


@contextmanager
def patched(places: Iterable[Place]) -> Iterator[None]:
    """All of `places` are so, and then as before."""
    before: list[Place] = []
    try:
        for owner, name, value in places:
            before.append((owner, name, vars(owner)[name]))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)
