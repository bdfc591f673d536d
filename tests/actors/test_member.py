"""What the coordinator knows of a process: time in which nobody listened does not count."""

from actors.control import Channel, Join, Kind
from actors.member import Member
from actors.process import Identity


def member(now: float) -> Member:
    """One that joined then."""
    join = Join("token", Kind.HOST, "host-1", Identity(1, 0, "/bin/x"), "here", "unix:/host-1")
    return Member(join, Channel(lambda channel, payload: None, lambda channel: None), now)


def test_silence_that_nobody_could_hear_is_forgiven() -> None:
    """As long as the coordinator was held up, neither silence nor absence grew."""
    one = member(10.0)
    one.down_since = 11.0

    one.forgive(5.0, 20.0)

    assert (15.0, 16.0) == (one.heard, one.down_since)


def test_nobody_is_heard_in_advance() -> None:
    """What was said meanwhile, and read before the delay was noticed, earns no time to be silent
    or gone."""
    one = member(19.9)
    one.down_since = 19.8

    one.forgive(5.0, 20.0)

    assert (20.0, 20.0) == (one.heard, one.down_since)
