"""What a caller may do: the verbs of its key, and the channel that the key belongs to.

Gateways and hosts apply the same rule to every command, because clients may come to either: a verb
that the key lacks is FORBIDDEN; a channel's key acts for its own channel only, and what lies
outside it does not exist for it: it finds no home of another's reservation, and of the engine it
learns no more than where its hosts are.

Whose key asked is written by the edge that saw the key into what changes stock or policy without
naming a reservation (`by`), over whatever the caller sent; a gateway's word for it is taken by
hosts, because a gateway shows the secret of the engine's own processes.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from engine.messages import (
    Adjust,
    Audit,
    Bind,
    Cancel,
    Command,
    Commit,
    Count,
    Dedicate,
    Extend,
    Find,
    GetAvailability,
    GetBinding,
    GetChannel,
    GetMap,
    GetReservation,
    GetStatistics,
    GetStock,
    GetStockAsOf,
    ListChannels,
    ListMovements,
    ListReservations,
    ListShortfalls,
    ListStock,
    MoveLines,
    Receive,
    Release,
    Reserve,
    Restock,
    SetChannel,
    SetStock,
    Settle,
    Ship,
    Status,
    Transfer,
    Unbind,
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
    ListReservations: SELL,
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
    GetStockAsOf: READ,
    ListMovements: READ,
    GetAvailability: READ,
    GetChannel: READ,
    ListShortfalls: READ,
    ListStock: READ,
    GetStatistics: READ,
    GetMap: READ,
    SetChannel: ADMIN,
    Audit: ADMIN,
    **dict.fromkeys((Bind, Unbind, Settle, GetBinding, Dedicate, ListChannels), ADMIN),
}
ALL_VERBS: Final = frozenset(VERBS.values())
ALSO: Final[dict[type[Command], frozenset[str]]] = {Find: frozenset({FULFIL}), GetMap: ALL_VERBS}
"""Commands for which another verb will do: who goes straight to the hosts finds homes and owners
by itself, whatever it has come for."""
CHANNEL_VERBS: Final = frozenset({SELL, FULFIL, READ})
"""What a channel's key may hold: stock and administration concern every channel."""
SIGNED: Final[frozenset[type[Command]]] = frozenset(
    {Receive, Adjust, Count, Transfer, SetStock, SetChannel, Dedicate}
)
"""Commands that say whose key asked for them."""


class Scope(NamedTuple):
    """`channel` None = an operator."""

    channel: str | None
    verbs: frozenset[str]
    by: str | None = ""
    """The id of the caller's key, "" if it showed none; None = what it hands on is signed already,
    and narrowed: it is a process of the engine."""


OPERATOR: Final = Scope(None, ALL_VERBS)
"""Who needs no key."""
ENGINE: Final = Scope(None, ALL_VERBS, None)


def passes(commands: Iterable[Command], scope: Scope) -> bool:
    """Whether `narrow` would change none of `commands`: cheap, for those who come in thousands."""
    if scope.by is None:
        return True
    unbound = scope.channel is None and scope.verbs is ALL_VERBS
    return unbound and SIGNED.isdisjoint(map(type, commands))


def narrow(command: Command, scope: Scope) -> Command | Status:
    """`command` as `scope` may give it, or why it may not."""
    if scope.by is None:
        return command
    if not _may(type(command), scope.verbs):
        return Status.FORBIDDEN
    if type(command) in SIGNED:
        return msgspec.structs.replace(command, by=scope.by)
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
    if isinstance(command, GetStatistics):
        return Status.FORBIDDEN
    if isinstance(command, GetChannel) and command.channel != scope.channel:
        return Status.UNKNOWN_CHANNEL
    if hasattr(command, "scope"):
        return msgspec.structs.replace(command, scope=scope.channel)
    return command


def _may(kind: type[Command], verbs: frozenset[str]) -> bool:
    return VERBS[kind] in verbs or not verbs.isdisjoint(ALSO.get(kind, ()))
