"""Fingerprints of commands as they were sent, by which the judge tells two from one another that
could both have had an effect.

They are a hint where to begin, and prove nothing: what a command must have done, and how it must be
answered, is found out without them.
"""

from typing import Final

import msgspec

from engine.batch import fingerprint
from engine.messages import (
    Cancel,
    Command,
    Event,
    MoveLines,
    Movement,
    Reserve,
    Restock,
    Ship,
)

_NONE: Final = (b"", None)


def looks_like(command: Command, event: Event) -> bool:
    """Whether `event` has the fingerprint of `command`, if it has any."""
    said = getattr(event, "fingerprint", None)
    return said in _NONE or said == _print_of(command)


def _print_of(command: Command) -> bytes | None:
    if isinstance(command, Reserve):
        return fingerprint((command.channel, command.ttl_seconds, command.policy, command.lines))
    if isinstance(command, Ship | Cancel | Restock | MoveLines):
        content = command.moves if isinstance(command, MoveLines) else command.lines
        return fingerprint((type(command).__name__, command.reservation_id, content))
    if isinstance(command, Movement):
        kind = type(command)
        said = kind.__struct_fields__.index("by")
        tag = kind.__struct_config__.tag
        return fingerprint((kind.__name__, (tag, *msgspec.structs.astuple(command)[:said])))
    return None
