"""Patience: asking the journal again until it answers, for what may be asked twice."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from actors.journal import BusyError, FullError, LostError

T = TypeVar("T")
BACKOFF_SECONDS: Final = 0.05


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` gives, once the journal answers. Raises FullError: that may last."""
    while True:
        try:
            return await ask()
        except FullError:
            raise
        except (BusyError, LostError):
            await asyncio.sleep(BACKOFF_SECONDS)
