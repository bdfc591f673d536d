"""Whoever has kept up with a shard takes it over as if it had read all of it then."""

import asyncio
import gc
import weakref
from typing import Any

import pytest

from actors.claim import Floor
from actors.followers import Followers
from actors.journal import Entry, JournalError
from actors.pace import TICK_SECONDS, SharedPace
from actors.phase import Phase
from actors.recovery import Recovery
from engine import limits
from engine.codec import START, Position, encode_record
from engine.messages import Audit, AuditView, Claimed, GetStock, HandedOff, Status, StockView
from engine.shard import Shard
from engine.state import ShardState
from tests.actors.servers import eventually
from tests.actors.trial import FaultyJournal, Trial, ownership, receive, timeless

LITTLE = 6
"""Operations of a claim, of what is read before and after it, and of `opened`."""


async def keep_up() -> None:
    """Long enough for a follower to read what has come."""
    await asyncio.sleep(3 * limits.FOLLOW_SECONDS)


@timeless
async def test_little_is_left_to_read(trial: Trial) -> None:
    """Who takes over has read all but the end, however long the journal is."""
    life = await trial.serve()
    await life.go_on(200)
    journal = trial.journal()
    recovery = await trial.follow(journal)
    await life.go_on(50)
    await keep_up()
    before = len(journal.operations)
    await life.crash()

    successor = await trial.serve(journal, recovery=recovery)

    assert len(journal.operations) - before < 3 * LITTLE
    assert trial.lived() == successor.owner.shard.digest()
    answer = await successor.ask(GetStock("sku-49"))
    assert isinstance(answer.body, StockView)
    assert 100 == answer.body.on_hand


@timeless
async def test_who_leaves_says_to_whom(trial: Trial) -> None:
    """The last record of an owner that hands over names the host that is to come, even if whoever
    says it again does not."""
    life = await trial.serve()
    await life.go_on(3)

    life.owner.stop("host-2")
    life.owner.stop()

    assert Phase.RELEASED is await life.ended()
    assert [HandedOff("host-2")] == trial.last.events
    assert Phase.SERVING is (await trial.serve()).owner.phase


@timeless
async def test_snapshots_meanwhile(trial: Trial, small_snapshots: None) -> None:
    """What was followed past snapshots and trims is known as well as what is read anew: the next
    owner keeps the right generations, and goes on to trim."""
    life = await trial.serve()
    await life.go_on(10)
    recovery = await trial.follow()
    await life.go_on(40)
    await keep_up()
    kept = life.owner.snapshotter
    assert kept is not None
    generations = list(kept.generations)
    await life.crash()

    successor = await trial.serve(recovery=recovery)

    assert successor.owner.snapshotter is not None
    assert generations == successor.owner.snapshotter.generations
    await successor.go_on(60)
    await successor.crash()
    assert trial.store.positions()[0] > generations[-1]
    successor = await trial.serve()
    assert trial.lived() == successor.owner.shard.digest()


@timeless
async def test_a_server_that_went_back(trial: Trial) -> None:
    """Records that were followed and are gone count for nothing: what stands is read anew."""
    life = await trial.serve()
    await life.go_on(5)
    recovery = await trial.follow()
    await life.crash()
    trial.store.forget(0, Position(1, 4))
    trial.store.restart()

    successor = await trial.serve(recovery=recovery)

    assert trial.lived() == successor.owner.shard.digest()
    answer = await successor.ask(GetStock("sku-4"))
    assert Status.UNKNOWN_SKU is answer.status


@timeless
async def test_another_end_of_the_journal(trial: Trial) -> None:
    """A record that stands where a followed one stood, and is another, is noticed."""
    life = await trial.serve()
    await life.go_on(5)
    recovery = await trial.follow()
    recovery.halt()
    await life.crash()
    trial.store.forget(0, Position(1, 6))
    trial.store.restart()
    other = await trial.serve()
    await other.go_on(9)
    await other.crash()

    successor = await trial.serve(recovery=recovery)

    assert trial.lived() == successor.owner.shard.digest()
    assert 3 == successor.owner.epoch


@timeless
async def test_floors_count_for_followers(trial: Trial) -> None:
    """What was acknowledged must be in what was followed, with its checksum, or nobody serves."""
    life = await trial.serve()
    await life.go_on(5)
    within = trial.store.records()[4]
    recovery = await trial.follow()
    await life.crash()

    wrong = trial.begin(recovery=recovery, floors=[Floor(within.position, 12345)])

    assert Phase.FAILED is await wrong.settled()
    assert f"record {within.position}: checksum" in wrong.owner.reason
    right = Floor(within.position, within.checksum)
    assert Phase.SERVING is (await trial.serve(floors=[right])).owner.phase


@timeless
async def test_what_is_trimmed_ahead_of_a_follower(trial: Trial, small_snapshots: None) -> None:
    """A follower that was slow finds a gap, and begins again with the newest snapshot."""
    life = await trial.serve()
    await life.go_on(10)
    journal = trial.journal()
    recovery = await trial.follow(journal)
    journal.freeze()
    await life.go_on(60)
    assert trial.store.positions()[0].sequence > 20
    journal.thaw()

    await eventually(lambda: not recovery.is_near)
    await eventually(lambda: recovery.is_near)
    await life.crash()

    successor = await trial.serve(recovery=recovery)
    assert trial.lived() == successor.owner.shard.digest()


@timeless
async def test_what_cannot_be_followed_is_read_ever_less(trial: Trial) -> None:
    """A journal that is damaged stays so: it is read anew now and then, not for ever as before."""
    life = await trial.serve()
    await life.go_on(5)
    entries, journal = trial.store.entries(), trial.journal()
    position, record = whole = entries[3]
    entries[3] = Entry(position, bytes([*record[:-1], record[-1] ^ 1]))
    recovery = ownership(trial.shards).recovery(0, journal)
    near = asyncio.Event()
    recovery.follow(near.set)

    await asyncio.sleep(600)
    reads = len(journal.operations)
    entries[3] = whole

    await asyncio.wait_for(near.wait(), limits.FOLLOW_AGAIN_SECONDS_MAX)
    assert 10 < reads < 40
    recovery.leave()


@timeless
async def test_others_have_their_turn_within_a_chunk(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is restored in slices: shards that this host owns go on meanwhile."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 30)
    life = await trial.serve()
    await life.go_on(40)
    assert trial.last.snapshot != START
    monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", 5)
    shards: list[Shard] = []

    def make() -> Shard:
        shards.append(ownership(trial.shards).make_shard(0))
        return shards[-1]

    recovery = Recovery(trial.journal(), make, "here")
    near = asyncio.Event()
    recovery.follow(near.set)
    seen = set[int]()
    while not near.is_set():
        seen |= {shard.state.skus.size for shard in shards}
        await asyncio.sleep(0)

    assert len({size for size in seen if 0 < size < 30}) > 3
    recovery.leave()


@timeless
async def test_pages_are_bounded_by_bytes(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large records fewer are read at once."""
    life = await trial.serve()
    await life.go_on(150)
    monkeypatch.setattr(limits, "AUDIT_PAGE_BYTES_MAX", 500)
    journal = trial.journal()
    recovery = ownership(trial.shards).recovery(0, journal)
    await life.crash()

    await trial.serve(journal, recovery=recovery)

    assert len(journal.operations) > 10 + LITTLE


@timeless
async def test_followers_come_and_go(trial: Trial) -> None:
    """Those that are wanted are followed, and no others; what is taken is not followed any more."""
    life = await trial.serve()
    await life.go_on(3)
    journals: list[FaultyJournal] = []

    def make(shard: int) -> Recovery:
        journals.append(trial.journal())
        return ownership(trial.shards).recovery(shard, journals[-1])

    told: list[int] = []
    followers = Followers(make, lambda: told.append(1))
    followers.follow([0])
    followers.follow([0])
    await eventually(lambda: [0] == followers.near())
    followers.follow([])
    await keep_up()
    read = len(journals[0].operations)
    await keep_up()

    assert (1, [1], []) == (len(journals), told, followers.near())
    assert read == len(journals[0].operations)
    followers.follow([0])
    await eventually(lambda: [0] == followers.near())
    recovery = followers.take(0)
    await life.crash()
    successor = await trial.serve(recovery=recovery)
    assert ([], None) == (followers.near(), followers.take(0))
    assert Status.OK is (await successor.ask(receive(1))).status


@pytest.mark.parametrize("batches", [0, 1])
def test_a_shard_that_was_never_begun(trial: Trial, batches: int) -> None:
    """There is nothing to follow yet; what comes is read like anything else."""

    @timeless
    async def run() -> None:
        recovery = await trial.follow()
        await trial.live(batches)
        await keep_up()
        successor = await trial.serve(recovery=recovery)
        assert trial.lived() == successor.owner.shard.digest()

    run()


# --- taking over -----------------------------------------------------------------------------


@timeless
async def test_a_handover_asks_for_little(trial: Trial) -> None:
    """Nobody is served meanwhile: two appends, and two reads, however many floors there are."""
    life = await trial.serve()
    await life.go_on(20)
    journal = trial.journal()
    recovery = await trial.follow(journal)
    within = trial.store.records()[9]
    life.owner.stop("host-2")
    await life.ended()
    journal.operations.clear()
    last = trial.last

    floors = [Floor(each.position, each.checksum) for each in (within, last)]
    await trial.serve(journal, recovery=recovery, floors=floors)

    assert ["read", "append", "read", "append"] == journal.operations


@timeless
async def test_what_was_followed_is_not_summed_up(trial: Trial) -> None:
    """Its `opened` has no digest, which would take longer than all the rest; an audit compares
    what is served all the same, and one that has drifted is found."""
    life = await trial.serve()
    await life.go_on(3)
    recovery = await trial.follow()
    await life.crash()
    successor = await trial.serve(recovery=recovery)
    clean = (await successor.ask(Audit(0))).body
    stock = successor.owner.shard.state.skus.get("sku-1")
    assert stock is not None
    stock.locations["here"].on_hand += 1
    drifted = (await successor.ask(Audit(0))).body

    assert b"" == trial.opened.digest
    assert isinstance(clean, AuditView)
    assert isinstance(drifted, AuditView)
    assert (True, 0) == (clean.complete, clean.drift)
    assert drifted.drift > 0


@timeless
async def test_our_own_claim_is_not_followed(trial: Trial) -> None:
    """Whoever is about to claim reads no further until that is done, or the claim would be taken
    for another's record, and everything be read anew."""
    life = await trial.serve()
    await life.go_on(20)
    journal = trial.journal()
    recovery = await trial.follow(journal)
    await life.crash()
    append = journal.append

    async def slowly(*arguments: Any, **options: Any) -> None:
        await append(*arguments, **options)
        await asyncio.sleep(3 * limits.FOLLOW_SECONDS)

    journal.append = slowly  # type: ignore[method-assign]
    journal.operations.clear()
    successor = await trial.serve(journal, recovery=recovery)

    assert ["read", "append", "read", "append"] == journal.operations
    assert trial.lived() == successor.owner.shard.digest()


@timeless
async def test_what_is_half_read_is_read_to_its_end(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, small_snapshots: None
) -> None:
    """Who is assigned a shard in the middle of its snapshot does not begin again."""
    await trial.live(20)
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 1_000)
    journal = trial.journal()
    recovery = ownership(trial.shards).recovery(0, journal)
    stuck = asyncio.Event()

    def stick(name: str) -> None:
        if journal.operations.count("load") == 3:
            journal.freeze()
            stuck.set()

    journal.before = stick
    recovery.follow(lambda: None)
    await stuck.wait()
    journal.before = lambda name: None

    life = trial.begin(journal, recovery=recovery)
    await asyncio.sleep(1)
    journal.thaw()

    assert Phase.SERVING is await life.settled()
    assert trial.lived() == life.owner.shard.digest()
    assert b"" == trial.opened.digest


@timeless
async def test_floors_from_long_ago(trial: Trial, small_snapshots: None) -> None:
    """A mark of an earlier ownership may be of what was trimmed since. A follower that had read it
    does not look for it: snapshots stand for it by now."""
    life = await trial.serve()
    await life.go_on(3)
    recovery = await trial.follow()
    await life.go_on(3)
    await keep_up()
    old = trial.last
    await life.go_on(400)
    await keep_up()
    assert trial.store.positions()[0] > old.position
    await life.crash()

    await trial.serve(recovery=recovery, floors=[Floor(old.position, old.checksum)])

    assert b"" == trial.opened.digest


# --- keeping up ------------------------------------------------------------------------------


@timeless
async def test_who_lags_is_not_near(trial: Trial) -> None:
    """Near is who reads moments later what is lived; whoever takes longer says so, and says when
    it has caught up."""
    life = await trial.serve()
    await life.go_on(3)
    pace = Pace()
    recovery = ownership(trial.shards).recovery(0, trial.journal(), pace.spend)
    told: list[int] = []
    recovery.follow(lambda: told.append(1))
    await eventually(lambda: recovery.is_near)

    pace.pause = 2.0
    await life.go_on(5)
    assert not recovery.is_near
    pace.pause = 0.0
    await eventually(lambda: recovery.is_near)

    assert [1, 1] == told
    recovery.leave()


class Pace:
    """As slow as it is told to be."""

    def __init__(self) -> None:
        self.pause = 0.0

    async def spend(self, entries: int) -> None:
        await asyncio.sleep(self.pause)


@pytest.mark.parametrize("error", [JournalError("nonsense"), ZeroDivisionError()])
def test_nothing_ends_the_following(trial: Trial, error: Exception) -> None:
    """Whatever goes wrong: it is near no more, and is read anew after a while."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await life.go_on(3)
        journal = trial.journal()
        recovery = await trial.follow(journal)

        def fail() -> None:
            raise error

        journal.once("read", fail)
        await eventually(lambda: not recovery.is_near)
        await eventually(lambda: recovery.is_near)
        recovery.leave()

    run()


@timeless
async def test_what_is_left_is_free_at_once(trial: Trial) -> None:
    """The memory of a shard goes when it is followed no more, or is read anew: the collector seldom
    comes by on a host."""
    life = await trial.serve()
    await life.go_on(3)
    shards: list[weakref.ref[ShardState]] = []

    def make() -> Shard:
        shard = ownership(trial.shards).make_shard(0)
        shards.append(weakref.ref(shard.state))
        return shard

    gc.disable()
    try:
        followers = Followers(lambda shard: Recovery(trial.journal(), make, "here"), lambda: None)
        followers.follow([0])
        await eventually(lambda: [0] == followers.near())
        followers.follow([])
        await keep_up()
        followers.follow([0])
        await eventually(lambda: [0] == followers.near())
        recovery = followers.take(0)
        await life.crash()
        trial.store.forget(0, Position(1, 3))
        trial.store.restart()
        await trial.serve(recovery=recovery)
        left = [each() is None for each in shards]
    finally:
        gc.enable()

    assert [True, True, False] == left


@timeless
async def test_followers_share_one_pace() -> None:
    """Where nobody is served each goes on after a turn of the loop; where somebody is, all of them
    together take the time that was set for their entries."""
    loop, serving = asyncio.get_running_loop(), False
    pace = SharedPace(lambda: serving)

    async def work() -> None:
        for _ in range(100):
            await pace.spend(limits.AUDIT_SLICE_ENTRIES)

    async def taken() -> float:
        began = loop.time()
        await asyncio.gather(*(work() for _ in range(5)))
        return loop.time() - began

    assert 0 == await taken()
    serving = True
    expected = 500 * limits.AUDIT_SLICE_ENTRIES * limits.FOLLOW_ENTRY_SECONDS
    assert expected == pytest.approx(await taken(), abs=TICK_SECONDS)


@timeless
async def test_a_claim_that_was_made_again_upon_another_past(trial: Trial) -> None:
    """The server has gone back, and whoever had claimed, and was not answered, has claimed again:
    the last record that was read stands where it stood, and what it stood upon is gone."""
    life = await trial.serve()
    await life.go_on(6)
    lost = trial.store.records()[-3].position
    await life.crash()
    claimed = Position(trial.last.position.epoch + 1, 0)
    record, _ = encode_record(0, claimed, 0, 0, START, [Claimed(b"nonce", "host-2")])
    trial.store.append(0, claimed, record, False)
    recovery = await trial.follow()

    trial.store.forget(0, lost)
    trial.store.append(0, claimed, record, False)
    successor = await trial.serve(recovery=recovery)

    assert trial.lived() == successor.owner.shard.digest()
