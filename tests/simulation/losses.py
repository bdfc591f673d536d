"""Which losses of the server nobody could have known of.

What the server has lost must not go unnoticed as long as somebody remembers it: a mark on a disk,
or the floor that comes with an assignment. Where nobody does, a shard that is opened without it is
no mistake, and its answers are not judged by what is gone.
"""

from engine.codec import GENESIS, Position, decode_record
from engine.messages import Opened
from tests.simulation.history import History, Stored

Told = tuple[int, int, Position]
"""When somebody was told, of which shard, up to where."""
Opening = tuple[int, Stored, Position]
"""Which record that was stored, `opened`, and what its owner had found."""


def unknowable(history: History, told: list[Told], flushed: bool) -> set[int]:
    """Shards that somebody opened without what was lost before, when nobody told of it.

    `history` has its lineage; `flushed`: somebody has emptied the running server.
    """
    lineage = {shard: set(history.lineage.get(shard, ())) for shard in range(history.total)}
    openings = _openings(history)
    found = _begun_anew(history) if flushed else set()
    for number, stored in enumerate(history.stored):
        shard, position = stored.shard, stored.position
        if not position.sequence or (position, stored.record) in lineage[shard]:
            continue
        for at, opened, reached in openings:
            if opened.shard != shard or at <= number:
                continue
            if position <= reached and (opened.position, opened.record) not in lineage[shard]:
                continue  # it was there then
            if not _was_told(told, openings, stored, opened.at):
                found.add(shard)
            break
    return found


def _was_told(told: list[Told], openings: list[Opening], stored: Stored, by: int) -> bool:
    """Whether anybody was told of this record, or of a later one, before `by`."""
    return any(
        shard == stored.shard and _implies(openings, shard, where, stored.position)
        for when, shard, where in told
        if when <= by
    )


def _implies(openings: list[Opening], shard: int, where: Position, position: Position) -> bool:
    """Whether whoever has acknowledged the record at `where` had the one at `position`."""
    while where.epoch > position.epoch:
        before = [
            reached
            for _, opened, reached in openings
            if opened.shard == shard and opened.position.epoch == where.epoch
        ]
        if len(before) != 1:
            return False  # nobody, or which of them?
        [where] = before
    return where.epoch == position.epoch and where >= position


def _begun_anew(history: History) -> set[int]:
    """Shards whose journal was deleted under the running server, and begun anew by somebody who had
    looked around before that: its owner, whose next id is free there, may go on behind the new
    beginning. Audits find it, and the next recovery."""
    beginnings = {each for each in history.stored if each.position == GENESIS}
    shards = [each.shard for each in beginnings]
    return {shard for shard in shards if shards.count(shard) > 1}


def _openings(history: History) -> list[Opening]:
    """Every `opened`, the first time that it was stored, and what its owner had found."""
    seen: set[bytes] = set()
    openings = []
    for number, stored in enumerate(history.stored):
        position = stored.position
        if position.sequence != 1 or not position.epoch or stored.record in seen:
            continue
        seen.add(stored.record)
        event = decode_record(stored.record, stored.shard, position).events[0]
        assert isinstance(event, Opened)
        reached = Position(event.previous_epoch, event.previous_sequence)
        openings.append((number, stored, reached))
    return openings
