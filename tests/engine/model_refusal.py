"""How the naive model refuses."""

from re import fullmatch

from engine import limits
from engine.messages import Answer, Body, Status


class RefusalError(Exception):
    """Ends the command at hand; whoever executes it returns the answer."""

    def __init__(self, status: Status, body: Body | None = None) -> None:
        super().__init__(status)
        self.answer = Answer(status, body)


def check_ids(*ids: str | None) -> None:
    """Refuse what is no id; None is none that was given."""
    for name in ids:
        if name is not None and not fullmatch(limits.ID_PATTERN, name):
            raise RefusalError(Status.INVALID)
