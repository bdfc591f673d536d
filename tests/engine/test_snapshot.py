"""Snapshots: what was cut is restored, whatever happens meanwhile; damage is found."""

import pytest

from engine.codec import Position
from engine.messages import Commit, Receive, Release, SetStock, Ship
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, SnapshotWriter
from tests.engine.shop import Shop, line, reserve

HERE = Position(3, 14)
CHECKSUM = 0xC0FFEE


def trading() -> Shop:
    """A shop with something of every kind to remember."""
    shop = Shop(north=50, south=5)
    shop.ok(Receive("brick", "north", 9, key="delivery-1"))
    shop.ok(SetStock("brick", {"north": 11}, {"vip": 3}))
    for number in range(9):
        shop.ok(reserve(f"cart-{number}", line("apple", 1)))
    shop.ok(Commit("cart-1"))
    shop.ok(Commit("cart-2"))
    shop.ok(Ship("cart-2"))
    shop.ok(Release("cart-3"))
    shop.ask(Release("late", bury=True))
    shop.wait(1)
    return shop


def cut(shop: Shop) -> SnapshotWriter:
    return SnapshotWriter(shop.shard.state, 0, HERE, CHECKSUM)


def rest(writer: SnapshotWriter) -> list[bytes]:
    chunks = []
    while named := writer.next_chunk():
        chunks.append(named[1])
    return chunks


def restored(chunks: list[bytes], shard: int = 0, position: Position = HERE) -> Shard:
    found = Shard(shard, 1)
    reader = SnapshotReader(found.state, shard, position)
    for chunk in chunks:
        reader.feed(chunk)
    assert reader.complete
    assert CHECKSUM == reader.checksum
    return found


def test_what_was_cut_is_restored() -> None:
    """The restored shard is the one that was cut, to the digest, and goes on as it would."""
    shop = trading()
    writer = cut(shop)
    found = restored(rest(writer))

    assert shop.shard.digest() == writer.digest == found.digest()
    shop.wait(600)
    found.begin(shop.now)
    assert shop.shard.events == found.events
    assert shop.shard.digest() == found.digest()


def test_a_cut_is_of_one_moment() -> None:
    """Whatever changes while the chunks are taken, they hold the moment of the cut."""
    shop = trading()
    before = shop.shard.digest()
    writer = cut(shop)
    chunks = []
    for number in range(4, 9):
        shop.ok(Commit(f"cart-{number}"))
        shop.ok(reserve(f"new-{number}", line("apple", 2)))
        shop.ok(Receive(f"sku-{number}", "north", 1))
        if named := writer.next_chunk():
            chunks.append(named[1])
        shop.wait(1)
    chunks += rest(writer)

    assert before == writer.digest == restored(chunks).digest()
    assert before != shop.shard.digest()


def test_every_flipped_bit_is_found() -> None:
    """One bit, anywhere in any chunk, and the snapshot is refused."""
    chunks = rest(cut(trading()))
    for number, chunk in enumerate(chunks):
        for place in range(0, len(chunk) * 8, 7):
            flipped = bytearray(chunk)
            flipped[place // 8] ^= 1 << place % 8
            with pytest.raises(CorruptSnapshotError, match=f"chunk {number}"):
                restored([*chunks[:number], bytes(flipped)])


def test_chunks_come_whole_in_order_once_each() -> None:
    """A missing, repeated, swapped, cut or further chunk is found, and so is a missing end."""
    chunks = rest(cut(trading()))
    assert len(chunks) > 2
    for wrong in (
        chunks[1:],
        [chunks[0], *chunks],
        [chunks[0], chunks[2]],
        [*chunks, chunks[-1]],
        [chunks[0][:-1]],
        [b""],
    ):
        with pytest.raises(CorruptSnapshotError):
            restored(wrong)
    with pytest.raises(AssertionError):
        restored(chunks[:-1])


@pytest.mark.parametrize(("shard", "position"), [(1, HERE), (0, Position(3, 13))])
def test_the_snapshot_of_another_place_is_found(shard: int, position: Position) -> None:
    """Chunks of another shard, or of another moment, are refused."""
    with pytest.raises(CorruptSnapshotError):
        restored(rest(cut(trading())), shard, position)
