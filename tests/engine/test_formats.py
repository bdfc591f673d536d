"""Formats: what a number stands for; `tests.golden.test_migration` plays a change of it through."""

import msgspec
import pytest

from engine import formats
from engine.formats import UndecodableError, pack_array, unpack_events
from engine.messages import Event, Passed, Released


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 2**16 - 1, 2**16])
def test_events_that_are_encoded_one_by_one(length: int) -> None:
    """They stand in a record as if they had been encoded together."""
    pair: list[Event] = [Passed(), Released("cart-1")]
    events = (pair * length)[:length]

    packed = pack_array([msgspec.msgpack.encode(event) for event in events])
    assert msgspec.msgpack.encode(events) == packed
    assert events == unpack_events(packed)


def test_what_only_a_newer_engine_knows() -> None:
    """Kinds of events that are unknown are named, each once."""
    packed = msgspec.msgpack.encode([[54], [201, "x"], [200], [201]])
    with pytest.raises(UndecodableError, match=r"of kind \[200, 201\], which only a newer"):
        unpack_events(packed)


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x91\x90", b"\x91\x91\xc3", b"\x91\xa1x"])
def test_what_nobody_can_have_written(packed: bytes) -> None:
    """It is refused as well, but not blamed on a newer engine."""
    with pytest.raises(UndecodableError) as raised:
        unpack_events(packed)
    assert "newer" not in str(raised.value)


def test_it_reads_what_it_writes() -> None:
    """And all that was written before: the table has no gaps."""
    assert list(range(1, formats.FORMAT + 1)) == sorted(formats.FORMATS)[: formats.FORMAT]
    assert "1" == formats.readable()
