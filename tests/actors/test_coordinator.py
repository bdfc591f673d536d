"""The coordinator, over puppets: who joins, serves, moves, freezes and dies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.control import Assign, Follow, Kind, Leave, Map, Release, ShardHead, Stop
from actors.coordinator import Coordinator
from tests.actors.puppets import PATIENCE, SHARDS, World, come, owners, puppets, started


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with puppets() as world:
        yield world


def gateways(coordinator: Coordinator) -> list[str]:
    return [each.name for each in coordinator.map().members if each.kind is Kind.GATEWAY]


def near_as_told(world: World, host: str) -> list[int]:
    """What the gateway was told last of the shards that `host` could take over."""
    [*_, newest] = [each for each in world.puppets["gateway-1"].got if isinstance(each, Map)]
    return next(each.near for each in newest.members if each.name == host)


async def test_everybody_starts_and_stops(world: World, tmp_path: Path) -> None:
    """Shards are even, the gateway knows the map, and a stop waits for each to leave."""
    coordinator = await started(world, tmp_path, hosts=2)

    assert {0: "host-1", 1: "host-2", 2: "host-1", 3: "host-2"} == owners(coordinator)
    gateway = world.puppets["gateway-1"]
    seen = [message for message in gateway.got if isinstance(message, Map)]
    assert owners(coordinator) == {route.shard: route.host for route in seen[-1].routes}
    await asyncio.wait_for(coordinator.stop(), 5)
    assert [True] * 3 == [Stop() in puppet.got for puppet in world.puppets.values()]


async def test_the_dead_are_inherited_from_at_once(world: World, tmp_path: Path) -> None:
    """When a connection ends, the other host gets the shards, with the floors seen so far."""
    coordinator = await started(world, tmp_path, hosts=2)
    gateway = world.puppets["gateway-1"]
    gateway.beat.heads = [ShardHead(0, 1, 9)]
    world.puppets["host-1"].beat.heads = [ShardHead(0, 1, 7, 77), ShardHead(2, 1, 3, 33)]
    gateway.control.notice()
    world.puppets["host-1"].control.notice()
    await come(coordinator, lambda: {0, 2} <= coordinator.floors.keys())

    world.puppets["host-1"].die()

    await come(coordinator, lambda: set(owners(coordinator).values()) == {"host-2"})
    await come(coordinator, lambda: len(owners(coordinator)) == SHARDS)
    floors = [each.floor for each in world.puppets["host-2"].got if isinstance(each, Assign)]
    assert [None, None, ShardHead(0, 1, 9), ShardHead(2, 1, 3, 33)] == floors


async def test_a_frozen_host_is_superseded_then_dismissed(world: World, tmp_path: Path) -> None:
    """Its shards go to the other one; when it wakes it is told to leave, and routes nothing."""
    coordinator = await started(world, tmp_path, hosts=2)
    frozen = world.puppets["host-1"]

    frozen.freeze()
    await come(
        coordinator,
        lambda: len(owners(coordinator)) == SHARDS and "host-1" not in owners(coordinator).values(),
    )
    frozen.thaw()

    await come(coordinator, lambda: Leave() in frozen.got)
    assert {"host-2"} == set(owners(coordinator).values())


async def test_the_only_host_freezing_is_replaced_and_killed(world: World, tmp_path: Path) -> None:
    """With no other host alive a replacement is placed at once; the frozen one is killed later."""
    coordinator = await started(world, tmp_path, hosts=1)

    world.puppets["host-1"].freeze()

    await come(coordinator, lambda: list(owners(coordinator).values()) == ["host-2"] * SHARDS)
    assert [] == world.killed
    await come(coordinator, lambda: world.killed == ["host-1"])


async def test_recovery_is_not_disturbed_and_survives_deaths(world: World, tmp_path: Path) -> None:
    """A host that dies while it recovers is inherited from as well, and so is its heir."""
    coordinator = await started(world, tmp_path, hosts=3)
    for name in ("host-2", "host-3"):
        world.puppets[name].recovers = True

    second, third = world.puppets["host-2"], world.puppets["host-3"]
    world.puppets["host-1"].die()
    await come(coordinator, lambda: bool(second.beat.recovering and third.beat.recovering))

    second.die()
    third.recovers = False
    for shard in list(third.beat.recovering):
        third.own(shard)

    everything = dict.fromkeys(range(SHARDS), "host-3")
    await come(coordinator, lambda: owners(coordinator) == everything)


async def test_the_first_to_return_gets_everything(world: World, tmp_path: Path) -> None:
    """With all hosts dead the shards wait, and go to whoever says hello first."""
    coordinator = await started(world, tmp_path, hosts=2)

    for name in ("host-1", "host-2"):
        world.puppets[name].die()
    await come(coordinator, lambda: owners(coordinator) == {})
    await world.place(Kind.HOST, "host-2")

    await come(coordinator, lambda: owners(coordinator) == dict.fromkeys(range(SHARDS), "host-2"))


async def test_a_machine_knows_of_shards_that_it_had(world: World, tmp_path: Path) -> None:
    """What a host's machine has marked is a floor for whoever gets the shard on another."""
    world.marks = {"host-2": [ShardHead(0, 1, 7, 77), ShardHead(3, 2, 1, 21)]}

    await started(world, tmp_path, hosts=2)

    assigned = [each for each in world.puppets["host-1"].got if isinstance(each, Assign)]
    assert [ShardHead(0, 1, 7, 77), None] == [each.floor for each in assigned]


async def test_the_older_of_two_of_one_name_is_sent_away(world: World, tmp_path: Path) -> None:
    """A host whose machine was taken for dead is replaced and told to leave; when it did not hear,
    and joins again, its successor stays."""
    coordinator = await started(world, tmp_path, hosts=2)
    older = world.puppets["host-1"]
    older.deaf = True

    await world.place(Kind.HOST, "host-1")
    newer = world.puppets["host-1"]
    await come(coordinator, lambda: any(isinstance(each, Map) for each in newer.got))
    await come(coordinator, lambda: older.got.count(Leave()) > 1)

    await come(coordinator, lambda: len(owners(coordinator)) == SHARDS)
    assert 0 == newer.got.count(Leave())
    assert {"host-1", "host-2"} == set(owners(coordinator).values())


async def test_a_host_that_does_not_come_back_is_given_up(world: World, tmp_path: Path) -> None:
    """Whoever is gone for long is asked for once more, again and again, until there is somebody."""
    coordinator = await started(world, tmp_path, hosts=2)

    world.puppets["host-1"].die()

    await come(coordinator, lambda: world.killed == ["host-1"] * 2)
    await world.place(Kind.HOST, "host-1")
    await come(coordinator, lambda: set(owners(coordinator).values()) == {"host-1", "host-2"})


async def test_a_failed_shard_is_reported_and_left(world: World, tmp_path: Path) -> None:
    """A shard whose journal fails its checks counts as settled, with its reason in the map."""
    coordinator = await started(world, tmp_path, hosts=1)
    host = world.puppets["host-1"]

    del host.beat.owned[2]
    host.beat.failed[2] = "record 1-5: a gap"
    host.control.notice()

    await come(coordinator, lambda: coordinator.map().failures == {2: "record 1-5: a gap"})
    await come(coordinator, coordinator.is_ready)


async def test_an_alarm_is_reported_while_it_stands(world: World, tmp_path: Path) -> None:
    """What an audit has found is in the map, beside the route to the shard, until it is gone or
    its host is."""
    coordinator = await started(world, tmp_path, hosts=2)
    host = world.puppets["host-1"]
    [shard, *_] = host.beat.owned

    host.beat.alarms[shard] = "on_hand 2, its movements say 1"
    host.control.notice()
    await come(coordinator, lambda: coordinator.map().alarms == host.beat.alarms)
    assert shard in owners(coordinator)
    host.beat.alarms = {}
    host.control.notice()
    await come(coordinator, lambda: coordinator.map().alarms == {})
    host.beat.alarms = {shard: "again"}
    host.control.notice()
    await come(coordinator, lambda: coordinator.map().alarms == {shard: "again"})
    host.die()
    await come(coordinator, lambda: coordinator.map().alarms == {})


async def test_a_shard_that_a_live_host_lost_is_given_again(world: World, tmp_path: Path) -> None:
    """A host that was fenced on one shard and lives gets, or loses, that shard only."""
    coordinator = await started(world, tmp_path, hosts=1)
    host = world.puppets["host-1"]

    del host.beat.owned[1]
    host.control.notice()

    await come(coordinator, lambda: 1 not in owners(coordinator))
    await come(coordinator, lambda: 1 in owners(coordinator))
    assert 2 == host.beat.owned[1]


async def test_whoever_comes_back_gets_its_share(world: World, tmp_path: Path) -> None:
    """After a death and a return the load is even again, moved shard by shard."""
    coordinator = await started(world, tmp_path, hosts=2)
    world.puppets["host-1"].die()
    await come(coordinator, lambda: owners(coordinator) == dict.fromkeys(range(SHARDS), "host-2"))

    await world.place(Kind.HOST, "host-1")

    await come(
        coordinator, lambda: sorted(owners(coordinator).values()) == ["host-1"] * 2 + ["host-2"] * 2
    )
    released = [each for each in world.puppets["host-2"].got if isinstance(each, Release)]
    assert 2 == len(released)


async def test_an_operator_moves_a_shard(world: World, tmp_path: Path) -> None:
    """A move is refused with a reason, or done; where the shard is already, nothing happens."""
    coordinator = await started(world, tmp_path, hosts=2)

    assert "there is no host host-9" == coordinator.move(0, "host-9")
    assert coordinator.move(0, "host-1") is None
    assert coordinator.move(0, "host-2") is None
    await come(coordinator, lambda: 0 not in owners(coordinator))
    assert "shard 0 is not served at the moment" == coordinator.move(0, "host-1")

    await come(coordinator, lambda: owners(coordinator).get(0) == "host-2")
    assert [0] == [e.shard for e in world.puppets["host-1"].got if isinstance(e, Release)]


async def test_a_shard_moves_when_its_next_host_is_near(world: World, tmp_path: Path) -> None:
    """It stays where it is, served, until the host that it is to move to has read it."""
    coordinator = await started(world, tmp_path, hosts=2)
    one, other = world.puppets["host-1"], world.puppets["host-2"]
    [shard, *_] = one.beat.owned
    other.is_far = True

    assert coordinator.move(shard, "host-2") is None
    await come(
        coordinator, lambda: [shard] in [e.shards for e in other.got if isinstance(e, Follow)]
    )
    assert "host-1" == owners(coordinator)[shard]
    assert not [each for each in one.got if isinstance(each, Release)]
    other.beat.near = [shard]
    other.control.notice()

    await come(coordinator, lambda: owners(coordinator).get(shard) == "host-2")
    assert ["host-2"] == [each.host for each in one.got if isinstance(each, Release)]


async def test_a_move_that_does_not_come_about_is_counted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next host has had its time; the shard stays where it is, and gateways hear of it."""
    monkeypatch.setattr("actors.coordinator.MOVE_SECONDS", 0.0)
    coordinator = await started(world, tmp_path, hosts=2)
    [shard, *_] = world.puppets["host-1"].beat.owned
    world.puppets["host-2"].is_far = True
    gateway = world.puppets["gateway-1"]
    assert {0} == {each.moves_given_up for each in gateway.got if isinstance(each, Map)}

    assert coordinator.move(shard, "host-2") is None

    await come(
        coordinator,
        lambda: 1 in [each.moves_given_up for each in gateway.got if isinstance(each, Map)],
    )
    assert "host-1" == owners(coordinator)[shard]


async def test_a_move_to_a_host_that_dies_is_forgotten(world: World, tmp_path: Path) -> None:
    """The shard is served where it was, and may move elsewhere."""
    coordinator = await started(world, tmp_path, hosts=2)
    one, other = world.puppets["host-1"], world.puppets["host-2"]
    [shard, *_] = one.beat.owned
    other.is_far = True
    assert coordinator.move(shard, "host-2") is None

    other.die()

    await come(coordinator, lambda: owners(coordinator) == dict.fromkeys(range(SHARDS), "host-1"))
    assert not [each for each in one.got if isinstance(each, Release)]


async def test_a_spare_takes_over(world: World, tmp_path: Path) -> None:
    """It owns nothing and keeps up with everything; of a dead host it gets all, the others nothing;
    and whoever comes back is the spare."""
    coordinator = await started(world, tmp_path, hosts=2, spares=1)
    [spare] = [each for each in world.puppets.values() if each.is_host and not each.beat.owned]
    await come(coordinator, lambda: len(coordinator.near()) == SHARDS)
    await come(coordinator, lambda: near_as_told(world, spare.join.name) == list(range(SHARDS)))
    before = owners(coordinator)
    [dead, left] = sorted(set(before.values()))

    world.puppets[dead].die()

    after = {shard: spare.join.name if host == dead else left for shard, host in before.items()}
    await come(coordinator, lambda: owners(coordinator) == after)
    await world.place(Kind.HOST, dead)
    await come(coordinator, lambda: len(coordinator.near()) == SHARDS)
    assert after == owners(coordinator)


async def test_one_death_takes_up_one_spare(world: World, tmp_path: Path) -> None:
    """Each spare keeps up with a host of its own. One gets all that a dead host had, so the other
    is still there for the next death, and keeps up with everything."""
    coordinator = await started(world, tmp_path, hosts=2, spares=2)
    await come(coordinator, lambda: len(coordinator.near()) == SHARDS)
    before, near = owners(coordinator), coordinator.near()
    first, second = sorted(set(before.values()))
    assert 1 == len({near[shard] for shard, host in before.items() if host == first})

    world.puppets[first].die()

    heirs = {shard: near[shard] if host == first else host for shard, host in before.items()}
    await come(coordinator, lambda: owners(coordinator) == heirs)
    [left] = {name for name in near.values() if name not in heirs.values()}
    await come(coordinator, lambda: coordinator.near() == dict.fromkeys(range(SHARDS), left))
    world.puppets[second].die()
    heirs = {shard: left if host == second else host for shard, host in heirs.items()}
    await come(coordinator, lambda: owners(coordinator) == heirs)


async def test_a_host_restarts_when_its_shards_are_elsewhere(world: World, tmp_path: Path) -> None:
    """They move, one after the other; then it is to leave, and gets its share when it is back."""
    coordinator = await started(world, tmp_path, hosts=2)
    one, other = world.puppets["host-1"], world.puppets["host-2"]
    mine = len(one.beat.owned)

    assert coordinator.restart("host-1") is None

    await come(coordinator, lambda: any(isinstance(each, Leave) for each in one.got))
    assert mine == len([each for each in one.got if isinstance(each, Release)])
    assert set(range(SHARDS)) == set(other.beat.owned)
    assert "there is no host-9, or it says nothing" == coordinator.restart("host-9")
    assert "there is no host beside host-2" == coordinator.restart("host-2")
    await world.place(Kind.HOST, "host-1")
    await come(coordinator, lambda: len(world.puppets["host-1"].beat.owned) == SHARDS // 2)


async def test_who_ends_in_order_has_time_to_come_back(world: World, tmp_path: Path) -> None:
    """Nobody waits for it meanwhile, so it is not looked for elsewhere as soon as one that died."""
    coordinator = await started(world, tmp_path, hosts=2)
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert coordinator.restart("host-1") is None

    await come(coordinator, lambda: world.killed == ["host-1"])
    assert loop.time() - began > PATIENCE.frozen_host_seconds


async def test_a_gateway_restarts_when_it_has_answered(world: World, tmp_path: Path) -> None:
    """It is told to stop, says that it has left, and only then is ended; never the only one."""
    coordinator = await started(world, tmp_path, hosts=1)
    assert "there is no gateway beside gateway-1" == coordinator.restart("gateway-1")
    await world.place(Kind.GATEWAY, "gateway-2")
    await come(
        coordinator, lambda: "gateway-2" in {each.name for each in coordinator.map().members}
    )

    assert coordinator.restart("gateway-1") is None

    await come(coordinator, lambda: world.killed == ["gateway-1"])
    assert any(isinstance(each, Stop) for each in world.puppets["gateway-1"].got)
    assert not any(isinstance(each, Stop) for each in world.puppets["gateway-2"].got)


async def test_what_was_told_is_told_again(world: World, tmp_path: Path) -> None:
    """A host that connects again may have missed what it was to claim, and what to release."""
    coordinator = await started(world, tmp_path, 2)
    one, other = world.puppets["host-1"], world.puppets["host-2"]
    [wanted, *_] = other.beat.owned
    [given, *_] = one.beat.owned
    for puppet, shard in ((one, wanted), (other, given)):
        puppet.beat.near = [shard]
        puppet.control.notice()
    await come(coordinator, lambda: {wanted: "host-1", given: "host-2"} == coordinator.near())
    one.freeze()
    assert coordinator.move(wanted, "host-1") is None
    assert coordinator.move(given, "host-2") is None
    assert await coordinator.wait_until(lambda: wanted not in other.beat.owned, 5)
    assert await coordinator.wait_until(lambda: wanted not in owners(coordinator), 5)
    assert given in one.beat.owned
    one.dial_again()

    expected = {wanted: "host-1", given: "host-2"}
    assert await coordinator.wait_until(lambda: expected.items() <= owners(coordinator).items(), 5)
    assert {"host-2"} == {each.host for each in one.got if isinstance(each, Release)}


async def test_the_last_host_does_not_restart(world: World, tmp_path: Path) -> None:
    """A host that was to restart stays, and takes everything, when the only other one dies."""
    coordinator = await started(world, tmp_path, hosts=2)
    world.puppets["host-1"].is_far = world.puppets["host-2"].is_far = True
    assert coordinator.restart("host-1") is None

    world.puppets["host-2"].die()

    await come(coordinator, lambda: owners(coordinator) == dict.fromkeys(range(SHARDS), "host-1"))
    assert Leave() not in world.puppets["host-1"].got
    await world.place(Kind.HOST, "host-2")
    await come(coordinator, lambda: sorted(owners(coordinator).values()).count("host-2") == 2)


async def test_what_ends_the_watch_is_told(world: World, tmp_path: Path) -> None:
    """A coordinator that cannot look after its members any more says so to whoever watches it."""
    coordinator = await started(world, tmp_path, hosts=1)
    watched = asyncio.create_task(coordinator.watch())

    def fail(now: float) -> dict[int, str]:
        raise ValueError(now)

    coordinator._moves.give_up = fail  # type: ignore[method-assign] # a bug, as any might be

    with pytest.raises(ValueError, match=r"\d"):
        await asyncio.wait_for(watched, 5)


async def test_a_failed_shard_keeps_nobody_from_restarting(world: World, tmp_path: Path) -> None:
    """What is served moves away; what nobody can serve is no reason to stay."""
    coordinator = await started(world, tmp_path, hosts=2)
    one = world.puppets["host-1"]
    [failed, other] = one.beat.owned
    del one.beat.owned[failed]
    one.beat.failed[failed] = "record 1-5: a gap"
    one.control.notice()
    await come(coordinator, lambda: failed in coordinator.failures())

    assert coordinator.restart("host-1") is None

    await come(coordinator, lambda: Leave() in one.got)
    assert [other] == [each.shard for each in one.got if isinstance(each, Release)]


async def test_what_is_coming_up_is_waited_for(world: World, tmp_path: Path) -> None:
    """A host that is to restart first owns what it is at work on, and then hands it over."""
    coordinator = await started(world, tmp_path, hosts=2)
    one = world.puppets["host-1"]
    one.recovers = True
    [shard, *_] = one.beat.owned
    del one.beat.owned[shard]
    one.control.notice()
    await come(coordinator, lambda: shard in one.beat.recovering)

    assert coordinator.restart("host-1") is None
    await come(coordinator, lambda: [shard] == coordinator._assignment.shards_of("host-1"))
    assert Leave() not in one.got
    one.own(shard)
    one.control.notice()

    await come(coordinator, lambda: Leave() in one.got)
    assert {shard} <= {each.shard for each in one.got if isinstance(each, Release)}


async def test_nobody_follows_what_has_failed(world: World, tmp_path: Path) -> None:
    """A spare keeps up with everything that can be read."""
    coordinator = await started(world, tmp_path, hosts=1, spares=1)
    await come(coordinator, lambda: len(coordinator.near()) == SHARDS)
    [owner] = [each for each in world.puppets.values() if each.beat.owned]

    del owner.beat.owned[2]
    owner.beat.failed[2] = "record 1-5: a gap"
    owner.control.notice()

    await come(coordinator, lambda: {0, 1, 3} == coordinator.near().keys())


async def test_who_does_not_end_in_order_is_ended(world: World, tmp_path: Path) -> None:
    """A host or a gateway that was told to end, and has not heard or cannot, is killed for it."""
    coordinator = await started(world, tmp_path, hosts=2)
    await world.place(Kind.GATEWAY, "gateway-2")
    await come(coordinator, lambda: "gateway-2" in gateways(coordinator))
    for name in ("host-1", "gateway-1"):
        world.puppets[name].deaf = True
        assert coordinator.restart(name) is None

    await come(coordinator, lambda: {"host-1", "gateway-1"} <= set(world.killed))

    assert Leave() in world.puppets["host-1"].got
    assert Stop() in world.puppets["gateway-1"].got


async def test_who_has_ended_in_order_is_started_again(world: World, tmp_path: Path) -> None:
    """It is restarted, wherever that is best, and not killed, which would avoid its machine."""
    coordinator = await started(world, tmp_path, hosts=2)
    one = world.puppets["host-1"]
    one.deaf = True  # it does not end on the spot, as who is killed would

    assert coordinator.restart("host-1") is None
    await come(coordinator, lambda: Leave() in one.got)
    one.control.leave()

    await come(coordinator, lambda: ["host-1"] == world.restarted)
    assert [] == world.killed


async def test_who_connects_again_follows_what_it_should(world: World, tmp_path: Path) -> None:
    """A host whose connection was cut is told anew what to keep up with, even if that is nothing:
    it may not have heard that a move was given up."""
    coordinator = await started(world, tmp_path, hosts=2)
    one = world.puppets["host-1"]
    await come(coordinator, lambda: Follow([]) in one.got)
    told = len([each for each in one.got if isinstance(each, Follow)])

    one.freeze()
    one.dial_again()

    def follows() -> list[list[int]]:
        return [each.shards for each in one.got if isinstance(each, Follow)][told:]

    await come(coordinator, lambda: follows() == [[]])


async def test_what_is_claimed_is_to_be_followed_anew(world: World, tmp_path: Path) -> None:
    """A host drops what it followed when it claims it; so after an assignment it is told again."""
    coordinator = await started(world, tmp_path, hosts=2)
    one = world.puppets["host-1"]
    await come(coordinator, lambda: Follow([]) in one.got)
    one.got.clear()
    del one.beat.owned[0]
    one.control.notice()

    await come(coordinator, lambda: 0 in one.beat.owned and bool(one.got[1:]))

    assert isinstance(one.got[0], Map | Assign)
    await come(coordinator, lambda: any(isinstance(each, Follow) for each in one.got))
