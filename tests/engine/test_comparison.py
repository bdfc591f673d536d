"""Two states that differ in one thing: what is said about it names that thing, and nothing else."""

from collections.abc import Callable

import pytest

from engine import limits
from engine.audit import Findings, audit
from engine.comparison import balancing, comparing
from engine.ledger import Ledger
from engine.messages import (
    Buried,
    ChannelPolicy,
    ChannelSet,
    Committed,
    Event,
    Line,
    Part,
    Received,
    Reserved,
    StockSet,
)
from engine.shard import Shard
from engine.slices import drained
from engine.state import ShardState

HISTORY: list[Event] = [
    Received("apple", "north", 10, key="k1", fingerprint=b"12345678"),
    Received("pear", "north", 10),
    StockSet("apple", {"north": 2}, {"few": 3}),
    ChannelSet("shop", ChannelPolicy()),
    Reserved("r1", b"", None, 10**9, [Line("apple", [Part("north", 3)])]),
    Reserved("r2", b"", None, 10**9, [Line("pear", [Part("north", 1)])]),
    Committed("r2"),
]


def made() -> ShardState:
    shard = Shard(0, 1)
    shard.replay(1, HISTORY)
    return shard.state


def said(memory: ShardState, journal: ShardState) -> list[str]:
    findings = Findings()
    drained(comparing(memory, journal, findings))
    return findings.texts


Change = Callable[[ShardState], object]


def flip(counter: str, by: int = 1) -> Change:
    """Another value of a counter of the apples up north."""

    def change(state: ShardState) -> None:
        found = state.skus.get("apple")
        assert found is not None
        place = found.locations["north"]
        setattr(place, counter, getattr(place, counter) + by)

    return change


def lose(sku: str) -> Change:
    """The SKU is not known any more."""

    def change(state: ShardState) -> None:
        state.skus.counters.names[state.skus.row(sku)] = ""
        state.skus.size -= 1

    return change


def ring_fence(pool: str, units: int) -> Change:
    """Another pool of the apples."""

    def change(state: ShardState) -> None:
        found = state.skus.get("apple")
        assert found is not None
        found.set_pool(pool, units)

    return change


def put(name: str, value: object) -> Change:
    """Another value of what is kept of the apples as a whole."""

    def change(state: ShardState) -> None:
        found = state.skus.get("apple")
        assert found is not None
        setattr(found, name, value)

    return change


def apply(*events: Event) -> Change:
    def change(state: ShardState) -> None:
        for event in events:
            state.apply(event)

    return change


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (flip("on_hand"), "apple at north: on_hand: 11 in memory, 10 by the journal"),
        (flip("reserved", -1), "apple at north: reserved: 2 in memory, 3 by the journal"),
        (flip("allocated"), "apple at north: allocated: 1 in memory, 0 by the journal"),
        (flip("safety_stock"), "apple at north: safety_stock: 3 in memory, 2 by the journal"),
        (flip("short"), "apple at north: short: 1 in memory, 0 by the journal"),
        (put("version", 9), "apple: version: 9 in memory, 3 by the journal"),
        (put("physical_version", 9), "apple: physical_version: 9 in memory, 1 by the journal"),
        (ring_fence("few", 2), "apple: pools: {'few': 2} in memory, {'few': 3} by the journal"),
        (
            lambda state: state.reservations.remove(b"r1"),
            "reservation r1: only in the journal",
        ),
        (apply(Buried("r3")), "reservation r3: only in memory"),
        (lambda state: state.keys.remove(b"k1"), "key k1: only in the journal"),
        (
            lambda state: state.keys.put(b"k1", bytes(16)),
            "key k1: another request in memory than in the journal",
        ),
        (lambda state: state.keys.put(b"k2", bytes(16)), "key k2: only in memory"),
        (lose("pear"), "pear: only in the journal"),
        (
            lambda state: state.channels.clear(),
            "channels: {} in memory, {'shop': ChannelPolicy(locations=None, pools=[],"
            " common_stock=True, buffer=0)} by the journal",
        ),
        (
            lambda state: setattr(state, "grace_until", 7),
            "grace_until: 7 in memory, 0 by the journal",
        ),
    ],
)
def test_what_differs_is_named(change: Change, finding: str) -> None:
    """One thing that is otherwise in memory is one finding, with both values."""
    memory = made()
    change(memory)

    assert [finding] == said(memory, made())
    assert [] == said(made(), made())


def test_a_reservation_that_stands_elsewhere() -> None:
    """Its fields are told apart."""
    memory = made()
    memory.apply(Committed("r1"))

    assert "reservation r1: state: committed in memory, reserved by the journal" in said(
        memory, made()
    )


def test_more_than_can_be_read_is_counted() -> None:
    """Of very many findings the first are in words."""
    memory, findings = made(), Findings()
    for number in range(100):
        memory.apply(Buried(f"grave-{number}"))
    drained(comparing(memory, made(), findings))

    assert (100, limits.AUDIT_FINDINGS_MAX) == (findings.count, len(findings.texts))


def test_memory_and_the_movements() -> None:
    """What is on hand, and what its movements add up to; of what memory does not know, too."""
    memory, ledger, findings = made(), Ledger(), Findings()
    for event in HISTORY:
        ledger.take(event)
    ledger.take(Received("fig", "north", 4))
    flip("on_hand")(memory)
    drained(balancing(memory, ledger, findings))

    assert [
        "apple at north: on_hand 11, its movements say 10",
        "fig at north: unknown, its movements say 4 on_hand",
    ] == findings.texts


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (flip("reserved"), ["apple at north: reserved 4, lines say 3"]),
        (flip("allocated"), ["apple at north: allocated 1, lines say 0"]),
        (
            flip("on_hand", -11),
            ["apple at north: on_hand -1", "apple at north: short of 6, known 0, listed 0"],
        ),
        (flip("short"), ["apple at north: short of 0, known 1, listed 0"]),
        (
            lambda state: state.reservations.remove(b"r1"),
            ["apple at north: reserved 3, lines say 0", "0 reservations are RESERVED, 1 counted"],
        ),
        (
            lose("apple"),
            ["apple at north: promised, but unknown"],
        ),
    ],
)
def test_sums_that_do_not_add_up(change: Change, findings: list[str]) -> None:
    """A counter that is not the sum of its reservations is named, with both numbers."""
    memory = made()
    change(memory)
    view = audit(memory, 0)

    assert (findings, len(findings)) == (view.findings, view.drift)
    assert memory.digest() == view.digest


def test_sums_that_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the slices are."""
    memory = made()
    for slice_entries in (1, 2, 1_000):
        monkeypatch.setattr(limits, "AUDIT_SLICE_ENTRIES", slice_entries)
        view = audit(memory, 0)
        assert (2, 20, 3, 1, 14, 0, 0) == (
            *(view.skus, view.on_hand, view.reserved, view.allocated, view.available),
            *(view.shipped, view.drift),
        )
        assert {"reserved": 1, "committed": 1} == {
            name: count for name, count in view.reservations.items() if count
        }
