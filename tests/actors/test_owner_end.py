"""How an owner ends: it leaves, is fenced, stops for what the journal has lost, or breaks."""

import asyncio

import pytest

from actors.phase import Phase
from engine import limits
from engine.codec import Position
from engine.messages import (
    Answer,
    AnyAnswer,
    Commit,
    GetReservation,
    GetStock,
    HandedOff,
    Head,
    MovedTo,
    Status,
    StockView,
)
from tests.actors.servers import eventually
from tests.actors.tenure import break_rules
from tests.actors.trial import (
    REPLY,
    Life,
    Trial,
    receive,
    reserve,
    timeless,
)

# --- leaving ---------------------------------------------------------------------------------


@timeless
async def test_leaving_in_order(trial: Trial) -> None:
    """What is queued is served, what comes later is another's, and nothing is left running."""
    journal = trial.journal()
    life = await trial.serve(journal)
    journal.freeze()
    callers = [life.send(receive(1))]
    await asyncio.sleep(1)
    callers += [life.send(receive(1)), life.send(GetStock("sku"))]
    life.owner.stop()
    assert Phase.LEAVING is life.owner.phase
    assert Answer(Status.MOVED, MovedTo(0, 1, "")) == life.owner.refusal()
    journal.thaw()
    assert Phase.RELEASED is await life.ended()

    assert {Status.OK} == {caller.status for caller in callers}
    assert Status.MOVED is life.send(receive(1)).status
    assert {asyncio.current_task()} == asyncio.all_tasks()


@timeless
async def test_nobody_waits_for_chores(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that leaves hands over as soon as what was queued is answered: what is overdue is
    its heir's, and its own audits and snapshots come to rest after that."""
    life = await trial.serve()
    assert life.owner.auditor is not None
    stop, rested = life.owner.auditor.stop, asyncio.Event()

    async def rest() -> None:
        await rested.wait()
        await stop()

    monkeypatch.setattr(life.owner.auditor, "stop", rest)
    monkeypatch.setattr(life.owner, "_has_chores", lambda: True)
    caller = life.send(receive(1))

    life.owner.stop("host-2")

    await eventually(lambda: life.owner.phase is Phase.RELEASED, 1)
    assert (Status.OK, [HandedOff("host-2")]) == (caller.status, trial.last.events)
    assert not life.task.done()
    rested.set()
    await life.ended()


class Again:
    """One who asks again as soon as it is answered, whatever the answer."""

    deadline = float("inf")

    def __init__(self, life: Life, phases: set[Phase]) -> None:
        self.life = life
        self.phases = phases
        self.count = 0

    def answer(self, index: int, answer: AnyAnswer, head: Head | None = None) -> None:
        self.count += 1
        if self.life.owner.phase in self.phases and self.count < 5_000:
            self.life.owner.submit(self, 0, GetStock("sku"))

    def answer_all(self, index: int, answers: list[AnyAnswer], head: Head | None = None) -> None:
        self.answer(index, answers[0], head)


@timeless
async def test_leaving_under_load(trial: Trial) -> None:
    """Whoever goes on asking does not keep an owner from leaving."""
    life = await trial.serve()
    asker = Again(life, {Phase.SERVING})
    for _ in range(2):
        life.owner.submit(asker, 0, GetStock("sku"))
    await asyncio.sleep(0)
    life.owner.stop()

    assert Phase.RELEASED is await life.ended()
    assert asker.count < 100


@timeless
async def test_leaving_before_it_has_come(trial: Trial) -> None:
    """Who is told to leave while the shard comes up serves what waits for it, and no more."""
    journal = trial.journal()
    journal.freeze()
    life = trial.begin(journal)
    asker = Again(life, {Phase.SERVING})
    waiting = life.send(receive(1))
    life.owner.submit(asker, 0, GetStock("sku"))
    life.owner.stop()
    await asyncio.sleep(1)
    journal.thaw()

    assert Phase.RELEASED is await life.ended()
    assert Status.OK is waiting.status
    assert asker.count < 100


@timeless
async def test_the_end_of_the_process(trial: Trial) -> None:
    """Cancelled in the middle of an append, an owner tells everybody what it knows."""
    journal = trial.journal()
    life = await trial.serve(journal)
    journal.freeze()
    flying = life.send(receive(1))
    await asyncio.sleep(1)
    queued = life.send(receive(1))
    life.task.cancel()
    await asyncio.wait([life.task])

    assert Phase.RELEASED is life.owner.phase
    assert Status.OUTCOME_UNKNOWN is flying.status
    assert Status.MOVED is queued.status


# --- fenced ----------------------------------------------------------------------------------


@timeless
async def test_a_frozen_owner_that_was_replaced(trial: Trial) -> None:
    """It appends nothing and answers nothing that it should not: its waiters learn just that."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(9))
    journal.freeze()
    flying = life.send(reserve("flying"))
    await asyncio.sleep(1)
    queued = life.send(reserve("queued"))
    other = await trial.serve()
    await other.ask(reserve("theirs"))
    stood = trial.store.positions()
    journal.thaw()

    assert Phase.FENCED is await life.ended()
    assert Answer(Status.OUTCOME_UNKNOWN) == await flying.first()
    assert Answer(Status.MOVED, MovedTo(0, 1, "")) == await queued.first()
    assert Status.MOVED is life.send(receive(1)).status
    assert stood == trial.store.positions()
    assert Status.UNKNOWN_RESERVATION is (await other.ask(GetReservation("flying", 0))).status


@timeless
async def test_a_batch_that_came_before_the_claim(trial: Trial) -> None:
    """It counts, though its owner may not say so; asking the new one again finds out."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(9))
    journal.fault_next(REPLY)
    journal.once("read", journal.freeze)
    flying = life.send(reserve("flying"))
    await eventually(lambda: journal.waiting == 1)
    other = await trial.serve()
    journal.thaw()

    assert Phase.FENCED is await life.ended()
    assert Status.OUTCOME_UNKNOWN is flying.status
    assert Status.REPLAYED is (await other.ask(reserve("flying"))).status


@timeless
async def test_reads_are_fenced_as_well(trial: Trial) -> None:
    """A replaced owner does not tell what was true when it was replaced."""
    life = await trial.serve()
    await life.ask(receive(9))
    other = await trial.serve()
    await other.ask(reserve("theirs", 9))
    stale = life.send(GetStock("sku"))

    assert Phase.FENCED is await life.ended()
    assert [Answer(Status.OUTCOME_UNKNOWN)] == stale.answers


@timeless
async def test_an_idle_owner_finds_out(trial: Trial) -> None:
    """Nobody asks it anything: within a second or so it has asked the journal itself."""
    life = await trial.serve()
    await life.idle(30)
    assert not life.task.done()
    assert 20 < trial.tally.barriers < 40
    assert asyncio.get_running_loop().time() - life.owner.proven_at < 2 * limits.PROVE_SECONDS
    await trial.serve()
    await life.idle(2 * limits.PROVE_SECONDS)

    assert Phase.FENCED is life.owner.phase


@timeless
async def test_an_owner_of_a_busy_shard_proves_itself_by_appending(trial: Trial) -> None:
    """Proofs are for those who are idle."""
    life = await trial.serve()
    for _ in range(10):
        await life.ask(receive(1))
        await life.idle(0.5)

    assert 0 == trial.tally.barriers


# --- the journal is not what it was ----------------------------------------------------------


@timeless
async def test_the_journal_forgot_too_much(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is served from a journal that lost what was acknowledged."""
    monkeypatch.setattr(limits, "RING_BYTES_MAX", 300)
    life = await trial.serve()
    await life.go_on(20)
    trial.store.forget(0, Position(1, 5))
    trial.store.restart()
    asked = [life.send(receive(1)), life.send(GetStock("sku"))]

    assert Phase.FAILED is await life.ended()
    assert "Regressed" in life.owner.reason
    assert [Status.OUTCOME_UNKNOWN] * 2 == [caller.status for caller in asked]
    assert Answer(Status.SHARD_STOPPED) == life.owner.refusal()


@timeless
async def test_the_journal_vanished(trial: Trial) -> None:
    """A stream that is gone is not begun anew, not even by the next owner that knew of it."""
    life = await trial.serve()
    await life.ask(receive(1))
    trial.store.drop(0)
    asked = life.send(receive(1))

    assert Phase.FAILED is await life.ended()
    assert Status.OUTCOME_UNKNOWN is asked.status


@timeless
async def test_the_claim_is_within_the_ring(trial: Trial) -> None:
    """Back to before a takeover: the new owner gives back its claim, and all since."""
    await trial.live(1)
    life = await trial.serve()
    await life.ask(receive(9))
    stood = trial.store.positions()
    trial.store.forget(0, Position(2, 0))
    trial.store.restart()

    assert Status.OK is (await life.ask(reserve("r1"))).status
    assert [*stood, Position(2, 3)] == trial.store.positions()
    found = trial.lived()
    await trial.serve()
    assert found == trial.opened.digest


@timeless
async def test_the_same_position_of_another(trial: Trial) -> None:
    """The journal forgot our epoch and another took the same one: the two do not mix."""
    life = await trial.serve()
    await life.ask(receive(100))
    trial.store.forget(0, Position(1, 0))
    trial.store.restart()
    other = await trial.serve()
    while (other.owner.position or Position(0, 0)) < Position(1, 2):
        await other.ask(receive(100))
    ours = life.send(reserve("ours"))
    assert Phase.FENCED is await life.ended()

    assert Status.OUTCOME_UNKNOWN is ours.status
    assert Status.OK is (await other.ask(reserve("theirs"))).status


@timeless
async def test_a_server_that_serves_two_histories(trial: Trial) -> None:
    """Refused by a process that held a stray copy; the process after it takes the batch."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(5))
    journal.fault_next(REPLY)
    stray = []

    def lose() -> None:
        stray.append(trial.store.entries()[-1])
        trial.store.forget(0, stray[0].position)
        trial.store.restart()
        journal.once("append", come_back)

    def come_back() -> None:
        trial.store.append(0, *stray[0], create=False)
        journal.once("read", vanish)

    def vanish() -> None:
        trial.store.forget(0, stray[0].position)
        trial.store.restart()

    journal.once("read", lose)

    assert Status.OK is (await life.ask(receive(5))).status
    assert 10 == _on_hand(await life.ask(GetStock("sku")))


def _on_hand(answer: Answer) -> int:
    assert isinstance(answer.body, StockView)
    return answer.body.on_hand


# --- bugs ------------------------------------------------------------------------------------


@timeless
async def test_a_bug_costs_one_owner(trial: Trial) -> None:
    """Who sent it is told not to again, nothing of the batch is journaled, the shard comes back."""
    life = await trial.serve()
    await life.ask(receive(10))
    stood = trial.store.positions()
    break_rules(life.owner, Commit)
    callers = [life.send(reserve("a")), life.send(Commit("a", 0)), life.send(reserve("b"))]

    assert Phase.BROKEN is await life.ended()
    assert "RuntimeError: a bug" == life.owner.reason
    expected = [Status.NOT_DONE, Status.INVALID, Status.NOT_DONE]
    assert expected == [caller.status for caller in callers]
    assert stood == trial.store.positions()
    other = await trial.serve()
    assert Status.OK is (await other.ask(reserve("a"))).status


@timeless
async def test_who_only_reads_notices_that_the_journal_is_gone(trial: Trial) -> None:
    """Nothing stands after our last record where nothing stands at all: that is looked at, too."""
    life = await trial.serve()
    await life.ask(receive(2))
    trial.store.drop(0)
    await life.idle(3 * limits.PROVE_SECONDS)

    assert Phase.FAILED is life.owner.phase
    assert "the journal is gone" in life.owner.reason


@timeless
async def test_a_journal_that_was_begun_anew_under_its_owner(trial: Trial) -> None:
    """The next id is still free there, and yet it is another's journal."""
    life = await trial.serve()
    await life.ask(receive(1))
    trial.store.drop(0)
    await trial.claim()
    await life.ask(receive(1))
    await life.idle(3 * limits.PROVE_SECONDS)

    assert Phase.FAILED is life.owner.phase
    assert "another's 1-0 stands before 1-3" in life.owner.reason
