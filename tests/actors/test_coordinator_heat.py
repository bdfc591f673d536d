"""What the coordinator does about a hot shard, over puppets that say how busy they are.

Heat and balance have tests of their own, in which time is a number. Here it is real and runs fast:
what is hot is so at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from actors.control import Map, Proposal
from tests.actors.puppets import SHARDS, World, owners, puppets, started

BEAT_SECONDS = 0.02
RATE = 1_000
"""Commands a second that everybody does beside what is hot."""


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("actors.coordinator.EVEN_SECONDS", 0.05)
    for name, seconds in (("HOT", 0.1), ("SMOOTH", 0.05), ("SAMPLE", BEAT_SECONDS / 2)):
        monkeypatch.setattr(f"actors.heat.{name}_SECONDS", seconds)
    async with puppets() as world:
        yield world


async def sell(
    world: World, rates: dict[int, int], busy: set[str], until: Callable[[], bool]
) -> None:
    """Each owner of a shard takes so many commands a second; `busy` hosts use all of a core."""
    loop = asyncio.get_running_loop()
    last = loop.time()
    async with asyncio.timeout(10):
        while not until():
            await asyncio.sleep(BEAT_SECONDS)
            last, seconds = loop.time(), loop.time() - last
            for puppet in world.puppets.values():
                for shard in puppet.beat.owned:
                    taken = puppet.beat.taken.get(shard, 0) + rates.get(shard, 0) * seconds
                    puppet.beat.taken[shard] = int(taken)
                puppet.beat.spent += seconds if puppet.join.name in busy else seconds / 10
                puppet.control.notice()


def for_seconds(seconds: float) -> Callable[[], bool]:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    return lambda: loop.time() >= end


def told(world: World) -> Map:
    """What the gateway has heard last."""
    return [each for each in world.puppets["gateway-1"].got if isinstance(each, Map)][-1]


async def test_what_would_help_is_proposed(world: World, tmp_path: Path) -> None:
    """Nothing moves by itself; whoever does as proposed ends with the hot shard alone."""
    coordinator = await started(world, tmp_path, hosts=2)
    before = owners(coordinator)
    rates = {0: 20 * RATE, 2: RATE}

    await sell(world, rates, {before[0]}, lambda: bool(told(world).hot))
    [hot] = told(world).hot
    assert (0, before[0], False) == (hot.shard, hot.host, hot.is_alone)
    assert hot.share > 0.5
    assert Proposal(2, before[1]) == told(world).proposal
    await sell(world, rates, {before[0]}, for_seconds(0.5))
    assert before == owners(coordinator)

    assert coordinator.move(2, before[1]) is None
    await sell(world, rates, {before[0]}, lambda: [True] == [e.is_alone for e in told(world).hot])
    assert told(world).proposal is None
    assert before | {2: before[1]} == owners(coordinator)


async def test_it_is_left_alone(world: World, tmp_path: Path) -> None:
    """Whoever wants it has everything else moved away, and then all is at rest."""
    coordinator = await started(world, tmp_path, hosts=2, hot_shards="move")
    before = owners(coordinator)
    rates = {0: 20 * RATE, 2: RATE}

    await sell(world, rates, {before[0]}, lambda: before != owners(coordinator))
    await sell(world, rates, {before[0]}, for_seconds(0.5))

    assert before | {2: before[1]} == owners(coordinator)
    [hot] = told(world).hot
    assert (0, True, None) == (hot.shard, hot.is_alone, told(world).proposal)


async def test_nobody_has_room(world: World, tmp_path: Path) -> None:
    """All hosts are busy: it is told, and nothing moves or is proposed."""
    coordinator = await started(world, tmp_path, hosts=2, hot_shards="move")
    before = owners(coordinator)
    rates = {0: 20 * RATE, 2: RATE}

    await sell(world, rates, {"host-1", "host-2"}, lambda: bool(told(world).hot))
    await sell(world, rates, {"host-1", "host-2"}, for_seconds(0.5))

    assert (before, None) == (owners(coordinator), told(world).proposal)


async def test_its_host_dies(world: World, tmp_path: Path) -> None:
    """Who serves it then is told; that host has nothing to do, so nothing is proposed."""
    coordinator = await started(world, tmp_path, hosts=2)
    host, other = owners(coordinator)[0], owners(coordinator)[1]
    await sell(world, {0: 20 * RATE}, {host}, lambda: bool(told(world).hot))

    world.puppets[host].die()

    await sell(world, {}, set(), lambda: [other] == [each.host for each in told(world).hot])
    assert dict.fromkeys(range(SHARDS), other) == owners(coordinator)
    assert told(world).proposal is None
