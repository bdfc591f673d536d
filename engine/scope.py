"""What a caller may do: the verbs of its key, and the channel that the key belongs to.

Gateways and hosts apply the same rule to every command, because clients may come to either: a verb
that the key lacks is FORBIDDEN; a channel's key acts for its own channel only, and what lies
outside it does not exist for it.
"""

from typing import Final, NamedTuple

import msgspec

from engine.messages import (
    Adjust,
    Audit,
    Cancel,
    Command,
    Commit,
    Count,
    Extend,
    Find,
    GetAvailability,
    GetChannel,
    GetReservation,
    GetStatistics,
    GetStock,
    ListShortfalls,
    MoveLines,
    Receive,
    Release,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Ship,
    Status,
    Transfer,
)

SELL: Final = "sell"
FULFIL: Final = "fulfil"
STOCK: Final = "stock"
READ: Final = "read"
ADMIN: Final = "admin"

VERBS: Final[dict[type[Command], str]] = {
    Reserve: SELL,
    Commit: SELL,
    Release: SELL,
    Extend: SELL,
    GetReservation: SELL,
    Find: SELL,
    Ship: FULFIL,
    Cancel: FULFIL,
    Restock: FULFIL,
    MoveLines: FULFIL,
    Receive: STOCK,
    Adjust: STOCK,
    Count: STOCK,
    Transfer: STOCK,
    SetStock: STOCK,
    GetStock: READ,
    GetAvailability: READ,
    GetChannel: READ,
    ListShortfalls: READ,
    GetStatistics: READ,
    SetChannel: ADMIN,
    Audit: ADMIN,
}
ALL_VERBS: Final = frozenset(VERBS.values())
CHANNEL_VERBS: Final = frozenset({SELL, FULFIL, READ})
"""What a channel's key may hold: stock and administration concern every channel."""


class Scope(NamedTuple):
    """`channel` None = an operator."""

    channel: str | None
    verbs: frozenset[str]


OPERATOR: Final = Scope(None, ALL_VERBS)


def narrow(command: Command, scope: Scope) -> Command | Status:
    """`command` as `scope` may give it, or why it may not."""
    if scope is OPERATOR:
        return command
    if VERBS[type(command)] not in scope.verbs:
        return Status.FORBIDDEN
    if scope.channel is None:
        return command
    if isinstance(command, Reserve):
        if command.channel not in (None, scope.channel):
            return Status.FORBIDDEN
        return msgspec.structs.replace(command, channel=scope.channel, scope=scope.channel)
    if isinstance(command, GetAvailability):
        if command.channel not in (None, scope.channel):
            return Status.FORBIDDEN
        return msgspec.structs.replace(command, channel=scope.channel)
    if isinstance(command, GetChannel) and command.channel != scope.channel:
        return Status.UNKNOWN_CHANNEL
    if hasattr(command, "scope"):
        return msgspec.structs.replace(command, scope=scope.channel)
    return command
