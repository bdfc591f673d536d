"""Connections of the generator: bytes out, statuses in, as little as possible between.

Of an answer only the statuses are decoded; bodies and heads are skipped in C. One connection of
either kind calls `answered(connection, request_id, statuses)` for every answer and
`lost(connection)` once when it ends.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

import msgspec

from engine.messages import MAGIC, PROTOCOL_VERSION, Hello, Status
from engine.wire import FrameReader, decode_hello, encode_frame


class _Answer(msgspec.Struct, array_like=True, gc=False):
    """The first field of `engine.messages.Answer`; what follows is skipped."""

    status: int


class _Response(msgspec.Struct, array_like=True, gc=False):
    request_id: int
    answers: list[_Answer]


class _Problem(msgspec.Struct):
    code: str = ""


_decode_response: Final = msgspec.msgpack.Decoder(_Response).decode
_decode_problem: Final = msgspec.json.Decoder(_Problem).decode
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END: Final = b"\r\n\r\n"
CODES: Final = {status.name.lower(): status for status in Status}


class Connection(Protocol):
    """What the driver needs of a connection."""

    @property
    def is_open(self) -> bool: ...

    def send(self, request_id: int, data: bytes) -> None: ...

    def close(self) -> None: ...


Answered = Callable[[Connection, int, Sequence[int]], None]
Lost = Callable[[Connection], None]


class _Base(asyncio.Protocol):
    """What both kinds have in common."""

    def __init__(self, answered: Answered, lost: Lost) -> None:
        self._answered = answered
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionResetError("closed during the handshake"))
        elif not self.ready.cancelled() and self.ready.exception() is None:
            self._lost(self)

    def send(self, request_id: int, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class BinaryConnection(_Base):
    """Frames. Any number of requests may be under way."""

    def __init__(self, answered: Answered, lost: Lost, key: str | None) -> None:
        super().__init__(answered, lost)
        self._reader = FrameReader()
        self._key = key
        self._out: list[bytes] = []
        self._call_soon = asyncio.get_running_loop().call_soon

    def send(self, request_id: int, data: bytes) -> None:
        """What is sent in one turn of the loop leaves in one system call."""
        if not self._out:
            self._call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        hello = Hello(MAGIC, PROTOCOL_VERSION, self._key, "bench")
        cast(asyncio.Transport, transport).write(encode_frame(hello))

    def data_received(self, data: bytes) -> None:
        payloads = self._reader.feed(data)
        if not self.ready.done() and payloads:
            decode_hello(payloads.pop(0))
            self.ready.set_result(None)
        for payload in payloads:
            response = _decode_response(payload)
            self._answered(self, response.request_id, [a.status for a in response.answers])


class HttpConnection(_Base):
    """HTTP/1.1, kept alive. One request at a time."""

    def __init__(self, answered: Answered, lost: Lost) -> None:
        super().__init__(answered, lost)
        self._buffer = b""
        self._request_id = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ready.set_result(None)

    def send(self, request_id: int, data: bytes) -> None:
        self._request_id = request_id
        super().send(request_id, data)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        head = buffer.find(_HEAD_END)
        if head < 0:
            self._buffer = buffer
            return
        length = _LENGTH.search(buffer, 0, head)
        if length is None:
            raise ValueError("an HTTP answer without Content-Length")
        start = head + len(_HEAD_END)
        if len(buffer) - start < int(length[1]):
            self._buffer = buffer
            return
        self._buffer = b""
        self._answered(self, self._request_id, [http_status(buffer[9:12], buffer[start:])])


def http_status(code: bytes, body: bytes) -> int:
    """The status that an HTTP answer stands for."""
    if code == b"201":
        return Status.OK
    if code == b"200":
        # A commit or release answers 200; so does the replay of a reserve, which no run sends.
        return Status.OK
    problem = _decode_problem(body).code
    status = CODES.get(problem)
    if status is None:
        raise ValueError(f"an HTTP answer {code.decode()} with the unknown code {problem!r}")
    return status
