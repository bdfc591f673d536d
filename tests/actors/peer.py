"""A peer that speaks the binary protocol by hand, well or badly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from actors.address import TcpAddress, UnixAddress, parse_address
from engine.messages import MAGIC, PROTOCOL_VERSION, Command, Hello, Request, Response
from engine.wire import FrameReader, decode_hello, decode_response, encode_frame

DEADLINE_SECONDS = 10.0


class Peer:
    """One connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._frames = FrameReader()
        self._payloads: list[bytes] = []

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), DEADLINE_SECONDS)

    async def greet(self, key: str | None = None) -> Hello:
        await self.send(encode_frame(Hello(MAGIC, PROTOCOL_VERSION, key=key)))
        return decode_hello(await self.payload())

    async def ask(self, request_id: int, *commands: Command) -> Response:
        await self.send(encode_frame(Request(request_id, 1_000, list(commands))))
        return await self.response()

    async def response(self) -> Response:
        return decode_response(await self.payload())

    async def payload(self) -> bytes:
        while not self._payloads:
            data = await asyncio.wait_for(self.reader.read(1 << 16), DEADLINE_SECONDS)
            if not data:
                raise ConnectionResetError
            self._payloads += self._frames.feed(data)
        return self._payloads.pop(0)

    async def is_closed(self) -> bool:
        """Whether the other side closes, instead of sending more."""
        try:
            return await asyncio.wait_for(self.reader.read(1), DEADLINE_SECONDS) == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Peer]:
    where = parse_address(address)
    if isinstance(where, UnixAddress):
        reader, writer = await asyncio.open_unix_connection(where.path)
    else:
        assert isinstance(where, TcpAddress)
        reader, writer = await asyncio.open_connection(*where)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until `condition` holds; not for ever."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event to set
            await asyncio.sleep(0)
