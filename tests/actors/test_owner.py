"""The single writer of one shard, from its claim to its end."""

import asyncio

import pytest

from actors.phase import Phase
from actors.tally import Tally
from engine import limits
from engine.codec import Position
from engine.messages import (
    Answer,
    Audit,
    AuditView,
    Commit,
    Expired,
    Extend,
    GetReservation,
    GetStock,
    Head,
    MovementView,
    Release,
    Reserve,
    Reserved,
    State,
    Status,
)
from tests.actors.trial import (
    Trial,
    ownership,
    receive,
    reserve,
    timeless,
)

# --- batches ---------------------------------------------------------------------------------


@timeless
async def test_an_answer_rests_on_its_record(trial: Trial) -> None:
    """It leaves once the batch is acknowledged, and names the record."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(5))
    journal.freeze()
    asked = life.send(reserve("r1"))
    await asyncio.sleep(60)
    assert [] == asked.answers
    assert Position(1, 2) == life.owner.position
    journal.thaw()
    answer = await asked.first()

    assert Status.OK is answer.status
    assert Head(0, 1, 3) == asked.head
    [reserved] = trial.last.events
    assert isinstance(reserved, Reserved)


@timeless
async def test_batches_form_by_themselves(trial: Trial) -> None:
    """What comes while one append is in flight is the next batch; there is never a second one."""
    journal = trial.journal()
    life = await trial.serve(journal)
    journal.freeze()
    callers = [life.send(receive(1))]
    await asyncio.sleep(1)
    callers += [life.send(receive(1)) for _ in range(99)]
    await asyncio.sleep(1)
    assert 1 == journal.waiting
    journal.thaw()
    for caller in callers:
        assert Status.OK is (await caller.first()).status

    assert [1, 99] == [len(record.events) for record in trial.store.records()[3:]]
    assert [2, *[3] * 99] == [caller.head and caller.head.sequence for caller in callers]


@timeless
async def test_a_batch_is_bounded_by_commands(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long queue is served in several batches, in order."""
    monkeypatch.setattr(limits, "BATCH_COMMANDS_MAX", 10)
    life = await trial.serve()
    callers = [life.send(receive(1)) for _ in range(25)]
    await callers[-1].first()

    assert [10, 10, 5] == [len(record.events) for record in trial.store.records()[3:]]
    views = [caller.answers[0].body for caller in callers]
    assert list(range(1, 26)) == [view.version for view in views if isinstance(view, MovementView)]


@timeless
async def test_a_batch_is_bounded_by_bytes(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch closes once its events have reached the size of a record."""
    life = await trial.serve()
    await life.ask(receive(1))
    monkeypatch.setattr(limits, "BATCH_BYTES_MAX", 50)
    callers = [life.send(receive(1)) for _ in range(9)]
    await callers[-1].first()

    assert [3, 3, 3] == [len(record.events) for record in trial.store.records()[4:]]


@timeless
async def test_a_refusal_is_an_answer(trial: Trial) -> None:
    """What is refused neither ends the batch nor stands in the journal."""
    life = await trial.serve()
    await life.ask(receive(1))
    callers = [life.send(reserve("r1")), life.send(reserve("r2")), life.send(Commit("r1", 0))]
    await callers[-1].first()

    assert [Status.OK, Status.INSUFFICIENT_STOCK, Status.OK] == [each.status for each in callers]
    assert 2 == len(trial.last.events)


@timeless
async def test_who_only_reads_appends_nothing(trial: Trial) -> None:
    """Reads and refusals cost a proof that the shard is still ours, and rest on the last record."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(3))
    stood = trial.store.positions()
    journal.operations.clear()
    callers = [life.send(GetStock("sku")), life.send(Commit("r1", 0)), life.send(Release("r2", 0))]
    await callers[-1].first()

    assert [Status.OK, Status.UNKNOWN_RESERVATION] == [each.status for each in callers[:2]]
    assert ["read"] == journal.operations
    assert stood == trial.store.positions()
    assert [Head(0, 1, 2)] * 3 == [caller.head for caller in callers]
    assert 1 == trial.tally.barriers


@timeless
async def test_an_audit_says_where_it_stands(trial: Trial) -> None:
    """The sums are of the record that the answer names."""
    life = await trial.serve()
    first = life.send(receive(3))
    audit = (await life.ask(Audit(0))).body
    assert Status.OK is first.status

    assert isinstance(audit, AuditView)
    assert (1, 2, 3, 0) == (audit.epoch, audit.sequence, audit.on_hand, audit.drift)


@timeless
async def test_audits_at_once(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while another audit is under way learns all that was acknowledged before."""
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 1)
    life = await trial.serve()
    for number in range(50):
        await life.ask(receive(1, f"sku-{number}"))
    first = life.send(Audit(0))
    for _ in range(10):  # it takes one turn of the loop per entry
        await asyncio.sleep(0)
    await life.ask(receive(1, "first"))
    assert [] == first.answers
    second = life.send(Audit(0))
    bodies = [(await each.first()).body for each in (first, second)]

    assert [50, 51] == [body.on_hand for body in bodies if isinstance(body, AuditView)]


@timeless
async def test_an_audit_in_trouble(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that fails is not done, and not tried for ever; the shard is served."""

    def bug(*_: object) -> AuditView:
        raise RuntimeError("a bug")

    life = await trial.serve()
    with monkeypatch.context() as patch:
        patch.setattr("actors.auditor.auditing", bug)
        assert Status.NOT_DONE is (await life.ask(Audit(0))).status

    assert Status.OK is (await life.ask(receive(1))).status
    assert Status.OK is (await life.ask(Audit(0))).status


@timeless
async def test_audits_have_an_end(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait as long as they may, not more of them than may wait, and not for who leaves."""
    monkeypatch.setattr(limits, "SHARD_QUEUE_COMMANDS_MAX", 3)
    journal = trial.journal()
    life = await trial.serve(journal)
    journal.freeze()
    audits = [life.send(Audit(0), 5) for _ in range(4)]
    patient = life.send(receive(1))
    assert Status.OVERLOADED is audits.pop().status
    await life.idle(6)
    assert {Status.NOT_DONE} == {each.status for each in audits}
    waiting = life.send(Audit(0))
    life.owner.stop()
    assert Status.NOT_DONE is life.send(Audit(0)).status
    journal.thaw()

    assert Phase.RELEASED is await life.ended()
    assert Status.OK is patient.status
    assert waiting.status in (Status.OK, Status.NOT_DONE)


# --- time ------------------------------------------------------------------------------------


@timeless
async def test_holds_expire_without_anybody_asking(trial: Trial) -> None:
    """An owner that nobody talks to wakes up for what is overdue, and journals it."""
    life = await trial.serve()
    await life.ask(receive(1))
    await life.ask(reserve("r1", ttl_seconds=5))
    await life.idle(4.6)
    await life.ask(GetStock("sku"))  # so that it need not prove itself in the next second
    assert 1 == life.owner.shard.state.counts[State.RESERVED]
    await life.idle(0.6)

    assert [Expired("r1")] == trial.last.events
    assert Status.OK is (await life.ask(reserve("r2"))).status


@timeless
async def test_downtime_is_not_the_shoppers_fault(trial: Trial) -> None:
    """A hold that ran out while nobody served may be committed until the grace is over."""
    life = await trial.serve()
    await life.ask(receive(2))
    await life.ask(reserve("r1", ttl_seconds=5))
    await life.ask(reserve("r2", ttl_seconds=5))
    await life.crash()
    await asyncio.sleep(60)
    life = await trial.serve(settings=ownership(grace_us=5 * limits.SECOND_US))
    await life.idle(4)
    assert Status.OK is (await life.ask(Commit("r1", 0))).status
    await life.idle(2)

    assert Status.RESERVATION_EXPIRED is (await life.ask(Commit("r2", 0))).status


@pytest.mark.parametrize(("away", "grace"), [(0, 1), (3, 3), (60, 5)])
def test_a_handover_gives_no_more_than_it_took(trial: Trial, away: int, grace: int) -> None:
    """Holds get as much as nobody was served, a second at least, and never more than after a
    crash: a shard that is moved all the time lets them expire nevertheless."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await life.ask(receive(1))
        life.owner.stop("host-2")
        await life.ended()
        await asyncio.sleep(away)
        await trial.serve(settings=ownership(grace_us=5 * limits.SECOND_US))
        opened = trial.opened

        given = (opened.grace_until - opened.opened_at) / limits.SECOND_US
        assert grace == pytest.approx(given, abs=0.2)

    run()


@timeless
async def test_without_grace_downtime_counts(trial: Trial) -> None:
    """The grace is what the operator set, not more."""
    life = await trial.serve()
    await life.ask(receive(2))
    await life.ask(reserve("r1", ttl_seconds=5))
    await life.stop()
    await asyncio.sleep(60)
    life = await trial.serve()

    assert Status.RESERVATION_EXPIRED is (await life.ask(Commit("r1", 0))).status


@timeless
async def test_time_does_not_go_back(trial: Trial) -> None:
    """On a host whose wall clock is behind, the shard goes on from the last stamp."""
    life = await trial.serve()
    await life.ask(receive(2))
    await life.ask(reserve("r1", ttl_seconds=60))
    await life.crash()
    stamp = trial.last.stamp
    trial.wall_offset = -3600
    life = await trial.serve()
    assert stamp <= trial.opened.opened_at < stamp + limits.SECOND_US
    await life.idle(61)

    assert Status.RESERVATION_EXPIRED is (await life.ask(Commit("r1", 0))).status


@timeless
async def test_time_goes_on_from_the_claim(trial: Trial) -> None:
    """A wall clock that is set back between claim and opening takes no time with it."""
    journal = trial.journal()

    def set_back(operation: str) -> None:
        if any(record.position.sequence == 0 for record in trial.store.records()):
            trial.wall_offset = -3600

    await trial.live(1)
    journal.before = set_back
    life = await trial.serve(journal)
    await life.stop()
    stamps = [record.stamp for record in trial.store.records()]

    assert -3600 == trial.wall_offset
    assert sorted(stamps) == stamps


@timeless
async def test_settings_come_with_the_ownership(trial: Trial) -> None:
    """What the operator sets is journaled, and holds from the next opening on."""
    settings = ownership()._replace(finished_window_us=1, returns_window_us=2, keys_window_us=3)
    await (await trial.serve(settings=settings)).stop()
    assert (1, 2, 3) == (
        trial.opened.finished_window_us,
        trial.opened.returns_window_us,
        trial.opened.keys_window_us,
    )
    life = await trial.serve()
    assert limits.FINISHED_WINDOW_US == life.owner.shard.state.finished_window_us


@timeless
async def test_remembering_is_bounded(trial: Trial) -> None:
    """A shard that may remember no more refuses what it would have to remember."""
    life = await trial.serve(settings=ownership()._replace(remembered_max=2))
    await life.ask(receive(9))
    statuses = [(await life.ask(reserve(f"r{number}"))).status for number in range(3)]

    assert [Status.OK, Status.OK, Status.MEMORY_FULL] == statuses


# --- deadlines -------------------------------------------------------------------------------


@timeless
async def test_a_deadline_in_the_queue(trial: Trial) -> None:
    """What no batch has taken by then is certainly not done, and stays undone."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(9))
    journal.freeze()
    life.send(receive(1))
    await asyncio.sleep(1)
    late = life.send(reserve("late"), 5)
    patient = life.send(reserve("patient"), 60)
    await life.idle(6)
    assert [Answer(Status.NOT_DONE)] == late.answers
    journal.thaw()

    assert Status.OK is (await patient.first()).status
    assert Status.UNKNOWN_RESERVATION is (await life.ask(GetReservation("late", 0))).status
    assert 1 == len(late.answers)


@timeless
async def test_a_deadline_in_flight(trial: Trial) -> None:
    """Of what is in an unacknowledged batch nobody knows, until it is asked again."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(9))
    journal.freeze()
    late = life.send(reserve("late"), 5)
    await life.idle(6)
    assert [Answer(Status.OUTCOME_UNKNOWN)] * len(late.answers) == late.answers
    assert Status.OUTCOME_UNKNOWN is late.status
    journal.thaw()

    assert Status.REPLAYED is (await life.ask(reserve("late"))).status


@timeless
async def test_deadlines_behind_later_ones(trial: Trial) -> None:
    """Short deadlines end behind long ones, too, again and again."""
    journal = trial.journal()
    journal.freeze()
    life = trial.begin(journal)
    long = life.send(reserve("a"), 60)
    short = [life.send(reserve("b"), seconds) for seconds in (3, 1, 2)]
    for seconds, expected in ((1.1, [1]), (1, [1, 2]), (1, [0, 1, 2])):
        await life.idle(seconds)
        assert expected == [number for number, each in enumerate(short) if each.answers]
    assert {Status.NOT_DONE} == {each.status for each in short}
    assert [] == long.answers
    journal.thaw()

    assert Status.INSUFFICIENT_STOCK is (await long.first()).status


@timeless
async def test_a_deadline_that_a_batch_finds(trial: Trial) -> None:
    """Between two looks of the host a batch takes nothing that is late already."""
    journal = trial.journal()
    life = await trial.serve(journal)
    journal.freeze()
    first = life.send(receive(9))
    await asyncio.sleep(0.01)
    late = life.send(reserve("late"), 1)
    await asyncio.sleep(2)
    journal.thaw()
    await first.first()

    assert Status.NOT_DONE is (await late.first()).status


@timeless
async def test_deadlines_pass_while_the_journal_is_full(trial: Trial) -> None:
    """OOM: one batch waits for room, its waiters and those behind it are answered in time."""
    life = await trial.serve()
    await life.ask(receive(9))
    trial.store.busy = "OOM"
    flying = life.send(reserve("flying"), 5)
    await life.idle(1)
    queued = life.send(reserve("queued"), 5)
    await life.idle(6)
    assert Status.OUTCOME_UNKNOWN is flying.status
    assert Status.NOT_DONE is queued.status
    trial.store.busy = None

    assert Status.REPLAYED is (await life.ask(reserve("flying"))).status
    assert Status.OK is (await life.ask(reserve("queued"))).status


# --- counting --------------------------------------------------------------------------------


@timeless
async def test_what_is_counted(trial: Trial) -> None:
    """Batches, bytes, events, proofs, and what came of every command."""
    life = await trial.serve()
    await life.ask(receive(1))
    await life.ask(reserve("r1"))
    await life.ask(reserve("r2"))
    await life.ask(Extend("r1", 900, 0))
    tally = trial.tally

    assert (3, 3, 1) == (tally.appends, tally.batched, tally.barriers)
    written = sum(len(entry.record) for entry in trial.store.entries()[3:])
    assert written == tally.appended_bytes
    assert 3 == sum(tally.seconds) == sum(tally.batch) == tally.batch[0]
    outcomes = tally.outcomes[Reserve]
    assert (1, 1) == (outcomes[Status.OK], outcomes[Status.INSUFFICIENT_STOCK])
    assert 2 == sum(outcomes)


@timeless
async def test_batches_and_times_are_counted_by_size(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in the first bucket that holds it, the largest in the last."""
    monkeypatch.setattr(limits, "BATCH_COMMANDS_MAX", 5_000)
    monkeypatch.setattr("actors.owner.monotonic", asyncio.get_running_loop().time)
    journal = trial.journal()
    life = await trial.serve(journal)
    for count in (1, 3, 2_000):
        callers = [life.send(receive(1)) for _ in range(count)]
        journal.freeze()
        await asyncio.sleep(count / 100)
        journal.thaw()
        await callers[-1].first()

    buckets = len(Tally.BATCH)
    expected = [1, 0, 1, *[0] * (buckets - 3), 1]
    assert expected == trial.tally.batch
    seconds = dict(zip([*Tally.SECONDS, None], trial.tally.seconds, strict=True))
    assert {0.01: 1, 0.05: 1, None: 1} == {at: count for at, count in seconds.items() if count}
    assert 20.04 == pytest.approx(trial.tally.elapsed)
