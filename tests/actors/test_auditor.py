"""Audits beside the batches: whatever drifts or rots is named, and nothing else is said."""

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from actors.journal import Entry, chunk_key
from actors.ownership import Ownership
from actors.phase import Phase
from actors.replay import Recovered
from engine import limits
from engine.codec import Position, decode_record, encode_record
from engine.messages import (
    Audit,
    AuditView,
    Committed,
    Event,
    Opened,
    Received,
    SnapshotBegun,
    Status,
)
from engine.snapshot import SnapshotWriter, chunk_name
from engine.state import ShardState
from tests.actors.audits import auditor, snapshots, trade, turns, view
from tests.actors.trial import Life, Trial, ownership, receive, replayed, timeless


@timeless
async def test_two_audits_at_once(trial: Trial) -> None:
    """A quick one and a full one that are asked for together do not meddle with each other."""
    life = await trial.serve()
    await trade(life)
    views = await asyncio.gather(view(life), view(life, quick=True), view(life))

    assert [(True, 0), (False, 0), (True, 0)] == [(each.complete, each.drift) for each in views]
    assert (0, 1) == (turns(life).incomplete, turns(life).clean)


Change = Callable[[ShardState], object]


# --- what is in memory -----------------------------------------------------------------------


@timeless
async def test_nothing_is_wrong(trial: Trial) -> None:
    """All records were replayed, from the first one on, and what they lead to is compared."""
    life = await trial.serve()
    await trade(life)
    found = await view(life)

    assert (True, "", 0, []) == (found.complete, found.skipped, found.drift, found.findings)
    assert trial.last.position == Position(found.epoch, found.sequence)
    assert len(trial.store.records()) == found.replayed
    assert 4 == found.checks  # the copy, `opened`, the last record, the state
    assert life.owner.shard.digest() == found.digest


@timeless
async def test_a_quick_audit_replays_nothing(trial: Trial) -> None:
    """It finds what sums over reservations can find."""
    life = await trial.serve(journal := trial.journal())
    await trade(life)
    journal.operations.clear()
    found = await view(life, quick=True)
    assert (0, 0, False, "") == (found.drift, found.replayed, found.complete, found.skipped)
    assert {"read"} == set(journal.operations)  # the proof that the shard is still ours
    flip("reserved")(life.owner.shard.state)

    assert ["sku at here: reserved 4, lines say 3"] == (await view(life, quick=True)).findings


def flip(counter: str, by: int = 1) -> Change:
    def change(state: ShardState) -> None:
        stock = state.skus.get("sku")
        assert stock is not None
        place = stock.locations["here"]
        setattr(place, counter, getattr(place, counter) + by)

    return change


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (
            flip("on_hand"),
            [
                "sku at here: on_hand 7, its movements say 6",
                "sku at here: on_hand: 7 in memory, 6 by the journal",
            ],
        ),
        (
            flip("reserved"),
            [
                "sku at here: reserved 4, lines say 3",
                "sku at here: reserved: 4 in memory, 3 by the journal",
            ],
        ),
        (
            lambda state: state.reservations.remove(b"r1"),
            [
                "sku at here: reserved 3, lines say 1",
                "1 reservations are RESERVED, 2 counted",
                "reservation r1: only in the journal",
            ],
        ),
        (
            lambda state: state.reservations.put(b"r9", state.reservations.get(b"r1") or b""),
            [
                "sku at here: reserved 3, lines say 5",
                "3 reservations are RESERVED, 2 counted",
                "reservation r9: only in memory",
            ],
        ),
        (
            lambda state: state.shortfalls.update({("sku", "here"): 2}),
            ["sku at here: short of 0, known 0, listed 2"],
        ),
        (
            lambda state: state.shortfalls.update({("sku", "there"): 2}),
            ["0 shortfalls, 1 listed"],
        ),
        (lambda state: state.keys.remove(b"k1"), ["key k1: only in the journal"]),
        (
            lambda state: state.channels["shop"].pools.append("few"),
            [
                "channels: {'shop': ChannelPolicy(locations=None, pools=['few'],"
                " common_stock=True, buffer=1)} in memory,"
                " {'shop': ChannelPolicy(locations=None, pools=[], common_stock=True, buffer=1)}"
                " by the journal"
            ],
        ),
    ],
)
def test_memory_that_drifts(trial: Trial, change: Change, findings: list[str]) -> None:
    """A flipped counter, a lost reservation, a policy: each is named, by all who can see it."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await trade(life)
        change(life.owner.shard.state)
        found = await view(life)

        assert findings == found.findings
        assert (len(findings), 0, True) == (found.drift, found.damage, found.complete)
        assert Phase.SERVING is life.owner.phase
        assert findings[0] == auditor(life).alarm

    run()


def reasons(logs: list[EventDict]) -> list[str]:
    """Why audits were not completed."""
    return [each["reason"] for each in logs if each["event"] == "audit_incomplete"]


@timeless
async def test_memory_that_cannot_be_read(trial: Trial) -> None:
    """An audit that cannot even copy what there is was not completed, and that is told."""
    settings = ownership()._replace(audit_interval_us=60 * limits.SECOND_US)
    life = await trial.serve(settings=settings)
    await trade(life)
    life.owner.shard.state.reservations.put(b"r1", b"no reservation")

    for done, quick in enumerate((True, False), 1):
        with capture_logs() as logs:
            assert Status.NOT_DONE is (await life.ask(Audit(0, quick))).status
        assert ["what is in memory could not be copied"] == reasons(logs)
        assert done == turns(life).incomplete
    await life.idle(62)
    assert (3, 0) == (turns(life).incomplete, turns(life).clean)


@timeless
async def test_an_audit_that_fails(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in it is no clean bill; the next one is made all the same."""
    life = await trial.serve()
    await trade(life)

    def fail(*arguments: object) -> None:
        raise KeyError("sku")

    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr("actors.auditor.auditing", fail)
        assert Status.NOT_DONE is (await life.ask(Audit(0))).status
    assert ["it failed: KeyError('sku')"] == reasons(logs)
    assert 1 == turns(life).incomplete
    assert 0 == (await view(life)).drift
    assert 1 == turns(life).incomplete


@timeless
async def test_memory_that_was_wrong_for_a_while(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot was taken of it: the replay has another digest there."""
    life = await trial.serve()
    await trade(life)
    flip("on_hand")(life.owner.shard.state)
    [cut] = await snapshots(life, 1, monkeypatch)
    flip("on_hand", -1)(life.owner.shard.state)
    [finding] = (await view(life)).findings

    assert f": snapshot {cut} with digest " in finding


@timeless
async def test_an_owner_that_recovered_something_else(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote down the digest of what it had found."""
    await (life := await trial.serve()).go_on(3)
    await life.stop()

    made = Ownership.opened

    def opened(ownership: Ownership, found: Recovered, stamp: int) -> Opened:
        event = made(ownership, found, stamp)
        event.digest = bytes(16)
        return event

    with monkeypatch.context() as patch:
        patch.setattr(Ownership, "opened", opened)
        life = await trial.serve()
    [finding] = (await view(life)).findings

    assert finding.startswith(f"shard 0, record 2-1: opened with digest {bytes(16).hex()}, the")


# --- what is stored --------------------------------------------------------------------------


Stored = Callable[[list[Entry]], object]


def forged(entries: list[Entry]) -> None:
    """Record 1-4 is another, with a checksum of its own."""
    entries[5] = another(entries[5], Received("sku", "here", 99))


def another(entry: Entry, *events: Event) -> Entry:
    """A record that proves itself, follows on the one before, and was never written."""
    previous = decode_record(entry.record, 0, entry.position).previous
    record, _ = encode_record(0, entry.position, 0, previous, Position(0, 0), events)
    return Entry(entry.position, record)


def flipped(entries: list[Entry]) -> None:
    position, record = entries[4]
    entries[4] = Entry(position, record[:60] + bytes([record[60] ^ 1]) + record[61:])


def forged_last(entries: list[Entry]) -> None:
    entries[-1] = another(entries[-1], Received("sku", "here", 99))


def impossible(entries: list[Entry]) -> None:
    entries[-1] = another(entries[-1], Committed("r9"))


def opened_elsewhere(entries: list[Entry]) -> None:
    event = decode_record(entries[2].record, 0, entries[2].position).events[0]
    assert isinstance(event, Opened)
    event.previous_sequence += 1
    entries[2] = another(entries[2], event)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda entries: entries.pop(4), "shard 0, record 1-4: a gap, the record before is 1-2"),
        (lambda entries: entries.pop(0), "shard 0: begins with 1-0, not with 0-1"),
        (lambda entries: entries.pop(), "shard 0: the journal ends at 1-8, 1-9 was acknowledged"),
        (lambda entries: entries.clear(), "shard 0: the journal ends at 0-0, 1-9 was acknowledged"),
        (flipped, "shard 0, record 1-3: checksum "),
        (forged, "shard 0, record 1-5: follows checksum "),
        (forged_last, "shard 0: ends with 1-9 ("),
        (
            impossible,
            "shard 0, record 1-9: does not apply: InvariantError: an event about r9,",
        ),
        (opened_elsewhere, "shard 0, record 1-1: opened after 0-2 ("),
    ],
)
def test_a_journal_that_rots(trial: Trial, change: Stored, finding: str) -> None:
    """A record that is gone, flipped or replaced is named; the shard is served."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await trade(life)
        change(trial.store.entries())
        found = await view(life)
        assert [finding] == [text[: len(finding)] for text in found.findings]
        assert (1, 1, False) == (found.drift, found.damage, found.complete)
        assert "what is stored does not lead there" == found.skipped
        assert found.findings[0] == auditor(life).alarm
        assert Status.OK is (await life.ask(receive(1))).status

    run()


@pytest.mark.parametrize("change", [lambda entries: entries.pop(4), flipped, forged])
def test_a_snapshot_behind_the_damage(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, change: Stored
) -> None:
    """Nobody could recover the shard any more. A page of records after the damage was found, the
    next owner can; and with another snapshot it is gone."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await trade(life)
        change(trial.store.entries())
        await view(life)
        await life.go_on(64)
        lived = life.owner.shard.digest()
        await life.crash()
        life = await trial.serve()
        assert lived == trial.opened.digest
        await snapshots(life, 2, monkeypatch)
        found = await view(life)
        assert (True, 0) == (found.complete, found.drift)

    run()


@timeless
async def test_no_snapshot_of_a_memory_that_drifts(trial: Trial) -> None:
    """Where both are wrong, what is in memory does not become what is stored."""
    life = await trial.serve()
    await trade(life)
    flip("reserved")(life.owner.shard.state)
    del trial.store.entries()[3]
    found = await view(life)
    await life.go_on(3)

    assert 0 < found.damage < found.drift
    events = [event for each in trial.store.records() for event in each.events]
    assert [] == [each for each in events if isinstance(each, SnapshotBegun)]


@pytest.mark.parametrize("quick", [False, True])
def test_no_snapshot_makes_drift_last(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """However much is journaled, the next owner finds what leads to the right values."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        await trade(life)
        kept = await snapshots(life, 2, monkeypatch)
        flip("reserved")(life.owner.shard.state)
        assert 0 < (await view(life, quick=quick)).drift
        monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 1)
        await life.go_on(20)
        await asyncio.sleep(10)
        snapshotter = life.owner.snapshotter
        assert snapshotter is not None
        assert kept == snapshotter.generations

        await life.crash()
        found = await view(await trial.serve())
        assert (0, True) == (found.drift, found.complete)

    run()


@timeless
async def test_snapshots_after_a_clean_audit(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was held back goes on as soon as memory is what the journal leads to; an audit that
    looks at memory alone does not say so."""
    life = await trial.serve()
    await trade(life)
    flip("reserved")(life.owner.shard.state)
    await view(life)
    flip("reserved", -1)(life.owner.shard.state)
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 1)
    assert 0 == (await view(life, quick=True)).drift
    await life.go_on(4)
    snapshotter = life.owner.snapshotter
    assert snapshotter is not None
    assert 0 == snapshotter.count

    assert (0, True) == ((found := await view(life)).drift, found.complete)
    await life.go_on(4)
    assert 0 < snapshotter.count


@timeless
async def test_a_snapshot_that_is_wrong_is_followed_by_a_right_one(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is what the records lead to; the snapshot is not, and the next owner would have begun
    with it."""
    life = await trial.serve()
    await trade(life)
    flip("on_hand")(life.owner.shard.state)
    await snapshots(life, 1, monkeypatch)
    flip("on_hand", -1)(life.owner.shard.state)
    assert 1 == len((await view(life)).findings)
    await life.go_on(64)
    lived = life.owner.shard.digest()
    await life.crash()

    await trial.serve()
    assert lived == trial.opened.digest


async def rotten(
    trial: Trial, life: Life, monkeypatch: pytest.MonkeyPatch, generation: int, chunk: bytes | None
) -> tuple[Position, AuditView]:
    """A chunk of one of the two generations is not what it was; None: it is gone."""
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 1)
    await trade(life)
    kept = (await snapshots(life, 2, monkeypatch))[generation]
    key = chunk_key(0, chunk_name(kept, 1))
    if chunk is None:
        del trial.store.chunks[key]
    else:
        trial.store.chunks[key] = chunk
    return kept, await view(life)


@pytest.mark.parametrize("generation", [0, 1])
@pytest.mark.parametrize(
    ("chunk", "what"),
    [(None, "no chunk 1"), (b"short", "chunk 1: 5 bytes are too few"), (bytes(99), "chunk 1: c")],
)
def test_a_snapshot_that_rots(
    trial: Trial,
    monkeypatch: pytest.MonkeyPatch,
    generation: int,
    chunk: bytes | None,
    what: str,
) -> None:
    """Of either generation; the journal is walked from the other."""

    @timeless
    async def run() -> None:
        life = await trial.serve()
        kept, found = await rotten(trial, life, monkeypatch, generation, chunk)
        [finding] = found.findings
        separator = ":" if chunk is None else ","
        assert finding.startswith(f"shard 0, snapshot {kept}{separator} {what}")
        assert (1, 1, True) == (found.drift, found.damage, found.complete)

    run()


@timeless
async def test_a_snapshot_of_something_else(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that prove themselves, and are not what was announced."""
    life = await trial.serve()
    await trade(life)
    older, _ = await snapshots(life, 2, monkeypatch)
    shard = replayed([each for each in trial.store.records() if each.position <= older], 0, 1)
    flip("on_hand")(shard.state)
    checksum = next(each.checksum for each in trial.store.records() if each.position == older)
    writer = SnapshotWriter(shard.state, 0, older, checksum)
    while (chunk := writer.next_chunk()) is not None:
        trial.store.chunks[chunk_key(0, chunk[0])] = chunk[1]
    found = await view(life)

    assert [True] == [f"snapshot {older} is not what was taken" in each for each in found.findings]
    assert (1, 1, True) == (found.drift, found.damage, found.complete)


@timeless
async def test_snapshots_and_takeovers_on_the_way(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the older snapshot, past the newer one and another's ownership: all that bears a digest
    is compared."""
    life = await trial.serve()
    await trade(life)
    await snapshots(life, 1, monkeypatch)
    for _ in range(20):
        await life.ask(receive(1))
    older, newer = await snapshots(life, 2, monkeypatch)
    await life.stop()
    life = await trial.serve()
    await life.go_on(3)
    found = await view(life)

    assert (True, 0) == (found.complete, found.drift)
    assert sum(each.position > older for each in trial.store.records()) == found.replayed
    assert 6 == found.checks  # the copy, both snapshots, `opened`, the last record, the state
    assert older < newer


# --- by itself -------------------------------------------------------------------------------


@timeless
async def test_nothing_is_left_of_it(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more states of a shard are no small thing: they go at once, whatever was found."""
    life = await trial.serve()
    await trade(life)
    await snapshots(life, 2, monkeypatch)
    states: list[weakref.ref[ShardState]] = []
    made = ShardState.__init__

    def noted(state: ShardState) -> None:
        made(state)
        states.append(weakref.ref(state))

    monkeypatch.setattr(ShardState, "__init__", noted)
    gc.disable()
    try:
        assert 0 == (await view(life)).drift
        del trial.store.entries()[3]
        assert 1 == (await view(life)).drift
        await asyncio.sleep(1)
        assert len(states) >= 4
        assert {None} == {state() for state in states}
    finally:
        gc.enable()


@timeless
async def test_an_audit_every_so_often(trial: Trial) -> None:
    """Nobody needs to ask; what it finds is an alarm, until it is gone."""
    settings = ownership()._replace(audit_interval_us=60 * limits.SECOND_US)
    life = await trial.serve(settings=settings)
    await trade(life)
    await life.idle(59)
    assert auditor(life).last is None
    await life.idle(2)
    last = auditor(life).last
    assert last is not None
    assert (True, 0, "") == (last.view.complete, last.view.drift, auditor(life).alarm)
    flip("on_hand")(life.owner.shard.state)
    await life.idle(62)
    assert "sku at here: on_hand 7, its movements say 6" == auditor(life).alarm
    flip("on_hand", -1)(life.owner.shard.state)
    await life.idle(62)

    assert "" == auditor(life).alarm


@timeless
async def test_pauses_in_proportion(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that passes by itself is all pauses here: a slice's worth of work, a pause, and less of
    them if somebody waits."""
    monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", 1)
    settings = ownership()._replace(audit_interval_us=60 * limits.SECOND_US)
    life = await trial.serve(settings=settings)
    for number in range(100):
        await life.ask(receive(1, f"sku-{number}"))
    await view(life)
    hurried = auditor(life).last
    await life.idle(70)
    quiet = auditor(life).last

    assert hurried is not None
    assert quiet is not None
    ratio = limits.AUDIT_PAUSE_SECONDS / limits.AUDIT_HURRIED_SECONDS
    assert ratio == pytest.approx(quiet.seconds / hurried.seconds, rel=0.2)
    assert quiet.seconds > 100 * limits.AUDIT_PAUSE_SECONDS
