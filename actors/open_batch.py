"""What an owner knows of the batch that is decided, and not yet acknowledged."""

import asyncio

from actors.journal import Entry
from actors.past import Moment
from engine.messages import AnyAnswer


class OpenBatch:
    """From its first command until it is home."""

    __slots__ = ("answers", "encoded", "entry", "expired", "is_decided", "met", "sent_at")

    def __init__(self, met: list[asyncio.Future[Moment]]) -> None:
        self.met = met
        """Who waits for its end."""
        self.answers: list[AnyAnswer] = []
        """As far as it is decided."""
        self.encoded: list[bytes] = []
        """The events that are to be journaled."""
        self.expired: list[str] = []
        """Whose deadline it found passed, if anybody wants to know."""
        self.is_decided = False
        self.entry: Entry | None = None
        """The same events as a record, once that is sent."""
        self.sent_at = 0.0
        """When that was, in `time.monotonic`."""
