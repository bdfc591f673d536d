"""Restarts, step by step: a host is emptied before it ends, and nobody is the last of its kind."""

from actors.assignment import Assignment, Report
from actors.control import Channel, Join, Kind
from actors.member import Member
from actors.moves import Moves
from actors.process import Identity
from actors.restarts import Restarts, Step


def member(name: str, kind: Kind = Kind.HOST) -> Member:
    join = Join("token", kind, name, Identity(1, 0, "/bin/x"), "here", f"unix:/{name}")
    return Member(join, Channel(lambda channel, payload: None, lambda channel: None), 0.0)


class Table:
    """Two hosts, of which `a` has the only shard, and two gateways."""

    def __init__(self) -> None:
        self.members = {each: member(each) for each in ("a", "b")}
        self.members |= {each: member(each, Kind.GATEWAY) for each in ("x", "y")}
        self.assignment, self.moves = Assignment(1), Moves()
        self.assignment.place(["a"])
        self.assignment.report("a", Report(1, {0: 1}, {}, {}))
        self.restarts = Restarts(self.members, self.assignment, self.moves, 10.0)

    def step(self, name: str, now: float = 0.0, *, is_needed: bool = False) -> Step:
        return self.restarts.step(name, now, is_needed=is_needed)


def test_a_host_ends_when_it_is_empty() -> None:
    """Its shards move one at a time; when it has none, it is told, and after a while killed."""
    table = Table()
    assert table.restarts.want("a") is None
    assert (Step.MOVE, 0) == (table.step("a"), table.restarts.leaver("a"))

    table.moves.want(0, "b", 120.0)
    assert Step.WAIT == table.step("a")
    table.moves.drop(0)
    table.assignment.release(0, "b")
    assert Step.WAIT == table.step("a")
    table.assignment.report("a", Report(2, {}, {}, {}))
    assert (Step.END, False) == (table.step("a"), table.restarts.has_told("a"))

    table.restarts.told("a", 1.0)
    assert [Step.WAIT, Step.KILL] == [table.step("a", 11.0), table.step("a", 11.1)]
    assert table.restarts.has_told("a")


def test_a_gateway_just_ends() -> None:
    """It owns nothing, and whether hosts are short is not its business."""
    table = Table()

    assert table.restarts.want("x") is None
    assert "there is no gateway beside y" == table.restarts.want("y")
    assert ["x"] == table.restarts.names()
    assert Step.END == table.step("x", is_needed=True)


def test_a_restart_may_be_off() -> None:
    """It has died by itself, or is the only one that is left."""
    table = Table()
    assert table.restarts.want("a") is None
    assert Step.STAY == table.step("a", is_needed=True)

    table.members["a"].alive = False

    assert Step.GONE == table.step("a")
    assert "there is no a, or it says nothing" == table.restarts.want("a")
    table.restarts.forget("a")
    assert "a" not in table.restarts
