"""Hosts that die or freeze under load."""

import asyncio
import signal
from pathlib import Path

import pytest

from actors.process import identify, send_signal
from engine.codec import Position
from engine.messages import LineRequest, Reserve
from engine.placement import shard_of
from gateway.status import HostEntry
from tests.faults.checker import check, read_journal
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, gone, running
from tests.faults.history import (
    Attempt,
    History,
    all_served,
    first_success,
    longest_wait,
    statuses,
)
from tests.faults.load import SKUS, load, stock
from tests.faults.till import Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
FIRST_SUCCESS_SECONDS = 2.5
KILLS = 3
ASLEEP_MS = 20_000


async def test_a_host_is_killed_three_times(tmp_path: Path, figures: Figures) -> None:
    """kill -9 of the host that has most shards, three times in a row, under load."""
    history, first, every = History(), [], []
    loop = asyncio.get_running_loop()
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="kill") as buyers:
            for _ in range(KILLS):
                await buyers.until(2_000)
                victim = (await engine.until_hosts(2))[0]
                identity = identify(victim.pid)
                assert identity is not None
                send_signal(identity, signal.SIGKILL)
                killed = loop.time()
                shards = [int(each) for each in victim.epochs]
                await buyers.until_served(shards)
                first.append(first_success(history.attempts, shards, killed))
                every.append(all_served(history.attempts, shards, killed))
                await gone([identity])
        books = await check(engine, history)
    heard = statuses(history.attempts)
    figures(first_success_s=first, all_shards_s=every, **books.figures, heard=heard)
    assert max(first) <= FIRST_SUCCESS_SECONDS


async def test_a_host_freezes_and_wakes_up(tmp_path: Path, figures: Figures) -> None:
    """Replaced while it stands still; awake, it appends nothing, answers nothing, and leaves."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="freeze") as buyers:
            await buyers.until(2_000)
            victim = (await engine.until_hosts(2))[0]
            identity = identify(victim.pid)
            assert identity is not None
            shards = [int(each) for each in victim.epochs]
            async with Till(victim.address) as till:
                assert await till.connected(5)
                send_signal(identity, signal.SIGSTOP)
                frozen = loop.time()
                questions = asyncio.create_task(ask_the_frozen(till, history, shards))
                await buyers.until_served(shards)
                served = all_served(history.attempts, shards, frozen)
                before = await old_records(engine, victim)
                send_signal(identity, signal.SIGCONT)
                resumed = loop.time()
                heard_of_it = await questions
            await gone([identity])
            left = loop.time() - resumed
            await engine.until_hosts(2)
            back = loop.time() - resumed
            await buyers.until(500)
        assert before == await old_records(engine, victim)
        assert set(heard_of_it) <= {"cut_off", "moved", "outcome_unknown", "not_done"}
        books = await check(engine, history)
    figures(
        first_success_s=first_success(history.attempts, shards, frozen),
        all_shards_s=served,
        left_s=left,
        back_s=back,
        heard_from_the_frozen=heard_of_it,
        longest_wait_s=longest_wait(history.attempts),
        **books.figures,
        heard=statuses(history.attempts),
    )


async def ask_the_frozen(till: Till, history: History, shards: list[int]) -> dict[str, int]:
    """Reserve from a host that stands still; what it says once it is awake."""
    loop = asyncio.get_running_loop()
    skus = [sku for sku in SKUS if shard_of(sku, SHARDS) in shards]

    async def ask(name: str, sku: str) -> Attempt:
        command = Reserve(name, [LineRequest(sku, 1)])
        sent = loop.time()
        response = await till.ask([command], ASLEEP_MS)
        status = response.answers[0].status if response is not None else None
        return Attempt(command, shard_of(sku, SHARDS), True, sent, loop.time(), status, None)

    names = [f"frozen-{number}" for number in range(200)]
    asked = (ask(name, skus[number % len(skus)]) for number, name in enumerate(names))
    attempts = await asyncio.gather(*asked)
    for each in attempts:
        history.record(each)
    return statuses(attempts)


async def old_records(engine: EngineProcess, host: HostEntry) -> dict[int, list[Position]]:
    """The records of the ownerships that `host` had."""
    journal = await read_journal(engine.redis_url, SHARDS)
    return {
        int(shard): [each.position for each in journal[int(shard)] if each.position.epoch <= epoch]
        for shard, epoch in host.epochs.items()
    }


async def test_every_host_freezes(tmp_path: Path, figures: Figures) -> None:
    """Nobody is left: a replacement serves everything; who wakes up has nothing any more."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await stock(engine, history)
        async with load(engine, history, name="freeze") as buyers:
            await buyers.until(1_000)
            hosts = await engine.until_hosts(2)
            identities = [each for each in map(identify, (h.pid for h in hosts)) if each]
            for each in identities:
                send_signal(each, signal.SIGSTOP)
            frozen = loop.time()
            await buyers.until_served(range(SHARDS), 60)
            served = all_served(history.attempts, range(SHARDS), frozen)
            for each in identities:
                send_signal(each, signal.SIGCONT)
            resumed = loop.time()
            await gone(identities, 20)
            left = loop.time() - resumed
            await buyers.until(500)
        books = await check(engine, history)
    heard = statuses(history.attempts)
    figures(all_shards_s=served, left_s=left, **books.figures, heard=heard)
