"""Pages: what takes more than one command, or none. Served by Starlette, one task each.

A page gets a `Page`, which holds the request as far as it has been checked, and returns a `Reply`
or raises RefusedError.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace
from starlette.requests import Request

from engine import limits
from engine.messages import (
    Answer,
    Audit,
    ChannelPolicy,
    GetChannel,
    SetChannel,
    Status,
)
from gateway import metrics, openapi, problems
from gateway.http_import import Import, rows_of
from gateway.http_input import BodyDecoder, is_json, parse_flag, parse_number
from gateway.http_lists import body_of
from gateway.http_movements import move_stock
from gateway.http_reports import (
    AuditReport,
    Health,
    Readiness,
    ShardAudit,
    ShardOwner,
    Shards,
)
from gateway.http_types import ChannelBody, channel_of
from gateway.problems import TABLE, RefusedError, Reply

if TYPE_CHECKING:
    from gateway.http_api import Admission, Api

CHANNEL: Final = BodyDecoder(ChannelBody)
PROBE_DEADLINE_MS: Final = 2_000
PROBE_SECONDS: Final = 0.5
"""An answer of /readyz is good for so long, however many ask."""
AUDIT_DEADLINE_MS: Final = 60_000
_SUMS: Final = ("skus", "on_hand", "reserved", "allocated", "available", "shipped", "drift")
_SUMS_OF_REPLAY: Final = ("damage", "replayed", "checks")
SCRAPE_SECONDS: Final = 2.0
FINDINGS_MAX: Final = 100

_ALIVE: Final = (Status.OK, Status.UNKNOWN_CHANNEL)
"""What a shard that is served answers to a question about any channel."""
_encode: Final = msgspec.json.Encoder().encode


class Page:
    """One request: checked, and allowed to come this far."""

    def __init__(self, api: "Api", request: Request, admission: "Admission") -> None:
        self.api = api
        self.request = request
        self.scope, self.subject, self.query, self.key = admission
        self.consumed = False
        """The body has come to its end."""

    @property
    def content_type(self) -> str:
        """The header, with its parameters; empty if there is none."""
        return self.request.headers.get("content-type", "")

    async def body(self) -> bytes:
        """The JSON body, bounded while it comes."""
        if not is_json(self.content_type.encode("latin-1")):
            raise RefusedError(problems.UNSUPPORTED_MEDIA_TYPE)
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limits.BODY_BYTES_MAX:
                raise RefusedError(problems.BODY_TOO_LARGE)
        return bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ClientDisconnect if it does not come to its end."""
        async for chunk in self.request.stream():
            yield chunk
        self.consumed = True


def json_reply(body: msgspec.Struct, status: int = 200) -> Reply:
    return Reply(status, _encode(body))


# --- stock -----------------------------------------------------------------------------------


async def movements(page: Page) -> Reply:
    assert page.key is not None
    return json_reply(await move_stock(page.api, page.scope, page.key, await page.body()))


async def import_rows(page: Page) -> Reply:
    if "kind" not in page.query:
        raise RefusedError(problems.INVALID, "The query parameter kind is missing")
    reader = rows_of(page.content_type, page.query["kind"])
    job = Import(page.api, page.scope, page.key)
    return json_reply(await job.run(reader, page.chunks()))


# --- channels, audit -------------------------------------------------------------------------


async def put_channel(page: Page) -> Reply:
    """Every shard must take it; whoever puts it again mends what did not."""
    body = CHANNEL.read(await page.body())
    locations = body.locations if isinstance(body.locations, list) else None
    policy = ChannelPolicy(
        locations, body.pools or [], body.common_stock is not False, body.buffer or 0
    )
    wanted = page.api.narrow(SetChannel(0, page.subject, policy), page.scope)
    answers = await page.api.router.ask_all(lambda shard: replace(wanted, shard=shard))
    failed = {shard: each for shard, each in answers.items() if TABLE[each.status].http >= 400}
    if not failed:
        return json_reply(channel_of(body_of(answers[0])))
    statuses = {each.status for each in failed.values()}
    if len(failed) == len(answers) and statuses == {Status.INVALID}:
        body_of(answers[0])
    shards = ", ".join(map(str, sorted(failed)))
    detail = f"Shards that did not take the policy: {shards[:200]}. Put the same policy again."
    raise RefusedError(TABLE[Status.OUTCOME_UNKNOWN], detail)


async def audit(page: Page) -> Reply:
    quick = parse_flag(page.query.get("quick", "false"), "quick")
    answers = await _audits(page, quick)
    views = [body_of(answer, f"Shard {shard}") for shard, answer in answers.items()]
    report = AuditReport(0, 0, 0, 0, 0, 0, {}, {}, 0, [], [])
    for view in views:
        for name in (*_SUMS, *_SUMS_OF_REPLAY):
            setattr(report, name, getattr(report, name) + getattr(view, name))
        for into, counts in ((report.reservations, view.reservations), (report.units, view.units)):
            for state, count in counts.items():
                into[state] = into.get(state, 0) + count
        report.findings += (f"shard {view.shard}: {finding}" for finding in view.findings)
        report.shards.append(
            ShardAudit(
                view.shard,
                f"{view.epoch}-{view.sequence}",
                view.digest.hex(),
                view.drift,
                view.findings,
                view.damage,
                view.replayed,
                view.checks,
                view.complete,
                view.skipped,
            )
        )
    report.complete = all(view.complete for view in views)
    del report.findings[FINDINGS_MAX:]
    return json_reply(report)


async def _audits(page: Page, quick: bool) -> dict[int, Answer]:
    """Of the shard that is asked for, or of all."""
    router = page.api.router
    if "shard" not in page.query:
        return await router.ask_all(lambda shard: Audit(shard, quick), AUDIT_DEADLINE_MS)
    shard = parse_number(page.query["shard"], "shard", 0, page.api.total - 1)
    return {shard: await router.ask(Audit(shard, quick), AUDIT_DEADLINE_MS)}


# --- the engine itself -----------------------------------------------------------------------


async def health(page: Page) -> Reply:
    return json_reply(Health("ok"))


async def ready(page: Page) -> Reply:
    return await page.api.readiness.reply()


class ReadinessProbe:
    """Asks every shard for a proof that it is served; many who ask at once share one probe."""

    def __init__(self, api: "Api") -> None:
        self._api = api
        self._probe: asyncio.Task[Reply] | None = None
        self._asked_at = 0.0

    async def reply(self) -> Reply:
        """The latest finding, at most PROBE_SECONDS old."""
        now = asyncio.get_running_loop().time()
        if self._probe is None or (self._probe.done() and now - self._asked_at > PROBE_SECONDS):
            self._probe = asyncio.create_task(self._ask())
            self._asked_at = now
        return await asyncio.shield(self._probe)

    async def close(self) -> None:
        """Ask no more."""
        if self._probe is not None:
            self._probe.cancel()
            with suppress(asyncio.CancelledError):
                await self._probe

    async def _ask(self) -> Reply:
        router = self._api.router
        waiting = {shard for shard, (_, address) in router.owners().items() if address is None}
        waiting |= set(range(self._api.total)) - router.owners().keys()
        if not waiting:
            answers = await router.ask_all(
                lambda shard: GetChannel(shard, "ready"), PROBE_DEADLINE_MS
            )
            waiting = {shard for shard, each in answers.items() if each.status not in _ALIVE}
        if waiting:
            shards = ", ".join(map(str, sorted(waiting)))
            detail = f"Shards without an owner that answers: {shards[:200]}."
            if down := self._api.servers_down():
                servers = ", ".join(map(str, down))
                detail += f" Servers of the journal that are down: {servers[:200]}."
            return problems.refusal(problems.NOT_READY, detail)
        return json_reply(Readiness("ready", self._api.total))


async def shards(page: Page) -> Reply:
    _only_operators(page)
    router = page.api.router
    owners = router.owners()
    rows = []
    for shard in range(page.api.total):
        epoch, address = owners.get(shard, (None, None))
        head = router.heads.get(shard)
        rows.append(ShardOwner(shard, epoch, address, None if head is None else str(head)))
    return json_reply(Shards(rows))


async def scrape(page: Page) -> Reply:
    _only_operators(page)
    api = page.api
    try:
        others = await asyncio.wait_for(api.ask_others(), SCRAPE_SECONDS)
    except (TimeoutError, OSError):
        others = metrics.Others([], max(1, api.router.statistics().links))
    payload, media = metrics.render(
        page.request.headers.get("accept", ""),
        api.name,
        [*api.counters.samples(), *api.around()],
        api.router.statistics(),
        others,
    )
    return Reply(200, payload, media.encode())


async def describe(page: Page) -> Reply:
    return Reply(200, openapi.document(page.api.routes))


def _only_operators(page: Page) -> None:
    if page.scope.channel is not None:
        raise RefusedError(problems.FORBIDDEN, "This is for operators' keys.")
