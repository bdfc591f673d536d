"""The part of the naive model that knows where a SKU lives.

A hashed shard may *declare* that one of its SKUs, of which it has never had any stock, lives in a
dedicated shard; from then on it refuses it, for ever. A dedicated shard is *bound* to one SKU, and
*settled* when it has been told that this is declared; before that it does nothing for it, and never
anything for another. Binding is undone by unbinding, until it is settled; the rest by nothing.
"""

from engine.messages import (
    Answer,
    Bind,
    Binding,
    ChannelPage,
    ChannelPolicy,
    ChannelView,
    Dedicate,
    DedicatedTo,
    GetBinding,
    ListChannels,
    Settle,
    Status,
    Unbind,
)
from engine.placement import shard_of
from tests.engine.model_refusal import RefusalError, check_ids

PAGE_CHANNELS = 16
DedicationCommand = Bind | Unbind | Settle | GetBinding | Dedicate | ListChannels


class DedicationModel:
    """Where the SKUs of one shard live."""

    def __init__(self, number: int, shards: int) -> None:
        self.number, self.shards = number, shards
        self.channels: dict[str, ChannelPolicy] = {}
        self.declared: dict[str, int] = {}
        self.bound: str | None = None
        self.settled = False

    @property
    def is_dedicated(self) -> bool:
        return self.number >= self.shards

    def has_stock(self, sku: str) -> bool:
        """Whether there has ever been any of it here."""
        raise NotImplementedError

    def check_lives(self, sku: str) -> None:
        """Refuse a SKU that does not live here."""
        if self.is_dedicated:
            if sku != self.bound:
                raise RefusalError(Status.INVALID)
            if not self.settled:
                raise RefusalError(Status.NOT_DONE)
        elif shard_of(sku, self.shards) != self.number:
            raise RefusalError(Status.INVALID)
        elif sku in self.declared:
            raise RefusalError(Status.DEDICATED, DedicatedTo(sku, self.declared[sku]))

    def check_live_together(self, skus: list[str]) -> None:
        """Refuse lines of which not all live here; who is asked first is who the smallest SKU
        belongs to."""
        refusals: dict[str, RefusalError] = {}
        for sku in skus:
            try:
                self.check_lives(sku)
            except RefusalError as refusal:
                refusals[sku] = refusal
        first = refusals.get(min(skus, key=str.encode))
        if first is not None and (self.is_dedicated or first.answer.status != Status.INVALID):
            raise first
        if refusals:
            raise RefusalError(Status.LINES_SPAN_SHARDS)

    # --- commands ----------------------------------------------------------------------------

    def decide_dedication(self, command: DedicationCommand) -> Answer:
        match command:
            case Bind() | Unbind() | Settle():
                return self.about_binding(command)
            case GetBinding():
                return self.get_binding()
            case Dedicate():
                return self.dedicate(command)
            case ListChannels():
                return self.list_channels(command)

    def about_binding(self, command: Bind | Unbind | Settle) -> Answer:
        if not self.is_dedicated:
            raise RefusalError(Status.INVALID)
        check_ids(command.sku)
        mine = self.bound == command.sku
        match command:
            case Bind():
                done, possible = mine, self.bound is None
            case Unbind():
                done, possible = not mine, not self.settled
            case Settle():
                done, possible = mine and self.settled, mine
        if not done and not possible:
            return self.binding(Status.SHARD_TAKEN)
        if not done and isinstance(command, Settle):
            self.settled = True
        elif not done:
            self.bound = command.sku if isinstance(command, Bind) else None
        return self.binding(Status.REPLAYED if done else Status.OK)

    def binding(self, status: Status) -> Answer:
        return Answer(status, Binding(self.number, self.bound, self.settled))

    def get_binding(self) -> Answer:
        if not self.is_dedicated:
            raise RefusalError(Status.INVALID)
        return self.binding(Status.OK)

    def dedicate(self, command: Dedicate) -> Answer:
        sku, shard = command.sku, command.shard
        check_ids(sku)
        if shard_of(sku, self.shards) != self.number or shard < self.shards:
            raise RefusalError(Status.INVALID)
        if sku in self.declared:
            status = Status.REPLAYED if self.declared[sku] == shard else Status.DEDICATED
            return Answer(status, DedicatedTo(sku, self.declared[sku]))
        if self.has_stock(sku):
            raise RefusalError(Status.SKU_KNOWN)
        if shard in self.declared.values():
            raise RefusalError(Status.SHARD_TAKEN)
        self.declared[sku] = shard
        return Answer(Status.OK, DedicatedTo(sku, shard))

    def list_channels(self, command: ListChannels) -> Answer:
        names = sorted(name for name in self.channels if name > (command.after or ""))
        views = [ChannelView(name, self.channels[name]) for name in names[:PAGE_CHANNELS]]
        more = len(names) > len(views)
        return Answer(Status.OK, ChannelPage(views, views[-1].channel if more else None))
