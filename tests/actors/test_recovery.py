"""Shards come back from what stands in the journal, or refuse to, and say why."""

import asyncio
from pathlib import Path
from random import Random

import msgspec
import pytest

from actors.appender import FencedError
from actors.claim import Floor, GenesisError, check_installation, claim
from actors.journal import Entry
from actors.marks import Marks, marks_path, slot_offsets
from actors.ownership import Ownership
from actors.phase import Phase
from engine import limits
from engine.codec import GENESIS, START, Position, Record, encode_record
from engine.messages import Claimed, Genesis, GetStock, Opened, Passed, Status, StockView
from engine.placement import HASH
from tests.actors.servers import eventually
from tests.actors.trial import (
    BUSY,
    REPLY,
    REQUEST,
    START_SECONDS,
    TimelessLoop,
    Trial,
    ownership,
    receive,
    replayed,
    reserve,
    timeless,
)

# --- claims ----------------------------------------------------------------------------------


@timeless
async def test_the_first_start(trial: Trial) -> None:
    """Genesis says what never changes, the claim who came, `opened` what was found."""
    settings = ownership(cluster_id="here", grace_us=7)
    await trial.serve(settings=settings)

    genesis, claimed, begun = trial.store.records()
    assert [GENESIS, Position(1, 0), Position(1, 1)] == trial.store.positions()
    assert [Genesis("here", 1, HASH)] == genesis.events
    assert [Claimed((1).to_bytes(16), "host")] == claimed.events
    now = START_SECONDS * limits.SECOND_US
    digest = replayed([genesis], 0, 1).digest()
    windows = settings.finished_window_us, settings.returns_window_us, settings.keys_window_us
    assert [Opened(0, 1, genesis.checksum, digest, now, now + 7, *windows)] == begun.events
    assert [0, claimed.checksum] == [claimed.previous, begun.previous]


@timeless
async def test_the_next_start(trial: Trial) -> None:
    """A new epoch follows on the last record of the one before, and knows all that it knew."""
    await trial.live(3)
    stood = trial.last
    found = trial.lived()
    life = await trial.serve()

    assert [Position(2, 0), Position(2, 1)] == trial.store.positions()[-2:]
    said = trial.opened
    assert (*stood.position, stood.checksum) == tuple(msgspec.structs.astuple(said))[:3]
    assert found == said.digest
    answer = await life.ask(GetStock("sku-2"))
    assert isinstance(answer.body, StockView)
    assert 3 == answer.body.on_hand


@pytest.mark.parametrize("seed", range(16))
def test_one_of_many_claimants_serves(tmp_path: Path, seed: int) -> None:
    """However claims interleave, on a new journal or on an old one, exactly one owner is left."""

    @timeless
    async def run() -> None:
        random = Random(seed)
        trial = Trial(tmp_path)
        if seed % 2:
            await trial.live(1)
        lives = []
        for _ in range(random.randrange(2, 6)):
            lives.append(trial.begin())
            for _ in range(random.randrange(6)):
                await asyncio.sleep(0)
        for life in lives:
            await life.settled()
            life.owner.poke(prove=True)
        await asyncio.sleep(5)

        phases = sorted(life.owner.phase.value for life in lives)
        assert [*["fenced"] * (len(lives) - 1), "serving"] == phases

    run()


@pytest.mark.parametrize("fault", [REQUEST, REPLY, BUSY])
def test_a_start_survives_any_fault(tmp_path: Path, small_snapshots: None, fault: str) -> None:
    """Whichever operation of a start gets lost, on a new journal, an old or a trimmed one."""

    async def start(batches: int, number: int = -1) -> int:
        trial = Trial(tmp_path)
        if batches:
            await trial.live(batches)
        journal = trial.journal()
        journal.faults = {number: fault, number + 3: fault}
        life = await trial.serve(journal)
        assert Status.OK is (await life.ask(receive(1))).status
        assert trial.lived() == life.owner.shard.digest()
        await life.stop()
        positions = [position for position, _ in trial.store.history[0]]
        assert sorted(set(positions)) == positions
        return len(journal.operations)

    for batches in (0, 20):
        with asyncio.Runner(loop_factory=TimelessLoop) as runner:
            for number in range(runner.run(start(batches))):
                runner.run(start(batches, number))


@timeless
async def test_an_epoch_is_above_all_that_is_known(trial: Trial) -> None:
    """Not only above the stream's: a floor may tell of owners that the stream has forgotten."""
    await trial.live(1)
    floors = [Floor(Position(7, 3), None), Floor(Position(4, 9), None)]

    assert Position(8, 0) == (await trial.claim(floors)).position


@timeless
async def test_anothers_claim_of_the_same_epoch(trial: Trial) -> None:
    """The nonce tells whose it is, even if the server's reply does not."""
    await trial.live(1)
    journal = trial.journal()
    journal.fault_next("", "", REPLY)
    taken = []
    journal.once("append", lambda: taken.append(take(trial, Position(2, 0))))

    with pytest.raises(FencedError, match="2-0 is another's"):
        await claim(
            journal,
            0,
            shards=1,
            cluster_id="here",
            host="host",
            nonce=b"ours",
            stamp=1,
            floors=[],
        )
    assert trial.store.entries()[-1:] == taken


def take(trial: Trial, position: Position) -> Entry:
    """Somebody else claims the shard."""
    record, _ = encode_record(0, position, 1, 0, START, [Claimed(b"theirs", "elsewhere")])
    trial.store.append(0, position, record, create=False)
    return trial.store.entries()[-1]


@timeless
async def test_a_claim_that_was_lost_and_taken(trial: Trial) -> None:
    """The server forgot our claim, and another made one of the same epoch: it is not ours."""
    await trial.live(1)
    journal = trial.journal()

    def lose() -> None:
        trial.store.forget(0, Position(2, 0))
        trial.store.restart()
        take(trial, Position(2, 0))

    journal.once("append", lambda: journal.once("read", lose))
    life = trial.begin(journal)

    assert Phase.FENCED is await life.ended()
    assert "2-0 is another's claim" in life.owner.reason


@timeless
async def test_a_claim_carries_the_pointer(trial: Trial, small_snapshots: None) -> None:
    """The newest snapshot is named by every record, so that the last one is enough to find it."""
    _, newest = await trial.generations()
    await trial.claim()

    assert newest == trial.last.snapshot


@timeless
async def test_no_journal_where_there_was_one(trial: Trial) -> None:
    """A journal that somebody knows records of is not begun anew."""
    seen = [(5, None), (7, 3), (7, None)]  # by gateways, too, which know no checksums
    floors = [Floor(Position(1, sequence), checksum) for sequence, checksum in seen]
    reason = await trial.refused(floors=floors)

    assert "no journal, though 1-7 was acknowledged" in reason
    assert {} == trial.store.history


@timeless
async def test_marks_are_floors(trial: Trial) -> None:
    """What is marked on this machine counts like what others have seen."""
    marks = Marks(trial.directory)
    marks.note(0, Position(3, 3), 7)
    await marks.write()

    assert "3-3 was acknowledged" in await trial.refused()


@timeless
async def test_an_illegible_mark(trial: Trial) -> None:
    """Who cannot read how far the journal must reach does not serve it."""
    await trial.live(1)
    marks = Marks(trial.directory)
    marks.note(0, trial.last.position, trial.last.checksum)
    await marks.write()
    data = bytearray(marks_path(trial.directory).read_bytes())
    for offset in slot_offsets(0):
        data[offset + 20] ^= 1
    marks_path(trial.directory).write_bytes(data)

    assert "CorruptMark" in await trial.refused()


@timeless
async def test_an_emptied_stream(trial: Trial) -> None:
    """A stream without records that refuses a first one was somebody's."""
    await trial.live(1)
    trial.store.trim(0, Position(99, 0))

    assert "was in use and is empty now" in await trial.refused()


@timeless
async def test_records_deleted_at_the_end(trial: Trial) -> None:
    """The claim that is next is refused though no newer one stands: there is no way on."""
    await trial.live(1)
    await trial.live(1)
    del trial.store.entries()[-3:]

    assert "the claim 2-0 is refused" in await trial.refused()


# --- of this installation --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (ownership(7), "of 1 shards by crc32, not of 7"),
        (ownership(cluster_id="elsewhere"), "of installation here, this is elsewhere"),
    ],
)
@pytest.mark.parametrize("batches", [3, 20])
def test_another_installation(
    trial: Trial, small_snapshots: None, settings: Ownership, reason: str, batches: int
) -> None:
    """Who was set up otherwise is refused, before it has fenced anybody."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await life.go_on(batches)
        stood = trial.store.positions()

        assert reason in await trial.refused(settings=settings)
        assert stood == trial.store.positions()
        assert Status.OK is (await life.ask(receive(1))).status

    run()


@timeless
async def test_another_hash(trial: Trial) -> None:
    """SKUs that were placed by another hash would be looked for in the wrong shard."""
    genesis = encode_record(0, GENESIS, 1, 0, START, [Genesis("here", 1, "md5")])[0]
    trial.store.append(0, GENESIS, genesis, create=True)

    assert "of 1 shards by md5" in await trial.refused()


@timeless
async def test_an_installation_without_a_name(trial: Trial) -> None:
    """Whoever does not know its id yet accepts the one that it finds."""
    await trial.live(1)
    await check_installation(trial.journal(), 0, shards=1, cluster_id="")
    with pytest.raises(GenesisError):
        await check_installation(trial.journal(), 0, shards=1, cluster_id="x")


# --- floors ----------------------------------------------------------------------------------


async def two_epochs(trial: Trial) -> list[Record]:
    """1-0 … 1-4, 2-0 … 2-4"""
    await trial.live(3)
    await trial.live(3)
    records = trial.store.records()
    assert Position(1, 4) == records[5].position
    assert Position(2, 4) == records[-1].position
    return records


def where(records: list[Record], epoch: int, sequence: int) -> Floor:
    """A floor that the journal meets."""
    [found] = [each for each in records if each.position == (epoch, sequence)]
    return Floor(found.position, found.checksum)


@timeless
async def test_floors_that_are_met(trial: Trial) -> None:
    """Any record that stands, with its checksum or without, several at once, repeatedly."""
    records = await two_epochs(trial)
    floors = [Floor(each.position, each.checksum) for each in records]
    floors += [Floor(each.position, None) for each in records]

    await trial.serve(floors=floors)


@pytest.mark.parametrize(
    ("position", "checksum", "reason"),
    [
        (Position(2, 5), None, "ends at 2-4, 2-5 was acknowledged"),
        (Position(2, 5), 7, "ends at 2-4, 2-5 was acknowledged"),
        (Position(9, 0), None, "ends at 2-4, 9-0 was acknowledged"),
        (Position(2, 4), 7, "record 2-4: checksum"),
        (Position(1, 3), 7, "record 1-3: checksum"),
        (Position(0, 1), 7, "record 0-1: checksum"),
        (Position(1, 5), None, "1-5 was acknowledged, and is not there"),
        (Position(1, 2**40), None, f"1-{2**40} was acknowledged, and is not there"),
        (Position(0, 2), None, "0-2 was acknowledged, and is not there"),
    ],
)
def test_floors_that_are_not_met(
    trial: Trial, position: Position, checksum: int | None, reason: str
) -> None:
    """Beyond the end, within an epoch that was overrun, or another record in its place."""

    @timeless
    async def run() -> None:
        records = await two_epochs(trial)
        floors = [where(records, 2, 1), Floor(position, checksum), where(records, 1, 4)]

        assert reason in await trial.refused(floors=floors)

    run()


@timeless
async def test_who_did_not_know_what_was_lost(trial: Trial) -> None:
    """A lost end stays lost: the epochs after it do not hide it from one who knows better."""
    await trial.live(3)
    known = trial.last
    trial.store.forget(0, known.position)
    await trial.live(9)

    floor = Floor(known.position, known.checksum)
    assert "1-4 was acknowledged, and is not there" in await trial.refused(floors=[floor])


@timeless
async def test_floors_around_a_cut(trial: Trial, small_snapshots: None) -> None:
    """At the cut the snapshot vouches for the record, below it nobody can any more."""
    older, newest = await trial.generations()
    [cut] = [each for each in trial.store.records() if each.position == newest]
    within = Position(newest.epoch, newest.sequence - 1)

    for met in (Floor(newest, cut.checksum), Floor(within, 7), Floor(older, 7), Floor(START, 7)):
        await (await trial.serve(floors=[met])).stop()
    assert f"record {newest}: checksum" in await trial.refused(floors=[Floor(newest, 12345)])


# --- others, meanwhile -----------------------------------------------------------------------


@timeless
async def test_a_recovery_that_was_overtaken(trial: Trial, small_snapshots: None) -> None:
    """What a slow claimant reads may have been trimmed by its successor: fenced, not corrupt."""
    await trial.live(20)
    slow = trial.journal()
    slow.before = lambda name: slow.freeze() if "append" in slow.operations[:-1] else None
    late = trial.begin(slow)
    await eventually(lambda: late.owner.phase is Phase.RECOVERING)
    successor = await trial.serve()
    await successor.go_on(30)
    slow.before = lambda name: None
    slow.thaw()

    assert Phase.FENCED is await late.ended()
    assert Phase.SERVING is successor.owner.phase


@timeless
async def test_a_claim_that_was_overtaken(trial: Trial) -> None:
    """The last of two claims counts, even if the first could still read all it needs."""
    await trial.live(3)
    first = trial.journal()
    first.before = lambda name: first.freeze() if name == "append" else None
    late = trial.begin(first)
    await eventually(lambda: first.waiting == 1)
    second = await trial.serve()
    first.before = lambda name: None
    first.thaw()

    assert Phase.FENCED is await late.ended()
    assert Status.OK is (await second.ask(receive(1))).status


@timeless
async def test_a_claim_that_is_lost(trial: Trial) -> None:
    """Acknowledged, and gone before the journal was read to its end: nobody serves on that, but it
    may be claimed again."""
    await trial.live(3)
    journal = trial.journal()

    def forget(name: str) -> None:
        if journal.operations[-2:] == ["append", "read"]:
            trial.store.forget(0, Position(2, 0))
            trial.store.restart()

    journal.before = forget

    life = trial.begin(journal)
    assert Phase.BROKEN is await life.ended()
    assert "our claim 2-0 is gone" in life.owner.reason
    assert Status.MOVED is life.send(receive(1)).status


@timeless
async def test_progress_is_told(trial: Trial, small_snapshots: None) -> None:
    """Who decides about slow recoveries sees that they go on, chunk by chunk, page by page."""
    await trial.live(20)
    seen = set()
    life = trial.begin()
    while life.owner.phase in (Phase.CLAIMING, Phase.RECOVERING):
        seen.add(life.owner.progress)
        await asyncio.sleep(0)

    assert len(seen) > 3


@timeless
async def test_many_pages(trial: Trial) -> None:
    """A journal is read to its end, however many reads that takes."""
    life = await trial.serve()
    for number in range(300):
        await life.ask(reserve(f"r{number}"))
        await life.ask(receive(1))
    await life.stop()
    found = trial.lived()
    await trial.serve()

    assert found == trial.opened.digest


@timeless
async def test_passes_are_nothing(trial: Trial) -> None:
    """Records that only say that time passes leave the state as it was."""
    life = await trial.serve()
    await life.ask(receive(1))
    before = life.owner.shard.digest()
    assert life.owner.appender is not None
    await life.owner.appender.append(trial.last.stamp, [Passed()])
    await life.stop()
    await trial.serve()

    assert before == trial.opened.digest
