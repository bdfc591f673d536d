"""The phases of an owner's life; `actors.owner` has the picture."""

from enum import Enum
from typing import Final


class Phase(Enum):
    CLAIMING = "claiming"
    RECOVERING = "recovering"
    SERVING = "serving"
    LEAVING = "leaving"
    FENCED = "fenced"
    FAILED = "failed"
    """The journal does not prove itself: the shard refuses to serve."""
    BROKEN = "broken"
    """A bug, or the claim was lost again: the shard may be recovered anew."""
    RELEASED = "released"


ENDED: Final = frozenset((Phase.FENCED, Phase.FAILED, Phase.BROKEN, Phase.RELEASED))
CLOSED: Final = ENDED | {Phase.LEAVING}
"""Phases in which no command is taken."""
