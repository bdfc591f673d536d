"""What an installation is for ever, and that nothing is touched when the settings disagree."""

import re
from pathlib import Path

import pytest

from actors.installation import (
    Installation,
    InstallationError,
    find_installation,
    read_installation,
    write_installation,
)
from actors.journal import JournalError
from actors.memory_journal import MemoryJournal, MemoryStore
from actors.seat import Seat
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
    first = await find_installation(tmp_path, [MemoryJournal(MemoryStore())], 4, "fresh")
    second = await find_installation(tmp_path, [MemoryJournal(MemoryStore())], 4, "other")

    assert [Installation("fresh", 4)] * 2 == [first, second]


async def test_other_shards_are_refused(tmp_path: Path) -> None:
    """The number of shards cannot change; the refusal says what it was."""
    await find_installation(tmp_path, [MemoryJournal(MemoryStore())], 4, "fresh")

    with pytest.raises(InstallationError, match=r"--shards is 5, but .* in 4 shards"):
        await find_installation(tmp_path, [MemoryJournal(MemoryStore())], 5, "fresh")


async def test_a_journal_without_its_directory_is_taken_at_its_word(tmp_path: Path) -> None:
    """A data directory that was lost takes up the journal's identity."""
    found = await find_installation(tmp_path, [await journal_of(4)], 4, "fresh")

    assert Installation("old", 4) == found


@pytest.mark.parametrize("shards", [1, 3, 5, 64])
async def test_a_journal_of_other_shards_is_refused(tmp_path: Path, shards: int) -> None:
    """More shards than there are streams, or fewer: nothing is begun, nothing is written."""
    journal = await journal_of(4)

    with pytest.raises(InstallationError, match="of another number of shards"):
        await find_installation(tmp_path, [journal], shards, "fresh")

    assert not (tmp_path / "installation.json").exists()


async def test_an_illegible_file_is_named(tmp_path: Path) -> None:
    """A broken file is not guessed at."""
    (tmp_path / "installation.json").write_text("{}")

    with pytest.raises(InstallationError, match=r"cannot read .*installation\.json"):
        await find_installation(tmp_path, [MemoryJournal(MemoryStore())], 4, "fresh")


# --- several servers -------------------------------------------------------------------------


def three() -> list[MemoryJournal]:
    return [MemoryJournal(MemoryStore()) for _ in range(3)]


async def begin(journal: MemoryJournal, shard: int) -> None:
    """A journal of that shard."""
    record, _ = encode_record(shard, GENESIS, 1, 0, START, [Genesis("old", 8, HASH)])
    await journal.append(shard, GENESIS, record, create=True)


async def test_each_server_is_told_who_it_is(tmp_path: Path) -> None:
    """A new installation knows its servers, and they know it, before anything is claimed."""
    servers = three()
    found = await find_installation(tmp_path, servers, 8, "fresh")

    assert Installation("fresh", 8, 3) == found
    assert [seat.encode() for seat in found.seats()] == [await each.said() for each in servers]
    assert found == await find_installation(tmp_path, servers, 8, "other")


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ((1, 0, 2), "it is server 1 of 3 for 8 shards, and was named as server 0 of 3"),
        ((0, 1), r"is on 3 servers, but --redis names 2; `onhand backup` and `onhand restore`"),
        ((0, 1, 2, 2), "is on 3 servers, but --redis names 4"),
        ((0, 1, 1), "it is server 1 of 3 for 8 shards, and was named as server 2 of 3"),
        ((0, 1, 9), "it does not know that it is server 2 of 3"),
    ],
)
@pytest.mark.parametrize("with_directory", [True, False])
async def test_other_servers_are_refused(
    tmp_path: Path, order: tuple[int, ...], said: str, with_directory: bool
) -> None:
    """Swapped, missing, too many, twice the same, or an empty one, known or not from a file."""
    servers = three()
    await find_installation(tmp_path, servers, 8, "fresh")
    for shard in range(8):
        await begin(servers[shard % 3], shard)
    if not with_directory:
        (tmp_path / "installation.json").unlink()
    named = [servers[each] if each < 3 else MemoryJournal(MemoryStore()) for each in order]

    with pytest.raises(InstallationError) as caught:
        await find_installation(tmp_path, named, 8, "fresh")

    if with_directory:
        assert re.search(said, str(caught.value))
    assert with_directory == (tmp_path / "installation.json").exists()


async def test_a_start_that_was_interrupted_is_taken_up(tmp_path: Path) -> None:
    """Some servers were told, and then everything ended: the next start tells the others."""
    servers = three()
    await servers[1].tell(Seat("begun", 3, 1, 8))

    assert Installation("begun", 8, 3) == await find_installation(tmp_path, servers, 8, "fresh")
    assert None not in [await each.said() for each in servers]


async def test_a_journal_on_one_server_is_not_spread_by_naming_more(tmp_path: Path) -> None:
    """The shards of an old installation would be begun anew on the others."""
    servers = [await journal_of(8), *three()[:2]]

    with pytest.raises(InstallationError, match="memory: there is a journal of shard 0 already"):
        await find_installation(tmp_path, servers, 8, "fresh")

    assert [None] * 3 == [await each.said() for each in servers]


async def test_a_server_that_is_down_stops_only_what_is_new(tmp_path: Path) -> None:
    """An installation that is known does without it for now; a new one cannot be made."""
    servers: list[MemoryJournal | JournalError] = [*three()]
    down = JournalError("it is down")
    with pytest.raises(JournalError, match="it is down"):
        await find_installation(tmp_path, [servers[0], down, servers[2]], 8, "fresh")
    assert not (tmp_path / "installation.json").exists()
    made = await find_installation(tmp_path, servers, 8, "fresh")

    assert made == await find_installation(tmp_path, [servers[0], down, servers[2]], 8, "fresh")
    with pytest.raises(JournalError, match="it is down"):
        await find_installation(tmp_path, [down] * 3, 8, "fresh")


async def test_an_older_server_is_told_if_it_is_ours(tmp_path: Path) -> None:
    """One that was there before servers knew who they are; another's is left to its shards."""
    ours, others = await journal_of(4), await journal_of(4)
    write_installation(tmp_path, Installation("old", 4))
    await find_installation(tmp_path, [ours], 4, "fresh")
    assert Seat("old", 1, 0, 4).encode() == await ours.said()
    write_installation(tmp_path, Installation("another", 4))
    await find_installation(tmp_path, [others], 4, "fresh")

    assert await others.said() is None


# --- dedicated shards ------------------------------------------------------------------------


async def test_dedicated_shards_become_more_and_never_fewer(tmp_path: Path) -> None:
    """A later start may ask for more; one that asks for fewer, or says nothing, has them all."""
    journal = MemoryJournal(MemoryStore())
    asked = [0, 2, 0, 3, 1]
    found = [await find_installation(tmp_path, [journal], 4, "fresh", each) for each in asked]

    assert [0, 2, 2, 3, 3] == [each.dedicated for each in found]
    assert [4, 6, 6, 7, 7] == [each.total for each in found]
    assert read_installation(tmp_path) == found[-1]


@pytest.mark.parametrize("dedicated", [0, 1])
async def test_dedicated_shards_are_not_forgotten_with_the_file(
    tmp_path: Path, dedicated: int
) -> None:
    """A data directory that was lost does not make fewer of them than have journals."""
    journal = await journal_of(4)
    for shard in (4, 5):
        record, _ = encode_record(shard, GENESIS, 1, 0, START, [Genesis("old", 4, HASH)])
        await journal.append(shard, GENESIS, record, create=True)

    with pytest.raises(InstallationError, match="another number of shards"):
        await find_installation(tmp_path, [journal], 4, "fresh", dedicated)
    assert Installation("old", 4, 1, 2) == await find_installation(
        tmp_path, [journal], 4, "fresh", 2
    )
