"""What was ever written is read to the same state for ever."""

from pathlib import Path

import msgspec
import pytest

from actors.journal import chunk_key
from actors.marks import marks_path, read_mark
from engine import limits
from engine.codec import check_link, decode_record
from engine.messages import Opened
from engine.shard import Shard
from engine.snapshot import SnapshotReader
from tests.actors.trial import Trial, ownership, timeless
from tests.golden.editions import (
    JOURNALS,
    SNAPSHOTTED,
    Edition,
    editions,
    frames_of,
    replayed,
    sums_of,
)

EDITIONS = editions()
ARCHIVED = [edition for edition in EDITIONS if edition.manifest().archive]
BYTES_MAX = 1_000_000
every_edition = pytest.mark.parametrize("edition", EDITIONS, ids=lambda edition: edition.name)
every_journal = pytest.mark.parametrize("name", JOURNALS)


def trial_of(edition: Edition, name: str, directory: Path) -> Trial:
    """A server that holds the journal and the chunks beside it."""
    facts = edition.manifest().journals[name]
    trial = Trial(directory, facts.shards)
    for position, record in edition.journal(name):
        trial.store.append(facts.shard, position, record, create=True)
    if name in SNAPSHOTTED:
        for chunk, data in edition.chunks(name):
            trial.store.store(chunk_key(facts.shard, chunk), data)
    return trial


@every_edition
def test_no_file_is_ever_changed(edition: Edition) -> None:
    """Each is the one that the manifest tells of, and there are no others."""
    assert edition.manifest().files == edition.facts()


def test_all_of_them_are_small() -> None:
    """A clone does not carry megabytes of them."""
    assert (
        sum(path.stat().st_size for each in EDITIONS for path in each.path.rglob("*")) < BYTES_MAX
    )


@every_edition
@pytest.mark.parametrize("name", ["written", "walked"])
def test_replayed(edition: Edition, name: str) -> None:
    """A journal from its first record on: each proves itself and links, and they add up."""
    facts = edition.manifest().journals[name]
    entries = edition.journal(name)
    before = None
    for position, data in entries:
        record = decode_record(data, facts.shard, position)
        check_link(before, record)
        before = record
    shard = replayed(entries, Shard(facts.shard, facts.shards))

    assert before is not None
    assert (facts.records, facts.first) == (len(entries), str(entries[0].position))
    assert (facts.last, facts.stamp) == (str(before.position), before.stamp)
    assert facts.checksum == f"{before.checksum:08x}"
    assert (facts.digest, facts.sums) == (shard.digest().hex(), sums_of(shard))


@every_edition
@every_journal
@timeless
async def test_recovered(tmp_path: Path, edition: Edition, name: str) -> None:
    """An owner comes up on it as it would have then, by the snapshots if there are any."""
    facts = edition.manifest().journals[name]
    trial = trial_of(edition, name, tmp_path)
    life = await trial.serve(
        number=facts.shard, settings=ownership(facts.shards, cluster_id=facts.cluster_id)
    )
    [opened] = trial.store.records(facts.shard)[-1].events

    assert isinstance(opened, Opened)
    assert facts.digest == opened.digest.hex()
    assert facts.sums == sums_of(life.owner.shard)
    await life.stop()


@every_edition
@timeless
async def test_recovered_without_the_newest_snapshot(tmp_path: Path, edition: Edition) -> None:
    """The one before and the journal since then say the same."""
    facts = edition.manifest().journals["trimmed"]
    trial = trial_of(edition, "trimmed", tmp_path)
    newest = max(decode_record(data, 0, at).snapshot for at, data in trial.store.entries())
    del trial.store.chunks[chunk_key(0, f"{newest}:1")]
    life = await trial.serve(settings=ownership(facts.shards, cluster_id=facts.cluster_id))

    assert facts.digest == trial.opened.digest.hex()
    assert facts.sums == sums_of(life.owner.shard)
    await life.stop()


@pytest.mark.parametrize("edition", ARCHIVED, ids=lambda edition: edition.name)
def test_archived(edition: Edition) -> None:
    """Segments and snapshots are read as they were written, and lead to the same state."""
    archive, facts = edition.archive(), edition.manifest().journals["trimmed"]
    entries = [entry for each in archive.segments(0) for entry in archive.read(each)]
    assert edition.manifest().archive == edition.archived()
    assert edition.journal("trimmed") == entries

    shard = Shard(0, 1)
    [kept] = archive.snapshots(0)
    reader = SnapshotReader(shard.state, 0, kept.position)
    for chunk in archive.chunks(kept):
        reader.feed(chunk)
    replayed([each for each in entries if each.position > kept.position], shard)
    assert (facts.digest, facts.sums) == (shard.digest().hex(), sums_of(shard))


@every_edition
def test_marks(edition: Edition, tmp_path: Path) -> None:
    """A file of marks says what it said."""
    path = marks_path(tmp_path)
    path.write_bytes(edition.marks())
    read = {shard: read_mark(tmp_path, shard) for shard in range(limits.SHARDS_MAX)}

    assert edition.manifest().marks == {
        str(shard): f"{mark.position} {mark.checksum:08x}" for shard, mark in read.items() if mark
    }


@every_edition
def test_frames(edition: Edition) -> None:
    """A connection of then is understood: every frame, and in it what was said."""
    frames = list(frames_of(edition))

    assert edition.manifest().frames == len(frames)
    for payload, message in frames:
        told = msgspec.msgpack.decode(payload)
        assert said_before(told, msgspec.msgpack.decode(msgspec.msgpack.encode(message)))


def said_before(told: object, said: object) -> bool:
    """Whether `said` is what was told, with nothing but defaults at the end of what has grown."""
    if isinstance(told, list) and isinstance(said, list):
        return len(told) <= len(said) and all(map(said_before, told, said))
    return told == said
