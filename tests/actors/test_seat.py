"""What a server says of itself, and that nobody else is taken for it."""

import pytest

from actors.seat import Seat, SeatError

SEAT = Seat("here", 3, 1, 8)


def test_what_is_written_is_read() -> None:
    """A server's word comes back as it was given, and is its own proof."""
    assert SEAT == Seat.decode(SEAT.encode())
    SEAT.check(SEAT.encode())


@pytest.mark.parametrize("place", range(len(SEAT.encode())))
def test_no_byte_may_change(place: int) -> None:
    """A flipped bit is damage, never another server."""
    data = bytearray(SEAT.encode())
    data[place] ^= 1

    with pytest.raises(SeatError, match="is damaged"):
        SEAT.check(bytes(data))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Seat("here", 3, 2, 8), "it is server 2 of 3 for 8 shards, and was named as server 1 of 3"),
        (Seat("here", 2, 1, 8), "it is server 1 of 2 for 8 shards, and was named as server 1 of 3"),
        (Seat("here", 3, 1, 9), "it is server 1 of 3 for 9 shards, and was named as"),
        (Seat("there", 3, 1, 8), "of installation there, this is here"),
        (None, "it does not know that it is server 1 of 3 for 8 shards"),
    ],
)
def test_another_is_refused(found: Seat | None, said: str) -> None:
    """The refusal says which one it is, and which one is meant."""
    with pytest.raises(SeatError) as caught:
        SEAT.check(None if found is None else found.encode())

    assert said in str(caught.value)


def test_a_single_server_may_say_nothing() -> None:
    """It may be older than the word."""
    Seat("here", 1, 0, 8).check(None)


def test_an_installation_whose_id_is_lost_is_known_by_the_rest() -> None:
    """An id that nobody knows any more contradicts none."""
    Seat("", 3, 1, 8).check(SEAT.encode())
