"""Becoming the owner of a shard: the claim, and what must be so before anybody makes one.

    look ──► no stream: genesis, unless something of it was acknowledged
      │
      ▼
    claim <epoch>-0 ──acknowledged──► ours: every older owner's appends are refused from now on
                    └──refused──► somebody else's: fenced

The epoch is above the stream's and above all that was ever acknowledged, so that an owner whom the
server has forgotten cannot append behind us. Exactly one of several contenders wins; the nonce
tells our claim from another's of the same moment, and so an answer that got lost costs nothing.
"""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from actors.appender import FencedError, RegressedError
from actors.archiver import Readable
from actors.journal import BusyError, Entry, Journal, LostError, MissingError, RefusedError
from actors.patience import BACKOFF_SECONDS
from actors.reading import before, load, newest_record, read
from engine.codec import (
    GENESIS,
    START,
    Position,
    decode_record,
    encode_record,
)
from engine.messages import Claimed, Event, Genesis
from engine.placement import HASH
from engine.shard import Shard
from engine.snapshot import SnapshotReader, chunk_name


class GenesisError(Exception):
    """The journal is of another installation, or of one with another number of shards."""


class Floor(NamedTuple):
    """A record that was acknowledged: the journal must reach it. `checksum` None = not known."""

    position: Position
    checksum: int | None


async def check_installation(
    journal: Readable, number: int, *, shards: int, cluster_id: str
) -> None:
    """Raise GenesisError if the journal of shard `number` is not of this installation.

    Before the claim: whoever must not own a shard must not fence its owner either.
    """
    first = await read(journal, number, START, 1)
    if not first:
        return
    record = decode_record(first[0].record, number, first[0].position)
    genesis = record.events[0] if record.events else None
    if isinstance(genesis, Genesis):
        found = (genesis.cluster_id, genesis.shards, genesis.hash)
    else:
        newest = await newest_record(journal, number)
        pointer = record.snapshot if newest is None else newest.snapshot
        shard = Shard(number, shards)
        data = await load(journal, number, chunk_name(pointer, 0))
        if data is None:
            return  # `recover` finds out what is missing
        SnapshotReader(shard.state, number, pointer).feed(data)
        found = (shard.state.cluster_id, shard.state.shards, shard.state.hash)
    check_identity(number, found, (cluster_id, shards, HASH))


def check_identity(number: int, found: tuple[str, int, str], ours: tuple[str, int, str]) -> None:
    if found[1:] != ours[1:]:
        raise GenesisError(
            f"shard {number}: its journal is of {found[1]} shards by {found[2]}, not of"
            f" {ours[1]} by {ours[2]}"
        )
    if ours[0] and found[0] != ours[0]:
        raise GenesisError(
            f"shard {number}: its journal is of installation {found[0]}, this is {ours[0]}"
        )


async def claim(
    journal: Journal,
    number: int,
    *,
    shards: int,
    cluster_id: str,
    host: str,
    nonce: bytes,
    stamp: int,
    floors: Iterable[Floor],
    is_proven: bool = False,
) -> Entry:
    """Become the owner of shard `number`: our claim. Raises FencedError if another does.

    `nonce` is random and tells our claim from one that somebody else makes at the same moment;
    `is_proven`: the journal has been read, and is of this installation.
    """
    if not is_proven:
        await check_installation(journal, number, shards=shards, cluster_id=cluster_id)
    floors = list(floors)
    last = await newest_record(journal, number)
    if last is None:
        if floors:
            raise RegressedError(
                f"shard {number}: no journal, though"
                f" {max(floor.position for floor in floors)} was acknowledged"
            )
        await _begin(journal, number, shards, cluster_id, stamp)
        last = await newest_record(journal, number)
        if last is None:
            raise RegressedError(f"shard {number}: the journal was in use and is empty now")
    epoch = max([last.position.epoch, *(floor.position.epoch for floor in floors)]) + 1
    events: list[Event] = [Claimed(nonce, host)]
    position = Position(epoch, 0)
    ours = Entry(position, encode_record(number, position, stamp, 0, last.snapshot, events)[0])
    while True:
        try:
            await journal.append(number, position, ours.record)
        except BusyError:
            await asyncio.sleep(BACKOFF_SECONDS)
            continue
        except (LostError, RefusedError) as error:
            found = await read(journal, number, before(position), 1)
            if not found and isinstance(error, LostError):
                continue
            if not found:
                raise RegressedError(f"shard {number}: the claim {position} is refused") from error
            if found[0] != ours:
                raise FencedError(f"shard {number}: {found[0].position} is another's") from None
        except MissingError as error:
            raise RegressedError(str(error)) from error
        return ours


async def _begin(journal: Journal, number: int, shards: int, cluster_id: str, stamp: int) -> None:
    """Write the first record of a new journal; somebody else may be first."""
    genesis: list[Event] = [Genesis(cluster_id, shards, HASH)]
    data, _ = encode_record(number, GENESIS, stamp, 0, START, genesis)
    while True:
        try:
            await journal.append(number, GENESIS, data, create=True)
        except BusyError:
            await asyncio.sleep(BACKOFF_SECONDS)
            continue
        except LostError:
            if await newest_record(journal, number) is None:
                continue
        except RefusedError:
            pass  # it is there: ours, sent twice, or another's of the same moment
        return
