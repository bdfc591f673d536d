"""A host: shards come and go, break and are fenced, and what is known of them is kept."""

import asyncio
from pathlib import Path

import pytest

from actors.claim import Floor
from actors.clock import Clock
from actors.host import HostStatus
from actors.marks import Marks, read_mark
from engine import limits
from engine.codec import Position, checksum_of
from engine.messages import (
    Answer,
    Commit,
    GetStock,
    MovedTo,
    Status,
)
from tests.actors.servers import eventually
from tests.actors.tenure import MOVED, SKUS, Tenure, break_rules, tenure
from tests.actors.trial import Trial, receive, reserve, timeless


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path, shards=2)


# --- shards come and go ----------------------------------------------------------------------


@timeless
async def test_what_is_assigned_is_served(trial: Trial) -> None:
    """An assigned shard is claimed, said to come up, and then served; nothing else is."""
    host = Tenure(trial)
    assert [MOVED[0], MOVED[1]] == await host.ask(receive(1, SKUS[0]), receive(1, SKUS[1]))
    host.host.assign(0, None)
    assert ({}, {0: 0}) == host.host.status()[:2]
    await eventually(lambda: bool(host.host.status().owned))

    assert ({0: 1}, {}, {}) == host.host.status()[:3]
    assert [Status.OK, Status.MOVED] == await host.statuses(
        receive(1, SKUS[0]), receive(1, SKUS[1])
    )
    await host.host.stop()
    assert HostStatus({}, {}, {}, {}, {}, {}, [], {}, {}) == host.host.status()


@timeless
async def test_commands_are_counted_by_shard(trial: Trial) -> None:
    """Refused ones too; the shard's next owner begins at none, under an epoch of its own."""
    async with tenure(trial, 0, 1) as host:
        await host.statuses(receive(1, SKUS[0]), receive(-1, SKUS[0]), receive(1, SKUS[1]))
        assert {0: 2, 1: 1} == host.host.status().taken
        host.host.release(0)
        await eventually(lambda: host.host.status().taken == {1: 1})
        host.host.assign(0, None)
        await eventually(lambda: host.host.status().taken == {0: 0, 1: 1})
        assert {0: 2, 1: 1} == host.host.status().owned


@timeless
async def test_assigned_twice_is_assigned(trial: Trial) -> None:
    """Who hears it again does not claim again."""
    async with tenure(trial, 0) as host:
        host.host.assign(0, None)
        await asyncio.sleep(5)
        assert {0: 1} == host.host.status().owned


@timeless
async def test_commands_wait_for_a_shard_that_comes_up(trial: Trial) -> None:
    """They are answered once it has, or at their deadline."""
    host = Tenure(trial)
    host.journal.freeze()
    host.host.assign(0, None)
    patient = host.send(receive(1, SKUS[0]))
    hasty = host.send(receive(1, SKUS[0]), deadline_ms=100)
    await asyncio.sleep(1)
    assert [Answer(Status.NOT_DONE)] == hasty[0].answers
    assert [] == patient
    host.journal.thaw()
    await eventually(lambda: bool(patient))

    assert Status.OK is patient[0].answers[0].status
    await host.host.stop()


@timeless
async def test_every_step_is_told(trial: Trial) -> None:
    """Whoever listens hears of each change at once."""
    async with tenure(trial, 0) as host:
        host.host.release(0)
        await eventually(lambda: not host.host.status().owned)

    said = [(bool(each.recovering), bool(each.owned)) for each in host.said]
    assert [(True, False), (False, True), (False, True), (False, False)] == said[:4]


@timeless
async def test_heads_and_proofs_are_told(trial: Trial) -> None:
    """How far each shard has come, and how long ago the journal said that it is ours."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(1, SKUS[0]))
        await asyncio.sleep(0.5)
        status = host.host.status()

        last = trial.store.entries(0)[-1]
        assert (last.position, checksum_of(last.record)) == status.heads[0]
        assert [Position(1, 2), Position(1, 1)] == [status.heads[shard][0] for shard in (0, 1)]
        assert 0.4 < status.proven[0] < 0.6
        await asyncio.sleep(10)
        assert max(host.host.status().proven.values()) < 2 * limits.PROVE_SECONDS


@timeless
async def test_released_in_order(trial: Trial) -> None:
    """A shard that is given away is served to the end of its queue, and then another's."""
    async with tenure(trial, 0, 1) as host:
        host.journal.freeze()
        flying = host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.1)
        queued = host.send(receive(1, SKUS[0]))
        host.host.release(0)
        late = host.send(receive(1, SKUS[0]))
        assert Answer(Status.MOVED, MovedTo(0, 1, "")) == late[0].answers[0]
        assert {0: 1, 1: 1} == host.host.status().owned
        host.journal.thaw()
        await eventually(lambda: {1: 1} == host.host.status().owned)

        assert [Status.OK, Status.OK] == [each[0].answers[0].status for each in (flying, queued)]
        assert 0 == host.empty


@timeless
async def test_assigned_again_while_it_leaves(trial: Trial) -> None:
    """The shard comes back, under a new epoch."""
    async with tenure(trial, 0) as host:
        host.host.release(0)
        host.host.assign(0, None)
        await eventually(lambda: {0: 2} == host.host.status().owned)


@timeless
async def test_released_again_while_it_leaves(trial: Trial) -> None:
    """The last word counts."""
    async with tenure(trial, 0) as host:
        host.journal.freeze()
        host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.1)
        host.host.release(0)
        host.host.assign(0, None)
        host.host.release(0)
        host.journal.thaw()
        await asyncio.sleep(10)

        assert {} == host.host.status().owned
        assert [] == host.host.owners


@timeless
async def test_released_without_having_it(trial: Trial) -> None:
    """There is nothing to do."""
    async with tenure(trial, 0) as host:
        host.host.release(1)
        assert {0: 1} == host.host.status().owned


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_of_a_host(trial: Trial, frozen: bool) -> None:
    """Stopped, it keeps no task, and takes no shard any more, whatever it was told before."""

    @timeless
    async def run() -> None:
        host = Tenure(trial)
        await host.own(0)
        host.host.assign(1, None)
        host.host.release(0)
        host.host.assign(0, None)
        if frozen:
            host.journal.freeze()
        began = asyncio.get_running_loop().time()
        await host.host.stop()
        host.host.assign(1, None)
        await asyncio.sleep(1)

        assert asyncio.get_running_loop().time() - began < limits.STOP_SECONDS_MAX + 2
        assert {asyncio.current_task()} == asyncio.all_tasks()
        assert {} == host.host.status().owned

    run()


@timeless
async def test_a_shard_that_does_not_prove_itself(trial: Trial) -> None:
    """It is said why, its commands are refused, the others are served; another try may succeed."""
    host = Tenure(trial)
    host.host.assign(0, Floor(Position(5, 5), None))
    await host.own(1)
    await eventually(lambda: bool(host.host.status().failed))

    assert {0} == set(host.host.status().failed)
    assert "5-5 was acknowledged" in host.host.status().failed[0]
    assert [Status.SHARD_STOPPED, Status.OK] == await host.statuses(
        receive(1, SKUS[0]), receive(1, SKUS[1])
    )
    await host.own(0)
    assert {} == host.host.status().failed
    await host.host.stop()


# --- fenced ----------------------------------------------------------------------------------


@timeless
async def test_a_host_without_shards_is_empty(trial: Trial) -> None:
    """Fenced out of its last shard, and only then, a host says that it is of no more use."""
    async with tenure(trial, 0, 1) as host:
        other = Tenure(trial, name="other")
        await other.own(0)
        await eventually(lambda: {1: 1} == host.host.status().owned)
        assert 0 == host.empty
        await other.own(1)
        await eventually(lambda: {} == host.host.status().owned)

        assert 1 == host.empty
        await other.host.stop()


@timeless
async def test_released_and_then_fenced(trial: Trial) -> None:
    """It does not matter how it lost the shards before."""
    async with tenure(trial, 0, 1) as host:
        host.host.release(0)
        await eventually(lambda: {1: 1} == host.host.status().owned)
        await trial.serve(number=1)
        await eventually(lambda: bool(host.empty))


@timeless
async def test_released_is_not_empty(trial: Trial) -> None:
    """Who gave its shards away waits for others."""
    async with tenure(trial, 0) as host:
        host.host.release(0)
        await asyncio.sleep(10)
        assert 0 == host.empty


@timeless
async def test_a_frozen_host_wakes_up(trial: Trial) -> None:
    """Of what it had in flight nobody knows, what it had queued is another's; then it is empty."""
    host = Tenure(trial)
    await host.own(0, 1)
    host.journal.freeze()
    flying = host.send(receive(1, SKUS[0]), receive(1, SKUS[1]), deadline_ms=60_000)
    await asyncio.sleep(0.1)
    queued = host.send(receive(1, SKUS[0]), deadline_ms=60_000)
    other = Tenure(trial, name="other")
    await other.own(0, 1)
    host.journal.thaw()
    await eventually(lambda: bool(host.empty))

    assert [Status.OUTCOME_UNKNOWN] * 2 == [answer.status for answer in flying[0].answers]
    assert [Answer(Status.MOVED, MovedTo(0, 1, ""))] == queued[0].answers
    assert [Status.UNKNOWN_SKU] * 2 == await other.statuses(*map(GetStock, SKUS))
    await host.host.stop()
    await other.host.stop()


# --- a claim that is lost ---------------------------------------------------------------------


def lose_claims(host: Tenure, trial: Trial, times: int) -> None:
    """The server goes back in time, to before the claim, as often as somebody recovers."""
    left = [times]

    def lose(name: str) -> None:
        entries = trial.store.entries(0)
        if name == "read" and entries and entries[-1].position.sequence == 0 and left[0]:
            left[0] -= 1
            trial.store.forget(0, entries[-1].position)
            trial.store.restart()

    host.journal.before = lose


@timeless
async def test_a_claim_that_is_lost(trial: Trial) -> None:
    """Nothing rested on it yet: it is made again, and who waits meanwhile is sent round."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(1, SKUS[0]))
    host = Tenure(trial, name="next")
    lose_claims(host, trial, 3)
    host.host.assign(0, None)
    asked = host.send(receive(1, SKUS[0]), deadline_ms=60_000)
    await eventually(lambda: bool(host.host.status().owned))

    assert {0: 2} == host.host.status().owned
    assert [Status.MOVED] == [each.status for each in asked[0].answers]
    assert [Status.OK] == await host.statuses(receive(1, SKUS[0]))
    assert trial.lived() == host.owner(0).shard.digest()
    await host.host.stop()


@timeless
async def test_a_claim_that_is_lost_for_ever(trial: Trial) -> None:
    """A server that keeps nothing is not claimed from for ever."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(1, SKUS[0]))
    host = Tenure(trial, name="next")
    lose_claims(host, trial, 100)
    host.host.assign(0, None)
    await eventually(lambda: bool(host.host.status().failed))

    assert "ClaimLost: shard 0: our claim 2-0 is gone" == host.host.status().failed[0]
    await host.host.stop()


# --- bugs ------------------------------------------------------------------------------------


@timeless
async def test_a_bug_costs_a_moment(trial: Trial) -> None:
    """The shard is recovered at once, under a new epoch, and never said to be nowhere."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(5, SKUS[0]))
        break_rules(host.owner(0), Commit)
        host.said.clear()
        [answer] = await host.ask(Commit("r1", 0))
        assert Status.INVALID is answer.status
        await eventually(lambda: {0: 2} == host.host.status().owned)

        assert all(each.owned or each.recovering for each in host.said)
        assert [Status.OK] == await host.statuses(GetStock(SKUS[0]))


@timeless
async def test_bugs_are_bounded(trial: Trial) -> None:
    """A shard that breaks again and again is given up, and says why; the host goes on."""
    async with tenure(trial, 0, 1) as host:
        for epoch in range(1, 7):
            await host.own(0)
            assert {0: epoch, 1: 1} == host.host.status().owned
            break_rules(host.owner(0), Commit)
            await host.ask(Commit("r1", 0))
        await eventually(lambda: bool(host.host.status().failed))

        assert {0: "RuntimeError: a bug"} == host.host.status().failed
        assert [Status.SHARD_STOPPED] == await host.statuses(Commit("r1", 0))
        assert [Status.OK] == await host.statuses(receive(1, SKUS[1]))


@timeless
async def test_a_bug_while_it_leaves(trial: Trial) -> None:
    """What is given away is not taken back."""
    async with tenure(trial, 0) as host:
        break_rules(host.owner(0), Commit)
        asked = host.send(Commit("r1", 0))
        host.host.release(0)
        await eventually(lambda: bool(asked))
        await asyncio.sleep(10)

        assert [] == host.host.owners


@timeless
async def test_a_bug_when_all_stops(trial: Trial) -> None:
    """A host that goes down mends nothing."""
    host = Tenure(trial)
    await host.own(0)
    break_rules(host.owner(0), Commit)
    host.send(Commit("r1", 0))
    await host.host.stop()

    assert {asyncio.current_task()} == asyncio.all_tasks()


@timeless
async def test_assigned_while_it_is_mended(trial: Trial) -> None:
    """One owner comes up, not two that fence each other."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(1, SKUS[0]))  # there is a mark to write first
        break_rules(host.owner(0), Commit)
        asked = host.send(Commit("r1", 0))
        async with asyncio.timeout(5):
            while not asked:  # noqa: ASYNC110 - the very next turn of the loop is too late
                await asyncio.sleep(0)
        host.host.assign(0, None)
        await asyncio.sleep(10)

        assert {0: 2} == host.host.status().owned
        assert 1 == len(host.host.owners)


# --- chores ----------------------------------------------------------------------------------


@timeless
async def test_marks_are_written(trial: Trial) -> None:
    """At the opening, every second, and at the end: how far each shard is acknowledged."""
    async with tenure(trial, 0, 1) as host:
        await eventually(lambda: read_mark(trial.directory, 1) is not None)
        await host.ask(receive(1, SKUS[0]))
        await asyncio.sleep(1.5)
        mark = read_mark(trial.directory, 0)
        assert mark is not None
        assert host.host.status().heads[0] == (mark.position, mark.checksum)
        await host.ask(receive(1, SKUS[0]))

    marks = [read_mark(trial.directory, shard) for shard in (0, 1)]
    assert [trial.store.positions(n)[-1] for n in (0, 1)] == [m and m.position for m in marks]


@timeless
async def test_marks_that_cannot_be_written(trial: Trial) -> None:
    """A disk that is out of order costs the marks, not the shards."""
    async with tenure(trial, 0) as host:
        (trial.directory / "marks").write_bytes(b"short")
        assert [Status.OK] == await host.statuses(receive(1, SKUS[0]))
        await asyncio.sleep(3)
        assert [Status.OK] == await host.statuses(receive(1, SKUS[0]))
        assert 2 <= await host.sample("onhand_marks_failed_total")


@timeless
async def test_a_mark_outlives_its_host(trial: Trial) -> None:
    """What this machine knows to be acknowledged is not missed by the next host on it."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(1, SKUS[0]))
    trial.store.forget(0, Position(1, 2))
    host = Tenure(trial)
    host.host.assign(0, None)
    await eventually(lambda: bool(host.host.status().failed))

    assert "1-2 was acknowledged" in host.host.status().failed[0]
    await host.host.stop()


@timeless
async def test_who_was_refused_leaves_no_mark(trial: Trial) -> None:
    """What was marked while a claim waited, and is missing, is missed by the next host as well: the
    claim of the first is no newer mark."""
    async with tenure(trial, 0) as host:
        await host.ask(receive(1, SKUS[0]))
    first = Tenure(trial)
    first.journal.freeze()
    first.host.assign(0, None)
    await asyncio.sleep(0.5)
    marks = Marks(trial.directory)
    marks.note(0, Position(1, 9), 7)
    await marks.write()
    first.journal.thaw()
    await eventually(lambda: bool(first.host.status().failed))
    assert "1-9 was acknowledged" in first.host.status().failed[0]
    await first.host.stop()

    second = Tenure(trial)
    second.host.assign(0, None)
    await eventually(lambda: bool(second.host.status().failed))
    assert "1-9 was acknowledged" in second.host.status().failed[0]
    await second.host.stop()


@timeless
async def test_statistics(trial: Trial) -> None:
    """What a scrape sees of the shards, their commands and what they hold."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(2, SKUS[0]), receive(2, SKUS[1]))
        await host.ask(reserve("r1", 1, SKUS[0]), reserve("r2", 5, SKUS[0]))
        await host.ask(Commit("r1", 0))
        host.host.release(1)
        await eventually(lambda: {0} == set(host.host.status().owned))

        outcome = {"command": "reserve", "outcome": "ok"}
        assert 1 == await host.sample("onhand_commands_total", **outcome)
        outcome = {"command": "reserve", "outcome": "insufficient_stock"}
        assert 1 == await host.sample("onhand_commands_total", **outcome)
        assert 1 == await host.sample("onhand_shards", phase="serving")
        assert 0 == await host.sample("onhand_shards", phase="failed")
        assert 1 == await host.sample("onhand_skus")
        assert 1 == await host.sample("onhand_reservations", state="committed")
        assert 0 == await host.sample("onhand_reservations", state="reserved")
        assert 1 == await host.sample("onhand_remembered")
        assert 0 == await host.sample("onhand_queued_commands")
        host.journal.freeze()
        host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.1)
        host.send(receive(1, SKUS[0]), receive(1, SKUS[0]))
        assert 1 == await host.sample("onhand_in_flight_commands")
        assert 2 == await host.sample("onhand_queued_commands")
        host.journal.thaw()


@timeless
async def test_retries_are_counted(trial: Trial) -> None:
    """An operator sees that the journal's server is in trouble."""
    async with tenure(trial, 0) as host:
        host.journal.fault_next("busy", "busy")
        await host.ask(receive(1, SKUS[0]))
        assert 2 == await host.sample("onhand_journal_retries_total", server="0")
        assert 0 == await host.sample("onhand_journal_resent_total", server="0")


@timeless
async def test_totals_outlive_owners(trial: Trial) -> None:
    """A shard that leaves takes nothing of what was counted along: totals only grow."""
    async with tenure(trial, 0, 1) as host:
        host.journal.fault_next("busy", "busy")
        await host.ask(receive(1, SKUS[0]))
        host.host.release(0)
        await eventually(lambda: {1} == set(host.host.status().owned))

        assert 2 == await host.sample("onhand_journal_retries_total", server="0")
        assert 1 == await host.sample("onhand_owners_ended_total", phase="released")
        assert 0 == await host.sample("onhand_owners_ended_total", phase="fenced")


async def test_a_wall_clock_that_is_set_is_told(trial: Trial) -> None:
    """By how much it differs from the time of the shard that differs most."""
    wall, monotonic = [1_800_000_000 * 10**9], [0]
    host = Tenure(trial)
    host.host._clock_from = lambda stamp: Clock(
        stamp, wall=lambda: wall[0], monotonic=lambda: monotonic[0]
    )
    await host.own(0, 1)
    assert 0 == await host.sample("onhand_clock_error_seconds")

    wall[0] -= 60 * 10**9
    monotonic[0] += 10**9
    await host.ask(receive(1, SKUS[0]))

    assert -61 == await host.sample("onhand_clock_error_seconds")
    await host.host.stop()


@timeless
async def test_how_far_behind_the_worst_shard_is(trial: Trial) -> None:
    """What would be replayed, what is remembered, and for how long the journal has said nothing."""
    async with tenure(trial, 0, 1) as host:
        await host.ask(receive(1, SKUS[0]))
        await host.ask(reserve("r1", 1, SKUS[0]))
        assert 2 <= await host.sample("onhand_unsnapshotted_events")
        assert 1 <= await host.sample("onhand_unsnapshotted_bytes")
        assert 1 / limits.REMEMBERED_MAX == await host.sample("onhand_remembered_ratio")
        await asyncio.sleep(10)
        silence = await host.sample("onhand_journal_silence_seconds", server="0")
        assert silence < limits.PROVE_SECONDS + 1
        host.journal.freeze()
        host.send(receive(1, SKUS[0]))
        await asyncio.sleep(0.1)
        host.send(receive(1, SKUS[0]))
        assert 1 / limits.SHARD_QUEUE_COMMANDS_MAX == await host.sample("onhand_queue_ratio")
        await asyncio.sleep(9)
        assert 9 <= await host.sample("onhand_journal_silence_seconds", server="0")
        host.journal.thaw()
