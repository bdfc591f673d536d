"""`POST /v1/stock/movements`: several movements, each of which stands or falls by itself.

A request is named by its Idempotency-Key, and is the same in whatever order its movements stand.
What is remembered of it lies with the shards, one key per movement that was applied:

- The first movement that a shard applies takes the *name* of the request there, with a fingerprint
  of all movements and of which one it is. Whoever comes later under that name finds it taken: by
  the movement itself (a replay), by another of the same request, or by another request.
- The others, once a movement of theirs holds the name, have a key of their own each: the request's,
  their content, and a count of equal ones. A movement that was refused has taken nothing.

So on each shard where a request has applied anything its key is bound to all that it says, and
another request under that key is refused whole. If it spans shards, all of them are asked first, by
movements that cannot be applied. What remains: two requests under one key without a shard in
common, or at the same moment, may both be applied, each of them once.

That remains on purpose. To refuse such a request, every key would have to be journaled first on a
shard that it names: one more append, and one more wait for the disk, for almost every request, to
find a mistake of the caller which doubles nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

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
DONE: Final = (Status.OK, Status.REPLAYED)
NOBODY_COUNTS: Final = -1
"""No location holds so many units: a count that expects them is refused, unless it is a replay."""
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_replace: Final = msgspec.structs.replace


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


class Claim(NamedTuple):
    """One movement: under the name of its request, and under a key of its own."""

    shard: int
    named: MovementCommand
    own: MovementCommand

    @property
    def probe(self) -> Count:
        """Asks who holds the name, and changes nothing."""
        named = self.named
        return Count(
            named.sku,
            named.location,
            0,
            expected_on_hand=NOBODY_COUNTS,
            key=named.key,
            fingerprint=named.fingerprint,
        )


def claims_of(
    key: str, movements: Sequence[MovementBody], place_of: Callable[[str], int]
) -> Iterator[Claim]:
    """The claims of a request, in the order of its movements; `place_of`: the shard of a SKU."""
    contents = [_encode(movement) for movement in movements]
    whole = _digest(b"\n".join(sorted(contents)))
    name = f"movements:{_digest(key.encode()).hex()}"
    seen: Counter[bytes] = Counter()
    for movement, content in zip(movements, contents, strict=True):
        itself = _digest(b"%b %d %b" % (key.encode(), seen[content], content))
        seen[content] += 1
        named = command_of(movement, name, _digest(whole + itself)[:8])
        own = _replace(named, key=f"movement:{itself.hex()}", fingerprint=whole[:8])
        yield Claim(place_of(movement.sku), named, own)


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


async def move_stock(api: "Api", scope: Scope, key: str, data: bytes) -> MovementResults:
    """Do all movements of a request; their results in order. Raises RefusedError if it is none."""
    claims = list(claims_of(key, MOVEMENTS.read(data).movements, api.router.place_of))
    commands = [api.narrow(claim.named, scope) for claim in claims]
    if len({claim.shard for claim in claims}) > 1:
        asked = Holders.of(claims, await ask_each(api, [claim.probe for claim in claims]))
        if asked.foreign and not asked.ours:
            raise RefusedError(TABLE[Status.IDEMPOTENCY_MISMATCH])
    answers = await ask_each(api, commands)
    claims = [each._replace(shard=api.router.place_of(each.named.sku)) for each in claims]
    held = Holders.of(claims, answers)
    if held.foreign and not held.ours | held.unsure:
        raise RefusedError(TABLE[Status.IDEMPOTENCY_MISMATCH])
    others: list[int] = []
    for index, (claim, answer) in enumerate(zip(claims, answers, strict=True)):
        if answer.status is Status.IDEMPOTENCY_MISMATCH and claim.shard in held.ours:
            others.append(index)
        elif answer.status is Status.IDEMPOTENCY_MISMATCH and claim.shard in held.unsure:
            answers[index] = Answer(Status.OUTCOME_UNKNOWN)
    later = await ask_each(api, [api.narrow(claims[index].own, scope) for index in others])
    for index, answer in zip(others, later, strict=True):
        answers[index] = answer
    return MovementResults([_result(answer) for answer in answers])


class Holders(NamedTuple):
    """Shards by who holds the name of a request there, as answers to its claims tell."""

    ours: set[int]
    """A movement of the request."""
    unsure: set[int]
    """Nobody can say: a movement was not judged."""
    foreign: set[int]
    """Another request."""

    @classmethod
    def of(cls, claims: Sequence[Claim], answers: Sequence[Answer]) -> "Holders":
        ours, unsure, taken = set[int](), set[int](), set[int]()
        for claim, answer in zip(claims, answers, strict=True):
            kind = TABLE[answer.status]
            if answer.status in DONE:
                ours.add(claim.shard)
            elif kind.http >= 500 or kind.retryable:
                unsure.add(claim.shard)
            elif answer.status is Status.IDEMPOTENCY_MISMATCH:
                taken.add(claim.shard)
        return cls(ours, unsure - ours, taken - ours - unsure)


def _result(answer: Answer) -> MovementResult:
    movement = movement_of(answer.body) if isinstance(answer.body, View) else None
    if answer.status is Status.OK:
        return MovementResult("ok", movement)
    if answer.status is Status.REPLAYED:
        return MovementResult("replayed", movement)
    return MovementResult("refused", problem=problem_of(answer))


async def ask_each(api: "Api", commands: Sequence[Command]) -> list[Answer]:
    """The answers to several commands, in their order, all asked at once."""
    return list(await asyncio.gather(*map(api.router.ask, commands)))
