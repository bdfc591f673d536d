"""`POST /v1/processes/{name}/restart`: an operator has a process end in order and come back.

The answer comes as soon as the coordinator has taken it on (202). A host's shards move to others
first, one after the other, as moves do: nobody is refused for it. A gateway accepts nothing more,
answers what it has, and ends. `/v1/status` shows another process id under the name when it is back.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.messages import Audit
from gateway import problems
from gateway.http_pages import json_reply
from gateway.http_routes import Operation
from gateway.problems import RefusedError, Reply

if TYPE_CHECKING:
    from gateway.http_pages import Page

Restart = Callable[[str], Awaitable[str | None]]
"""Name → what is in the way, or None: it is under way."""


class RestartReport(Struct):
    """The process is about to end, and to come back."""

    name: str


def restart_operation(restart: Restart) -> Operation:
    """The call, over what carries it out."""

    async def answer(page: "Page") -> Reply:
        if (problem := await restart(page.subject)) is not None:
            raise RefusedError(problems.NOT_RESTARTABLE, f"{problem[:1].upper()}{problem[1:]}.")
        return json_reply(RestartReport(page.subject), 202)

    return Operation(
        name="restartProcess",
        method="POST",
        path="/v1/processes/{name}/restart",
        tag="engine",
        summary="Restart a host or a gateway, without anybody being refused for it",
        command=Audit,
        answers={202: RestartReport("host-2")},
        refusals=(problems.NOT_RESTARTABLE,),
        page=answer,
    )
