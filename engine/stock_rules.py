"""The rules of stock: movements, counts, safety stock, pools, channels, and reading them.

A movement is one immutable entry of the ledger: what is physically there changes by it and by
nothing else. One that carries a `key` counts once however often it is sent. A count below what is
promised, or a raised safety stock, is accepted: the shortfall is an event, and a list to work
through.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from engine import channel as channels
from engine import limits
from engine.audit import audit
from engine.batch import Batch, fingerprint, invalid
from engine.listing import Listings
from engine.messages import (
    Adjust,
    Adjusted,
    Answer,
    Audit,
    ChannelSet,
    ChannelView,
    Count,
    Counted,
    Event,
    GetAvailability,
    GetChannel,
    GetStock,
    ListShortfalls,
    ListStock,
    Movement,
    Receive,
    Received,
    SetChannel,
    SetStock,
    Shortage,
    Shortfall,
    ShortfallPage,
    ShortLine,
    Status,
    StockPage,
    StockSet,
    StockView,
    Transfer,
    Transferred,
)


class StockRules:
    """Commands about stock and channels, decided against the open batch."""

    def __init__(self, batch: Batch, on_policy: Callable[[str], None]) -> None:
        """`on_policy` is told of a channel whose policy changes."""
        self._batch = batch
        self._state = batch.state
        self._on_policy = on_policy
        self._listings = Listings(self._state.skus)

    def handlers(self) -> dict[type[Any], Callable[[Any], Answer]]:
        """Command → the rule that decides it."""
        return {
            Receive: self._receive,
            Adjust: self._adjust,
            Count: self._count,
            Transfer: self._transfer,
            GetStock: self._get_stock,
            SetStock: self._set_stock,
            GetAvailability: self._get_availability,
            SetChannel: self._set_channel,
            GetChannel: self._get_channel,
            ListShortfalls: self._list_shortfalls,
            ListStock: self._list_stock,
            Audit: self._audit,
        }

    def _receive(self, command: Receive) -> Answer:
        return self._movement(
            command,
            command.quantity,
            lambda mark: Received(
                command.sku,
                command.location,
                command.quantity,
                command.reason,
                command.reference,
                command.unit_cost,
                command.currency,
                command.key,
                mark,
                command.by,
            ),
        )

    def _adjust(self, command: Adjust) -> Answer:
        if not command.quantity:
            return invalid("an adjustment by 0")
        return self._movement(
            command,
            command.quantity,
            lambda mark: Adjusted(
                command.sku,
                command.location,
                command.quantity,
                command.reason,
                command.reference,
                command.key,
                mark,
                command.by,
            ),
        )

    def _count(self, command: Count) -> Answer:
        stock = self._state.skus.get(command.sku)
        place = stock and stock.locations.get(command.location)
        on_hand = place.on_hand if place else 0
        physical_version = stock.physical_version if stock else 0
        stale = command.expected_on_hand not in (None, on_hand)
        stale = stale or command.physical_version not in (None, physical_version)
        return self._movement(
            command,
            command.quantity - on_hand,
            lambda mark: Counted(
                command.sku,
                command.location,
                command.quantity,
                command.reason,
                command.reference,
                command.key,
                mark,
                command.by,
            ),
            Answer(Status.STALE_COUNT) if stale else None,
        )

    def _transfer(self, command: Transfer) -> Answer:
        if command.location == command.to_location:
            return invalid("a transfer from a location to itself")
        stock = self._state.skus.get(command.sku)
        place = stock and stock.locations.get(command.location)
        refusal = None
        if stock is None:
            refusal = Answer(Status.UNKNOWN_SKU)
        elif place is None:
            refusal = Answer(Status.UNKNOWN_LOCATION)
        elif place.available < command.quantity:
            short = ShortLine(command.sku, command.quantity, max(0, place.available))
            refusal = Answer(Status.INSUFFICIENT_STOCK, Shortage([short]))
        else:
            refusal = self._batch.room(stock, {command.to_location: command.quantity})
        return self._movement(
            command,
            -command.quantity,
            lambda mark: Transferred(
                command.sku,
                command.location,
                command.to_location,
                command.quantity,
                command.reason,
                command.reference,
                command.key,
                mark,
                command.by,
            ),
            refusal,
        )

    def _movement(
        self,
        command: Movement,
        change: int,
        event: Callable[[bytes], Event],
        refusal: Answer | None = None,
    ) -> Answer:
        """One movement that adds `change` units at its location, unless `refusal` or a rule says
        otherwise; a repetition of an earlier one is answered before that."""
        if self._state.skus.get(command.sku) is None:
            elsewhere = self._batch.elsewhere(command.sku)
            if elsewhere is not None:
                return elsewhere
        mark = command.fingerprint
        if command.key is not None:
            mark = mark.ljust(8, b"\0") if mark else fingerprint(_content(command))
            before = self._state.key_fingerprint(command.key)
            if before is not None and before != mark:
                return Answer(Status.IDEMPOTENCY_MISMATCH)
            if before is not None:
                return self._moved_now(command, Status.REPLAYED)
            refusal = self._batch.may_use_key(command.key) or refusal
        refusal = refusal or self._may_move(command, change)
        if refusal is not None:
            return refusal
        self._batch.do(event(mark))
        return self._moved_now(command, Status.OK)

    def _may_move(self, command: Movement, change: int) -> Answer | None:
        stock = self._state.skus.get(command.sku)
        if stock is None and not self._batch.is_id(command.sku):
            return invalid("sku is not an id")
        place = stock and stock.locations.get(command.location)
        if (place.on_hand if place else 0) + change < 0:
            return Answer(Status.PHYSICAL_SHORTFALL)
        return self._batch.room(stock, {command.location: max(0, change)})

    def _moved_now(self, command: Movement, status: Status) -> Answer:
        stock = self._state.skus.get(command.sku)
        if stock is None or command.location not in stock.locations:
            return Answer(status)
        return Answer(status, stock.movement_view(command.location))

    def _unknown(self, sku: str) -> Answer:
        """The answer to what needs a SKU, and finds none."""
        return self._batch.elsewhere(sku) or Answer(Status.UNKNOWN_SKU)

    def _get_stock(self, command: GetStock) -> Answer:
        stock = self._state.skus.get(command.sku)
        if stock is None:
            return self._unknown(command.sku)
        return Answer(Status.OK, stock.view())

    def _set_stock(self, command: SetStock) -> Answer:
        stock = self._state.skus.get(command.sku)
        if stock is None:
            return self._unknown(command.sku)
        if any(name not in stock.locations for name in command.safety_stock):
            return Answer(Status.UNKNOWN_LOCATION)
        if not all(map(self._batch.is_id, command.pools)):
            return invalid("the name of a pool is not an id")
        if len(stock.pools.keys() | command.pools.keys()) > limits.POOLS_MAX:
            return invalid(f"a SKU has at most {limits.POOLS_MAX} pools")
        places = stock.locations
        same = all(places[name].safety_stock == n for name, n in command.safety_stock.items())
        same = same and all(stock.pools.get(name) == n for name, n in command.pools.items())
        if not same:
            self._batch.do(StockSet(command.sku, command.safety_stock, command.pools, command.by))
        return Answer(Status.OK, stock.view())

    def _get_availability(self, command: GetAvailability) -> Answer:
        stock = self._state.skus.get(command.sku)
        if stock is None:
            return self._unknown(command.sku)
        name = command.channel
        policy = self._state.channels.get(name) if name is not None else None
        waterfall = stock.waterfall(policy)
        return Answer(Status.OK, channels.view(command.sku, name, stock.version, waterfall))

    def _set_channel(self, command: SetChannel) -> Answer:
        policy = command.policy
        names = [command.channel, *(policy.locations or []), *policy.pools]
        if not all(map(self._batch.is_id, names)):
            return invalid("the name of a channel, location or pool is not an id")
        for each in (policy.locations or [], policy.pools):
            if len(set(each)) < len(each):
                return invalid("a location or pool is named twice")
        known = self._state.channels
        if command.channel not in known and len(known) >= limits.CHANNELS_MAX:
            return invalid(f"there are {limits.CHANNELS_MAX} channels already")
        if command.unless_known and command.channel in known:
            return Answer(Status.OK, ChannelView(command.channel, known[command.channel]))
        if known.get(command.channel) != policy:
            self._on_policy(command.channel)
            self._batch.do(ChannelSet(command.channel, policy, command.by))
        return Answer(Status.OK, ChannelView(command.channel, policy))

    def _get_channel(self, command: GetChannel) -> Answer:
        policy = self._state.channels.get(command.channel)
        if policy is None:
            return Answer(Status.UNKNOWN_CHANNEL)
        return Answer(Status.OK, ChannelView(command.channel, policy))

    def _list_shortfalls(self, command: ListShortfalls) -> Answer:
        after = command.after or ("", "")
        spots = sorted(spot for spot in self._state.shortfalls if spot > after)
        page = [Shortfall(*spot, self._state.shortfalls[spot]) for spot in spots[: command.limit]]
        return Answer(Status.OK, ShortfallPage(page))

    def _list_stock(self, command: ListStock) -> Answer:
        rows, following = self._listings.page(
            command.after or "",
            command.limit,
            self._state.now,
            lambda _, each: each.view(),
            _width,
        )
        return Answer(Status.OK, StockPage(rows, following))

    def _audit(self, command: Audit) -> Answer:
        return Answer(Status.OK, audit(self._state, self._batch.number))


def _width(view: StockView) -> int:
    return 1 + len(view.locations) + len(view.pools)


def _content(command: Movement) -> tuple[object, ...]:
    """What a movement says, without who said it: the key of one may be replayed by another."""
    kind = type(command)
    said = kind.__struct_fields__.index("by")
    return kind.__name__, (kind.__struct_config__.tag, *msgspec.structs.astuple(command)[:said])
