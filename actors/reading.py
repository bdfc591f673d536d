"""What stands in a shard's journal, asked for until the journal answers."""

from functools import partial
from typing import Final

from actors.archiver import Readable
from actors.journal import Entry
from actors.patience import patiently
from engine import limits
from engine.codec import START, Position, Record, decode_record

_LAST_SEQUENCE: Final = 2**63 - 1


async def read(
    journal: Readable, number: int, after: Position, count: int, *, newest: bool = False
) -> list[Entry]:
    """What the journal reads, once it answers."""
    return await patiently(partial(journal.read, number, after, count, newest=newest))


async def load(journal: Readable, number: int, name: str) -> bytes | None:
    """The chunk, once the journal answers."""
    return await patiently(partial(journal.load, number, name))


def before(position: Position) -> Position:
    """After which `position` is the first that there may be."""
    if position.sequence:
        return Position(position.epoch, position.sequence - 1)
    return Position(position.epoch - 1, _LAST_SEQUENCE)


def page_after(page: list[Entry], most: int) -> int:
    """How many records to read next, at `most`: by the size of those before, because shards of this
    process append meanwhile."""
    size = sum(len(entry.record) for entry in page) // len(page)
    return max(1, min(most, limits.AUDIT_PAGE_BYTES_MAX // max(1, size)))


async def newest_record(journal: Readable, number: int) -> Record | None:
    entries = await read(journal, number, START, 1, newest=True)
    return decode_record(entries[0].record, number, entries[0].position) if entries else None
