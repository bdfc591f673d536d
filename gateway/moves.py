"""`POST /v1/shards/{shard}/move`: an operator says where a shard had better be.

The answer comes as soon as the coordinator has taken it on (202). The shard is served where it is
until the other host has read nearly all of it; then commands for it wait, a moment, until that one
serves it. `/v1/status` shows when that is.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.messages import Audit
from gateway import problems
from gateway.http_input import BodyDecoder
from gateway.http_pages import json_reply
from gateway.http_routes import Operation
from gateway.http_types import Input
from gateway.problems import RefusedError, Reply

if TYPE_CHECKING:
    from gateway.http_pages import Page

Move = Callable[[int, str], Awaitable[str | None]]
"""Shard and host → what is in the way, or None: it is under way."""


class Destination(Input):
    """Where to."""

    host: str


class MoveReport(Struct):
    """The shard is on its way to the host."""

    shard: int
    host: str


BODY = BodyDecoder(Destination)


def move_operation(move: Move) -> Operation:
    """The call, over what carries it out."""

    async def answer(page: "Page") -> Reply:
        host = BODY.read(await page.body()).host
        if not (page.subject.isascii() and page.subject.isdigit()):
            raise RefusedError(problems.INVALID, f"{page.subject} is no shard: shards are numbers.")
        shard = int(page.subject)
        if (problem := await move(shard, host)) is not None:
            raise RefusedError(problems.NOT_MOVABLE, f"{problem[:1].upper()}{problem[1:]}.")
        return json_reply(MoveReport(shard, host), 202)

    return Operation(
        name="moveShard",
        method="POST",
        path="/v1/shards/{shard}/move",
        tag="engine",
        summary="Move a shard to another host",
        command=Audit,
        body=BODY,
        example=Destination("host-2"),
        answers={202: MoveReport(3, "host-2")},
        refusals=(problems.NOT_MOVABLE,),
        page=answer,
    )
