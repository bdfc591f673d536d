"""A backup that is made while everybody buys, brought back in another place."""

import asyncio
import json
from asyncio.subprocess import PIPE
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ballast import pouring, reserve_many
from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import ONHAND, eventually, running
from tests.faults.history import History, statuses
from tests.faults.load import load, stock
from tests.faults.test_snapshots import events

pytestmark = [pytest.mark.ray, pytest.mark.redis]

SHARDS = 4
ATTEMPTS = 10
"""To make a backup while something is trimmed."""
FLAGS = ("--shards", str(SHARDS), "--maxmemory", "64mb")


async def onhand(*arguments: str | Path) -> Any:
    """What the command says, as JSON."""
    process = await asyncio.create_subprocess_exec(
        ONHAND, *arguments, "--json", stdout=PIPE, stderr=PIPE
    )
    printed, errors = await process.communicate()
    assert 0 == process.returncode, errors  # how far it is stands there, if it takes long
    return json.loads(printed)


def as_of(history: History, began: float, ended: float) -> History:
    """What callers know of the backup that was made then: what was acknowledged before is in it,
    what was sent afterwards is not, and of what is between nobody knows."""
    found = History()
    for each in history.attempts:
        if each.answered <= began:
            found.record(each)
        elif each.sent < ended:
            found.record(each._replace(answered=inf, status=None, head=None))
    return found


async def test_a_backup_under_load(tmp_path: Path, figures: Figures) -> None:
    """Every operation that was acknowledged before it began is there, nothing is doubled, the audit
    finds no drift, and the restored engine sells on; so does the one that was saved."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(tmp_path / "data", *FLAGS) as engine:
        await stock(engine, history)
        async with load(engine, history, name="first") as buyers:
            await buyers.until(500)
            began = loop.time()
            made = await onhand(
                "backup", "--data-dir", tmp_path / "data", "--to", tmp_path / "backup"
            )
            ended = loop.time()
            await buyers.until(200)
        await check(engine, history)
    restored = await onhand("restore", tmp_path / "backup", "--data-dir", tmp_path / "new")
    assert made["shards"] == restored["shards"]
    saved = as_of(history, began, ended)
    async with running(tmp_path / "new", *FLAGS) as engine:
        await check(engine, saved)
        async with load(engine, saved, name="second") as buyers:
            await buyers.until(200)
        books = await check(engine, saved)
    figures(backup_s=ended - began, **books.figures, heard=statuses(history.attempts))


@pytest.mark.faults
async def test_a_backup_while_journals_are_trimmed(tmp_path: Path, figures: Figures) -> None:
    """Snapshots and trims go on while it is made, before and after, and again where it is restored:
    with its archive, every record of every shard is there."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(tmp_path / "data", *FLAGS) as engine:
        await stock(engine, history)
        await reserve_many(engine, history, "many", 10_000, SHARDS)
        async with load(engine, history, name="first"), pouring(engine, pause=0.0):
            await eventually(partial(events, engine, "journal_trimmed", 2 * SHARDS), 120)
            during, attempts = 0, 0
            while not during:
                attempts += 1
                backup = tmp_path / f"backup-{attempts}"
                trims = len(await events(engine, "journal_trimmed", 0))
                began = loop.time()
                made = await onhand("backup", "--data-dir", tmp_path / "data", "--to", backup)
                ended = loop.time()
                during = len(await events(engine, "journal_trimmed", 0)) - trims
                assert attempts < ATTEMPTS, "nothing is trimmed any more"
        await engine.kill_all()
    await onhand("restore", backup, "--data-dir", tmp_path / "new")
    saved = as_of(history, began, ended)
    async with running(tmp_path / "new", *FLAGS) as engine:
        await check(engine, saved, whole=False)
        async with load(engine, saved, name="second"), pouring(engine, pause=0.02):
            await eventually(partial(events, engine, "journal_trimmed", SHARDS), 120)
        assert [] == await events(engine, "archive_gap", 0)
        assert [] == await events(engine, "archive_failed", 0)
        books = await check(engine, saved, whole=False)
    figures(
        backup_s=ended - began,
        bytes=made["bytes"],
        records=made["records"],
        trims_before=trims,
        trims_meanwhile=during,
        **books.figures,
        heard=statuses(history.attempts),
    )
