"""The watch: two questions open, no more; whoever is alive tells; nobody is asked in a storm."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from engine import limits
from gateway import map_watch
from gateway.link import Link
from gateway.map_watch import MapWatch
from gateway.router import Router
from tests.actors.peer import until
from tests.gateway.hosts import SHARDS, Host, map_of, tell, two_hosts


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[tuple[Host, Host]]:
    async with two_hosts(tmp_path) as both:
        yield both


@asynccontextmanager
async def watching(entry: Host, jitter: float = 0.0) -> AsyncIterator[Router]:
    """A router that is told by a watch whose entry is `entry`."""
    link = Link(entry.address, None, lambda _: None)
    link.start()
    router = Router(SHARDS)
    watch = MapWatch(link, router, lambda: jitter)
    watch.start()
    try:
        yield router
    finally:
        await watch.close()
        await router.close()
        await link.close()


def has(router: Router, version: int) -> bool:
    return router.map_version == version


def asked(*hosts: Host) -> int:
    return sum(len(host.questions) for host in hosts)


async def test_the_map_is_kept_up_with(hosts: tuple[Host, Host]) -> None:
    """Every version arrives, with the owners, those without one, and those who have stopped."""
    tell(1, *hosts)
    async with watching(hosts[0]) as router:
        await until(lambda: has(router, 1))
        expected: dict[int, tuple[int, str | None]] = dict(map_of(*hosts).items())
        assert expected == router.owners()
        for version in range(2, 6):
            hosts[0].owned ^= {1}
            hosts[1].owned ^= {1}
            tell(version, *hosts, epoch=version)
            await until(partial(has, router, version))
            assert dict(map_of(*hosts, epoch=version).items()) == router.owners()
        hosts[0].board.post(6, {})
        await until(lambda: has(router, 6))
        assert {None} == {address for _, address in router.owners().values()}


async def test_two_questions_are_open_and_no_more(hosts: tuple[Host, Host]) -> None:
    """One at the entry and one at another host, each as long as nothing is new."""
    tell(1, *hosts)
    async with watching(hosts[0]) as router:
        await until(lambda: hosts[0].board.waiting == hosts[1].board.waiting == 1)
        assert (1, 1) == (hosts[1].board.waiting, router.map_version)
        assert asked(*hosts) <= 4


@pytest.mark.parametrize("asleep", [0, 1])
async def test_whoever_is_awake_tells(hosts: tuple[Host, Host], asleep: int) -> None:
    """One of the two that are asked freezes with the question."""
    tell(1, *hosts)
    async with watching(hosts[0]) as router:
        await until(lambda: hosts[0].board.waiting == hosts[1].board.waiting == 1)
        hosts[1 - asleep].board.post(2, {0: (2, hosts[1 - asleep].address)})
        await until(lambda: has(router, 2))


async def test_an_entry_that_comes_back(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """Its new process may know everything anew."""
    entry = Host(hosts[0].store, set(), tmp_path / "entry")
    await entry.start()
    async with watching(entry) as router:
        await until(lambda: bool(entry.questions))
        await entry.die()
        entry.board.post(3, map_of(*hosts))
        await entry.start()
        await until(lambda: has(router, 3))
    await entry.die()


async def test_another_life_of_the_engine(tmp_path: Path) -> None:
    """Its versions begin anew: the entry's word counts, that of a host which was left behind does
    not."""
    async with two_hosts(tmp_path) as hosts:
        tell(7, *hosts)
        path = tmp_path / "entry"
        entry = Host(hosts[0].store, set(), path)
        entry.board.post(7, map_of(*hosts))
        await entry.start()
        async with watching(entry) as router:
            await until(lambda: has(router, 7) and bool(asked(*hosts)))
            await entry.die()
            reborn = Host(hosts[0].store, {0, 1, 2, 3}, path, "another run")
            reborn.board.post(1, map_of(reborn, epoch=1))
            await reborn.start()
            await until(lambda: has(router, 1))
            tell(8, *hosts, epoch=9)
            reborn.board.post(2, map_of(reborn, epoch=2))
            await until(lambda: has(router, 2))
            assert {(2, reborn.address)} == set(router.owners().values())
            await reborn.die()


async def test_no_storm(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is answered at once, because too many ask, asks ever more seldom."""
    monkeypatch.setattr(limits, "MAP_WAITERS_MAX", 0)
    tell(1, *hosts)
    loop = asyncio.get_running_loop()
    async with watching(hosts[0]):
        await until(lambda: len(hosts[0].questions) >= 1)
        began = loop.time()
        await until(lambda: len(hosts[0].questions) >= 6)
        pauses = [map_watch.PAUSE_SECONDS_MIN * 2**doublings / 2 for doublings in range(5)]
        assert loop.time() - began >= sum(pauses)


async def test_chance_keeps_clients_apart(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two clients who were refused at the same time, one asks later than the other."""
    monkeypatch.setattr(limits, "MAP_WAITERS_MAX", 0)
    tell(1, *hosts)
    loop = asyncio.get_running_loop()
    seconds = []
    for jitter in (0.0, 0.99):
        before = asked(*hosts)
        began = loop.time()
        async with watching(hosts[0], jitter):
            await until(partial(has_more, hosts, before + 12))
        seconds.append(loop.time() - began)
    assert seconds[0] < seconds[1]


def has_more(hosts: tuple[Host, Host], count: int) -> bool:
    return asked(*hosts) >= count
