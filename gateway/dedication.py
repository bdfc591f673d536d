"""`POST /v1/stock/{sku}/dedicate`: the steps by which a SKU comes to have a shard of its own.

    bind the dedicated shard ──► copy the policies of channels ──► dedicate, at the hashed shard
                                                                  refused │        │ done
                                                                  unbind ◄┘        └► settle

Who takes them may die after any, and whoever takes them again completes them: each is a replay if
it was done. Only a refusal of the declaration itself is answered by unbinding; when nobody knows
what came of it, the shard stays bound, and the same call finds it so. Why no order of events leaves
the SKU with stock in two shards is said in `engine.dedication_rules`.

The policies are copied because a dedicated shard may be younger than they are. One that it has
already is left alone: it may be newer than what is copied.
"""

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from engine.messages import (
    Answer,
    Bind,
    Binding,
    ChannelPage,
    Command,
    Dedicate,
    DedicatedTo,
    GetBinding,
    ListChannels,
    SetChannel,
    Settle,
    Status,
    Unbind,
)
from engine.placement import shard_of
from gateway import problems
from gateway.http_input import BodyDecoder
from gateway.http_pages import Page, json_reply
from gateway.http_types import Input
from gateway.problems import TABLE, RefusedError, Reply

if TYPE_CHECKING:
    from engine.scope import Scope
    from gateway.http_api import Api


class DedicateBody(Input):
    """Which dedicated shard; none = one that is free."""

    shard: int | None = None


class DedicationReport(Struct):
    """The SKU lives in that shard."""

    sku: str
    shard: int


BODY = BodyDecoder(DedicateBody)
_DONE = (Status.OK, Status.REPLAYED)


class Asker(Protocol):
    """Whoever brings commands to their shards."""

    async def ask(self, command: Command) -> Answer: ...


async def dedicate(page: Page) -> Reply:
    """Take the steps."""
    wanted = BODY.read(await page.body()).shard
    api = page.api
    steps = Steps(_Signed(api, page.scope), api.shards, api.total, page.subject)
    return json_reply(DedicationReport(page.subject, await steps.take(wanted)))


class _Signed:
    """Asks in the name of a key."""

    def __init__(self, api: "Api", scope: "Scope") -> None:
        self._api = api
        self._scope = scope

    async def ask(self, command: Command) -> Answer:
        return await self._api.router.ask(self._api.narrow(command, self._scope))


class Steps:
    """Of one SKU."""

    def __init__(self, asker: Asker, shards: int, total: int, sku: str) -> None:
        """`shards`: hashed ones; `total`: with the dedicated ones."""
        self._asker = asker
        self._shards = shards
        self._total = total
        self._sku = sku
        self._hashed = shard_of(sku, shards)

    async def take(self, wanted: int | None) -> int:
        """The SKU's dedicated shard. Raises RefusedError."""
        shard = await self._choose() if wanted is None else wanted
        if not self._shards <= shard < self._total:
            raise RefusedError(problems.INVALID, f"Shard {shard} is no dedicated one.")
        await self._must(Bind(shard, self._sku))
        await self._copy_channels(shard)
        answer = await self._asker.ask(Dedicate(self._sku, shard))
        if answer.status in (Status.DEDICATED, Status.SKU_KNOWN, Status.SHARD_TAKEN):
            await self._asker.ask(Unbind(shard, self._sku))
        lives = answer.body.shard if isinstance(answer.body, DedicatedTo) else shard
        if answer.status is Status.DEDICATED and wanted is None:
            shard = lives  # another call for the same SKU has come first
        elif answer.status not in _DONE:
            raise RefusedError(TABLE[answer.status], f"It is shard {lives}." * (lives != shard))
        await self._must(Settle(shard, self._sku))
        return shard

    async def _choose(self) -> int:
        """The shard that is kept for the SKU already, or else the first that is free."""
        free = None
        for shard in range(self._shards, self._total):
            binding = await self._must(GetBinding(shard))
            assert isinstance(binding, Binding)
            if binding.sku == self._sku:
                return shard
            if binding.sku is None and free is None:
                free = shard
        if free is None:
            raise RefusedError(TABLE[Status.SHARD_TAKEN])
        return free

    async def _copy_channels(self, shard: int) -> None:
        after: str | None = ""
        while after is not None:
            page = await self._must(ListChannels(self._hashed, after or None))
            assert isinstance(page, ChannelPage)
            for each in page.channels:
                await self._must(SetChannel(shard, each.channel, each.policy, unless_known=True))
            after = page.next

    async def _must(self, command: Command) -> object:
        """The body of the answer to what nothing ought to be in the way of."""
        answer = await self._asker.ask(command)
        if answer.status not in _DONE:
            raise RefusedError(TABLE[answer.status])
        return answer.body
