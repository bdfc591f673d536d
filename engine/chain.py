"""The chain: what a record must follow, also where a claim stands between two owners.

Within an epoch each record carries the checksum of the one before (`engine.codec.check_link`). A
claim carries none, since its writer cannot know what came last; the `opened` that its owner appends
next says it. So whoever follows a journal has to remember a little more than one checksum, and a
`Link` is all of it: whoever has one can go on at that place, in another process, years later.
"""

from typing import Final, NamedTuple

from engine.codec import (
    START,
    CorruptRecordError,
    Position,
    Record,
    check_link,
    decode_record,
    glance,
    skim_record,
)
from engine.messages import Opened


class Link(NamedTuple):
    """A place in a journal, and what is needed to prove that a record directly follows it."""

    position: Position
    checksum: int
    before_claim: Position = START
    """If a claim stands here: the record before it…"""
    before_claim_checksum: int = 0
    """…which the next one must name, if its owner comes to open."""


BEGINNING: Final = Link(START, 0)
"""Before the first record of all, and before one of which nothing is known."""


def link_before(record: Record) -> Link:
    """What the record itself says of its predecessor."""
    epoch, sequence = record.position
    return Link(Position(epoch, sequence - 1), record.previous) if sequence else BEGINNING


def follow(link: Link, data: bytes, shard: int, position: Position) -> tuple[Record, Link]:
    """The record at `position`, without its events, and the link that it makes.

    Raises CorruptRecordError unless it proves itself and directly follows `link`.
    """
    record = skim_record(data, shard, position)
    if link.position != START:
        check_link(Record(shard, link.position, 0, 0, START, [], link.checksum), record)
    if position.sequence == 1 and link.before_claim != START:
        _check_opened(link, decode_record(data, shard, position))
    claim = (link.position, link.checksum) if position.sequence == 0 else (START, 0)
    return record, Link(position, record.checksum, *claim)


def follow_on(link: Link, data: bytes, shard: int, position: Position) -> tuple[int, Link]:
    """The same, for who has very many: the stamp of the record, and the link that it makes."""
    if position.sequence > 1 and position == (link.position.epoch, link.position.sequence + 1):
        found = glance(data, shard, position, link.checksum)
        if found is not None:
            return found[0], Link(position, found[1])
    record, link = follow(link, data, shard, position)
    return record.stamp, link


def _check_opened(link: Link, record: Record) -> None:
    for event in record.events:
        if not isinstance(event, Opened):
            continue
        found = Position(event.previous_epoch, event.previous_sequence)
        if (found, event.previous_checksum) != (link.before_claim, link.before_claim_checksum):
            raise CorruptRecordError(
                f"shard {record.shard}, record {record.position}: opened after {found}"
                f" ({event.previous_checksum:08x}), but {link.before_claim}"
                f" ({link.before_claim_checksum:08x}) stands before its claim"
            )
