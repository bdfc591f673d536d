"""The journal's clock: where it starts, that it never goes back, how it follows the wall."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.clock import SLEW_US_PER_SECOND, STEP_US, Clock
from engine.limits import SECOND_US

WALL = 1_800_000_000 * SECOND_US


class Machine:
    """A machine's two clocks, in microseconds, moved by hand."""

    def __init__(self) -> None:
        self.wall = WALL
        self.monotonic = 77 * SECOND_US

    def clock(self, last_stamp: int = 0) -> Clock:
        return Clock(
            last_stamp, wall=lambda: self.wall * 1_000, monotonic=lambda: self.monotonic * 1_000
        )

    def advance(self, microseconds: int) -> None:
        self.wall += microseconds
        self.monotonic += microseconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_it_starts_at_the_wall_clock(machine: Machine) -> None:
    """A new journal starts when its owner's wall clock says."""
    assert WALL == machine.clock().now()


def test_it_starts_no_earlier_than_the_last_stamp(machine: Machine) -> None:
    """An owner whose wall clock is behind goes on from its predecessor's last stamp."""
    clock = machine.clock(WALL + SECOND_US)

    assert WALL + SECOND_US == clock.now()
    assert (0, -SECOND_US) == (clock.steps, clock.error_us)


def test_a_journal_far_ahead_is_an_alarm(machine: Machine) -> None:
    """A last stamp more than a step ahead of the wall clock is counted as one."""
    clock = machine.clock(WALL + STEP_US + 1)

    assert WALL + STEP_US + 1 == clock.now()
    assert 1 == clock.steps


def test_it_counts_with_the_monotonic_clock(machine: Machine) -> None:
    """While the two clocks agree, microseconds pass one by one."""
    clock = machine.clock()
    for _ in range(10):
        machine.advance(333_333)
        assert machine.wall == clock.now()


def test_it_ignores_a_wall_clock_that_is_set(machine: Machine) -> None:
    """An hour's jump, either way, is counted, and moves the time by half a millisecond a second."""
    for hour, sign in ((3_600 * SECOND_US, 1), (-3_600 * SECOND_US, -1)):
        clock = machine.clock()
        start = clock.now()
        machine.wall += hour
        machine.advance(SECOND_US)
        assert start + SECOND_US == clock.now()
        machine.advance(SECOND_US)
        assert start + 2 * SECOND_US + sign * SLEW_US_PER_SECOND == clock.now()
        assert 1 == clock.steps


def test_it_is_slewed_until_it_agrees(machine: Machine) -> None:
    """A small error is made good at the bounded rate and then stays made good."""
    clock = machine.clock(WALL + 1_800)
    errors = []
    for _ in range(7):
        machine.advance(SECOND_US)
        clock.now()
        errors.append(clock.error_us)

    assert [-1_800, -1_300, -800, -300, 0, 0, 0] == errors


def test_nobody_asking_does_not_overshoot(machine: Machine) -> None:
    """A slew ends after its interval, even if nobody looks at the clock for a day."""
    clock = machine.clock(WALL + SECOND_US)
    machine.advance(SECOND_US)
    clock.now()
    machine.advance(86_400 * SECOND_US)
    clock.now()

    assert -SECOND_US + SLEW_US_PER_SECOND == clock.error_us
    assert 0 == clock.steps


def test_a_slow_drift_is_no_alarm(machine: Machine) -> None:
    """Only a jump between two looks is one, however far the clocks come apart in time."""
    clock = machine.clock()
    for _ in range(100):
        machine.advance(SECOND_US)
        machine.wall += SECOND_US
        clock.now()

    assert 0 == clock.steps
    assert clock.error_us > STEP_US


@given(
    last_stamp=st.integers(0, 2 * WALL),
    moves=st.lists(
        st.tuples(st.integers(0, 3 * SECOND_US), st.integers(-(10**12), 10**12)), max_size=60
    ),
)
def test_it_never_goes_back(last_stamp: int, moves: list[tuple[int, int]]) -> None:
    """Whatever happens to the wall clock, time grows by what passed, give or take the slew."""
    machine = Machine()
    clock = machine.clock(last_stamp)
    before = clock.now()
    assert before >= last_stamp
    for elapsed, jump in moves:
        machine.advance(elapsed)
        machine.wall += jump
        after = clock.now()
        assert after >= before
        assert abs(after - before - elapsed) <= elapsed * SLEW_US_PER_SECOND // SECOND_US + 2
        before = after


def test_it_follows_the_real_clocks() -> None:
    """With the machine's own clocks it agrees with the wall clock to well under a second."""
    clock = Clock()
    before = clock.now()

    assert before <= clock.now()
    assert abs(clock.error_us) < SECOND_US
