"""Snapshots are taken and journals trimmed while hosts are killed."""

import asyncio
import signal
from functools import partial
from pathlib import Path

import pytest

from actors.process import identify, send_signal
from engine.messages import Audit, AuditView, Opened
from tests.faults.ballast import pouring, reserve_many
from tests.faults.checker import check, read_journal
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, eventually, running
from tests.faults.history import History, all_served, statuses
from tests.faults.load import load, stock
from tests.faults.till import Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
RESERVATIONS = 20_000
KILLS = 3
FLAGS = ("--shards", str(SHARDS), "--maxmemory", "64mb")
"""The less memory, the sooner snapshots are taken and journals trimmed."""


async def test_snapshots_and_kills(tmp_path: Path, figures: Figures) -> None:
    """Hosts die while snapshots are stored, announced, trimmed; then everything is killed at once.
    What comes back has the digest of what went, and every acknowledged operation."""
    history, back = History(), []
    loop = asyncio.get_running_loop()
    async with running(tmp_path, *FLAGS) as engine:
        await stock(engine, history)
        await reserve_many(engine, history, "many", RESERVATIONS, SHARDS)
        async with load(engine, history, name="first") as buyers, pouring(engine, pause=0.05):
            for kill in range(KILLS):
                await eventually(partial(events, engine, "journal_trimmed", 2 * kill + 1), 60)
                victim = (await engine.until_hosts(2))[0]
                identity = identify(victim.pid)
                assert identity is not None
                send_signal(identity, signal.SIGKILL)
                killed = loop.time()
                shards = [int(each) for each in victim.epochs]
                await buyers.until_served(shards, 60)
                back.append(all_served(history.attempts, shards, killed))
        before = await digests(engine)
        snapshots = len(await events(engine, "snapshot_taken", 0))
        trims = len(await events(engine, "journal_trimmed", 0))
        await engine.kill_all()
    began = loop.time()
    async with running(tmp_path, *FLAGS) as engine:
        up = loop.time() - began
        assert before == await recovered(engine)
        opened = (await events(engine, "shard_opened", 0))[-SHARDS:]
        books = await check(engine, history, whole=False)
    figures(
        all_shards_s=back,
        snapshots=snapshots,
        trims=trims,
        up_s=up,
        records_of_the_tail=[each["records"] for each in opened],
        **books.figures,
        heard=statuses(history.attempts),
    )


async def events(engine: EngineProcess, name: str, least: int) -> list[dict[str, object]]:
    """What the hosts have logged under this name; nothing, unless it is so much at least."""
    logged = [*engine.log("host-1"), *engine.log("host-2")]
    found = [each for each in logged if each["event"] == name]
    found.sort(key=lambda each: each["timestamp"])
    return found if len(found) >= least else []


async def digests(engine: EngineProcess) -> list[bytes]:
    """Of every shard, as it is served."""
    async with Till(engine.binary) as till:
        answers = await till.insist([Audit(shard, quick=True) for shard in range(SHARDS)], frame=1)
    views = [each.body for each in answers]
    return [view.digest for view in views if isinstance(view, AuditView)]


async def recovered(engine: EngineProcess) -> list[bytes]:
    """The digests that the owners of now have found, and have journaled as they opened."""
    found = []
    for records in (await read_journal(engine.redis_url, SHARDS)).values():
        events = [event for record in records for event in record.events]
        found.append([event.digest for event in events if isinstance(event, Opened)][-1])
    return found
