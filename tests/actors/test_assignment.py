"""The table of shards: even at the start, few moves on a death, nothing taken from who speaks."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.assignment import Assignment, Grant, Phase, Report


def owned_by(assignment: Assignment, host: str, epoch: int = 1) -> Report:
    """What `host` says once it owns all that it was given."""
    serial = max((slot.serial for slot in assignment.slots), default=0)
    return Report(serial, dict.fromkeys(assignment.shards_of(host), epoch), {}, {})


def settled(shards: int, *hosts: str) -> Assignment:
    """A table in which `hosts` own everything under epoch 1."""
    assignment = Assignment(shards)
    assignment.place(hosts)
    for host in hosts:
        assignment.report(host, owned_by(assignment, host))
    return assignment


def test_the_start_is_even() -> None:
    """Seven shards on three hosts are three, two and two, each granted once."""
    grants = Assignment(7).place(["c", "a", "b"])

    assert [3, 2, 2] == [Counter(grant.host for grant in grants)[host] for host in "abc"]
    assert list(range(7)) == [grant.shard for grant in grants]
    assert list(range(1, 8)) == [grant.serial for grant in grants]


def test_nobody_there_means_nothing_given() -> None:
    """Without a host every shard waits."""
    assignment = Assignment(2)

    assert [] == assignment.place([])
    assert [0, 1] == assignment.orphans()


def test_a_death_moves_only_what_died() -> None:
    """The dead host's shards go to the least loaded survivors; the others stay where they are."""
    assignment = settled(9, "a", "b", "c")
    stayed = {shard: slot.host for shard, slot in enumerate(assignment.slots) if slot.host != "a"}

    lost = assignment.drop("a")
    grants = assignment.place(["b", "c"])

    assert lost == [grant.shard for grant in grants]
    assert {"b", "c"} == {grant.host for grant in grants}
    assert stayed.items() <= {s: slot.host for s, slot in enumerate(assignment.slots)}.items()


def test_a_route_is_there_while_somebody_owns() -> None:
    """Routes appear with the claim and vanish with the owner; each change raises the version."""
    assignment = Assignment(1)
    assignment.place(["a"])
    seen = [(assignment.version, assignment.routes())]

    assignment.report("a", Report(1, {0: 4}, {}, {}))
    seen.append((assignment.version, assignment.routes()))
    assignment.drop("a")
    seen.append((assignment.version, assignment.routes()))

    assert [(0, {}), (1, {0: (4, "a")}), (2, {})] == seen


def test_recovery_is_left_alone() -> None:
    """A host that reports recovery keeps the shard, beat after beat, far along or not."""
    assignment = Assignment(1)
    assignment.place(["a"])

    for progress in (0, 10, 10):
        assignment.report("a", Report(1, {}, {0: progress}, {}))

    assert [] == assignment.place(["a", "b"])
    assert (Phase.ASSIGNED, 10) == (assignment.slots[0].phase, assignment.slots[0].progress)


def test_a_beat_from_before_the_grant_says_nothing_about_it() -> None:
    """A report that crossed the grant on its way does not undo it; a later one does."""
    assignment = Assignment(1)
    (grant,) = assignment.place(["a"])

    assignment.report("a", Report(grant.serial - 1, {}, {}, {}))
    before = assignment.orphans()
    assignment.report("a", Report(grant.serial, {}, {}, {}))

    assert ([], [0]) == (before, assignment.orphans())


def test_a_failed_shard_stays_and_is_not_routed() -> None:
    """Nobody else could serve it either: it is shown with its reason, until the host dies."""
    assignment = settled(1, "a")

    changed = assignment.report("a", Report(1, {}, {}, {0: "a gap"}))

    assert changed
    assert ({}, {0: "a gap"}, []) == (
        assignment.routes(),
        assignment.failures(),
        assignment.place(["a", "b"]),
    )


def test_an_owner_whose_shard_was_given_away_is_not_believed() -> None:
    """A frozen host that wakes still reports its shards; they are another's by now."""
    assignment = settled(1, "a")
    assignment.drop("a")
    assignment.place(["b"])

    assignment.report("a", Report(1, {0: 1}, {}, {}))

    assert ("b", Phase.ASSIGNED) == (assignment.slots[0].host, assignment.slots[0].phase)
    assert assignment.is_anothers("a", 0, 1)


def test_an_owner_whose_shard_nobody_took_keeps_it() -> None:
    """If no other host was there, the one that wakes goes on serving."""
    assignment = settled(1, "a")
    assignment.drop("a")

    assert not assignment.is_anothers("a", 0, 1)
    assert assignment.report("a", Report(1, {0: 1}, {}, {}))
    assert {0: (1, "a")} == assignment.routes()


def test_an_older_epoch_is_never_routed() -> None:
    """Once epoch 2 was seen, whoever says 1 has been superseded, even if epoch 2's owner died."""
    assignment = settled(1, "a")
    assignment.drop("a")
    assignment.place(["b"])
    assignment.report("b", Report(2, {0: 2}, {}, {}))
    assignment.drop("b")

    assignment.report("a", Report(1, {0: 1}, {}, {}))

    assert ({}, True) == (assignment.routes(), assignment.is_anothers("a", 0, 1))


def test_a_shard_moves_where_it_is_bound_for() -> None:
    """It is served until its owner has released it; then the other host gets it, however busy."""
    assignment = settled(3, "a", "b")

    grant = assignment.release(1, "a")
    before = assignment.routes()
    assignment.report("b", Report(grant.serial, {}, {}, {}))
    (placed,) = assignment.place(["a", "b"])

    assert ("b", 1) == (grant.host, grant.shard)
    assert {0: (1, "a"), 1: (1, "b"), 2: (1, "a")} == before
    assert ("a", 1) == (placed.host, placed.shard)


def test_a_move_to_a_host_that_died_goes_elsewhere() -> None:
    """The shard that was under way is an orphan like any other."""
    assignment = settled(2, "a", "b")
    grant = assignment.release(1, "a")
    assignment.drop("a")

    assignment.report("b", Report(grant.serial, {}, {}, {}))

    assert {"b"} == {each.host for each in assignment.place(["b"])}


def test_one_uneven_shard_at_a_time() -> None:
    """What to move is said once everything is at rest, until no move would help."""
    assignment = settled(5, "a")

    first = assignment.uneven(["a", "b"])
    assignment.release(1, "b")

    assert (0, "b") == first
    assert assignment.uneven(["a", "b"]) is None
    assert settled(5, "a", "b").uneven(["a", "b"]) is None
    assert settled(5, "a").uneven([]) is None


@given(st.data(), st.integers(1, 20))
def test_whatever_dies_and_joins_every_shard_has_one_live_host(
    data: st.DataObject, shards: int
) -> None:
    """After each placement over at least one host, all is placed, and no two loads drift apart
    by more than what the deaths explain: the orphans always go to the least loaded."""
    assignment = Assignment(shards)
    alive: set[str] = set()
    for _ in range(data.draw(st.integers(1, 12))):
        host = data.draw(st.sampled_from("abcde"))
        if host in alive:
            alive.discard(host)
            assignment.drop(host)
        else:
            alive.add(host)
        grants: list[Grant] = assignment.place(alive)
        assert {grant.host for grant in grants} <= alive
        if alive:
            assert [] == assignment.orphans()
            assert {slot.host for slot in assignment.slots} <= alive
            for name in alive:
                assignment.report(name, owned_by(assignment, name))


def test_what_may_not_have_been_heard() -> None:
    """A host is told again what it has not done, under new numbers: what it says until it has
    heard those says nothing about that."""
    table = Assignment(3)
    table.place(["a"])
    table.report("a", Report(2, {0: 1, 1: 1}, {}, {}))
    table.release(0, "b")
    assert [(5, "a", 0), (6, "a", 2)] == table.again("a")
    assert [] == table.again("b")

    table.report("a", Report(5, {1: 1}, {}, {}))
    assert [Phase.ORPHAN, Phase.OWNED, Phase.ASSIGNED] == [each.phase for each in table.slots]
    table.report("a", Report(6, {1: 1}, {}, {}))
    assert [0, 2] == table.orphans()


def test_who_fails_while_it_leaves_keeps_nobody_waiting() -> None:
    """A shard that was to move, and cannot be served any more, stays; the others are evened out."""
    table = settled(5, "a")
    grant = table.release(0, "b")

    table.report("a", Report(grant.serial, dict.fromkeys(range(1, 5), 1), {}, {0: "a gap"}))

    assert (Phase.FAILED, "") == (table.slots[0].phase, table.slots[0].bound_for)
    assert set() == table.due_at("b")
    assert (1, "b") == table.uneven(["a", "b"])
    assert [1, 2, 3, 4] == table.shards_of("a", Phase.OWNED)
