"""Snapshots: of one moment, in slices, and nothing is believed that does not prove itself."""

import struct
from collections.abc import Iterator
from random import Random
from zlib import crc32

import msgspec
import pytest

from engine import limits
from engine.codec import START, Position
from engine.messages import (
    ChannelPolicy,
    Command,
    Commit,
    Genesis,
    LineRequest,
    Receive,
    Release,
    Reserve,
    SetChannel,
    SetStock,
    Ship,
    State,
)
from engine.shard import Shard
from engine.snapshot import CorruptSnapshotError, SnapshotReader, SnapshotWriter, chunk_name

CUT = Position(3, 14)
NOW = 1_700_000_000 * limits.SECOND_US
WINDOW = 60 * limits.SECOND_US


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 5)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FINISHED_WINDOW_US", WINDOW)
    monkeypatch.setattr(limits, "KEYS_WINDOW_US", 2 * WINDOW)


def do(shard: Shard, command: Command, now: int = 0) -> None:
    shard.begin(now)
    shard.execute(command)
    shard.close()


def lived(holds: int = 40) -> Shard:
    """A shard that has some of everything."""
    shard = Shard(0, 1)
    shard.replay(NOW, [Genesis("here", 1, "crc32")])
    for number in range(holds // 2):
        do(shard, Receive(f"sku-{number}", "here", 10, key=f"key-{number}"))
    for number in range(holds):
        sku = f"sku-{number % (holds // 2)}"
        do(shard, Reserve(f"r{number}", [LineRequest(sku, 1)], ttl_seconds=600))
        if number % 4 == 0:
            do(shard, Commit(f"r{number}", 0))
        if number % 4 == 1:
            do(shard, Release(f"r{number}", 0))
    do(shard, Ship("r4", 0))
    do(shard, Release("late", 0, bury=True))
    do(shard, SetStock("sku-1", {"here": 11}, {"few": 2}))
    do(shard, SetChannel(0, "shop", ChannelPolicy(["here"], ["few"], False, 3)))
    return shard


def written(writer: SnapshotWriter) -> list[bytes]:
    """All chunks."""
    return [data for _, data in chunks(writer)]


def chunks(writer: SnapshotWriter) -> Iterator[tuple[str, bytes]]:
    while (chunk := writer.next_chunk()) is not None:
        yield chunk


def restored(data: list[bytes]) -> tuple[Shard, SnapshotReader]:
    shard = Shard(0, 1)
    reader = SnapshotReader(shard.state, 0, CUT)
    for chunk in data:
        assert not reader.complete
        reader.feed(chunk)
    assert reader.complete
    return shard, reader


def writer_of(shard: Shard, previous: Position = START) -> SnapshotWriter:
    return SnapshotWriter(shard.state, 0, CUT, 0xC0FFEE, previous)


def same(one: Shard, other: Shard) -> bool:
    """Not only as the digest has it."""
    states = one.state, other.state
    ours, theirs = (
        (
            state.now,
            dict(state.reservations.items()),
            dict(state.keys.items()),
            state.shortfalls,
            state.counts,
            state.settings(),
            sorted(stock.sku for stock in state.skus.values()),
            state.remembered,
        )
        for state in states
    )
    return ours == theirs and one.digest() == other.digest()


# --- there and back --------------------------------------------------------------------------


def test_what_is_written_is_read(small_slices: None) -> None:
    """A state comes back as it was, with all that is counted and derived."""
    shard = lived()
    data = written(writer_of(shard, Position(2, 7)))
    back, reader = restored(data)

    assert len(data) > 10
    assert same(shard, back)
    assert {("sku-1", "here"): 1} == back.state.shortfalls
    assert [10, 20, 11] == [
        back.state.counts[state] for state in (State.COMMITTED, State.RESERVED, State.RELEASED)
    ]
    assert (CUT, 0xC0FFEE, Position(2, 7)) == (reader.position, reader.checksum, reader.previous)


def test_what_is_read_lives_on(small_slices: None) -> None:
    """Deadlines and windows are restored: what expires and is forgotten does so there as well."""
    shard = lived()
    back, _ = restored(written(writer_of(shard)))
    for now in (NOW + 601 * limits.SECOND_US, NOW + 2 * 86_400 * limits.SECOND_US):
        for each in (shard, back):
            each.begin(now)
        assert shard.close() == back.close()
        assert shard.state.counts == back.state.counts
        assert shard.digest() == back.digest()
    assert 0 == back.state.counts[State.RESERVED]


def test_a_shard_without_anything() -> None:
    """An empty state is one chunk, the head."""
    shard = Shard(0, 1)
    shard.replay(NOW, [Genesis("here", 1, "crc32")])
    data = written(writer_of(shard))

    assert 1 == len(data)
    assert same(shard, restored(data)[0])


def test_chunks_are_named_by_the_cut(small_slices: None) -> None:
    """Names hold the position of the cut and count from 0."""
    writer = writer_of(lived())
    names = [name for name, _ in chunks(writer)]

    assert [f"3-14:{number}" for number in range(len(names))] == names
    assert len(names) == writer.chunks
    assert "3-14:2" == chunk_name(CUT, 2)
    assert writer.next_chunk() is None


def test_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By entries, so that a slice is short work, and by bytes, so that it fits."""
    monkeypatch.setattr("engine.snapshot._FILL_BYTES", 500)
    data = written(writer_of(lived()))
    assert max(map(len, data)) < 1_000
    monkeypatch.undo()
    assert 4 == len(written(writer_of(lived())))
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 20)

    assert [1, 1, 3, 1] == _by_kind(written(writer_of(lived())))


def _by_kind(data: list[bytes]) -> list[int]:
    kinds = [msgspec.msgpack.decode(chunk[26:-4])[0] for chunk in data]
    return [kinds.count(kind) for kind in range(4)]


# --- of one moment ---------------------------------------------------------------------------


def test_what_changes_meanwhile_is_not_in_it(small_slices: None) -> None:
    """Whatever is done between two slices, what is written is as it was at the cut."""
    shard = lived()
    expected, digest = lived(), shard.digest()
    writer = writer_of(shard)
    data = []
    for number, (_, chunk) in enumerate(chunks(writer)):
        data.append(chunk)
        for busy in range(number * 3, number * 3 + 3):
            do(shard, Receive(f"sku-{busy % 25}", "there", 1, key=f"new-{busy}"))
            do(shard, Reserve(f"n{busy}", [LineRequest(f"sku-{busy % 20}", 1)]))
            do(shard, Commit(f"r{busy % 40}", 0))
            do(shard, Release(f"r{busy % 37}", 0))
            do(shard, SetChannel(0, "shop", ChannelPolicy(buffer=busy)))
    back, _ = restored(data)

    assert same(expected, back)
    assert digest == writer.digest == back.digest()
    assert digest != shard.digest()


@pytest.mark.parametrize("seed", range(8))
def test_any_traffic_between_slices(small_slices: None, short_windows: None, seed: int) -> None:
    """At random, with time that passes: holds expire, what is finished is forgotten."""
    random = Random(seed)
    shard = lived()
    now = NOW
    for _ in range(3):
        now += random.randrange(2 * WINDOW)
        shard.begin(now)
        shard.close()
        digest = shard.digest()
        writer = writer_of(shard)
        data = []
        for _, chunk in chunks(writer):
            data.append(chunk)
            now += random.randrange(WINDOW // 4)
            name = f"r{random.randrange(60)}"
            sku = f"sku-{random.randrange(22)}"
            commands: list[Command] = [
                Reserve(name, [LineRequest(sku, random.randrange(1, 4))], ttl_seconds=30),
                Commit(name, 0),
                Release(name, 0),
                Receive(sku, "here", 5, key=name),
            ]
            do(shard, random.choice(commands), now)
        back, _ = restored(data)

        assert digest == writer.digest == back.digest()


def test_what_was_forgotten_is_left_out(small_slices: None, short_windows: None) -> None:
    """Finished reservations whose window has ended, and keys, though still in memory."""
    shard = lived()
    shard.begin(NOW + WINDOW)
    back, _ = restored(written(writer_of(shard)))
    assert (11, 0) == (shard.state.counts[State.RELEASED], back.state.counts[State.RELEASED])
    assert 20 == back.state.keys.size
    shard.begin(NOW + 2 * WINDOW)
    back, _ = restored(written(writer_of(shard)))

    assert (20, 0) == (shard.state.keys.size, back.state.keys.size)
    assert shard.digest() == back.digest()


def test_only_the_newest_writer_counts(small_slices: None) -> None:
    """A snapshot that was begun before another one cannot be finished."""
    shard = lived()
    old = writer_of(shard)
    old.next_chunk()
    new = writer_of(shard)
    with pytest.raises(AssertionError, match="a newer snapshot was begun"):
        old.next_chunk()

    assert same(shard, restored(written(new))[0])


def test_an_unfinished_snapshot_leaves_nothing(small_slices: None) -> None:
    """What was copied for one that was given up does not get into the next."""
    shard = lived()
    given_up = writer_of(shard)
    given_up.next_chunk()
    for number in range(20):
        do(shard, Receive(f"sku-{number}", "here", 1))
        do(shard, Commit(f"r{number}", 0))

    assert same(shard, restored(written(writer_of(shard)))[0])


# --- what does not prove itself --------------------------------------------------------------


def sealed(body: bytes) -> bytes:
    return body + struct.pack(">I", crc32(body))


def refusal(data: bytes, number: int = 0, complete: bool = False) -> str:
    """Why a chunk is refused where chunk `number` is expected."""
    reader = SnapshotReader(Shard(0, 1).state, 0, CUT)
    reader.chunks, reader.complete = number, complete
    with pytest.raises(CorruptSnapshotError) as refused:
        reader.feed(data)
    return str(refused.value)


@pytest.fixture
def data(small_slices: None) -> list[bytes]:
    """The chunks of a snapshot."""
    return written(writer_of(lived()))


def test_every_bit_counts(data: list[bytes]) -> None:
    """A flipped bit anywhere in a chunk is found."""
    for number, chunk in ((0, data[0]), (1, data[1]), (len(data) - 1, data[-1])):
        for offset in range(len(chunk)):
            changed = bytearray(chunk)
            changed[offset] ^= 1 << offset % 8
            assert "checksum" in refusal(bytes(changed), number)


def test_too_short(data: list[bytes]) -> None:
    """What is torn is refused by its length or its checksum."""
    assert "29 bytes are too few" in refusal(data[0][:29])
    assert "0 bytes are too few" in refusal(b"")
    assert "checksum" in refusal(data[0][:-5])


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (0, "format 0, this engine reads 1"),
        (4, "of shard 1"),
        (12, "holds chunk 0 of 2-14"),
        (20, "holds chunk 0 of 3-15"),
        (24, "holds chunk 1 of 3-14"),
    ],
)
def test_a_chunk_of_another(data: list[bytes], offset: int, reason: str) -> None:
    """Format, shard, snapshot and number must be those that are asked for."""
    body = bytearray(data[0][:-4])
    body[offset] ^= 1

    assert reason in refusal(sealed(bytes(body)))


def test_chunks_out_of_order(data: list[bytes]) -> None:
    """Each has its place; after the last there is none."""
    assert "holds chunk 1" in refusal(data[1], 0)
    assert "holds chunk 0" in refusal(data[0], 1)
    assert "after the last one" in refusal(data[1], 1, complete=True)


@pytest.mark.parametrize(
    ("number", "content", "reason"),
    [
        (0, (1, []), "of kind 1"),
        (1, (0, []), "of kind 0"),
        (1, (9, []), "of unknown kind 9"),
        (1, [], "does not decode"),
        (1, (1, [1]), "does not decode"),
        (1, (1, [b"\xc1"]), "does not decode"),
        (1, (2, [("r1", b"")]), "does not decode"),
        (1, (2, [("r1", b"\x01")]), "does not decode"),
        (1, (2, [("r1", b"\x09" + bytes(60))]), "does not decode"),
        (1, (3, [("k1", b"short")]), "does not decode"),
        (0, (0, (1, 2, 3)), "does not decode"),
    ],
)
def test_content_that_is_none(data: list[bytes], number: int, content: object, reason: str) -> None:
    """A chunk that proves itself and holds something else is refused all the same."""
    body = data[number][:26] + msgspec.msgpack.encode(content)

    assert reason in refusal(sealed(body), number)


def test_random_content(data: list[bytes]) -> None:
    """Whatever stands in a chunk that proves itself: it is read, or refused as corrupt."""
    random = Random(7)
    refused = 0
    for number in range(len(data)):
        for _ in range(60):
            body = bytearray(data[number][:-4])
            for _ in range(random.choice([1, 1, 2])):
                body[random.randrange(26, len(body))] = random.randrange(256)
            reader = SnapshotReader(Shard(0, 1).state, 0, CUT)
            for whole in data[:number]:
                reader.feed(whole)
            try:
                reader.feed(sealed(bytes(body)))
            except CorruptSnapshotError:
                refused += 1

    assert refused > 60
