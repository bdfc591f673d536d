"""A backup of an installation with dedicated shards, each shard of which is of its own moment."""

import asyncio
from pathlib import Path

from actors.backup import verify
from actors.installation import Installation, read_installation, write_installation
from actors.journal import Entry
from engine.codec import Position, decode_record
from engine.messages import Bind, Command, Dedicate, Receive, Settle
from engine.shard import Shard
from tests.actors.test_backup import Shop, bring_back, restored
from tests.actors.trial import FaultyJournal, timeless


def test_a_declaration_is_never_missing(tmp_path: Path) -> None:
    """A SKU that is dedicated, and gets its first stock, while a backup is made: what is restored
    has no stock of it without the declaration, and its shards are as many as before."""
    shop = Shop(tmp_path / "engine", shards=1)
    write_installation(tmp_path / "engine", Installation("here", 1, dedicated=1))
    steps: list[Command] = [Dedicate("hot", 1), Settle(1, "hot"), Receive("hot", "north", 5)]

    @timeless
    async def run() -> None:
        hashed, dedicated = await shop.serve(), await shop.serve(number=1)
        await dedicated.ask(Bind(1, "hot"))

        class Interfering(FaultyJournal):
            """As soon as one shard was read, everything happens to the others."""

            async def read(
                self, shard: int, after: Position, count: int, *, newest: bool = False
            ) -> list[Entry]:
                if shard == 0 and steps:
                    await hashed.ask(steps.pop(0))
                    while steps:
                        await dedicated.ask(steps.pop(0))
                return await super().read(shard, after, count, newest=newest)

        await shop.back_up(tmp_path / "backup", Interfering(shop.store))

    run()
    manifest = verify(tmp_path / "backup")
    assert (1, [0, 1]) == (manifest.dedicated, [each.shard for each in manifest.shards])

    async def back() -> dict[int, Shard]:
        await bring_back(tmp_path / "backup", tmp_path / "again")
        installation = Installation("here", 1, dedicated=1)
        assert installation == read_installation(tmp_path / "again")
        async with restored(tmp_path / "again") as (_, journal):
            found = {}
            for number in (0, 1):
                shard = found[number] = Shard(number, 1)
                for position, data in await journal.read(number, Position(0, 0), 256):
                    record = decode_record(data, number, position)
                    shard.replay(record.stamp, record.events)
        return found

    shards = asyncio.run(back())
    assert {"hot": 1} == shards[0].state.dedications.dedicated
    assert shards[1].state.skus.get("hot") is None, "it was read before there was any"
