"""A journal by hand: every event and every field of it, several epochs, a handoff, snapshots.

`Scribe` writes what an owner would, with the rules left out: the events are given, the shard only
applies them. So this journal stays the same whatever the rules come to decide.
"""

from actors.journal import Entry
from engine import limits
from engine.codec import GENESIS, START, Position, encode_record
from engine.messages import (
    Adjusted,
    Bound,
    Buried,
    Cancelled,
    ChannelPolicy,
    ChannelSet,
    Claimed,
    Committed,
    Counted,
    Dedicated,
    Draw,
    Event,
    Expired,
    Extended,
    Genesis,
    HandedOff,
    Line,
    LinesMoved,
    Opened,
    Part,
    Passed,
    Received,
    Released,
    Reserved,
    Restocked,
    Settled,
    Shipped,
    ShortfallChanged,
    SnapshotBegun,
    SnapshotTaken,
    StockSet,
    Transferred,
    Unbound,
    UnitsMoved,
)
from engine.placement import HASH
from engine.shard import Shard
from engine.snapshot import SnapshotWriter

START_US = 1_700_000_000 * limits.SECOND_US
SHARD, SHARDS, CLUSTER = 5, 8, "golden"


class Scribe:
    """Writes one shard's journal and its snapshots, and applies what it writes."""

    def __init__(self) -> None:
        self.shard = Shard(SHARD, SHARDS)
        self.entries: list[Entry] = []
        self.chunks: list[tuple[str, bytes]] = []
        self.position, self.checksum = START, 0
        self._before_claim = (START, 0)
        self._pointer = START
        self._stamp = START_US

    def at(self, position: Position, *events: Event) -> None:
        """The record that stands there."""
        previous = self.checksum if position.sequence and position != GENESIS else 0
        record, self.checksum = encode_record(
            SHARD, position, self._stamp, previous, self._pointer, events
        )
        self.position = position
        self.entries.append(Entry(position, record))
        self.shard.replay(self._stamp, list(events))

    def write(self, *events: Event) -> None:
        """The next record, a second later."""
        self._stamp += limits.SECOND_US
        self.at(Position(self.position.epoch, self.position.sequence + 1), *events)

    def wait(self, seconds: int) -> None:
        self._stamp += seconds * limits.SECOND_US

    def deadline(self, seconds: int) -> int:
        return self._stamp + seconds * limits.SECOND_US

    def claim(self, host: str) -> None:
        """Another owner comes, and opens the shard."""
        found = (*self.position, self.checksum, self.shard.digest())
        epoch = self.position.epoch + 1
        self.wait(3)
        self.at(Position(epoch, 0), Claimed(host.encode().ljust(16, b"."), host))
        windows = (limits.FINISHED_WINDOW_US, limits.RETURNS_WINDOW_US, limits.KEYS_WINDOW_US)
        opened = Opened(*found, self._stamp, self._stamp + limits.GRACE_US, *windows)
        self.at(Position(epoch, 1), opened)

    def snapshot(self, previous: Position, *meanwhile: Event) -> Position:
        """A snapshot, and what happens between its cut and its announcement."""
        self.write(SnapshotBegun())
        cut = self.position
        writer = SnapshotWriter(self.shard.state, SHARD, cut, self.checksum, previous)
        self.write(*meanwhile)
        while (chunk := writer.next_chunk()) is not None:
            self.chunks.append(chunk)
        self._pointer = cut
        self.write(SnapshotTaken(*cut, writer.chunks, writer.digest))
        return cut


def stock(scribe: Scribe) -> None:
    """Every movement, with all that can be said of it and with nothing."""
    scribe.write(
        Received(
            *("apple", "north", 12, "delivery", "po-1", 250, "EUR"),
            *("key-received", b"receive1", "dock"),
        ),
        Received("apple", "south", 8),
        Received("brick", "north", 5),
    )
    scribe.write(
        Adjusted("apple", "north", -2, "broken", "case-7", "key-adjusted", b"adjusted", "dock"),
        Counted("apple", "south", 9, "stock-take", "sheet-3", "key-counted", b"counted1", "dock"),
        Transferred(
            *("apple", "north", "west", 3, "to sell", "van-1", "key-transferred", b"transfer"),
            by="van",
        ),
    )
    scribe.write(
        Adjusted("brick", "north", 1),
        Counted("brick", "north", 6),
        Transferred("brick", "north", "south", 2),
    )
    scribe.write(
        StockSet("apple", {"north": 1, "west": 0}, {"vip": 4, "trade": 2}, "office"),
        ChannelSet("shop", ChannelPolicy(["south", "north"], ["vip"], False, 1), "office"),
        ChannelSet("till", ChannelPolicy()),
    )


def dedication(scribe: Scribe) -> None:
    """All that a hashed shard and a dedicated one journal of it; a state has room for both."""
    scribe.write(Bound("hot-1"), Dedicated("hot-2", SHARDS, "office"))
    scribe.write(Unbound("hot-1"))
    scribe.write(Bound("hot-3"), Settled("hot-3"))


def sales(scribe: Scribe) -> None:
    """Holds over two places and out of a pool, kept in part, moved, shipped, cancelled and back."""
    apples = Line("apple", [Part("south", 3), Part("north", 1)], [Draw("vip", 2)])
    kept = Line("apple", [Part("south", 2), Part("north", 1)], [Draw("vip", 2)])
    bricks = Line("brick", [Part("north", 1)])
    west = Line("apple", [Part("west", 2)])
    scribe.write(
        Reserved("cart-1", b"request1", "shop", scribe.deadline(600), [apples, bricks], 7, [1, 2]),
        Reserved("cart-2", b"request2", None, scribe.deadline(600), [west]),
    )
    scribe.write(Extended("cart-1", scribe.deadline(900)), Committed("cart-1", [kept, bricks]))
    scribe.write(Committed("cart-2"))
    scribe.write(
        LinesMoved("cart-2", [UnitsMoved(0, "west", 1, "south")], "key-moved", b"moved-01"),
        Shipped(
            "cart-1",
            [UnitsMoved(0, "south", 2), UnitsMoved(1, "north", 1)],
            "key-shipped",
            b"shipped1",
        ),
        Cancelled("cart-1", [UnitsMoved(0, "north", 1)], "key-cancelled", b"cancel-1"),
    )
    scribe.write(
        Restocked("cart-1", [UnitsMoved(0, "south", 1, "west")], "key-restocked", b"restock1")
    )
    scribe.write(Shipped("cart-2", [UnitsMoved(0, "south", 1)]))


def ends(scribe: Scribe) -> None:
    """Released, expired, taken again after that, and an id that was buried before it was known."""
    three = Line("apple", [Part("south", 2)])
    four = Line("brick", [Part("south", 1)])
    scribe.write(Reserved("cart-3", b"request3", "till", scribe.deadline(60), [three]))
    scribe.write(Reserved("cart-4", b"request4", "till", scribe.deadline(60), [four]))
    scribe.write(Released("cart-3"), Buried("cart-9"))
    scribe.wait(70)
    scribe.write(Expired("cart-4"))
    scribe.write(
        Reserved("cart-4", b"request4", "till", scribe.deadline(0), [four]), Committed("cart-4")
    )
    scribe.write(Cancelled("cart-4", [UnitsMoved(0, "south", 1)]))


def written() -> Scribe:
    """The journal and the snapshots of it."""
    scribe = Scribe()
    scribe.at(GENESIS, Genesis(CLUSTER, SHARDS, HASH))
    scribe.claim("host-1")
    stock(scribe)
    dedication(scribe)
    sales(scribe)
    first = scribe.snapshot(
        START, Counted("apple", "west", 0), ShortfallChanged("apple", "west", 1)
    )
    scribe.write(HandedOff("host-2"))
    scribe.claim("host-2")
    ends(scribe)
    scribe.snapshot(first, Received("apple", "west", 3), ShortfallChanged("apple", "west", 0))
    five = Line("apple", [Part("south", 1)])
    scribe.write(Reserved("cart-5", b"request5", None, scribe.deadline(600), [five]))
    scribe.claim("host-3")
    scribe.write(Passed())
    scribe.write(Restocked("cart-2", [UnitsMoved(0, "south", 1)]))
    return scribe
