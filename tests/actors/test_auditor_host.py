"""Audits of the shards of one host: one after the other, and told in its metrics."""

import asyncio
from itertools import pairwise

import pytest

from actors.config import Settings
from engine import limits
from engine.messages import Answer, Audit, Status
from tests.actors.servers import eventually
from tests.actors.tenure import SKUS, Tenure, tenure
from tests.actors.trial import Trial, receive, timeless


@pytest.fixture
def slow_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry that is looked at takes a second."""
    monkeypatch.setattr(limits, "AUDIT_HURRIED_SECONDS", 1.0)
    monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", 1)


@timeless
async def test_one_shard_at_a_time(trial: Trial, slow_audits: None) -> None:
    """Audits of one host never overlap."""
    trial.shards = 2
    async with tenure(trial, 0, 1) as host:
        for sku in SKUS:
            await host.ask(receive(3, sku))
        answered = [host.send(Audit(shard), deadline_ms=600_000) for shard in (0, 1)]
        await eventually(lambda: all(answered), 600)
        lasts = sorted(newest(host, shard) for shard in (0, 1))

        for first, second in pairwise(lasts):
            assert first[1] <= second[0]
            assert first[1] - first[0] > 5


@timeless
async def test_one_quick_audit_at_a_time(trial: Trial, slow_audits: None) -> None:
    """Each holds its shard once more; nobody waits for a full one to end."""
    trial.shards = 2
    async with tenure(trial, 0, 1) as host:
        for sku in 3 * SKUS:  # the longer the journal, the longer a full audit
            await host.ask(receive(3, sku))
        full = host.send(Audit(0), deadline_ms=600_000)
        quick = [host.send(Audit(shard, quick=True), deadline_ms=600_000) for shard in (0, 1)]
        await eventually(lambda: any(quick), 600)
        assert 1 == sum(map(bool, quick))
        await eventually(lambda: all(quick), 600)
        assert not full
        await eventually(lambda: bool(full), 600)
        assert {Status.OK} == {each[0].answers[0].status for each in (full, *quick)}


@timeless
async def test_a_shard_that_has_failed(trial: Trial) -> None:
    """It is audited no more, and keeps no other from being audited."""
    trial.shards = 2
    async with tenure(trial, 0, 1) as host:
        for sku in SKUS:
            await host.ask(receive(3, sku))
        trial.store.restart()
        trial.store.entries(0).clear()
        await eventually(lambda: 0 in host.host.status().failed)
        await asyncio.sleep(Settings().audit_interval_us / limits.SECOND_US + 60)
        assert newest(host, 1)[1] > 60
        assert [Status.OK] == await host.statuses(Audit(1))


def newest(host: Tenure, shard: int) -> tuple[float, float]:
    """When the newest audit of the shard began and ended."""
    found = host.owner(shard).auditor
    assert found is not None
    assert found.last is not None
    return found.last.ended_at - found.last.seconds, found.last.ended_at


@timeless
async def test_what_is_measured(trial: Trial) -> None:
    """Drift, damage and the newest audit of each shard; nothing of a shard that had none."""
    trial.shards = 2
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(3, SKUS[0]))
        assert 0 == await host.sample("onhand_audits_total", outcome="clean")
        await host.ask(Audit(0))
        assert 1 == await host.sample("onhand_audits_total", outcome="clean")
        await asyncio.sleep(10)
        for name, expected in (
            ("onhand_drift", 0),
            ("onhand_journal_damage", 0),
            ("onhand_audit_complete", 1),
            ("onhand_audit_records", len(trial.store.records(0))),
        ):
            assert expected == await host.sample(name, shard="0")
        assert 10 <= await host.sample("onhand_audit_age_seconds", shard="0") < 11
        assert {} == host.host.status().alarms
        trial.store.entries(0).pop(3)
        await host.ask(Audit(0))
        assert 1 == await host.sample("onhand_drift", shard="0")
        assert 1 == await host.sample("onhand_journal_damage", shard="0")
        assert 1 == await host.sample("onhand_audits_total", outcome="drifted")
        assert 1 == await host.sample("onhand_audits_total", outcome="incomplete")
        assert {0: "shard 0: the journal ends at 1-1, 1-2 was acknowledged"} == (
            host.host.status().alarms
        )
        assert Answer(Status.OK).status is (await host.statuses(receive(1, SKUS[0])))[0]
