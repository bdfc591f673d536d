"""The journal's server dies, freezes, or is set up wrongly, under load."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from actors.process import Identity, send_signal
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import EngineProcess, StartError, eventually, running, start
from tests.faults.history import (
    UNAVAILABLE,
    History,
    all_served,
    first_success,
    longest_gap,
    longest_wait,
    statuses,
)
from tests.faults.load import load, stock
from tests.faults.redis_process import redis_running
from tests.faults.till import DEADLINE_MS

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]

SHARDS = 8
FROZEN_SECONDS = 10.0
DOWN_SECONDS = 3.0
SLACK_SECONDS = 1.0
"""Of an answer, beyond its deadline, on a busy machine."""


async def test_a_redis_of_ones_own_is_killed(tmp_path: Path, figures: Figures) -> None:
    """Three times, down for a while each; service returns by itself when it does."""
    history, first, every = History(), [], []
    loop = asyncio.get_running_loop()
    async with (
        redis_running(tmp_path / "redis") as server,
        running(tmp_path / "data", "--shards", str(SHARDS), "--redis", server.url) as engine,
    ):
        await stock(engine, history)
        async with load(engine, history, name="kill") as buyers:
            for _ in range(3):
                await buyers.until(1_500)
                await server.kill()
                await buyers.for_seconds(DOWN_SECONDS)
                back = loop.time()
                await server.start()
                await buyers.until_served(range(SHARDS))
                first.append(first_success(history.attempts, range(SHARDS), back))
                every.append(all_served(history.attempts, range(SHARDS), back))
        books = await check(engine, history, redis_url=server.url)
    figures(
        first_success_s=first,
        all_shards_s=every,
        longest_wait_s=longest_wait(history.attempts),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert longest_wait(history.attempts) < DEADLINE_MS / 1_000 + SLACK_SECONDS


async def test_the_embedded_server_freezes(tmp_path: Path, figures: Figures) -> None:
    """For ten seconds: nothing twice, although what was sent to it is executed when it wakes."""
    async with running(tmp_path, "--shards", str(SHARDS)) as engine:
        await freeze(engine, engine.redis, engine.redis_url, figures)


async def test_a_redis_of_ones_own_freezes(tmp_path: Path, figures: Figures) -> None:
    """For ten seconds: nothing twice, although what was sent to it is executed when it wakes."""
    async with (
        redis_running(tmp_path / "redis") as server,
        running(tmp_path / "data", "--shards", str(SHARDS), "--redis", server.url) as engine,
    ):
        await freeze(engine, server.identity, server.url, figures)


async def freeze(engine: EngineProcess, server: Identity, url: str, figures: Figures) -> None:
    history = History()
    loop = asyncio.get_running_loop()
    await stock(engine, history)
    async with load(engine, history, name="freeze") as buyers:
        await buyers.until(1_500)
        send_signal(server, signal.SIGSTOP)
        frozen = loop.time()
        status, retry_after, waited = await buy_over_http(engine)
        await buyers.for_seconds(FROZEN_SECONDS - (loop.time() - frozen))
        meanwhile = [each for each in history.since(frozen) if each.answered < loop.time()]
        send_signal(server, signal.SIGCONT)
        resumed = loop.time()
        await buyers.until_served(range(SHARDS))
    books = await check(engine, history, redis_url=url)
    figures(
        first_success_s=first_success(history.attempts, range(SHARDS), resumed),
        all_shards_s=all_served(history.attempts, range(SHARDS), resumed),
        http=[status, waited],
        longest_wait_s=longest_wait(history.attempts),
        meanwhile=statuses(meanwhile),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert {each.status for each in meanwhile} <= UNAVAILABLE
    assert longest_wait(history.attempts) < DEADLINE_MS / 1_000 + SLACK_SECONDS
    assert (503, True) == (status, retry_after)


async def buy_over_http(engine: EngineProcess) -> tuple[int, bool, float]:
    """A reserve of nothing that is there: its status, whether it says when to retry, the wait."""
    host, port = engine.http.removeprefix("http://").split(":")
    body = json.dumps({"lines": [{"sku": "unheard-of", "quantity": 1}]}).encode()
    loop = asyncio.get_running_loop()
    began = loop.time()
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/reservations HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await asyncio.wait_for(reader.read(), 30)).decode()
    writer.close()
    return int(answer.split()[1]), "retry-after:" in answer.lower(), loop.time() - began


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("appendonly", "no", "appendonly is 'no', must be 'yes'"),
        ("appendfsync", "everysec", "appendfsync is 'everysec', must be 'always'"),
        ("save", "3600 1", "save is '3600 1', must be ''"),
        ("maxmemory", "0", "maxmemory is 0, must be set"),
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is 'allkeys-lru'"),
    ],
)
async def test_wrong_settings_at_the_start(
    tmp_path: Path, name: str, wrong: str, said: str
) -> None:
    """Refused in one line that names the setting, and what it must be."""
    async with redis_running(tmp_path / "redis") as server:
        server.configure(**{name: wrong})
        with pytest.raises(StartError) as refused:
            await start(tmp_path / "data", "--redis", server.url)
    assert 1 == refused.value.code
    assert said in refused.value.said
    assert 1 == len(refused.value.said.splitlines())


async def test_wrong_settings_at_a_reconnect(tmp_path: Path, figures: Figures) -> None:
    """Nothing is acknowledged by a server that would not keep it; the log says what is wrong."""
    history = History()
    loop = asyncio.get_running_loop()
    async with (
        redis_running(tmp_path / "redis") as server,
        running(tmp_path / "data", "--shards", str(SHARDS), "--redis", server.url) as engine,
    ):
        await stock(engine, history)
        async with load(engine, history, name="settings") as buyers:
            await buyers.until(1_500)
            server.configure_and_hang_up("appendonly", "no")
            wrong = loop.time()

            async def complaint() -> list[str]:
                logged = [*engine.log("host-1"), *engine.log("host-2")]
                return [e["reason"] for e in logged if "is not set up" in e.get("reason", "")]

            reasons = await eventually(complaint)
            await buyers.for_seconds(2 * DEADLINE_MS / 1_000 + SLACK_SECONDS)
            meanwhile = [each for each in history.since(wrong + 0.5) if each.answered < loop.time()]
            server.configure(appendonly="yes")
            right = loop.time()
            await buyers.until_served(range(SHARDS))
        books = await check(engine, history, redis_url=server.url)
    figures(
        first_success_s=first_success(history.attempts, range(SHARDS), right),
        longest_without_success_s=longest_gap(history.attempts, wrong),
        meanwhile=statuses(meanwhile),
        **books.figures,
        heard=statuses(history.attempts),
    )
    assert "appendonly is 'no', must be 'yes'" in reasons[0]
    assert meanwhile
    assert {each.status for each in meanwhile} <= UNAVAILABLE
