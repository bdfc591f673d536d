"""`POST /v1/stock/import`: a file of movements, as it comes.

Rows are read from the body while it arrives and sent on at once, WINDOW of them without an answer
at most; when the engine is slower than the caller, the caller's socket fills up and it waits. So a
file of any length takes the same memory.

A row is keyed by its content, its line and the Idempotency-Key of the request, if it has one: the
same file sent again adds nothing, a file that was mended adds what was mended, for as long as keys
are remembered. What is equal to a file by chance (the next delivery, a recount) needs a key of its
own, for nothing else tells it apart. A row that the engine refuses is reported and the rest goes
on. Once a shard does not answer, the import stops with 503, because there is a way on: send the
file again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from engine import limits
from engine.messages import Answer, Status
from engine.scope import Scope
from gateway import problems
from gateway.http_movements import command_of
from gateway.http_reports import ImportReport, RowError
from gateway.http_rows import KINDS, CsvRows, JsonRows, Row, Rows
from gateway.problems import TABLE, RefusedError, problem_of

if TYPE_CHECKING:
    from gateway.http_api import Api

WINDOW: Final = 512
DEADLINE_MS: Final = 30_000
ERRORS_MAX: Final = 100
"""Failed rows that are listed; the others are only counted."""
ROWS_PER_TURN: Final = 64
"""Lines that are read before others get the event loop, whatever stands in them."""
CSV: Final = "text/csv"
NDJSON: Final = ("application/x-ndjson", "application/jsonl", "application/ndjson")

_encode: Final = msgspec.json.Encoder(order="deterministic").encode

assert DEADLINE_MS <= limits.DEADLINE_MS_MAX


def rows_of(content_type: str, kind: str) -> Rows:
    """The reader of such a body. Raises RefusedError if there is none."""
    if kind not in KINDS:
        raise RefusedError(problems.INVALID, f"kind must be one of {', '.join(KINDS)}")
    media, *parameters = (part.strip() for part in content_type.lower().split(";"))
    if media != CSV and media not in NDJSON:
        raise RefusedError(problems.UNSUPPORTED_MEDIA_TYPE, f"Send {CSV} or {NDJSON[0]}.")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') != "utf-8":
            detail = f"The charset is {value[:32]}; an import is read as UTF-8 only."
            raise RefusedError(problems.UNSUPPORTED_MEDIA_TYPE, detail)
    return CsvRows(KINDS[kind]) if media == CSV else JsonRows(KINDS[kind])


class Import:
    """One import, from its first byte to its report."""

    def __init__(self, api: "Api", scope: Scope, key: str | None) -> None:
        self._api = api
        self._scope = scope
        self._key = (key or "").encode()
        self._outstanding = 0
        self._moved = asyncio.Event()
        """Something was answered."""
        self._stopped_at: tuple[int, Answer] | None = None
        self._report = ImportReport(0, 0, 0, 0, [])

    async def run(self, reader: Rows, chunks: AsyncIterator[bytes]) -> ImportReport:
        """Take all rows. Raises RefusedError if the file is none, or if a shard does not answer."""
        async for chunk in chunks:
            await self._take(reader.feed(chunk))
            if self._stopped_at is not None:
                break
        else:
            await self._take(reader.end())
        await self._wait_until_at_most(0)
        self._check()
        return self._report

    async def _take(self, rows: Iterable[Row | None]) -> None:
        for count, row in enumerate(rows, 1):
            if row is not None:
                self._send(row)
            if count % ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            if self._outstanding >= WINDOW:
                await self._wait_until_at_most(WINDOW - 1)
            if self._stopped_at is not None:
                return

    def _send(self, row: Row) -> None:
        self._report.rows += 1
        if row.movement is None:
            self._fail(row.number, problems.INVALID.code, row.fault)
            return
        digest = blake2b(b"%d %b " % (row.number, self._key), digest_size=16)
        digest.update(_encode(row.movement))
        command = command_of(row.movement, f"row:{digest.hexdigest()}", b"")
        self._outstanding += 1
        self._api.router.forward(
            self._api.narrow(command, self._scope),
            DEADLINE_MS,
            partial(self._answered, row.number),
        )

    def _answered(self, number: int, answer: Answer) -> None:
        self._outstanding -= 1
        self._moved.set()
        kind = TABLE[answer.status]
        if answer.status is Status.OK:
            self._report.applied += 1
            self._api.counters.rows["applied"] += 1
        elif answer.status is Status.REPLAYED:
            self._report.replayed += 1
            self._api.counters.rows["replayed"] += 1
        elif kind.http >= 500:
            self._stopped_at = self._stopped_at or (number, answer)
        else:
            self._fail(number, kind.code, problem_of(answer).detail)

    def _fail(self, number: int, code: str, detail: str) -> None:
        self._report.failed += 1
        self._api.counters.rows["failed"] += 1
        if len(self._report.errors) < ERRORS_MAX:
            self._report.errors.append(RowError(number, code, detail))

    async def _wait_until_at_most(self, outstanding: int) -> None:
        while self._outstanding > outstanding:
            self._moved.clear()
            await self._moved.wait()

    def _check(self) -> None:
        if self._stopped_at is None:
            return
        number, answer = self._stopped_at
        report = self._report
        detail = (
            f"Stopped at row {number}: {problem_of(answer).detail} So far {report.applied} rows "
            f"were applied. Send the same file again: what was applied adds nothing twice."
        )
        raise RefusedError(TABLE[answer.status], detail)
