"""A partition: one machine of two is cut off, and nothing is acknowledged by both sides."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from actors.data_directory import DataDirectory
from actors.keys import KeyFile
from engine.messages import LineRequest, Reserve
from engine.placement import shard_of
from tests.faults.conftest import Figures
from tests.faults.history import Attempt, History, all_served, statuses
from tests.faults.load import SKUS, WAIT_SECONDS, load, stock
from tests.faults.other_side import HEAD, REDIS, OtherSide, other_side, why_not
from tests.faults.ray_nodes import RayNodes, ray_nodes
from tests.faults.site import site
from tests.faults.till import Till

pytestmark = [
    pytest.mark.faults,
    pytest.mark.ray,
    pytest.mark.redis,
    pytest.mark.asyncio(loop_scope="module"),
]

SHARDS = 8
SERVED_SECONDS_MAX = 10.0


@pytest.fixture(scope="module")
def side() -> Iterator[OtherSide]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with other_side() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(side: OtherSide) -> AsyncIterator[RayNodes]:
    """A head here, and a worker on the other side."""
    async with ray_nodes(1, place=side.place) as found:
        yield found


@pytest.mark.parametrize(
    "unreachable", [(HEAD,), (HEAD, REDIS)], ids=["it_reaches_the_journal", "it_reaches_nothing"]
)
async def test_a_machine_is_cut_off(
    side: OtherSide,
    nodes: RayNodes,
    tmp_path: Path,
    figures: Figures,
    unreachable: tuple[str, ...],
) -> None:
    """Its shards are served on this side; on its own, where it still has buyers, it acknowledges
    nothing from then on. Healed, it leaves, and comes back empty."""
    history = History()
    loop = asyncio.get_running_loop()
    (tmp_path / "data").mkdir()
    key = KeyFile(DataDirectory(tmp_path / "data").keys).create(None, None)
    await nodes.have(1)
    async with site(nodes, tmp_path, SHARDS, redis_address=REDIS) as place:
        await stock(place.engine, history)
        (victim,) = await place.hosts_on(nodes.workers[0])
        shards = [int(shard) for shard in victim.epochs]
        async with (
            side.relay(tmp_path, victim.address) as relay,
            Till(relay, key) as till,
            load(place.engine, history, name="outside") as buyers,
        ):
            async with inside(till, history, shards) as heard:
                await buyers.until(1_000)
                assert {each.shard for each in heard if each.done} == set(shards)
                side.cut_off(*unreachable)
                cut = loop.time()
                await buyers.until_served(shards, 60)
                outside = [each for each in history.attempts if not each.direct]
                served = all_served(outside, shards, cut)
                await buyers.until(1_000)
                overlaps = [overlap(history, heard, shard, cut) for shard in shards]
            side.heal()
            healed = loop.time()
            await place.engine.until_hosts(2, 120)
            back = loop.time() - healed
            await buyers.until(500)
        books = await place.check(history)
    last = max(each.answered for each in heard if each.done and each.answered < healed) - cut
    figures(
        last_acknowledged_by_the_cut_off_s=last,
        all_shards_s=served,
        hosts_back_s=back,
        **books.figures,
        heard_inside=statuses(each for each in heard if cut < each.sent < healed),
        heard=statuses(history.attempts),
    )
    assert 0.0 >= max(overlaps), "nobody is acknowledged by both sides"
    assert SERVED_SECONDS_MAX >= served


@asynccontextmanager
async def inside(till: Till, history: History, shards: list[int]) -> AsyncIterator[list[Attempt]]:
    """Buyers on the other side, who go straight to its host; what they heard."""
    heard: list[Attempt] = []
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    async def buy(sku: str) -> None:
        for number in count():
            if over.is_set():
                return
            if await till.connected(WAIT_SECONDS):
                await buy_one(sku, number)

    async def buy_one(sku: str, number: int) -> None:
        command = Reserve(f"inside-{sku}-{number}", [LineRequest(sku, 1)], ttl_seconds=7_200)
        sent = loop.time()
        response = await till.ask([command])
        answered = loop.time() if response is not None else float("inf")
        status = response.answers[0].status if response is not None else None
        head = response.heads[0] if response is not None and response.heads else None
        attempt = Attempt(command, shard_of(sku, SHARDS), True, sent, answered, status, head)
        heard.append(attempt)
        history.record(attempt)
        await asyncio.sleep(WAIT_SECONDS / 10)  # a buyer's pace

    tasks = [asyncio.create_task(buy(sku)) for sku in SKUS if shard_of(sku, SHARDS) in shards]
    try:
        yield heard
    finally:
        over.set()
        await asyncio.gather(*tasks)


def overlap(history: History, heard: list[Attempt], shard: int, cut: float) -> float:
    """For how long both sides acknowledged what was sent on `shard`, in seconds."""
    own = {id(each) for each in heard}
    there = [each.answered for each in heard if each.done and each.shard == shard]
    here = [
        each.answered
        for each in history.since(cut)
        if each.done and each.shard == shard and id(each) not in own
    ]
    return max(there, default=cut) - min(here)
