"""Several real servers: each is asked who it is, and one that is down is nobody else's trouble."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors.journal import BusyError, JournalError, RedisJournal, WrongServerError
from actors.journal_servers import Servers, look_for, seats_of
from engine.codec import GENESIS, START
from tests.actors.servers import eventually, running

pytestmark = pytest.mark.redis


async def test_the_wrong_server_is_never_served_from(tmp_path: Path) -> None:
    """Two servers swap their places behind two URLs: nothing is sent to either, and both say why;
    when they are back where they were, everything goes on."""
    seats = seats_of("here", 2, 4)
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(running(tmp_path / name, name))
            for name in ("valkey", "redis")
        ]
        places = [tmp_path / "0", tmp_path / "1"]
        for place, server in zip(places, servers, strict=True):
            place.symlink_to(server.url.removeprefix("unix://"))
        journals = [
            RedisJournal(f"unix://{place}", seat=seat, timeout=0.5)
            for place, seat in zip(places, seats, strict=True)
        ]
        for place, seat in zip(places, seats, strict=True):
            untold = RedisJournal(f"unix://{place}")
            await untold.open()
            await untold.tell(seat)
            await untold.close()
        for journal in journals:
            await journal.open()
            stack.push_async_callback(journal.close)
        await journals[1].append(1, GENESIS, b"genesis", create=True)

        swap(places)
        for journal in journals:
            await journal.close()
            await journal.open(0.1, demand=False)
        assert [WrongServerError] * 2 == [type(each.trouble) for each in journals]
        said = "it is server 1 of 2 for 4 shards, and was named as server 0"
        assert said in str(journals[0].trouble)
        with pytest.raises(BusyError, match="was named as server 1"):
            await journals[1].append(1, GENESIS, b"another", create=True)
        swap(places)
        await eventually(lambda: all(each.trouble is None for each in journals))

        assert b"genesis" == (await Servers(journals).read(1, START, 9))[0].record


def swap(places: list[Path]) -> None:
    targets = [place.readlink() for place in places]
    for place, target in zip(places, reversed(targets), strict=True):
        place.unlink()
        place.symlink_to(target)


async def test_who_is_there(tmp_path: Path) -> None:
    """Of two, one does not answer: the other can be asked, and the reason names the place."""
    async with running(tmp_path, "valkey") as server, AsyncExitStack() as stack:
        urls = [server.url, f"unix://{tmp_path}/nobody"]
        there, missing = await look_for(urls, "always", 0.1, stack)

        assert isinstance(there, RedisJournal)
        assert await there.said() is None
        assert isinstance(missing, JournalError)
        assert f"cannot use Redis at unix:{tmp_path}/nobody: no connection" in str(missing)


async def test_a_server_that_comes_later_is_found(tmp_path: Path) -> None:
    """Whoever does not demand a server at once is connected as soon as there is one."""
    place = tmp_path / "socket"
    journal = RedisJournal(f"unix://{place}")
    await journal.open(0.1, demand=False)
    assert isinstance(journal.trouble, BusyError)
    async with running(tmp_path / "server", "redis") as server:
        place.symlink_to(server.url.removeprefix("unix://"))
        await eventually(lambda: journal.trouble is None)
        assert [] == await journal.read(0, START, 1)
    await journal.close()
