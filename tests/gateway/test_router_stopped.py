"""The router beside a shard that has stopped: nobody waits for it, and the others are served."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.messages import (
    Answer,
    Audit,
    Commit,
    Find,
    GetStock,
    LineRequest,
    Receive,
    Release,
    ReservationView,
    Reserve,
    State,
    Status,
)
from gateway.router import Router
from tests.actors.peer import until
from tests.gateway.hosts import SHARDS, Host, map_of, sku_at, two_hosts

PATIENT_MS = 60_000
"""Longer than any test may take."""


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[tuple[Host, Host]]:
    async with two_hosts(tmp_path) as both:
        for shard in range(SHARDS):
            both[0].store.execute(shard, Receive(sku_at(shard), "l", 10))
        yield both


@pytest.fixture
async def router(hosts: tuple[Host, Host]) -> AsyncIterator[Router]:
    """All shards are served."""
    router = Router(SHARDS)
    router.update_map(1, map_of(*hosts))
    await until(lambda: router.statistics().links_up == 2)
    yield router
    await router.close()


@pytest.fixture
def without_3(router: Router, hosts: tuple[Host, Host]) -> Router:
    """All but shard 3, which has stopped."""
    hosts[1].owned = {2}
    router.update_map(2, map_of(*hosts), {3})
    return router


def reserve(reservation_id: str, sku: str) -> Reserve:
    return Reserve(reservation_id, [LineRequest(sku, 1)])


async def test_a_stopped_shard_is_refused_at_once(
    without_3: Router, hosts: tuple[Host, Host]
) -> None:
    """Commands for it are not waited with, not sent, not counted as sent again."""
    for command in (reserve("r", sku_at(3)), Commit("r", home=3), GetStock(sku_at(3))):
        assert Answer(Status.SHARD_STOPPED) == await without_3.ask(command, PATIENT_MS)
    audits = await without_3.ask_all(Audit, PATIENT_MS)
    assert [*[Status.OK] * 3, Status.SHARD_STOPPED] == [
        audits[shard].status for shard in range(SHARDS)
    ]
    assert [1, 1] == hosts[1].frames, "an audit, and whether it knows what shard 3 may not"
    statistics = without_3.statistics()
    assert (0, 0, 0) == (statistics.resends, statistics.waiting, statistics.in_flight)


async def test_a_search_beside_a_stopped_shard_ends(
    without_3: Router, hosts: tuple[Host, Host]
) -> None:
    """Who is found gets the command; of who is not, nobody can say more, and it is said at once."""
    hosts[0].store.execute(1, reserve("here", sku_at(1)))
    found = (await without_3.ask(Commit("here"), PATIENT_MS)).body
    assert isinstance(found, ReservationView)
    assert (1, State.COMMITTED) == (found.home, found.state)
    for command in (Commit("gone"), Release("gone", home=0, bury=True), Find("gone")):
        assert Status.NOT_DONE is (await without_3.ask(command, PATIENT_MS)).status
    assert not [each for each in hosts[0].executed if getattr(each, "bury", False)]
    assert 4 == without_3.statistics().searches


async def test_a_wrong_hint_at_a_stopped_shard(without_3: Router, hosts: tuple[Host, Host]) -> None:
    """A shard that is only said to be the home does not hide a reservation that lives elsewhere."""
    hosts[0].store.execute(1, reserve("here", sku_at(1)))
    found = (await without_3.ask(Commit("here", home=3), PATIENT_MS)).body
    assert isinstance(found, ReservationView)
    assert (1, State.COMMITTED) == (found.home, found.state)


async def test_a_wrong_hint_at_a_shard_that_stops(router: Router, hosts: tuple[Host, Host]) -> None:
    """The host says so before the map does: the others are asked; what nobody has is refused as
    soon as the map says that nobody can know."""
    hosts[0].store.execute(1, reserve("here", sku_at(1)))
    hosts[1].owned = {2}

    def stopped(command: object) -> Answer | None:
        return Answer(Status.SHARD_STOPPED) if getattr(command, "home", 0) == 3 else None

    hosts[1].replaced = stopped
    assert Status.OK is (await router.ask(Commit("here", home=3), PATIENT_MS)).status
    lost = asyncio.ensure_future(router.ask(Commit("lost", home=3), PATIENT_MS))
    await until(lambda: router.statistics().searches > 2)
    router.update_map(2, map_of(*hosts), {3})
    assert Status.SHARD_STOPPED is (await lost).status


async def test_a_search_where_every_shard_has_stopped_ends(router: Router) -> None:
    """Nobody is left to be asked."""
    router.update_map(2, {}, set(range(SHARDS)))
    assert Status.NOT_DONE is (await router.ask(Commit("gone"), PATIENT_MS)).status


async def test_a_shard_that_stops_answers_for_what_it_had(
    router: Router, hosts: tuple[Host, Host]
) -> None:
    """What waits for an owner is refused; what was sent was perhaps applied."""
    hosts[1].frozen = True
    sent = asyncio.ensure_future(router.ask(reserve("sent", sku_at(3)), PATIENT_MS))
    await until(lambda: hosts[1].held)
    hosts[1].owned = {2}
    router.update_map(2, map_of(*hosts))
    waits = asyncio.ensure_future(router.ask(reserve("waits", sku_at(3)), PATIENT_MS))
    await until(lambda: router.statistics().waiting == 1)
    router.update_map(3, map_of(*hosts), {3})
    assert Status.SHARD_STOPPED is (await waits).status
    assert Status.OUTCOME_UNKNOWN is (await sent).status


async def test_a_stopped_shard_that_recovers_is_served(
    without_3: Router, hosts: tuple[Host, Host]
) -> None:
    """A map without the failure lets commands wait again, and one with an owner sends them."""
    without_3.update_map(3, map_of(*hosts))
    answer = asyncio.ensure_future(without_3.ask(reserve("r", sku_at(3)), PATIENT_MS))
    await until(lambda: without_3.statistics().waiting == 1)
    hosts[1].owned = {2, 3}
    without_3.update_map(4, map_of(*hosts, epoch=2))
    assert Status.OK is (await answer).status
    assert Status.UNKNOWN_RESERVATION is (await without_3.ask(Commit("nobody"))).status
