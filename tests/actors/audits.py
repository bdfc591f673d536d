"""What the tests of audits share: something to audit, and what is found."""

import asyncio

import pytest

from actors.auditor import Auditor, Turns
from engine import limits
from engine.codec import Position
from engine.messages import (
    Adjust,
    Audit,
    AuditView,
    ChannelPolicy,
    Command,
    Commit,
    SetChannel,
    Ship,
    Status,
)
from tests.actors.trial import Life, receive, reserve


def auditor(life: Life) -> Auditor:
    assert life.owner.auditor is not None
    return life.owner.auditor


def turns(life: Life) -> Turns:
    """What the audits of its host came to."""
    return auditor(life)._turns


async def view(life: Life, *, quick: bool = False) -> AuditView:
    """What an audit of the shard says."""
    answer = await life.ask(Audit(0, quick))
    assert isinstance(answer.body, AuditView), answer
    assert answer.body.drift >= len(answer.body.findings)
    return answer.body


async def trade(life: Life) -> None:
    """Something of every sort that a shard remembers."""
    commands: list[Command] = [
        receive(10),
        SetChannel(0, "shop", ChannelPolicy(buffer=1)),
        reserve("r1", 2),
        reserve("r2", 3),
        reserve("r3", 1),
        Commit("r2", 0),
        Ship("r2", 0),
        Adjust("sku", "here", -1, key="k1"),
    ]
    for command in commands:
        assert Status.OK is (await life.ask(command)).status


async def snapshots(life: Life, count: int, monkeypatch: pytest.MonkeyPatch) -> list[Position]:
    """Go on until so many generations are kept, and what is older is gone."""
    snapshotter = life.owner.snapshotter
    assert snapshotter is not None
    with monkeypatch.context() as patch:
        patch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 1)
        for _ in range(100):
            if len(snapshotter.generations) == count:
                break
            await life.ask(receive(1))
            await asyncio.sleep(1)
    await life.ask(receive(1))
    await asyncio.sleep(1)
    assert len(snapshotter.generations) == count
    return snapshotter.generations
