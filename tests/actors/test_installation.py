"""What an installation is for ever, and that nothing is touched when the settings disagree."""

from pathlib import Path

import pytest

from actors.installation import Installation, InstallationError, find_installation
from actors.memory_journal import MemoryJournal, MemoryStore
from engine.codec import GENESIS, START, encode_record
from engine.messages import Genesis
from engine.placement import HASH


async def journal_of(shards: int) -> MemoryJournal:
    """A journal in which every shard was begun."""
    journal = MemoryJournal(MemoryStore())
    for shard in range(shards):
        events = [Genesis("old", shards, HASH)]
        record, _ = encode_record(shard, GENESIS, 1, 0, START, list(events))
        await journal.append(shard, GENESIS, record, create=True)
    return journal


async def test_a_new_installation_is_remembered(tmp_path: Path) -> None:
    """The first start settles the id and the shards; the second finds them."""
    first = await find_installation(tmp_path, MemoryJournal(MemoryStore()), 4, "fresh")
    second = await find_installation(tmp_path, MemoryJournal(MemoryStore()), 4, "other")

    assert [Installation("fresh", 4)] * 2 == [first, second]


async def test_other_shards_are_refused(tmp_path: Path) -> None:
    """The number of shards cannot change; the refusal says what it was."""
    await find_installation(tmp_path, MemoryJournal(MemoryStore()), 4, "fresh")

    with pytest.raises(InstallationError, match=r"--shards is 5, but .* in 4 shards"):
        await find_installation(tmp_path, MemoryJournal(MemoryStore()), 5, "fresh")


async def test_a_journal_without_its_directory_is_taken_at_its_word(tmp_path: Path) -> None:
    """A data directory that was lost takes up the journal's identity."""
    found = await find_installation(tmp_path, await journal_of(4), 4, "fresh")

    assert Installation("old", 4) == found


@pytest.mark.parametrize("shards", [1, 3, 5, 64])
async def test_a_journal_of_other_shards_is_refused(tmp_path: Path, shards: int) -> None:
    """More shards than there are streams, or fewer: nothing is begun, nothing is written."""
    journal = await journal_of(4)

    with pytest.raises(InstallationError, match="of another number of shards"):
        await find_installation(tmp_path, journal, shards, "fresh")

    assert not (tmp_path / "installation.json").exists()


async def test_an_illegible_file_is_named(tmp_path: Path) -> None:
    """A broken file is not guessed at."""
    (tmp_path / "installation.json").write_text("{}")

    with pytest.raises(InstallationError, match=r"cannot read .*installation\.json"):
        await find_installation(tmp_path, MemoryJournal(MemoryStore()), 4, "fresh")
