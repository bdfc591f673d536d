"""Bits that flip in the files of a stopped server: it refuses to start, or the owner refuses, or
what is served is what was lived."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from actors.claim import Floor, claim
from actors.journal import RedisJournal
from actors.recovery import Recovery
from actors.redis_server import RedisServerError
from engine.codec import checksum_of
from engine.shard import Shard
from tests.actors.servers import running
from tests.golden.damage import xor
from tests.golden.editions import Edition, editions
from tests.golden.flips import BROKE, DIFFERENT, IDENTICAL, REFUSED, refusal_of

pytestmark = [pytest.mark.redis, pytest.mark.faults]
FLIPS = 48
SERVER_REFUSES = "the server refuses"


async def fill(directory: Path, edition: Edition) -> None:
    """A server that has taken the journal and the snapshots of an edition, and is stopped."""
    async with running(directory, "valkey") as server:
        journal = RedisJournal(server.url)
        await journal.open()
        for position, record in edition.journal("trimmed"):
            await journal.append(0, position, record, create=True)
        for name, data in edition.chunks("trimmed"):
            await journal.store(0, name, data)
        await journal.close()


async def serve(directory: Path, edition: Edition) -> tuple[str, str]:
    """What comes of starting the server again, and an owner on it."""
    facts = edition.manifest().journals["trimmed"]
    last = edition.journal("trimmed")[-1]
    floors = [Floor(last.position, checksum_of(last.record))]
    async with running(directory, "valkey") as server, asyncio.timeout(30):
        journal = RedisJournal(server.url)
        await journal.open()
        try:
            ours = await claim(
                *(journal, 0),
                shards=1,
                cluster_id=facts.cluster_id,
                host="host",
                nonce=b"nonce",
                stamp=1,
                floors=floors,
            )
            recovery = Recovery(journal, lambda: Shard(0, 1), facts.cluster_id)
            found = await recovery.finish(ours, floors)
        finally:
            await journal.close()
    same = (found.digest.hex(), str(found.last_position)) == (facts.digest, facts.last)
    return (IDENTICAL if same else DIFFERENT), str(found)


async def outcome_of(directory: Path, edition: Edition) -> tuple[str, str]:
    """One of the table of `tests.golden.flips`, or that the server itself refuses; and why."""
    try:
        return await serve(directory, edition)
    except RedisServerError as error:
        return SERVER_REFUSES, str(error)
    except Exception as error:  # whatever comes out is what is looked for
        said = refusal_of(error)
        return (REFUSED, said) if said else (BROKE, repr(error))


def flipped(path: Path, random: Random) -> str:
    """Flip one bit of one of the files of a server, and say which."""
    files = sorted(each for each in (path / "appendonlydir").iterdir() if each.is_file())
    [path] = random.choices(files, [each.stat().st_size for each in files])
    data = path.read_bytes()
    bit = random.randrange(8 * len(data))
    path.write_bytes(xor(data, 1, bit))
    return f"{path.name}, bit {bit}"


async def test_bits_of_the_append_only_file(tmp_path: Path) -> None:
    """A few dozen, anywhere in any of its files; a mark of the last record is there."""
    edition, random, outcomes = editions()[-1], Random(11), Counter[str]()
    whole = tmp_path / "whole"
    await fill(whole, edition)
    assert IDENTICAL == (await serve(shutil.copytree(whole, tmp_path / "0"), edition))[0]
    said = []
    for number in range(1, FLIPS + 1):
        directory = shutil.copytree(whole, tmp_path / str(number))
        where = flipped(directory, random)
        outcome, why = await outcome_of(directory, edition)
        outcomes[outcome] += 1
        said.append(f"{where}: {outcome}: {why:.200}")

    assert {SERVER_REFUSES, REFUSED, IDENTICAL} == set(outcomes), "\n".join(said)
