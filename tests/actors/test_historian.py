"""The past of a shard: as it was, whoever asks and whoever owns it, or a precise refusal."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.archive import Archive
from actors.historian import Historian
from actors.journal import Entry
from actors.memory_journal import MemoryJournal
from actors.pending import NOT_DONE
from actors.phase import Phase
from engine import limits
from engine.codec import GENESIS, START, Position, encode_record
from engine.history import KINDS, Movements, Replay
from engine.messages import (
    Claimed,
    Command,
    Commit,
    Counters,
    Event,
    GetStock,
    GetStockAsOf,
    LedgerEntry,
    LedgerPage,
    LineRequest,
    ListMovements,
    PlaceChange,
    Receive,
    Received,
    Reserve,
    Status,
    StockAsOf,
    StockView,
    Transfer,
)
from engine.shard import Shard
from tests.actors.chronicle import Chronicle, detail, list_all
from tests.actors.servers import eventually
from tests.actors.trial import (
    REPLY,
    REQUEST,
    Life,
    Trial,
    receive,
    timeless,
)
from tests.engine.comparison import SKUS, UNKNOWN_SKU

POINTS = 400
NOTHING = Counters(0, 0, 0, 0)


async def check_points(chronicle: Chronicle, life: Life, points: int) -> int:
    """Compare the stock as of random moments, by time and by position, with the model's."""
    random, agreed = chronicle.random, 0
    for number in range(points):
        sku = random.choice([*SKUS, *SKUS, UNKNOWN_SKU])
        if number % 2:
            time = chronicle.some_time()
            expected = chronicle.at(time)
            question = GetStockAsOf(sku, time=time)
        else:
            expected = random.choice(chronicle.moments)
            question = GetStockAsOf(sku, position=expected.position)
        answer = await life.ask(question)
        view = None if expected is None else expected.views[sku]
        if expected is None or view is None:
            assert Status.UNKNOWN_SKU is answer.status, (question, answer)
        else:
            assert StockAsOf(*expected.position, expected.time, view) == answer.body, question
        agreed += 1
    return agreed


async def ask_as_of(life: Life, sku: str, position: Position) -> StockAsOf:
    body = (await life.ask(GetStockAsOf(sku, position=position))).body
    assert isinstance(body, StockAsOf)
    return body


def ledger(trial: Trial, sku: str) -> list[LedgerEntry]:
    """The movements of a SKU, from all that was ever appended."""
    replay, watch = Replay(Shard(0, 1)), Movements(sku, None)
    return [
        entry
        for position, data in trial.store.history[0]
        for entry in watch.apply(replay, *replay.prove(position, data))
    ]


# --- as it was -------------------------------------------------------------------------------


@timeless
async def test_as_of_any_moment(trial: Trial) -> None:
    """As of any moment, by time and by position, the stock is what the naive model had then."""
    chronicle = Chronicle(trial, 1)
    life = await chronicle.serve()
    await chronicle.live(life, 500)

    assert POINTS == await check_points(chronicle, life, POINTS)
    await life.stop()


@timeless
async def test_as_of_now_is_what_there_is(trial: Trial) -> None:
    """As of the last record, and of the last moment that has passed, it is the living stock."""
    chronicle = Chronicle(trial, 2)
    life = await chronicle.serve()
    for _ in range(30):
        await chronicle.live(life, 5)
        for sku in SKUS:
            now = trial.clock(0).now()
            await asyncio.sleep(0.001)
            caller = life.send(GetStock(sku))
            lives = (await caller.first()).body
            assert isinstance(lives, StockView)
            assert caller.head is not None
            position = Position(caller.head.epoch, caller.head.sequence)
            assert lives == (await ask_as_of(life, sku, position)).stock
            then = await life.ask(GetStockAsOf(sku, time=now))
            assert isinstance(then.body, StockAsOf)
            assert lives == then.body.stock
    await life.stop()


@timeless
async def test_without_an_archive(
    trial: Trial, small_snapshots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the journal alone, what is left of it is answered, and the rest is refused, saying since
    when there is anything."""
    monkeypatch.setattr(trial, "historian", lambda: Historian(1))
    chronicle = Chronicle(trial, 3)
    life = await chronicle.serve()
    await chronicle.live(life, 400)
    kept = trial.store.positions()[0]
    assert kept > GENESIS

    for moment in chronicle.moments[::5]:
        answer = await life.ask(GetStockAsOf("apple", position=moment.position))
        if moment.position < kept:
            assert Status.HISTORY_NOT_KEPT is answer.status
            assert f"what is kept begins with record {kept}, of 2023-11-1" in detail(answer)
        else:
            assert isinstance(answer.body, StockAsOf)
            assert moment.views["apple"] == answer.body.stock
    early: list[Command] = [GetStockAsOf("apple", time=0), ListMovements("apple", after=(1, 5, 0))]
    for question in [*early, ListMovements("apple", since=0)]:
        assert Status.HISTORY_NOT_KEPT is (await life.ask(question)).status
    listed = await life.ask(ListMovements("apple"))
    assert isinstance(listed.body, LedgerPage)
    assert kept == listed.body.begins
    entries = [each for each in ledger(trial, "apple") if (each.epoch, each.sequence) > kept]
    assert entries == listed.body.entries
    await life.stop()


@timeless
async def test_after_pruning(trial: Trial, small_snapshots: None) -> None:
    """What was kept long enough is refused, saying since when there is anything; the rest is as it
    was, and a list without bounds begins there."""
    trial.archive_snapshot_bytes = 4_000
    chronicle = Chronicle(trial, 4)
    life = await chronicle.serve()
    await chronicle.live(life, 300)
    base = trial.archive.snapshots(0)[1]
    assert Archive(Path("archive"), 0, trial.disk).prune(0, base.stamp) > 2

    for moment in chronicle.moments[::5]:
        answer = await life.ask(GetStockAsOf("apple", position=moment.position))
        if moment.position < base.position:
            assert Status.HISTORY_NOT_KEPT is answer.status
            assert f"what is kept begins with record {base.position}, of 2023" in detail(answer)
        else:
            assert isinstance(answer.body, StockAsOf)
            assert moment.views["apple"] == answer.body.stock
    listed = await life.ask(ListMovements("apple"))
    assert isinstance(listed.body, LedgerPage)
    assert base.position == listed.body.begins
    later = [each for each in ledger(trial, "apple") if (each.epoch, each.sequence) > base.position]
    assert later == listed.body.entries
    await life.stop()


@timeless
async def test_across_trims_and_owners(trial: Trial, small_snapshots: None) -> None:
    """What was trimmed is answered out of the archive, on either
    side of the seam and across it, whoever owned the shard at the time."""
    trial.archive_snapshot_bytes = 4_000
    chronicle = Chronicle(trial, 4)
    for _ in range(5):
        life = await chronicle.serve()
        await chronicle.live(life, 200)
    assert len(trial.archive.segments(0)) > 10
    assert len(trial.archive.snapshots(0)) > 3
    assert trial.store.positions()[0] > trial.archive.snapshots(0)[-1].position

    assert POINTS == await check_points(chronicle, life, POINTS)
    for sku in SKUS:
        assert ledger(trial, sku) == await list_all(life, sku, 100)
    await life.stop()


@timeless
async def test_a_takeover_in_the_midst(trial: Trial, small_snapshots: None) -> None:
    """Who asked an owner that is replaced meanwhile learns that it was not done, and is answered by
    the next one as the first would have."""
    chronicle = Chronicle(trial, 5)
    first = await chronicle.serve()
    await chronicle.live(first, 200)
    moment = chronicle.moments[100]
    question = GetStockAsOf("apple", position=moment.position)
    expected = await first.ask(question)
    assert isinstance(first.journal, MemoryJournal)
    first.journal.freeze()
    callers = [first.send(question) for _ in range(3)]

    second = await chronicle.serve()
    first.journal.thaw()

    assert Phase.FENCED is await first.ended()
    assert [NOT_DONE] * 3 == [await caller.first() for caller in callers]
    assert expected == await second.ask(question)
    assert POINTS // 2 == await check_points(chronicle, second, POINTS // 2)
    await second.stop()


# --- movements -------------------------------------------------------------------------------


@timeless
async def test_movements_chain_and_leave_what_the_model_has(trial: Trial) -> None:
    """At every location each movement finds what the one before has left; after every record the
    last has left what the naive model has; and every kind occurs."""
    chronicle = Chronicle(trial, 5)
    life = await chronicle.serve()
    await chronicle.live(life, 1_000)
    kinds = set[str]()

    for sku in SKUS:
        left = dict[str, Counters]()
        fenced = dict[str, int]()
        entries = await list_all(life, sku)
        for moment in chronicle.moments:
            while entries and (entries[0].epoch, entries[0].sequence) == moment.position:
                entry = entries.pop(0)
                kinds.add(entry.kind)
                assert moment.time == entry.time
                for place in entry.places:
                    assert left.get(place.location, NOTHING) == place.before, entry
                    left[place.location] = place.after
                for pool in entry.pools:
                    assert fenced.get(pool.pool, 0) == pool.before, entry
                    fenced[pool.pool] = pool.after
            view = moment.views[sku]
            places = [] if view is None else view.locations
            expected = {
                each.location: Counters(each.on_hand, each.reserved, each.allocated, each.available)
                for each in places
            }
            assert expected == left, moment
            pools = {} if view is None else dict(view.pools)
            assert +Counter(pools) == +Counter(fenced), moment
        assert [] == entries
    assert set(KINDS) == kinds
    await life.stop()


@timeless
async def test_who_and_why(trial: Trial) -> None:
    """A movement says whose key asked, why, and under which reference; a sale says who sold."""
    life = await trial.serve()
    await life.ask(Receive("sku", "here", 5, "bought", "PO-17", by="0a1b2c"))
    await life.ask(Transfer("sku", "here", "there", 2, "balance", by="3d4e5f"))
    await life.ask(Reserve("cart", [LineRequest("sku", 4)], "web"))
    await life.ask(Commit("cart", lines=[LineRequest("sku", 3)]))
    await life.ask(Reserve("other", [LineRequest("brick", 4)], "web"))

    entries = await list_all(life, "sku")

    said = [(e.kind, e.quantity, e.by, e.reason, e.reference) for e in entries]
    expected = [
        ("received", 5, "0a1b2c", "bought", "PO-17"),
        ("transferred", 2, "3d4e5f", "balance", ""),
        ("reserved", 4, "", "", ""),
        ("committed", 3, "", "", ""),
    ]
    assert expected == said
    assert [None, None, "cart", "cart"] == [each.reservation_id for each in entries]
    assert [None, None, "web", "web"] == [each.channel for each in entries]
    here, there = PlaceChange("here", Counters(5, 0, 0, 5), Counters(3, 0, 0, 3)), "there"
    assert [here, PlaceChange(there, NOTHING, Counters(2, 0, 0, 2))] == entries[1].places
    here = PlaceChange("here", Counters(3, 3, 0, 0), Counters(3, 0, 3, 0))
    assert here == entries[3].places[0]
    await life.stop()


@timeless
async def test_a_channel_sees_what_is_its_own(trial: Trial) -> None:
    """The numbers are everybody's; others' reservations, and who moved stock and why, are not."""
    life = await trial.serve()
    await life.ask(Receive("sku", "here", 5, "bought", "PO-17", by="0a1b2c"))
    for channel in ("web", "trade"):
        await life.ask(Reserve(f"of-{channel}", [LineRequest("sku", 1)], channel))
    whole = await list_all(life, "sku")

    page = (await life.ask(ListMovements("sku", scope="web"))).body

    assert isinstance(page, LedgerPage)
    hidden = {"reservation_id": None, "channel": None, "by": "", "reason": "", "reference": ""}
    others = [msgspec.structs.replace(whole[number], **hidden) for number in (0, 2)]
    assert [others[0], whole[1], others[1]] == page.entries
    assert "of-web" == page.entries[1].reservation_id
    await life.stop()


@timeless
async def test_pages_and_bounds(trial: Trial, small_snapshots: None) -> None:
    """Pages of any size, between any two times, add up to what a single one has."""
    chronicle = Chronicle(trial, 6)
    life = await chronicle.serve()
    await chronicle.live(life, 300)
    whole = await list_all(life, "apple")
    assert len(whole) > 80

    for limit in (1, 7, len(whole), len(whole) - 1):
        assert whole == await list_all(life, "apple", limit)
    for _ in range(30):
        since, until = sorted([chronicle.some_time(), chronicle.some_time()])
        between = [each for each in whole if since <= each.time <= until]
        assert between == await list_all(life, "apple", 9, since=since, until=until)
        assert [each for each in whole if each.time >= since] == await list_all(
            life, "apple", since=since
        )
    assert [] == await list_all(life, "nothing of that name")
    await life.stop()


@timeless
async def test_a_page_ends_before_it_is_too_large(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many entries were asked for, an answer fits into a frame."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_BYTES_MAX", 500)
    life = await trial.serve()
    for number in range(20):
        await life.ask(Receive("sku", "here", 1, f"{number:0200d}"))

    page = (await life.ask(ListMovements("sku"))).body

    assert isinstance(page, LedgerPage)
    assert 3 == len(page.entries)
    assert 20 == len(await list_all(life, "sku"))
    await life.stop()


# --- refusals --------------------------------------------------------------------------------


@timeless
async def test_what_is_to_come_is_refused(trial: Trial) -> None:
    """No answer rests on what may still change, or on more than was acknowledged."""
    life = await trial.serve()
    await life.ask(receive(5))
    head = life.owner.position
    assert head is not None
    now = trial.clock(0).now()
    beyond = (head.epoch, head.sequence + 1)
    for question in (
        GetStockAsOf("sku", time=now),  # more may be stamped with it
        GetStockAsOf("sku", time=now + 1),
        GetStockAsOf("sku", position=beyond),
        GetStockAsOf("sku", position=(9, 0)),
        ListMovements("sku", after=(*beyond, 0)),
    ):
        answer = await life.ask(question)
        assert Status.NOT_YET is answer.status, question
        assert detail(answer)
    await asyncio.sleep(1)
    assert Status.OK is (await life.ask(GetStockAsOf("sku", time=now + 1))).status
    await life.stop()


@timeless
async def test_a_record_that_stands_but_was_not_acknowledged(trial: Trial) -> None:
    """An append whose reply is lost may stand in the journal; until that is known, nobody is told
    of it, and who asks about the moment waits."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.ask(receive(5))
    head = life.owner.position
    assert head is not None
    journal.fault_next(REPLY, *[REQUEST] * 40)
    writing = life.send(receive(7))
    reading = life.send(GetStockAsOf("sku", position=(head.epoch, head.sequence + 1)), 1)

    await eventually(lambda: len(trial.store.records()) > 4)

    assert writing.status is None
    assert NOT_DONE == await reading.first()
    assert Status.OK is (await writing.first()).status
    await life.stop()


@timeless
async def test_records_that_never_were(trial: Trial) -> None:
    """A position at which nothing stands is not rounded to one at which something does."""
    await trial.live(3)
    life = await trial.serve()
    last = trial.store.positions()[-3]
    assert last.epoch == 1
    for position in (START, (last.epoch, last.sequence + 100), (1, 7_777)):
        answer = await life.ask(GetStockAsOf("sku-0", position=position))
        assert Status.UNKNOWN_RECORD is answer.status, position
    assert Status.UNKNOWN_SKU is (await life.ask(GetStockAsOf("sku-0", position=GENESIS))).status
    assert Status.UNKNOWN_SKU is (await life.ask(GetStockAsOf("sku-0", time=0))).status
    await life.stop()


@pytest.mark.parametrize("bounds", [{}, {"time": 1, "position": (1, 1)}])
@timeless
async def test_one_moment_must_be_named(trial: Trial, bounds: dict[str, Any]) -> None:
    """A time or a position, not both, and not neither."""
    life = await trial.serve()

    assert Status.INVALID is (await life.ask(GetStockAsOf("sku", **bounds))).status
    await life.stop()


# --- damage ----------------------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@timeless
async def test_damage_is_named_and_costs_only_the_answer(trial: Trial) -> None:
    """A record that does not prove itself, or is missing, is told with its place; what lies before
    it is answered, and the shard goes on."""
    life = await trial.serve()
    await life.go_on(10)
    entries = trial.store.entries()
    place, data = entries[6]

    for number, wrong in enumerate(([Entry(place, flipped(data, 60))], [])):
        entries[6:7] = wrong
        answer = await life.ask(GetStockAsOf("sku-9", position=entries[-1].position))
        assert Status.HISTORY_DAMAGED is answer.status
        where = place if not number else Position(place.epoch, place.sequence + 1)
        assert f"shard 0, record {where}: " in detail(answer)
        before = await life.ask(GetStockAsOf("sku-0", position=entries[5].position))
        assert Status.OK is before.status
        if wrong:
            entries[6] = Entry(place, data)
    assert Status.OK is (await life.ask(receive(1))).status
    await life.stop()


@timeless
async def test_another_last_record(trial: Trial) -> None:
    """One that proves itself and links, but is not the one that was acknowledged, is damage."""
    life = await trial.serve()
    for number in range(5):
        await life.ask(receive(number + 1, f"sku-{number}"))
    last = trial.last
    events: list[Event] = [Received("sku-4", "here", 77)]
    other, _ = encode_record(0, last.position, last.stamp, last.previous, last.snapshot, events)
    trial.store.entries()[-1] = Entry(last.position, other)

    answer = await life.ask(GetStockAsOf("sku-4", position=last.position))

    assert Status.HISTORY_DAMAGED is answer.status
    assert f"{last.checksum:08x} was acknowledged" in detail(answer)
    await life.crash()


@timeless
async def test_damage_to_the_archive(trial: Trial, small_snapshots: None) -> None:
    """A file of the archive that does not prove itself is named."""
    await trial.generations()
    life = await trial.serve()
    segment = trial.archive.segments(0)[1]
    data = trial.disk.files[segment.path]
    trial.disk.files[segment.path] = flipped(data, len(data) - 10)

    answer = await life.ask(GetStockAsOf("sku-0", position=segment.last))

    assert Status.HISTORY_DAMAGED is answer.status
    assert segment.path.name in detail(answer)
    assert Status.OK is (await life.ask(receive(1))).status
    await life.stop()


@timeless
async def test_a_server_that_lost_the_end(trial: Trial) -> None:
    """What was acknowledged, and is lost while it is read, is not left out of the answer, even if
    another owner's claim stands in its place."""
    journal = trial.journal()
    life = await trial.serve(journal)
    await life.go_on(10)
    lost, now = trial.store.positions()[-4], trial.clock(0).now()
    await asyncio.sleep(1)
    claimed = encode_record(0, Position(7, 0), 0, 0, START, [Claimed(b"nonce", "elsewhere")])[0]

    def lose(name: str) -> None:
        if journal.operations.count("read") == reads + 3:
            trial.store.forget(0, lost)
            trial.store.append(0, Position(7, 0), claimed, False)

    reads = journal.operations.count("read")
    journal.before = lose
    answer = await life.ask(GetStockAsOf("sku-9", time=now))

    assert Position(7, 0) == trial.store.positions()[-1]
    assert NOT_DONE == answer
    assert Phase.FENCED is await life.ended()
