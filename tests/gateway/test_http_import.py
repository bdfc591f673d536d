"""Imports, over a socket: streamed, keyed by row, stopped where the engine does not answer."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from engine.messages import Answer, Command, Receive, Status
from engine.scope import OPERATOR, READ, Scope
from gateway.http_import import ERRORS_MAX, ROWS_PER_TURN, WINDOW, Import, rows_of
from tests.gateway.http_engine import (
    DEADLINE_SECONDS,
    Keys,
    LocalEngine,
    Server,
    read_answer,
    serving,
)

RECEIVED = "/v1/stock/import?kind=received"
HEADER = b"sku,location,quantity,reference\n"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def rows(count: int) -> bytes:
    return HEADER + b"".join(b"SKU-%d,berlin,%d,PO-1\n" % (n % 100, n + 1) for n in range(count))


async def on_hand(server: Server, sku: str) -> int:
    answered = await server.get(f"/v1/stock/{sku}")
    total: int = answered.body["on_hand"]
    return total


async def test_a_file_is_applied_once(server: Server) -> None:
    """Rows add up; the same file again adds nothing, and says so."""
    data = rows(2_000)
    first = await server.post(RECEIVED, data, content_type="text/csv")
    again = await server.post(RECEIVED, data, content_type="text/csv; charset=utf-8")

    assert 200 == first.status, first.payload
    assert {"rows": 2_000, "applied": 2_000, "replayed": 0, "failed": 0, "errors": []} == first.body
    assert (0, 2_000) == (again.body["applied"], again.body["replayed"])
    assert sum(range(1, 2_000, 100)) == await on_hand(server, "SKU-0")
    assert {"applied": 2_000, "replayed": 2_000, "failed": 0} == server.api.counters.rows


async def test_equal_rows_and_equal_files_count_where_that_is_meant(server: Server) -> None:
    """A row that stands twice counts twice; a file with another key counts again."""
    data = HEADER + b"A,berlin,1,\nA,berlin,1,\n"
    for key in ("monday", "tuesday", "monday"):
        await server.post(RECEIVED, data, content_type="text/csv", idempotency_key=key)

    assert 4 == await on_hand(server, "A")


async def test_a_mended_file_adds_what_was_mended(server: Server) -> None:
    """Errors name rows and reasons; what was good is not added twice."""
    bad = HEADER + b"A,berlin,1,\nB,berlin,none,\nC,berlin,3,\n"
    first = await server.post(RECEIVED, bad, content_type="text/csv")
    second = await server.post(RECEIVED, bad.replace(b"none", b"2"), content_type="text/csv")

    assert (3, 2, 1) == tuple(first.body[name] for name in ("rows", "applied", "failed"))
    (error,) = first.body["errors"]
    assert (3, "invalid") == (error["row"], error["code"])
    assert (1, 2, 0) == tuple(second.body[name] for name in ("applied", "replayed", "failed"))


async def test_refusals_of_the_engine_are_listed_up_to_a_bound(server: Server) -> None:
    """The first failed rows are listed, all of them counted."""
    count = 2 * ERRORS_MAX
    data = HEADER + b"A,berlin,-1,\n" * count
    answered = await server.post("/v1/stock/import?kind=adjusted", data, content_type="text/csv")

    assert (count, count) == (answered.body["rows"], answered.body["failed"])
    assert ERRORS_MAX == len(answered.body["errors"])
    assert "physical_shortfall" == answered.body["errors"][0]["code"]


async def test_json_lines_are_taken(server: Server) -> None:
    """The same rows, one object per line."""
    data = b'{"sku": "A", "location": "berlin", "quantity": 4}\n' * 3
    answered = await server.post(
        "/v1/stock/import?kind=counted", data, content_type="application/x-ndjson"
    )

    assert (200, 3) == (answered.status, answered.body["applied"])
    assert 4 == await on_hand(server, "A")


@pytest.mark.parametrize(
    ("path", "media", "status"),
    [
        ("/v1/stock/import", "text/csv", 400),
        ("/v1/stock/import?kind=transferred", "text/csv", 400),
        ("/v1/stock/import?kind=received&x=1", "text/csv", 400),
        (RECEIVED, "application/json", 415),
        (RECEIVED, "", 415),
        (RECEIVED, "text/csv; charset=iso-8859-1", 415),
        (RECEIVED, "application/x-ndjson; charset=utf-16", 415),
    ],
)
async def test_what_is_no_import_is_refused(
    server: Server, path: str, media: str, status: int
) -> None:
    """Before the file is read; the connection then ends."""
    answered = await server.post(path, rows(20_000), content_type=media)

    assert (status, "close") == (answered.status, answered.headers["connection"])


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({"content_type": "text/csv;header=present; charset=latin1"}, "The charset is latin1;"),
        ({"content_type": "text/csv", "content_encoding": "gzip"}, "content-encoding is gzip;"),
        ({"content_type": "text/plain"}, "Send text/csv or application/x-ndjson"),
    ],
)
async def test_a_refused_type_says_which_is_read(
    server: Server, headers: dict[str, str], detail: str
) -> None:
    """Of an import, not of the other calls."""
    answered = await server.post(RECEIVED, rows(1), **headers)

    assert 415 == answered.status
    assert detail in answered.body["detail"]
    assert "application/json" not in answered.body["detail"]


async def test_utf_8_may_be_said_in_any_way(server: Server) -> None:
    """Quoted, in capitals, beside other parameters."""
    media = 'text/csv; header=present; charset="UTF-8"'
    answered = await server.post(RECEIVED, rows(1), content_type=media)

    assert (200, 1) == (answered.status, answered.body["applied"])


async def test_an_unclosed_quote_costs_one_row_and_no_repetition(server: Server) -> None:
    """All rows are counted; the mended file adds the mended row, and nothing twice."""
    good = b"".join(b"SKU-%d,berlin,1,\n" % number for number in range(50))
    broken = HEADER + b'A,berlin,1,"PO\n' + good
    first = await server.post(RECEIVED, broken, content_type="text/csv")
    mended = broken.replace(b'"PO', b'"PO"')
    second = await server.post(RECEIVED, mended, content_type="text/csv")

    assert (51, 50, 1) == tuple(first.body[name] for name in ("rows", "applied", "failed"))
    assert 2 == first.body["errors"][0]["row"]
    assert (1, 50) == (second.body["applied"], second.body["replayed"])
    assert 1 == await on_hand(server, "SKU-0")


@pytest.mark.parametrize("line", [b"\n", b'"\n', b"A,berlin,x,\n", b'"",",\n'])
async def test_an_import_takes_turns_whatever_its_lines_hold(server: Server, line: bytes) -> None:
    """Others get the event loop after ROWS_PER_TURN lines, good, bad or blank."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def one_chunk() -> AsyncIterator[bytes]:
        yield HEADER + line * 6_400

    others = asyncio.create_task(take_turns())
    job = Import(server.api, OPERATOR, None)
    report = await job.run(rows_of("text/csv", "received"), one_chunk())
    others.cancel()

    assert turns >= 6_400 // ROWS_PER_TURN
    assert report.failed == (0 if line == b"\n" else 6_400)


async def test_a_file_without_a_header_is_refused(server: Server) -> None:
    """Nothing of it is applied."""
    answered = await server.post(RECEIVED, b"A,berlin,1\n", content_type="text/csv")

    assert (400, "invalid") == (answered.status, answered.body["code"])
    assert [] == server.engine.commands


async def test_a_key_must_be_allowed_to_move_stock() -> None:
    """403 before the file is read."""
    async with serving(keys=Keys(Scope(None, frozenset({READ})))) as server:
        answered = await server.post(RECEIVED, rows(1), content_type="text/csv")

    assert (403, "forbidden") == (answered.status, answered.body["code"])


async def test_an_import_stops_where_the_engine_does(server: Server) -> None:
    """503, with advice to send the file again; doing so finishes the work exactly."""

    def refuse(command: Command) -> Answer | None:
        return Answer(Status.NOT_DONE) if getattr(command, "sku", "") == "SKU-7" else None

    server.engine.replaced = refuse
    stopped = await server.post(RECEIVED, rows(500), content_type="text/csv")
    server.engine.replaced = lambda command: None
    finished = await server.post(RECEIVED, rows(500), content_type="text/csv")

    assert (503, "not_done") == (stopped.status, stopped.body["code"])
    assert "Stopped at row 9" in stopped.body["detail"]
    assert "1" == stopped.headers["retry-after"]
    assert 500 == finished.body["applied"] + finished.body["replayed"]
    assert sum(range(1, 500, 100)) == await on_hand(server, "SKU-0")


async def test_a_slow_engine_slows_the_caller_down(server: Server) -> None:
    """Rows without an answer are bounded, and so is what is read of the file."""
    held: list[Callable[[], None]] = []
    server.engine.held = held
    async with server.connect() as (_, writer):
        data = HEADER + (b"A,berlin,1," + b"x" * 250 + b"\n") * 40_000
        writer.write(
            f"POST {RECEIVED} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
        )
        sending = asyncio.create_task(_send(writer, data))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(held) < WINDOW:  # noqa: ASYNC110  # what is awaited lies inside the server
                await asyncio.sleep(0.001)
        assert WINDOW == len(held)
        assert not sending.done()
        writer.transport.abort()
        await asyncio.gather(sending, return_exceptions=True)
    server.engine.held = None
    for answer in held:
        answer()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while server.api.counters.in_flight:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.001)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_a_chunked_file_may_take_its_time(server: Server) -> None:
    """A stream is given up between two bytes, not for its length."""
    async with server.connect() as (reader, writer):
        writer.write(
            f"POST {RECEIVED} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            f"Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        for row in rows(3).splitlines(keepends=True):
            writer.write(b"%x\r\n%b\r\n" % (len(row), row))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        answered = await read_answer(reader)

    assert (200, 3) == (answered.status, answered.body["applied"])


async def test_a_row_is_a_movement_with_a_key() -> None:
    """What the engine gets of a row."""
    engine = LocalEngine()
    async with serving(engine) as server:
        data = b"sku,location,quantity,unit_cost,currency\nA,berlin,1,995,EUR\n"
        await server.post(RECEIVED, data, content_type="text/csv")
    (command,) = engine.commands

    assert isinstance(command, Receive)
    assert (995, "EUR") == (command.unit_cost, command.currency)
    assert command.key is not None
    assert command.key.startswith("row:")
