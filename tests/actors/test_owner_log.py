"""What an owner writes down: who was not answered in time, which append was slow, what expired."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from actors import owner
from actors.log import Sparing
from engine import limits
from tests.actors.trial import Trial, ownership, receive, reserve, timeless


@pytest.fixture(autouse=True)
def debugging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With all that there is to tell, and room for it."""
    monkeypatch.setattr(owner, "_sparing", Sparing(owner._log, limits.LOG_LINES_PER_SECOND))
    logger = logging.getLogger(owner.__name__)
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(logging.NOTSET)


def said(lines: list[Any], event: str) -> list[dict[str, Any]]:
    found = [dict(line) for line in lines if line["event"] == event]
    for each in found:
        del each["event"]
    return found


@timeless
async def test_who_was_not_answered_in_time(trial: Trial) -> None:
    """With the reservation, and whether it may have been done."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(5))
    journal.freeze()
    with capture_logs() as lines:
        life.send(reserve("r1"), seconds=1)
        await asyncio.sleep(0.1)
        life.send(reserve("r2"), seconds=1)
        await life.idle(2)
        journal.thaw()

    about = {"log_level": "warning", "shard": 0, "commands": 1}
    assert [
        {**about, "reservation_id": "r1", "answer": "outcome_unknown"},
        {**about, "reservation_id": "r2", "answer": "not_done"},
    ] == said(lines, "late")
    await life.stop()


@timeless
async def test_what_has_expired(trial: Trial) -> None:
    """Once it is journaled, and only for who wants to know that much."""
    life = await trial.serve()
    await life.ask(receive(5))
    with capture_logs() as lines:
        await life.ask(reserve("r1", ttl_seconds=5))
        await life.idle(8)

    assert [{"log_level": "debug", "shard": 0, "reservation_id": "r1"}] == said(lines, "expired")
    await life.stop()


async def test_which_append_was_slow(trial: Trial) -> None:
    """From the threshold on, and not one that was quick."""
    quick = await trial.serve(settings=ownership()._replace(slow_seconds=60.0))
    with capture_logs() as lines:
        await quick.ask(receive(5))
    await quick.stop()
    assert [] == said(lines, "slow_append")
    slow = await trial.serve(settings=ownership()._replace(slow_seconds=0.0))
    with capture_logs() as lines:
        await slow.ask(receive(5))
    await slow.stop()

    [line] = said(lines, "slow_append")
    assert (0, 1) == (line["shard"], line["events"])
