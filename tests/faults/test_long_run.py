"""A long run: sales under load, a death every few seconds, and auditors that never rest.

Hosts, gateways and the journal's server are killed at random, snapshots are taken and journals
trimmed in between, and all the while each shard is held against its reservations and its journal.
At the end the auditors must have found nothing, a last full audit of every shard must be complete
and clean, and everything that any client was told must be so.

It lasts as many seconds as `ONHAND_FAULTS_SECONDS` says, 60 if it says nothing; what it does is
drawn from a seed, `ONHAND_FAULTS_SEED`.
"""

import asyncio
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.process import Identity, identify, send_signal
from engine.messages import Audit, AuditView
from tests.faults.ballast import pouring
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, eventually, get, gone, running
from tests.faults.history import History, longest_gap, statuses
from tests.faults.load import Load, load, stock
from tests.faults.till import Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
SECONDS_DEFAULT = 60
PAUSE_SECONDS = (2.0, 6.0)
"""Between two deaths."""
AUDIT_DEADLINE_MS = 60_000
VICTIMS = {"host": 6, "gateway": 2, "redis": 2}
"""Whom it hits, and how often."""
SCRAPE_SECONDS = 0.5
LOGS = ("host-1", "host-2")


def chosen(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


async def test_a_long_run(tmp_path: Path, figures: Figures) -> None:
    """Whatever dies, and whenever: nothing drifts, nothing rots, nothing is lost."""
    seconds, seed = (
        chosen("ONHAND_FAULTS_SECONDS", SECONDS_DEFAULT),
        chosen("ONHAND_FAULTS_SEED", 1),
    )
    history = History()
    flags = ("--shards", str(SHARDS), "--gateways", "2", "--audit-interval", "1")
    memory = ("--maxmemory", f"{64 + seconds // 3}mb")
    async with running(tmp_path, *flags, *memory) as engine:
        began = asyncio.get_running_loop().time()
        await stock(engine, history)
        async with pouring(engine, pourers=2):
            await eventually(partial(has_snapshots, engine), 300)
        async with load(engine, history, name="long") as buyers, pouring(engine, pause=0.05):
            deaths = await kill_at_random(engine, buyers, Random(seed), seconds)
            await buyers.until_served(range(SHARDS), 60)
        gap = longest_gap(history.attempts, began)
        views = await audit_everything(engine)
        drift = await drifts(engine)
        books = await check(engine, history, whole=False)
        alarms = (await engine.status()).alarms
        logged = events(engine)
    figures(
        seconds=seconds,
        seed=seed,
        deaths=dict(deaths),
        audits=logged["audited"],
        audits_incomplete=logged["audit_incomplete"],
        drift=logged["drift"],
        snapshots=logged["snapshot_taken"],
        trims=logged["journal_trimmed"],
        records_replayed_at_the_end=sum(view.replayed for view in views),
        longest_without_success_s=gap,
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert dict.fromkeys(map(str, range(SHARDS)), 0.0) == drift
    assert [(True, 0, [])] * SHARDS == [(v.complete, v.drift, v.findings) for v in views]
    assert (0, []) == (logged["drift"], alarms)
    assert logged["audited"] > SHARDS


def events(engine: EngineProcess) -> Counter[str]:
    """How often the hosts have logged what."""
    return Counter(str(each["event"]) for name in LOGS for each in engine.log(name))


async def has_snapshots(engine: EngineProcess) -> bool:
    """The server is so full that there is one of every shard, or of some there are several."""
    await asyncio.sleep(SCRAPE_SECONDS)
    return events(engine)["snapshot_taken"] >= SHARDS


async def kill_at_random(
    engine: EngineProcess, buyers: Load, random: Random, seconds: float
) -> Counter[str]:
    """For so long, every few seconds, kill -9 of a host, a gateway or the journal's server."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    deaths: Counter[str] = Counter()
    while loop.time() < end:
        await buyers.for_seconds(random.uniform(*PAUSE_SECONDS))
        [kind] = random.choices([*VICTIMS], [*VICTIMS.values()])
        victim = await find(engine, kind, random)
        if victim is not None:
            send_signal(victim, signal.SIGKILL)
            await gone([victim])
            deaths[kind] += 1
    return deaths


async def find(engine: EngineProcess, kind: str, random: Random) -> Identity | None:
    """One that lives, if there is one at the moment."""
    if kind == "redis":
        servers = engine.find("valkey-server", "redis-server")
        return servers[0] if len(servers) == 1 else None
    try:
        status = await engine.status()
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        return None
    alive = [each for each in (status.hosts if kind == "host" else status.gateways) if each.alive]
    return identify(random.choice(alive).pid) if alive else None


async def audit_everything(engine: EngineProcess) -> list[AuditView]:
    """A full audit of every shard, when all are served again."""
    await engine.until_ready(60)
    async with Till(engine.binary) as till:
        assert await till.connected(10)
        asked = (till.ask([Audit(shard)], AUDIT_DEADLINE_MS) for shard in range(SHARDS))
        answers = [each.answers[0] for each in await asyncio.gather(*asked) if each is not None]
    views = [each.body for each in answers if isinstance(each.body, AuditView)]
    assert SHARDS == len(views), answers
    return views


async def drifts(engine: EngineProcess) -> dict[str, float]:
    """What the metrics say of every shard."""

    async def scraped() -> dict[str, float]:
        code, page = await get(engine.http, "/metrics")
        assert 200 == code
        families = text_string_to_metric_families(page.decode())
        samples = [each for family in families for each in family.samples]
        found = {
            each.labels["shard"]: each.value for each in samples if each.name == "onhand_drift"
        }
        return found if len(found) == SHARDS else {}

    return await eventually(scraped, 30)
