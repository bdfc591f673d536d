"""`POST /v1/stock/movements`: several movements, each of which stands or falls by itself.

The request is named by its Idempotency-Key. Each movement gets a key derived from that and from its
place, and carries the fingerprint of the whole request, so that a repetition has no second effect
wherever the first one stopped. The first movement goes ahead alone: if its key was used for another
request, so was the request's, and nothing else is sent.
"""

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from engine.messages import (
    Adjust,
    Answer,
    Command,
    Count,
    Receive,
    Status,
    Transfer,
)
from engine.messages import Movement as MovementCommand
from engine.messages import MovementView as View
from engine.scope import Scope
from gateway.http_input import BodyDecoder
from gateway.http_reports import MovementResult, MovementResults
from gateway.http_types import (
    AdjustedMovement,
    CountedMovement,
    MovementBody,
    MovementsBody,
    ReceivedMovement,
    movement_of,
)
from gateway.problems import TABLE, RefusedError, problem_of

if TYPE_CHECKING:
    from gateway.http_api import Api

MOVEMENTS: Final = BodyDecoder(MovementsBody)


def command_of(body: MovementBody, key: str, mark: bytes) -> MovementCommand:
    """The command that a movement stands for; `mark` is the fingerprint that goes with `key`."""
    sku, location, quantity = body.sku, body.location, body.quantity
    reason, reference = body.reason or "", body.reference or ""
    if isinstance(body, ReceivedMovement):
        cost, currency = _known(body.unit_cost), body.currency or None
        return Receive(sku, location, quantity, reason, reference, cost, currency, key, mark)
    if isinstance(body, AdjustedMovement):
        return Adjust(sku, location, quantity, reason, reference, key, mark)
    if isinstance(body, CountedMovement):
        expected, version = _known(body.expected_on_hand), _known(body.physical_version)
        return Count(sku, location, quantity, reason, reference, expected, version, key, mark)
    return Transfer(sku, location, body.to_location, quantity, reason, reference, key, mark)


def _known(number: object) -> int | None:
    """Absent is None; 0 is not."""
    return number if isinstance(number, int) else None


async def move_stock(api: "Api", scope: Scope, key: str, data: bytes) -> MovementResults:
    """Do all movements of a request; their results in order. Raises RefusedError if it is none."""
    body, canonical = MOVEMENTS.decode(data)
    mark = blake2b(canonical, digest_size=8).digest()
    commands = [
        api.narrow(command_of(movement, _key_of(key, index), mark), scope)
        for index, movement in enumerate(body.movements)
    ]
    first = await api.router.ask(commands[0])
    if first.status is Status.IDEMPOTENCY_MISMATCH:
        raise RefusedError(TABLE[first.status])
    answers = [first, *await ask_each(api, commands[1:])]
    return MovementResults([_result(answer) for answer in answers])


def _key_of(key: str, index: int) -> str:
    """As long as an id may be, however long the request's key is."""
    return f"movement:{blake2b(f'{key}:{index}'.encode(), digest_size=16).hexdigest()}"


def _result(answer: Answer) -> MovementResult:
    movement = movement_of(answer.body) if isinstance(answer.body, View) else None
    if answer.status is Status.OK:
        return MovementResult("ok", movement)
    if answer.status is Status.REPLAYED:
        return MovementResult("replayed", movement)
    return MovementResult("refused", problem=problem_of(answer))


async def ask_each(api: "Api", commands: list[Command]) -> list[Answer]:
    """The answers to several commands, in their order, all asked at once."""
    return list(await asyncio.gather(*map(api.router.ask, commands)))
