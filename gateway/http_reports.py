"""The JSON of pages: answers that are put together from several of the engine's.

Beside `gateway.http_types`, which shows one command's answer each.
"""

from typing import Literal

from msgspec import Struct

from gateway.http_types import Movement
from gateway.problems import Problem


class MovementResult(Struct, omit_defaults=True):
    """What came of one movement: the stock after it, or why it was refused."""

    status: Literal["ok", "replayed", "refused"]
    movement: Movement | None = None
    problem: Problem | None = None


class MovementResults(Struct):
    """One result per movement, in their order."""

    results: list[MovementResult]


class RowError(Struct):
    """Why a row was not applied. Rows count from 1; a CSV's header is row 1."""

    row: int
    code: str
    detail: str


class ImportReport(Struct):
    """What came of a file. Send it again after mending it: what was applied adds nothing twice."""

    rows: int
    applied: int
    replayed: int
    """Applied by an earlier import of the same row."""
    failed: int
    errors: list[RowError]
    """Of the first failed rows."""


class ShardAudit(Struct):
    """What one shard found, as of a record of its journal."""

    shard: int
    position: str
    digest: str
    drift: int
    findings: list[str]
    damage: int = 0
    """Of the findings, those about what is stored."""
    replayed: int = 0
    """Records of its journal that were replayed beside it."""
    checks: int = 0
    """Digests and checksums that were compared."""
    complete: bool = False
    """Whether the replay led to what is served."""
    skipped: str = ""
    """Why not."""


class AuditReport(Struct):
    """Sums over all shards, recomputed from the reservations, and every disagreement."""

    skus: int
    on_hand: int
    reserved: int
    allocated: int
    available: int
    shipped: int
    reservations: dict[str, int]
    """How many are remembered, by state."""
    units: dict[str, int]
    """Their units, by state."""
    drift: int
    """Disagreements: 0, or there is a bug or damage."""
    findings: list[str]
    """The first of them, in words."""
    shards: list[ShardAudit]
    damage: int = 0
    """Of the disagreements, those about what is stored; what is served does not rest on that."""
    replayed: int = 0
    """Records of the journals that were replayed beside the shards."""
    checks: int = 0
    """Digests and checksums that were compared."""
    complete: bool = False
    """Whether every replay led to what is served."""


class Health(Struct):
    """The gateway is alive, whatever the hosts are."""

    status: Literal["ok"]


class Readiness(Struct):
    """Every shard has an owner, and each has just answered."""

    status: Literal["ready"]
    shards: int


class ShardOwner(Struct):
    """Who owns a shard, as far as this gateway knows; `head` is the newest record it has seen."""

    shard: int
    epoch: int | None
    host: str | None
    head: str | None


class Shards(Struct):
    shards: list[ShardOwner]
