"""A link: each frame's callback once, with the response or with the loss."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.binary_server import GOODBYE_SECONDS
from engine import limits
from engine.messages import (
    MAGIC,
    Answer,
    Command,
    GetStock,
    Hello,
    Receive,
    Response,
    Status,
    StockView,
)
from engine.wire import encode_frame
from gateway.link import Link
from tests.actors.peer import until
from tests.gateway.hosts import SHARDS, Host, Store, sku_at

SKU = sku_at(0)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(Store(), set(range(SHARDS)), tmp_path / "host")
    host.store.execute(0, Receive(SKU, "l", 5))
    await host.start()
    yield host
    await host.die()


class Changes(list[bool]):
    """What a link reported: up or down, in that order."""

    def note(self, link: Link) -> None:
        self.append(link.up)


@asynccontextmanager
async def linked(address: str, key: str | None = None) -> AsyncIterator[tuple[Link, Changes]]:
    changes = Changes()
    link = Link(address, key, changes.note)
    link.start()
    try:
        yield link, changes
    finally:
        await link.close()


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(talk: Talk, path: Path) -> AsyncIterator[str]:
    """Another side that says what it likes."""
    server = await asyncio.start_unix_server(talk, path)
    try:
        yield f"unix:{path}"
    finally:
        server.close()
        await server.wait_closed()


def ask(link: Link, *commands: Command) -> list[Response | None]:
    """Send one frame; where its response will be."""
    heard: list[Response | None] = []
    link.send(commands, 1_000, heard.append)
    return heard


async def test_goes_up_and_answers(host: Host) -> None:
    """After the handshake the link knows the other side, and frames are answered."""
    async with linked(host.address) as (link, changes):
        await until(lambda: link.up)
        assert link.hello is not None
        assert ("host", SHARDS) == (link.hello.name, link.hello.shards)
        frames = [ask(link, GetStock(SKU), GetStock("none")) for _ in range(3)]
        assert 3 == link.in_flight
        await until(lambda: all(frames))
        assert 0 == link.in_flight
        response = frames[0][0]
        assert response is not None
        assert [Status.OK, Status.UNKNOWN_SKU] == [answer.status for answer in response.answers]
        assert isinstance(response.answers[0].body, StockView)
    assert [True, False] == changes


async def test_goodbye_costs_no_answer(host: Host) -> None:
    """Whoever is about to end is left for its successor, and answers what it was sent before."""
    async with linked(host.address) as (link, changes):
        await until(lambda: link.up)
        host.frozen = True
        before = ask(link, GetStock(SKU))
        given_up = ask(link, GetStock(SKU))
        await until(lambda: len(host.held) == 2)
        link.forget(2)
        old = host.server
        assert old is not None

        ending = asyncio.create_task(old.close())
        await until(lambda: not link.up)
        await host.start()
        await until(lambda: link.up)
        host.thaw()

        after = ask(link, GetStock(SKU))
        await until(lambda: bool(before and after))
        assert [Status.OK] * 2 == [
            each[0].answers[0].status for each in (before, after) if each[0] is not None
        ]
        await asyncio.wait_for(ending, GOODBYE_SECONDS)
        assert ([], 0) == (given_up, link.in_flight)
    assert [True, False, True, False] == changes


async def test_loss_is_told_at_once_to_every_frame(host: Host) -> None:
    """When the other side goes, all that wait hear it in the same moment, each once."""
    async with linked(host.address) as (link, changes):
        await until(lambda: link.up)
        host.frozen = True
        frames = [ask(link, GetStock(SKU)) for _ in range(5)]
        await until(lambda: len(host.held) == 5)
        await host.die()
        await until(lambda: not link.up)
        assert [[None]] * 5 == frames
        host.frozen = False
        await host.start()
        await until(lambda: link.up)
        again = ask(link, GetStock(SKU))
        await until(lambda: again)
        assert again[0] is not None
        assert [[None]] * 5 == frames
    assert [True, False, True, False] == changes


async def test_reset_and_forget(host: Host) -> None:
    """reset() loses what is in flight and dials again; a forgotten frame tells nobody."""
    async with linked(host.address) as (link, changes):
        await until(lambda: link.up)
        host.frozen = True
        heard: list[Response | None] = []
        forgotten: list[Response | None] = []
        link.forget(link.send([GetStock(SKU)], 1_000, forgotten.append))
        link.send([GetStock(SKU)], 1_000, heard.append)
        link.reset()
        assert [None] == heard
        assert [] == forgotten
        await until(lambda: link.up)
        assert [True, False, True] == changes


async def test_refused_key_is_known_and_tried_again(host: Host) -> None:
    """The refusal is kept for whoever wants to know; the link never goes up."""
    async with linked(host.address, "stolen") as (link, changes):
        await until(lambda: link.refusal is not None)
        assert isinstance(link.refusal, Answer)
        assert Status.UNAUTHENTICATED is link.refusal.status
        assert not link.up
        assert True not in changes


async def test_nobody_there_yet(tmp_path: Path) -> None:
    """A link may be started before the host is, and is up once that listens."""
    host = Host(Store(), set(range(SHARDS)), tmp_path / "late")
    async with linked(host.address) as (link, _):
        await asyncio.sleep(0)
        assert not link.up
        await host.start()
        await until(lambda: link.up)
    await host.die()


GREETING = encode_frame(Hello(MAGIC, 1, name="x", shards=1))


@pytest.mark.parametrize(
    ("said", "goes_up"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (encode_frame(Hello(MAGIC, 9)), False),
        (encode_frame(Response(0, [])), False),
        (GREETING + b"\0\0\0\1\xc1", True),
        (GREETING + (limits.FRAME_BYTES_MAX + 1).to_bytes(4), False),
        (GREETING + b"\0\0\0\3\x92\x01\xc0", True),
    ],
)
async def test_other_side_that_talks_nonsense(said: bytes, goes_up: bool, tmp_path: Path) -> None:
    """Nonsense before the handshake keeps the link down, nonsense after it brings it down."""

    spoken: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        spoken.append(await reader.read(100))
        writer.transport.abort()

    async with served(talk, tmp_path / "nonsense") as address, linked(address) as (_, changes):
        await until(lambda: len(spoken) >= 2)
        if goes_up:
            await until(lambda: len(changes) >= 4)
            assert [True, False, True, False] == changes[:4]
        else:
            assert True not in changes


async def test_response_that_nobody_asked_for_is_dropped(tmp_path: Path) -> None:
    """A complaint about the connection, or a late answer, harms no frame in flight."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(GREETING)
        await reader.read(100)
        writer.write(encode_frame(Response(77, [Answer(Status.OK)])))
        writer.write(encode_frame(Response(1, [Answer(Status.REPLAYED)])))
        await reader.read(100)
        writer.transport.abort()

    async with served(talk, tmp_path / "talks") as address, linked(address) as (link, _):
        await until(lambda: link.up)
        heard = ask(link, GetStock(SKU))
        await until(lambda: heard)
        assert [Response(1, [Answer(Status.REPLAYED)])] == heard
