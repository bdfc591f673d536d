"""Dedicated shards: how one SKU comes to have a shard, and so a writer, of its own.

    shards 0 … N-1          hashed: a SKU belongs to `crc32(sku) mod N`
    shards N … N+D-1        dedicated: each is for one SKU, declared before its first stock

    dedicated shard    free ──bind──► bound ──settle──► settled, for ever
                         ▲──unbind──────┘
    hashed shard       nothing known ──dedicate──► declared, for ever
                          └──first stock──► known, for ever: it stays here

What it guarantees: a SKU never has stock in two shards. The hashed shard decides, in its journal,
between two things that exclude each other for ever: its first stock, or the declaration. Once it
has declared, it does nothing for that SKU but say where it lives. A dedicated shard does nothing
for its SKU until it is told that the declaration is journaled (`Settle`), and nothing ever for any
other. So it does not matter what a gateway remembers, how late a command is or where it is sent,
and whoever dies in between leaves what the same steps, taken again, complete.

The steps in their order (`gateway.dedication` takes them): bind the dedicated shard; dedicate, at
the hashed one; settle. A refusal of the second is for ever (what is known never becomes unknown,
and what is declared is never taken back), so unbinding after it can free nothing that is in use.
"""

from collections.abc import Callable
from typing import Any, Final

from engine import limits
from engine.batch import Batch, invalid
from engine.messages import (
    Answer,
    Bind,
    Binding,
    Bound,
    ChannelPage,
    ChannelView,
    Dedicate,
    Dedicated,
    DedicatedTo,
    GetBinding,
    GetStockAsOf,
    ListChannels,
    ListMovements,
    Settle,
    Settled,
    Status,
    Unbind,
    Unbound,
)
from engine.placement import is_dedicated, shard_of

_PAGE_CHANNELS: Final = 16
"""Policies on one page: as wide as they can be, they fit into one frame."""

_POLICY_BYTES_MAX: Final = (limits.LOCATIONS_MAX + limits.POOLS_MAX + 1) * (limits.ID_CHARS_MAX + 3)
assert _PAGE_CHANNELS * (_POLICY_BYTES_MAX + 64) < limits.FRAME_BYTES_MAX


class DedicationRules:
    """Commands about dedicated shards, decided against the open batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._state = batch.state

    def handlers(self) -> dict[type[Any], Callable[[Any], Answer]]:
        """Command → the rule that decides it."""
        return {
            Bind: self._bind,
            Unbind: self._unbind,
            Settle: self._settle,
            GetBinding: self._get_binding,
            Dedicate: self._dedicate,
            ListChannels: self._list_channels,
            GetStockAsOf: self._ask_about_past,
            ListMovements: self._ask_about_past,
        }

    # --- of a dedicated shard ---

    def _bind(self, command: Bind) -> Answer:
        if (refusal := self._unfit(command.sku)) is not None:
            return refusal
        if self._state.dedications.bound == command.sku:
            return self._binding(Status.REPLAYED)
        if self._state.dedications.bound:
            return self._binding(Status.SHARD_TAKEN)
        self._batch.do(Bound(command.sku))
        return self._binding(Status.OK)

    def _unbind(self, command: Unbind) -> Answer:
        if (refusal := self._unfit(command.sku)) is not None:
            return refusal
        if self._state.dedications.bound != command.sku:
            return self._binding(Status.REPLAYED)
        if self._state.dedications.settled:
            return self._binding(Status.SHARD_TAKEN)
        self._batch.do(Unbound(command.sku))
        return self._binding(Status.OK)

    def _settle(self, command: Settle) -> Answer:
        if (refusal := self._unfit(command.sku)) is not None:
            return refusal
        if self._state.dedications.bound != command.sku:
            return self._binding(Status.SHARD_TAKEN)
        if self._state.dedications.settled:
            return self._binding(Status.REPLAYED)
        self._batch.do(Settled(command.sku))
        return self._binding(Status.OK)

    def _get_binding(self, command: GetBinding) -> Answer:
        if not self._batch.is_dedicated:
            return invalid(f"shard {self._batch.number} is no dedicated one")
        return self._binding(Status.OK)

    def _binding(self, status: Status) -> Answer:
        known = self._state.dedications
        return Answer(status, Binding(self._batch.number, known.bound or None, known.settled))

    def _unfit(self, sku: str) -> Answer | None:
        """Why this shard can have nothing to do with a dedication of `sku`, if it cannot."""
        if not self._batch.is_dedicated:
            return invalid(f"shard {self._batch.number} is no dedicated one")
        return None if self._batch.is_id(sku) else invalid("sku is not an id")

    # --- of a hashed shard ---

    def _dedicate(self, command: Dedicate) -> Answer:
        sku, shard, state = command.sku, command.shard, self._state
        declared = state.dedications.dedicated
        if not self._batch.is_id(sku):
            return invalid("sku is not an id")
        if shard_of(sku, self._batch.shards) != self._batch.number:
            return invalid(f"the SKU is not of shard {self._batch.number}")
        if not is_dedicated(shard, self._batch.shards):
            return invalid(f"shard {shard} is no dedicated one")
        lives = declared.get(sku)
        if lives is not None:
            status = Status.REPLAYED if lives == shard else Status.DEDICATED
            return Answer(status, DedicatedTo(sku, lives))
        if state.skus.get(sku) is not None:
            return Answer(Status.SKU_KNOWN)
        if shard in declared.values():
            return Answer(Status.SHARD_TAKEN)
        self._batch.do(Dedicated(sku, shard, command.by))
        return Answer(Status.OK, DedicatedTo(sku, shard))

    # --- of either ---

    def _list_channels(self, command: ListChannels) -> Answer:
        after, known = command.after or "", self._state.channels
        names = sorted(name for name in known if name > after)
        views = [ChannelView(name, known[name]) for name in names[:_PAGE_CHANNELS]]
        more = len(names) > len(views)
        return Answer(Status.OK, ChannelPage(views, views[-1].channel if more else None))

    def _ask_about_past(self, command: GetStockAsOf | ListMovements) -> Answer:
        """The past is told beside the batches, but for a SKU of which there is none here."""
        return self._batch.elsewhere(command.sku) or Answer(Status.UNKNOWN_SKU)
