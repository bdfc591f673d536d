"""Frames: however the bytes arrive the same messages come out, and nothing else ever does."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import limits
from engine.messages import (
    Answer,
    GetStock,
    Head,
    Hello,
    LineRequest,
    Release,
    Request,
    Reserve,
    Response,
    Status,
)
from engine.wire import (
    FrameReader,
    WireError,
    decode_hello,
    decode_request,
    decode_response,
    encode_frame,
)
from tests.engine.strategies import messages

REQUEST = Request(7, 1_000, [Reserve("cart-1", [LineRequest("apple", 2)]), Release("cart-1", 3)])


def payload(message: object) -> bytes:
    return msgspec.msgpack.encode(message)


def fragments(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    cuts=st.lists(st.integers(0, 2_000), max_size=12),
)
def test_fragments_make_no_difference(payloads: list[bytes], cuts: list[int]) -> None:
    """The same payloads come out, in order, wherever the stream is cut."""
    stream = b"".join(len(one).to_bytes(4) + one for one in payloads)
    reader = FrameReader()

    assert payloads == [one for part in fragments(stream, cuts) for one in reader.feed(part)]
    assert 0 == reader.pending


@given(cut=st.integers(0, 2_000))
def test_an_unfinished_frame_waits(cut: int) -> None:
    """Bytes of a frame that is not complete are counted, and are no payload."""
    frame = encode_frame(REQUEST)
    part = frame[: cut % len(frame)]
    reader = FrameReader()

    assert [] == reader.feed(part)
    assert len(part) == reader.pending


def test_byte_by_byte() -> None:
    """A peer that sends one byte at a time is understood."""
    reader = FrameReader()
    frames = [reader.feed(bytes([byte])) for byte in encode_frame(REQUEST)]

    assert [[]] * (len(frames) - 1) == frames[:-1]
    assert REQUEST == decode_request(frames[-1][0])


def test_the_largest_frame_passes() -> None:
    """A frame of exactly the limit is whole."""
    largest = bytes(limits.FRAME_BYTES_MAX)

    assert [largest] == FrameReader().feed(len(largest).to_bytes(4) + largest)


@pytest.mark.parametrize("length", [0, limits.FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_frame_out_of_bounds_is_refused_by_its_length(length: int) -> None:
    """No byte of an empty or oversized frame is waited for."""
    with pytest.raises(WireError, match=f"a frame of {length} bytes"):
        FrameReader().feed(length.to_bytes(4))


def test_a_frame_out_of_bounds_is_refused_after_good_ones() -> None:
    """The length is checked wherever in the stream the frame starts."""
    reader = FrameReader()
    reader.feed(encode_frame(REQUEST)[:-1])
    with pytest.raises(WireError):
        reader.feed(encode_frame(REQUEST)[-1:] + (2**31).to_bytes(4))


@given(request=messages(Request), response=messages(Response))
def test_messages_pass(request: Request, response: Response) -> None:
    """Requests and responses are read back as they were sent."""
    (first, second) = FrameReader().feed(encode_frame(request) + encode_frame(response))

    assert request == decode_request(first)
    assert response == decode_response(second)


def test_a_handshake_passes() -> None:
    """A hello of this protocol and version is read, key included."""
    hello = Hello("onhand", 1, "secret", "gateway-1", 16)

    assert hello == decode_hello(payload(hello))


@pytest.mark.parametrize(
    ("hello", "says"),
    [
        (Hello("offhand", 1), "wrong magic"),
        (Hello("onhand", 2), "protocol version 2; this side speaks 1"),
        (REQUEST, "not a handshake"),
    ],
)
def test_another_protocol_is_refused(hello: object, says: str) -> None:
    """What does not speak this protocol is told which it would have to speak."""
    with pytest.raises(WireError, match=says):
        decode_hello(payload(hello))


BOMBS = {
    "nothing": b"",
    "not MessagePack": b"\xc1",
    "nested arrays": b"\x91" * 100_000 + b"\xc0",
    "nested maps": b"\x81\xa1k" * 100_000 + b"\xc0",
    "nested in a field": b"\x93\x07\x01" + b"\x91" * 100_000,
    "array of four thousand million": b"\xdd\xff\xff\xff\xff",
    "map of four thousand million": b"\xdf\xff\xff\xff\xff",
    "string of four gigabytes": b"\xdb\xff\xff\xff\xff",
    "bytes of four gigabytes": b"\xc6\xff\xff\xff\xff",
    "extension type": b"\xc7\x04\x01abcd",
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "string that is not UTF-8": b"\x93\x07\x01\x91\x92\x18\xa2\xff\xfe",
    "more after the end": payload(REQUEST) + b"\xc0",
    "too many commands": payload([7, 1, [GetStock("apple")] * (limits.COMMANDS_PER_FRAME_MAX + 1)]),
    "no commands": payload([7, 1, []]),
    "negative request id": payload([-1, 1, [GetStock("apple")]]),
    "huge request id": payload([2**63, 1, [GetStock("apple")]]),
    "deadline too far": payload([1, limits.DEADLINE_MS_MAX + 1, [GetStock("apple")]]),
    "unknown command": payload([1, 1, [[99, "apple"]]]),
    "a map for an array": payload({"request_id": 1}),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_refused(bomb: bytes) -> None:
    """What would cost memory, depth or meaning ends as a WireError, whoever decodes it."""
    for decode in (decode_hello, decode_request, decode_response):
        with pytest.raises(WireError):
            decode(bomb)


@given(noise=st.binary(max_size=200))
def test_noise_is_a_message_or_refused(noise: bytes) -> None:
    """Bytes of any kind decode to a message or to a WireError, nothing else."""
    for decode in (decode_hello, decode_request, decode_response):
        try:
            decode(noise)
        except WireError:
            continue


def test_a_response_needs_no_heads() -> None:
    """Who answers without having read a shard names no head."""
    short = payload([7, [[0]]])

    assert Response(7, [Answer(Status.OK)]) == decode_response(short)
    assert [Head(1, 2, 3)] == decode_response(payload([7, [[0]], [[1, 2, 3]]])).heads
