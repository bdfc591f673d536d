"""What breaks raises the alert that `docs/runbooks.md` has a section for; what does not, none.

A real Prometheus scrapes a real engine and evaluates `deploy/prometheus/alerts.yaml`.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from actors.journal import journal_key
from actors.process import send_signal
from engine.messages import Audit, Receive
from tests.deploy.prometheus_process import PrometheusProcess, prometheus_watching
from tests.faults.engine_process import EngineProcess, eventually, running
from tests.faults.history import History
from tests.faults.load import load, stock
from tests.faults.redis_process import RedisProcess, redis_running
from tests.faults.till import Till

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

FLAGS = ("--shards", "4")
MEMORY = 64 << 20
ON_FIRE = {"OnhandShardStopped", "OnhandDrift", "OnhandJournalDamage", "OnhandDown"}


async def test_a_host_dies_again_and_again(tmp_path: Path) -> None:
    """An engine that sells raises nothing; a host that is killed is missing, and if that goes on
    it is said as well."""
    history = History()
    async with (
        running(tmp_path / "data", *FLAGS) as engine,
        prometheus_watching(engine.http, tmp_path / "prometheus") as watch,
    ):
        await stock(engine, history)
        async with load(engine, history, name="quiet") as buyers:
            await buyers.until(1_000)
            await watch.until_scraped(10)
            assert {} == await watch.raised()
            for _ in range(4):
                await engine.until_hosts(2)
                [missing] = await keep_dead(engine, "host-1", watch)
                assert {"kind": "host", "severity": "warning", **at(engine)} == missing
                await watch.until_over("OnhandProcessMissing")
                await engine.until_ready()
            assert await watch.until_raised("OnhandRestarting")
            for victim in await engine.until_hosts(2):
                os.kill(victim.pid, signal.SIGKILL)
            assert await watch.until_raised("OnhandShardUnserved")
            await engine.until_ready()
            await watch.until_over("OnhandShardUnserved")
            assert not ON_FIRE & set(await watch.raised())


async def test_the_journal_s_server_freezes(tmp_path: Path) -> None:
    """Whoever waits for it is refused in the end; when it goes on, so does everything."""
    history = History()
    async with (
        running(tmp_path / "data", *FLAGS) as engine,
        prometheus_watching(engine.http, tmp_path / "prometheus") as watch,
    ):
        await stock(engine, history)
        async with load(engine, history, name="frozen") as buyers:
            await buyers.until(500)
            await watch.until_scraped(3)
            server = engine.redis
            send_signal(server, signal.SIGSTOP)
            silent = await watch.until_raised("OnhandJournalSilent")
            assert {"host-1", "host-2"} >= {each["host"] for each in silent}
            assert await watch.until_raised("OnhandRefusing")
            send_signal(server, signal.SIGCONT)
            await watch.until_over("OnhandJournalSilent")
            await buyers.until_served(range(4), 30)


async def test_everything_dies(tmp_path: Path) -> None:
    """Nothing answers."""
    async with (
        running(tmp_path / "data", *FLAGS) as engine,
        prometheus_watching(engine.http, tmp_path / "prometheus") as watch,
    ):
        await watch.until_scraped(2)
        await engine.kill_all()
        [down] = await watch.until_raised("OnhandDown")
        assert "critical" == down["severity"]


async def test_the_journal_rots(tmp_path: Path) -> None:
    """While its owner lives an audit finds it, and a snapshot makes up for it; what rots while
    nobody serves it stops the shard."""
    data = tmp_path / "data"
    async with redis_running(tmp_path / "redis") as server:
        async with (
            running(data, *FLAGS, "--redis", server.url) as engine,
            prometheus_watching(engine.http, tmp_path / "prometheus") as watch,
        ):
            await sell_a_little(engine)
            rot(server)
            await audit(engine)
            for name in ("OnhandDrift", "OnhandJournalDamage"):
                [found] = await watch.until_raised(name)
                assert {"shard": "0", "severity": "critical", **at(engine)} == found
            status = await engine.status()
            assert [0] == [each.shard for each in status.alarms]
            assert 4 == status.served

            async def is_over() -> bool:
                await audit(engine)
                return not await watch.labels("OnhandJournalDamage")

            await eventually(is_over, 60)
            assert {} == {each.shard: each.finding for each in (await engine.status()).alarms}
            await sell_a_little(engine)
            await engine.stop()
        rot(server)
        async with (
            running(data, *FLAGS, "--redis", server.url) as engine,
            prometheus_watching(engine.http, tmp_path / "second") as watch,
        ):
            assert await watch.until_raised("OnhandShardStopped")
            [failed] = (await engine.status()).failed
            assert 0 == failed.shard


async def test_no_room(tmp_path: Path) -> None:
    """Memory that fills up is said from 60 % on, and urgent from 80 % on, when buyers are refused;
    so is an archive that takes nothing, and a disk that takes no marks."""
    data = tmp_path / "data"
    async with (
        redis_running(tmp_path / "redis") as server,
        running(data, *FLAGS, "--redis", server.url) as engine,
        prometheus_watching(engine.http, tmp_path / "prometheus") as watch,
        Till(engine.binary) as till,
    ):
        server.configure(maxmemory=str(MEMORY))
        await asyncio.to_thread(break_the_disk, data)
        for _ in range(8):
            await sell_a_little(engine)
        fill(server, 0.62)
        assert await watch.until_raised("OnhandJournalFilling")
        for name in ("OnhandArchiveFailing", "OnhandMarksFailing"):

            async def raised(name: str = name) -> list[dict[str, str]]:
                await sell_a_little(engine)
                return await watch.labels(name)

            assert await eventually(raised, 90), name
        fill(server, 0.82)
        assert await watch.until_raised("OnhandJournalFull")
        await till.connected(5)

        async def refused() -> list[dict[str, str]]:
            await till.ask([Receive("sku-1", "main", 1)])
            return await watch.labels("OnhandRefusing")

        [found] = await eventually(refused, 30)
        assert {"status": "memory_full", "severity": "critical", **at(engine)} == found


async def test_more_than_can_be_remembered(tmp_path: Path) -> None:
    """It is said before anybody is refused for it."""
    async with (
        running(tmp_path / "data", "--shards", "2", "--remembered-max", "1000") as engine,
        prometheus_watching(engine.http, tmp_path / "prometheus") as watch,
        Till(engine.binary) as till,
    ):
        await till.insist([Receive(f"sku-{n}", "main", 1, key=f"{n}") for n in range(1_700)])
        assert await watch.until_raised("OnhandRememberedFull")
        assert not ON_FIRE & set(await watch.raised())


async def keep_dead(
    engine: EngineProcess, name: str, watch: PrometheusProcess
) -> list[dict[str, str]]:
    """Kill the host, and whoever comes in its place, until somebody misses it: by itself it is back
    before the next scrape, as often as not."""

    async def is_missed() -> list[dict[str, str]]:
        for host in (await engine.status()).hosts:
            if host.name == name and host.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(host.pid, signal.SIGKILL)
        return await watch.labels("OnhandProcessMissing")

    return await eventually(is_missed, 30)


def at(engine: EngineProcess) -> dict[str, str]:
    """The label by which an alert tells one installation from another."""
    return {"instance": engine.http.removeprefix("http://")}


def break_the_disk(data: Path) -> None:
    """The archive is no directory, and the marks are garbage."""
    shutil.rmtree(data / "archive", ignore_errors=True)
    (data / "archive").write_bytes(b"")
    (data / "marks" / "marks").write_bytes(b"short")


def fill(server: RedisProcess, share: float) -> None:
    """Up to that share of its memory, with what is not the engine's, and what no trim frees."""
    with server.client() as client:
        while server.used_memory() < share * MEMORY:
            client.append("ballast", bytes(1 << 18))


async def sell_a_little(engine: EngineProcess) -> None:
    """Some records in every shard."""
    async with Till(engine.binary) as till:
        for _ in range(8):
            commands = [Receive(f"sku-{n}", "main", 1, "long" * 60) for n in range(64)]
            await till.insist(commands)


async def audit(engine: EngineProcess) -> None:
    """Of every shard."""
    async with Till(engine.binary) as till:
        await till.insist([Audit(shard) for shard in range(4)])


def rot(server: RedisProcess) -> None:
    """One of the last records of shard 0 is gone."""
    with server.client() as client:
        newest: Any = client.xrevrange(journal_key(0), count=3)
        client.xdel(journal_key(0), newest[-1][0])
