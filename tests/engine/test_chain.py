"""The chain: what follows is accepted, across claims too, and nothing else is."""

import pytest

from engine.chain import BEGINNING, Link, follow, follow_on, link_before
from engine.codec import START, CorruptRecordError, Position, decode_record, encode_record
from engine.messages import Claimed, Event, Genesis, Opened, Passed

CLAIM: list[Event] = [Claimed(b"nonce", "host")]


def opened(after: Position, checksum: int) -> list[Event]:
    return [Opened(*after, checksum, b"digest", 0, 0, 1, 1, 1)]


def record(position: Position, previous: int, events: list[Event]) -> tuple[bytes, int]:
    return encode_record(0, position, 9, previous, START, events)


def linked(link: Link, position: Position, previous: int, events: list[Event]) -> Link:
    """The link after such a record."""
    return follow(link, record(position, previous, events)[0], 0, position)[1]


def begun() -> Link:
    """After a genesis and a claim."""
    genesis = linked(BEGINNING, Position(0, 1), 0, [Genesis("here", 1, "crc32")])
    return linked(genesis, Position(1, 0), 0, CLAIM)


def test_a_claim_is_followed_by_what_names_the_record_before_it() -> None:
    """The link remembers what a claim cannot say, until the owner opens."""
    link = begun()
    assert Position(0, 1) == link.before_claim
    told = opened(link.before_claim, link.before_claim_checksum)
    after = linked(link, Position(1, 1), link.checksum, told)

    assert (Position(1, 1), START) == (after.position, after.before_claim)


@pytest.mark.parametrize(("position", "off"), [(Position(0, 2), 0), (Position(0, 1), 1)])
def test_a_record_that_is_missing_before_a_claim_is_found(position: Position, off: int) -> None:
    """Another place, or another record at that place, than the owner found there."""
    link = begun()
    told = opened(position, link.before_claim_checksum + off)

    with pytest.raises(CorruptRecordError, match=f"record 1-1: opened after {position} "):
        linked(link, Position(1, 1), link.checksum, told)


def test_within_an_epoch_the_checksum_links() -> None:
    """A gap and another predecessor are both refused."""
    link = begun()
    told = opened(link.before_claim, link.before_claim_checksum)
    after = linked(link, Position(1, 1), link.checksum, told)

    with pytest.raises(CorruptRecordError, match="record 1-3: a gap"):
        linked(after, Position(1, 3), after.checksum, [Passed()])
    with pytest.raises(CorruptRecordError, match="record 1-2: follows checksum"):
        linked(after, Position(1, 2), after.checksum ^ 1, [Passed()])


def test_a_record_says_what_it_follows() -> None:
    """Whoever begins in the middle knows its predecessor, unless it begins with a claim."""
    data, _ = record(Position(4, 7), 99, [Passed()])
    claim, _ = record(Position(4, 0), 0, CLAIM)

    assert Link(Position(4, 6), 99) == link_before(decode_record(data, 0, Position(4, 7)))
    assert BEGINNING == link_before(decode_record(claim, 0, Position(4, 0)))
    assert Position(4, 7) == follow(BEGINNING, data, 0, Position(4, 7))[1].position


def test_the_quick_way_is_the_same_way() -> None:
    """What it takes, `follow` takes; what is wrong in any byte, or follows something else, is
    refused with the same words."""
    link = Link(Position(4, 6), 99)
    position = Position(4, 7)
    data, checksum = record(position, 99, [Passed()])
    assert (9, Link(position, checksum)) == follow_on(link, data, 0, position)
    damaged = [bytes((*data[:at], data[at] ^ 4, *data[at + 1 :])) for at in range(len(data))]
    damaged += [data[:size] for size in range(len(data))]
    for wrong, after, shard, where in (
        *((each, link, 0, position) for each in damaged),
        (data, link, 1, position),
        (data, link, 0, Position(4, 8)),
        (data, Link(Position(4, 6), 98), 0, position),
        (data, Link(Position(4, 5), 99), 0, position),
    ):
        said = []
        for way in (follow, follow_on):
            with pytest.raises(CorruptRecordError) as caught:
                way(after, wrong, shard, where)
            said.append(str(caught.value))
        assert said[0] == said[1]
