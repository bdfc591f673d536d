"""A shard and the naive model, given the same commands, compared after each.

Batches are journaled through the real record format and cut into snapshots through the real one.
Crashes lose the open batch or none; what is recovered, from the whole journal and from snapshot and
tail, must be what lived.
"""

from collections import Counter
from copy import deepcopy
from typing import Any, Final, NamedTuple

import msgspec

from engine import limits
from engine.codec import START, Position, Record, check_link, decode_record, encode_record
from engine.messages import (
    Adjusted,
    Answer,
    Audit,
    AuditView,
    Claimed,
    Command,
    Committed,
    Counted,
    Event,
    Genesis,
    GetAvailability,
    GetChannel,
    GetReservation,
    GetStock,
    ListReservations,
    ListShortfalls,
    ListStock,
    Opened,
    Received,
    ReservationView,
    Reserved,
    Restocked,
    Shipped,
    ShortfallChanged,
    SnapshotTaken,
    State,
    Status,
    Transferred,
)
from engine.placement import HASH
from engine.shard import Shard
from engine.snapshot import SnapshotReader, SnapshotWriter
from tests.engine.model import Model

START_US: Final = 1_700_000_000 * limits.SECOND_US
SKUS: Final = ["apple", "brick"]
UNKNOWN_SKU: Final = "chimera"
CHANNELS: Final = ["shop", "trade"]
NAMES: Final = [f"cart-{number}" for number in range(6)]
TELLING: Final = {Status.OK, Status.REPLAYED, Status.INSUFFICIENT_STOCK}
"""Statuses whose body is fixed; other refusals may say more, but nothing untrue."""


def wired(answer: Answer) -> Answer:
    """The answer as a caller reads it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer)


class Snapshot(NamedTuple):
    position: Position
    chunks: list[bytes]


class Comparison:
    """A shard, its journal, its newest snapshot, and the model."""

    def __init__(self) -> None:
        self.now = START_US
        self.journal: list[tuple[Position, bytes]] = []
        self.events: list[Event] = []
        self.snapshot: Snapshot | None = None
        self.writer: SnapshotWriter | None = None
        self.chunks: list[bytes] = []
        self.previous, self.position = 0, START
        self.model, self.shard = Model(0, 1), Shard(0, 1)
        self.witness(Position(0, 1), Genesis("cluster", 1, HASH))
        self.claim(limits.GRACE_US)

    # --- the journal -------------------------------------------------------------------------

    def write(self, position: Position, events: list[Event]) -> None:
        previous = self.previous if position.sequence else 0
        record, self.previous = encode_record(0, position, self.now, previous, START, events)
        assert events == decode_record(record, 0, position).events
        self.journal.append((position, record))
        self.events += events
        self.position = position

    def read(self) -> list[Record]:
        before, records = None, []
        for position, data in self.journal:
            record = decode_record(data, 0, position)
            check_link(before, record)
            records.append(record)
            before = record
        return records

    def claim(self, grace_us: int) -> None:
        """What every new owner writes, and what it does to state and model."""
        (epoch, sequence), checksum = self.position, self.previous
        self.witness(Position(epoch + 1, 0), Claimed(b"nonce", "host"))
        opened = Opened(
            *(epoch, sequence, checksum, self.shard.digest()),
            *(self.now, self.now + grace_us),
            *(limits.FINISHED_WINDOW_US, limits.RETURNS_WINDOW_US, limits.KEYS_WINDOW_US),
        )
        self.witness(Position(epoch + 1, 1), opened)
        self.model.opened(self.now + grace_us)
        self.begin()

    def witness(self, position: Position, event: Event) -> None:
        """Journal what is no command's doing, and let the shard see it."""
        self.write(position, [event])
        self.shard.replay(self.now, [event])

    def begin(self) -> None:
        self.saved = deepcopy(self.model)
        self.shard.begin(self.now)
        self.model.begin(self.now)

    def close(self) -> None:
        if events := self.shard.close():
            self.write(Position(self.position.epoch, self.position.sequence + 1), events)

    # --- commands ----------------------------------------------------------------------------

    def do(self, command: Command) -> None:
        expected, actual = self.model.execute(command), wired(self.shard.execute(command))
        assert expected.status == actual.status, (command, expected, actual)
        told = expected.status in TELLING or isinstance(actual.body, ReservationView)
        assert not told or expected.body == actual.body, (command, expected, actual)

    # --- time and crashes --------------------------------------------------------------------

    def next_batch(self, kind: str, which: int) -> None:
        self.close()
        self.take_slice()
        times = [time for time in self.times(kind) if time > self.now] or [self.now]
        self.now = times[which % len(times)]
        self.begin()

    def times(self, kind: str) -> list[int]:
        """Just before, at and just after whatever falls due."""
        held = self.model.reservations.values()
        match kind:
            case "second":
                due = [self.now + limits.SECOND_US]
            case "due":
                due = [self.model.deadline(one) for one in held if one.state == State.RESERVED]
            case "window":
                due = [one.finished_at + self.model.window(one) for one in held if one.finished_at]
                due += [at + limits.KEYS_WINDOW_US for _, at in self.model.keys.values()]
            case _:
                due = []
        return sorted({time + shift for time in due for shift in (-1, 0, 1)})

    def cut(self) -> None:
        self.close()
        self.chunks, self.cut_digest = [], self.shard.digest()
        self.writer = SnapshotWriter(self.shard.state, 0, self.position, self.previous)
        self.begin()

    def take_slice(self) -> None:
        """What an owner does between batches while a snapshot is being taken."""
        if self.writer is None:
            return
        if chunk := self.writer.next_chunk():
            self.chunks.append(chunk[1])
            return
        position, digest = self.writer.position, self.writer.digest
        assert self.cut_digest == digest, "the snapshot is of the moment of the cut"
        self.snapshot, self.writer = Snapshot(position, self.chunks), None
        taken = SnapshotTaken(*position, len(self.chunks), digest)
        self.witness(Position(self.position.epoch, self.position.sequence + 1), taken)

    def crash(self, lose: bool) -> None:
        if lose:
            self.model = self.saved
        else:
            self.close()
        lived, self.shard, self.writer = self.shard, self.recovered(None), None
        other = self.recovered(self.snapshot)
        assert self.shard.digest() == other.digest()
        if not lose:
            self.shard.begin(self.now)
            assert [] == self.shard.close()
            assert lived.digest() == self.shard.digest()
        self.shard = other
        self.claim(limits.GRACE_US)

    def recovered(self, snapshot: Snapshot | None) -> Shard:
        shard, after, checksum = Shard(0, 1), START, None
        if snapshot:
            reader = SnapshotReader(shard.state, 0, snapshot.position)
            for chunk in snapshot.chunks:
                reader.feed(chunk)
            assert reader.complete
            after, checksum = snapshot.position, reader.checksum
        for record in self.read():
            if record.position == after:
                assert checksum == record.checksum, "the tail follows what the snapshot was cut at"
            if record.position > after:
                shard.replay(record.stamp, record.events)
        return shard

    # --- what always holds -------------------------------------------------------------------

    def check(self) -> None:
        self.every_view_agrees()
        self.the_audit_finds_nothing()
        self.the_events_add_up()

    def every_view_agrees(self) -> None:
        before = list(self.shard.events)
        for sku in [*SKUS, UNKNOWN_SKU]:
            self.do(GetStock(sku))
            for channel in [None, *CHANNELS]:
                self.do(GetAvailability(sku, channel))
        for name in NAMES:
            self.do(GetReservation(name))
        for channel in CHANNELS:
            self.do(GetChannel(0, channel))
        self.do(ListShortfalls(0))
        for after in (None, SKUS[0]):
            self.do(ListStock(0, after))
        for scope in (None, *CHANNELS):
            for state in (None, *State):
                self.do(ListReservations(0, NAMES[2], state=state, scope=scope))
        self.do(ListReservations(0))
        assert before == self.shard.events, "looking changes nothing"

    def the_audit_finds_nothing(self) -> None:
        body = self.shard.execute(Audit(0)).body
        assert isinstance(body, AuditView)
        assert [] == body.findings
        assert 0 == body.drift

    def the_events_add_up(self) -> None:
        """On_hand and the shortfalls follow from the events alone."""
        events = self.events + self.shard.events
        shortfalls: dict[Any, int] = {}
        for event in events:
            if isinstance(event, ShortfallChanged):
                shortfalls[event.sku, event.location] = event.quantity
        expected = {(one.sku, one.location): one.quantity for one in self.model.shortfalls()}
        assert expected == {place: units for place, units in shortfalls.items() if units}
        assert self.on_hands() == +ledger(events)

    def on_hands(self) -> Counter[tuple[str, str]]:
        sums: Counter[tuple[str, str]] = Counter()
        for sku, place, units in self.model.ledger:
            sums[sku, place] += units
        return +sums


def ledger(events: list[Event]) -> Counter[tuple[str, str]]:
    """On_hand by SKU and location, from nothing but what was journaled."""
    sums: Counter[tuple[str, str]] = Counter()
    lines: dict[str, list[str]] = {}
    for event in events:
        match event:
            case Received() | Adjusted():
                sums[event.sku, event.location] += event.quantity
            case Counted():
                sums[event.sku, event.location] = event.quantity
            case Transferred():
                sums[event.sku, event.location] -= event.quantity
                sums[event.sku, event.to_location] += event.quantity
            case Shipped() | Restocked():
                for units in event.units:
                    sku = lines[event.reservation_id][units.line]
                    place = units.to_location or units.location
                    sums[sku, place] += units.quantity * (-1 if isinstance(event, Shipped) else 1)
            case _:
                if isinstance(event, Reserved | Committed) and event.lines is not None:
                    lines[event.reservation_id] = [line.sku for line in event.lines]
    return sums
