"""Who asked for what, in a history: events and answers are brought back to the calls behind them.

A command changes on its way: the edge writes into it whose key asked and which channel that key
belongs to, the router where its reservation lives and whether to bury it. Two commands are *equal*
if they differ in nothing else. A call is equal to what hosts were given of it, however often.

Some answers say that nothing was done, and leave no doubt: a call that was told so cannot be the
one behind an event, unless the same was asked by another call, too.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from engine.messages import (
    UNKNOWN_HOME,
    Adjust,
    Adjusted,
    Bind,
    Bound,
    Buried,
    Cancel,
    Cancelled,
    ChannelSet,
    Command,
    Commit,
    Committed,
    Count,
    Counted,
    Dedicate,
    Dedicated,
    Event,
    Extend,
    Extended,
    LinesMoved,
    MoveLines,
    Receive,
    Received,
    Release,
    Released,
    Reserve,
    Reserved,
    Restock,
    Restocked,
    SetChannel,
    SetStock,
    Settle,
    Settled,
    Ship,
    Shipped,
    Status,
    StockSet,
    Transfer,
    Transferred,
    Unbind,
    Unbound,
)
from tests.simulation.history import Asked, History, Told

NOTHING_DONE: Final = frozenset(
    {
        Status.INVALID,
        Status.FORBIDDEN,
        Status.UNAUTHENTICATED,
        Status.TOO_MANY_REQUESTS,
        Status.NOT_DONE,
        Status.OVERLOADED,
        Status.MEMORY_FULL,
        Status.MOVED,
        Status.SHARD_STOPPED,
    }
)
"""What says at the client that the call had no effect, whatever became of its first sendings."""
MAKERS: Final[dict[type[Event], type[Command]]] = {
    Reserved: Reserve,
    Committed: Commit,
    Released: Release,
    Buried: Release,
    Extended: Extend,
    Shipped: Ship,
    Cancelled: Cancel,
    Restocked: Restock,
    LinesMoved: MoveLines,
    Received: Receive,
    Adjusted: Adjust,
    Counted: Count,
    Transferred: Transfer,
    StockSet: SetStock,
    ChannelSet: SetChannel,
    Bound: Bind,
    Unbound: Unbind,
    Settled: Settle,
    Dedicated: Dedicate,
}
"""Event → the command that does it."""
FILLED_IN: Final = {"home": UNKNOWN_HOME, "scope": None, "bury": False, "by": ""}
_TO_SHARD: Final = (SetChannel, Bind, Unbind, Settle)
"""Commands that say whom they are for."""
NEEDS_KEY: Final = (Receive, Adjust, Count, Transfer, MoveLines)
NEEDS_KEY_WITH_LINES: Final = (Ship, Cancel, Restock)

Name = tuple[Any, ...]
_encode: Final = msgspec.msgpack.Encoder().encode
_blanks: Final[dict[type[Any], dict[str, Any]]] = {}


def equal(command: Command) -> bytes:
    """The same for commands that are equal, and for no others."""
    kind = type(command)
    blank = _blanks.get(kind)
    if blank is None:
        names = kind.__struct_fields__
        blank = _blanks[kind] = {key: value for key, value in FILLED_IN.items() if key in names}
    for field, value in blank.items():
        if getattr(command, field) != value:
            return _encode(msgspec.structs.replace(command, **blank))
    return _encode(command)


def name_of(message: Any, kind: type[Command]) -> Name:
    """What commands of `kind`, and their events, are found by."""
    if kind in NEEDS_KEY_WITH_LINES or kind is MoveLines:
        return kind, message.reservation_id, message.key
    if hasattr(message, "reservation_id"):
        return kind, message.reservation_id
    if kind is SetChannel:
        return kind, message.channel
    if kind in (SetStock, Bind, Unbind, Settle, Dedicate):
        return kind, message.sku
    return kind, message.sku, message.location, message.quantity, message.key


def is_repeatable(command: Command) -> bool:
    """Whether one call may have several effects: each sets, or does nothing if it is done."""
    if isinstance(command, NEEDS_KEY):
        return command.key is not None
    if isinstance(command, NEEDS_KEY_WITH_LINES):
        return command.key is not None or command.lines is None
    return True


@dataclass(slots=True)
class Call:
    """One call of a client, and what it was told."""

    asked: Asked
    told: Told | None = None

    @property
    def did_nothing(self) -> bool:
        return self.told is not None and self.told.answer.status in NOTHING_DONE

    def __str__(self) -> str:
        return f"call {self.asked.call}"


class Calls:
    """All calls of a history."""

    def __init__(self, history: History) -> None:
        self.by_number = {asked.call: Call(asked) for asked in history.asked}
        for told in history.told:
            if told.call in self.by_number:
                self.by_number[told.call].told = told
        self._equal: dict[bytes, list[Call]] = defaultdict(list)
        self._named: dict[Name, dict[bytes, Command]] = defaultdict(dict)
        self._spent: dict[bytes, int] = defaultdict(int)
        self._spelled: dict[int, tuple[Command, bytes]] = {}
        """By identity: one object is met as what was asked, what arrived and what was answered."""
        for call in self.by_number.values():
            command = call.asked.command
            spelling = self.equal(command)
            self._equal[spelling].append(call)
            if type(command) in _CHANGING:
                self._named[name_of(command, type(command))].setdefault(_encode(command), command)

    def equal(self, command: Command) -> bytes:
        """As the function, which is asked once for each command."""
        found = self._spelled.get(id(command))
        if found is None:
            found = self._spelled[id(command)] = command, equal(command)
        return found[1]

    def spellings(self, command: Command) -> list[bytes]:
        """What a call may be equal to whose command a host got as `command`: a channel may have
        been filled in."""
        result = [self.equal(command)]
        if getattr(command, "channel", None) is not None and not isinstance(command, SetChannel):
            result.append(equal(msgspec.structs.replace(command, channel=None)))
        return result

    def behind(self, command: Command) -> list[Call]:
        """The calls that a host may have got as `command`."""
        calls = [
            call for spelling in self.spellings(command) for call in self._equal.get(spelling, ())
        ]
        scope = getattr(command, "scope", None)
        scopes = (None, scope)
        return [call for call in calls if getattr(call.asked.command, "scope", None) in scopes]

    def unheard(
        self, event: Event, kind: type[Command], shard: int, stored_at: int
    ) -> list[tuple[Command, bool]]:
        """The commands, as hosts may have got them, that were asked for and could do `event` in
        `shard`, and whether it is in doubt that they had an effect by `stored_at`."""
        found: list[tuple[Command, bool]] = []
        for command in self._named.get(name_of(event, kind), {}).values():
            if isinstance(command, _TO_SHARD) and command.shard != shard:
                continue
            fields: dict[str, Any] = {}
            if isinstance(event, Buried):
                fields["bury"] = True
            by = getattr(event, "by", "")
            if by:
                fields["by"] = by
            if isinstance(event, Reserved) and isinstance(command, Reserve):
                fields["channel"] = command.channel or event.channel
            filled = msgspec.structs.replace(command, **fields) if fields else command
            found.append((filled, self.doubt(filled, stored_at) is not None))
        return found

    def doubt(self, command: Command, stored_at: int) -> str | None:
        """Why no call can be behind `command` having had an effect that was durable at
        `stored_at`; None if one can."""
        calls = self.behind(command)
        if not calls:
            return "nobody asked for it"
        early = [call for call in calls if call.asked.at <= stored_at]
        if not early:
            return f"{calls[0]} asked for it only later"
        able = [call for call in early if not call.did_nothing]
        if not able:
            told = early[0].told
            assert told is not None
            return f"{early[0]} was told {told.answer.status.name}"
        if not is_repeatable(command) and self._spent[self.equal(command)] >= len(able):
            return f"{able[0]} has had its effect already"
        return None

    def spend(self, command: Command) -> None:
        """`command` has had an effect; without a name it can have no other for the same call."""
        if not is_repeatable(command):
            self._spent[self.equal(command)] += 1


class Arrivals:
    """What has reached hosts, and was not refused by them; of a world that tells of arrivals."""

    def __init__(self, history: History, calls: Calls) -> None:
        self._calls = calls
        self._is_told = bool(history.arrived)
        self._open: dict[tuple[str, bytes], list[int]] = defaultdict(list)
        """Host and command → when it arrived, for each that may have been done there."""
        for arrived in history.arrived:
            self._open[arrived.host, calls.equal(arrived.command)].append(arrived.at)
        for given in history.given if self._is_told else ():
            if given.answer.status in NOTHING_DONE:
                times = self._open.get((given.host, calls.equal(given.command)), [])
                if given.arrived in times:
                    times.remove(given.arrived)

    def may_have(self, host: str, command: Command, stored_at: int) -> bool:
        """Whether `host` had got `command` by then, and has not said that it did nothing."""
        return not self._is_told or self.count(host, command, stored_at) > 0

    def count(self, host: str, command: Command, stored_at: int) -> int:
        """How often `host` had got `command` by then, without saying that it did nothing."""
        spelled = [(host, spelling) for spelling in self._calls.spellings(command)]
        return sum(at <= stored_at for key in spelled for at in self._open.get(key, ()))


_CHANGING: Final = frozenset(MAKERS.values())
