"""Frames: bytes in, messages out, no I/O.

A frame is a 4-byte big-endian length and that many bytes of MessagePack. `FrameReader` cuts the
stream; the decoders here are typed and bounded, so what comes out is a message or a WireError, and
after a WireError the connection is of no more use. No extension types, no pickle, anywhere.
"""

from typing import Final

import msgspec

from engine import limits
from engine.messages import (
    MAGIC,
    PROTOCOL_VERSION,
    Answer,
    AnyAnswer,
    Hello,
    Message,
    Outgoing,
    Request,
    Response,
)

_LENGTH_BYTES: Final = 4
_encoder: Final = msgspec.msgpack.Encoder()
_hello: Final = msgspec.msgpack.Decoder(Hello)
_request: Final = msgspec.msgpack.Decoder(Request)
_answer: Final = msgspec.msgpack.Decoder(Answer)
_response: Final = msgspec.msgpack.Decoder(Response)


class WireError(Exception):
    """The peer does not speak this protocol; close the connection."""


class FrameReader:
    """Cuts a byte stream into the payloads of its frames."""

    __slots__ = ("_buffer", "_wanted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = 0

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are here."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes. Raises WireError on an empty or oversized frame."""
        if self._buffer:
            # Appended in place: a frame that drips in costs no more than one that comes at once.
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return []
            data = bytes(self._buffer)
            self._buffer = bytearray()
        end, size = 0, len(data)
        payloads = []
        self._wanted = _LENGTH_BYTES
        while size - end >= _LENGTH_BYTES:
            start = end + _LENGTH_BYTES
            length = int.from_bytes(data[end:start])
            if not 0 < length <= limits.FRAME_BYTES_MAX:
                raise WireError(f"a frame of {length} bytes; 1 to {limits.FRAME_BYTES_MAX} allowed")
            if size - start < length:
                self._wanted = _LENGTH_BYTES + length
                break
            end = start + length
            payloads.append(data[start:end])
        if end < size:
            self._buffer += data[end:]
        return payloads


def encode_frame(message: Message) -> bytes:
    """`message` as one frame, ready to be sent."""
    payload = _encoder.encode(message)
    return len(payload).to_bytes(_LENGTH_BYTES) + payload


def encode_answer(answer: Answer) -> bytes:
    """An answer as it stands in a response."""
    return _encoder.encode(answer)


def decode_answer(answer: AnyAnswer) -> Answer:
    """The inverse. Raises WireError."""
    if isinstance(answer, Answer):
        return answer
    try:
        return _answer.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not an answer: {error}") from error


def decode_outgoing(outgoing: Outgoing) -> Response:
    """What whoever asked is going to read."""
    answers = [decode_answer(each) for each in outgoing.answers]
    return Response(outgoing.request_id, answers, outgoing.heads)


def encode_outgoing(outgoing: Outgoing) -> bytes:
    """A response as one frame, ready to be sent."""
    request_id, answers, heads = outgoing.request_id, outgoing.answers, outgoing.heads
    encode = _encoder.encode
    payload = b"".join(
        (
            b"\x93",
            encode(request_id),
            _array_of(len(answers)),
            *[each if type(each) is bytes else encode(each) for each in answers],
            encode(heads),
        )
    )
    return len(payload).to_bytes(_LENGTH_BYTES) + payload


def _array_of(length: int) -> bytes:
    """What stands before the elements of a MessagePack array."""
    if length < 16:
        return bytes((0x90 | length,))
    return b"\xdc" + length.to_bytes(2)


def decode_hello(payload: bytes) -> Hello:
    """The peer's first frame. Raises WireError if it is not one, or of another version."""
    try:
        hello = _hello.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a handshake: {error}") from error
    if hello.magic != MAGIC:
        raise WireError("not a handshake: wrong magic")
    if hello.version != PROTOCOL_VERSION:
        raise WireError(f"protocol version {hello.version}; this side speaks {PROTOCOL_VERSION}")
    return hello


def decode_request(payload: bytes) -> Request:
    """Raises WireError if the payload is no request."""
    try:
        return _request.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a request: {error}") from error


def decode_response(payload: bytes) -> Response:
    """Raises WireError if the payload is no response."""
    try:
        return _response.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a response: {error}") from error
