"""A host whose journal is on several servers: what befalls one concerns the shards on it alone."""

import asyncio
from typing import NamedTuple

from actors.journal import BusyError, Memory
from engine import limits
from engine.codec import START
from engine.messages import (
    Audit,
    Bind,
    Commit,
    Dedicate,
    GetStock,
    GetStockAsOf,
    Settle,
    Status,
)
from tests.actors.servers import eventually
from tests.actors.tenure import SKUS, RoomyJournal, Tenure
from tests.actors.trial import RememberingStore, Trial, receive, reserve, timeless

DEADLINE_MS = 1_000


class Pair(NamedTuple):
    """A host with shards 0 and 1 on servers 0 and 1."""

    host: Tenure
    other: RoomyJournal

    async def close(self) -> None:
        self.host.journal.thaw()
        self.other.thaw()
        await self.host.host.stop()


async def pair(trial: Trial) -> Pair:
    trial.shards = 2
    other = RoomyJournal(RememberingStore())
    host = Tenure(trial, others=[other])
    await host.own(0, 1)
    for sku in SKUS[:2]:
        await host.ask(receive(9, sku))
    return Pair(host, other)


@timeless
async def test_each_shard_is_on_its_server(trial: Trial) -> None:
    """Shard k is written to server k mod n, and nothing of it to any other."""
    both = await pair(trial)

    assert [] != await both.host.journal.read(0, START, 1)
    assert [] == await both.host.journal.read(1, START, 1)
    assert [] == await both.other.read(0, START, 1)
    assert [] != await both.other.read(1, START, 1)
    await both.close()


@timeless
async def test_a_dedicated_shard_is_on_another_server(trial: Trial) -> None:
    """A SKU may be declared on one server and live on another; while either of the two is silent,
    the other goes on."""
    trial.shards = 2
    other = RoomyJournal(RememberingStore())
    host = Tenure(trial, others=[other], dedicated=2)
    await host.own(0, 1, 2, 3)
    hot, lives = SKUS[0], 3
    for step in (Bind(lives, hot), Dedicate(hot, lives), Settle(lives, hot)):
        assert [Status.OK] == await host.statuses(step)
    assert [] != await host.journal.read(0, START, 1)
    assert [] == await other.read(0, START, 1)
    assert [] == await host.journal.read(lives, START, 1)
    assert [] != await other.read(lives, START, 1)

    host.journal.freeze()
    stock, read = await host.ask(receive(3, hot), GetStock(hot), dedicated=lives)
    assert ([Status.OK] * 2) == [stock.status, read.status]
    host.journal.thaw()
    other.freeze()
    stuck = host.send(receive(1, hot), deadline_ms=DEADLINE_MS, dedicated=lives)
    assert [Status.DEDICATED] == await host.statuses(receive(1, hot))
    other.thaw()
    await eventually(lambda: bool(stuck))
    await host.host.stop()


@timeless
async def test_a_silent_server_stops_its_own_shards(trial: Trial) -> None:
    """Everything is asked of both: what is on the one answers, reads, audits and the past
    included; what is on the other does not."""
    both = await pair(trial)
    host = both.host
    both.other.freeze()
    stuck = [
        host.send(receive(1, SKUS[1]), deadline_ms=DEADLINE_MS),
        host.send(Audit(1), deadline_ms=600_000),
        *(
            host.send(GetStockAsOf(SKUS[1], position=(1, 2)), deadline_ms=600_000)
            for _ in range(limits.HISTORY_QUEUE_MAX)
        ),
    ]
    await asyncio.sleep(1)

    assert [Status.OK] == await host.statuses(receive(1, SKUS[0]))
    assert [Status.OK] == await host.statuses(GetStock(SKUS[0]))
    assert [Status.OK] == await host.statuses(Audit(0))
    assert [Status.OK] == await host.statuses(GetStockAsOf(SKUS[0], position=(1, 2)))
    assert not any(stuck[1:])
    both.other.thaw()
    await eventually(lambda: all(stuck), 700)
    await both.close()


@timeless
async def test_a_full_server_refuses_for_its_own_shards(trial: Trial) -> None:
    """One is at 80 %, the other at 95 %: each refuses what it must, and tells how full it is."""
    both = await pair(trial)
    host = both.host
    await host.ask(reserve("r0", 1, SKUS[0]), reserve("r1", 1, SKUS[1]))
    both.other.memory_is = Memory(80, 100)
    await asyncio.sleep(1)
    assert [Status.OK, Status.MEMORY_FULL, Status.OK] == await host.statuses(
        reserve("s0", 1, SKUS[0]), reserve("s1", 1, SKUS[1]), Commit("r1", 1)
    )
    both.other.memory_is = Memory(10, 100)
    host.journal.memory_is = Memory(95, 100)
    await asyncio.sleep(1)

    assert [Status.MEMORY_FULL, Status.OK] == await host.statuses(
        Commit("s0", -1), reserve("t1", 1, SKUS[1])
    )
    assert 0.95 == await host.sample("onhand_journal_memory_ratio", server="0")
    assert 0.1 == await host.sample("onhand_journal_memory_ratio", server="1")
    await both.close()


@timeless
async def test_who_looks_sees_which_one(trial: Trial) -> None:
    """The status and the metrics name the server that cannot be asked, and what was asked of it."""
    both = await pair(trial)
    host = both.host
    await host.ask(receive(1, SKUS[1]))
    assert {} == host.host.status().servers
    both.other.trouble = BusyError("it is away")

    assert {1: "it is away"} == host.host.status().servers
    assert 1 == await host.sample("onhand_journal_up", server="0")
    assert 0 == await host.sample("onhand_journal_up", server="1")
    appends = [await host.sample("onhand_journal_appends_total", server=each) for each in "01"]
    assert appends[0] + 1 == appends[1]
    outcome = {"command": "receive", "outcome": "ok"}
    assert 3 == await host.sample("onhand_commands_total", **outcome)
    await both.close()
