"""A target that does nothing: `python -m bench.echo`, to measure the generator itself.

It accepts everything, with bodies as long as the engine's, and decides nothing. What a generator
reaches against it is the ceiling of what it may claim about an engine. Prints the addresses of its
two protocols, and serves until its standard input ends.
"""

import asyncio
import sys
from typing import Final, cast

import uvloop

from engine.messages import (
    MAGIC,
    PROTOCOL_VERSION,
    Answer,
    Hello,
    LineView,
    ReservationView,
    Response,
    State,
    Status,
)
from engine.wire import FrameReader, encode_frame

_VIEW: Final = ReservationView(
    "0" * 36, 0, State.RESERVED, None, 1_700_000_000_000_000, [LineView("0" * 12, 1, [("main", 1)])]
)
_REQUEST_ID_MAX: Final = 0xFFFFFFFF
_HTTP: Final = b"HTTP/1.1 201 Created\r\ncontent-length: 200\r\n\r\n" + b"x" * 200
_HEAD_END: Final = b"\r\n\r\n"


class BinaryEcho(asyncio.Protocol):
    """Answers frames as `bench.requests` makes them: their numbers stand at fixed places."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._greeted = False
        self._answers: dict[bytes, tuple[bytes, bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answers = []
        for payload in self._reader.feed(data):
            if not self._greeted:
                self._greeted = True
                answers.append(encode_frame(Hello(MAGIC, PROTOCOL_VERSION, None, "echo", 1)))
                continue
            count = payload[10:12]
            before, after = self._answers.get(count) or self._answer(count)
            answers.append(before + payload[2:6] + after)
        self._transport.write(b"".join(answers))

    def _answer(self, count: bytes) -> tuple[bytes, bytes]:
        """What stands before and after the request id in the answer to so many commands."""
        answers = [Answer(Status.OK, _VIEW)] * int.from_bytes(count)
        frame = encode_frame(Response(_REQUEST_ID_MAX, answers))
        before, after = frame.split(_REQUEST_ID_MAX.to_bytes(4), 1)
        self._answers[count] = before, after
        return before, after


class HttpEcho(asyncio.Protocol):
    """Answers every request that arrives; requests must not be split or pipelined."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if _HEAD_END in data:
            self._transport.write(_HTTP)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for protocol in (BinaryEcho, HttpEcho):
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        sys.stdout.write(f"tcp:{address[0]}:{address[1]}\n")
    sys.stdout.flush()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(serve())
