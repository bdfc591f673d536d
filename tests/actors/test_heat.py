"""Heat: what has long been more than half of a busy host is hot, and stays so through a lull."""

from collections.abc import Mapping

import pytest

from actors.heat import COLD_SECONDS, HOT_RATE, HOT_SECONDS, Heat

BEAT = 0.25
FAST = 8_000.0
"""Commands a second, of which a host can do ten thousand."""


class Day:
    """One host, `a`, that beats: how much of a core it takes, and commands a second by shard."""

    def __init__(self) -> None:
        self.heat = Heat()
        self.now = 100.0
        self.spent = 7.0
        self.epochs: dict[int, int] = {}
        self.taken: dict[int, float] = {}

    def pass_by(
        self, seconds: float, busy: float, rates: Mapping[int, float], every: float = BEAT
    ) -> list[float]:
        """The moments at which something became hot, or cold."""
        turned = []
        for _ in range(round(seconds / every)):
            self.now += every
            self.spent += busy * every
            for shard, rate in rates.items():
                self.epochs.setdefault(shard, 1)
                self.taken[shard] = self.taken.get(shard, 0.0) + rate * every
            taken = {shard: int(count) for shard, count in self.taken.items()}
            self.heat.hear("a", self.now, self.spent, self.epochs, taken)
            before = set(self.heat.hot)
            if before != self.heat.look(self.now):
                turned.append(self.now)
        return turned


def test_a_sale_makes_a_shard_hot() -> None:
    """Not at once, but soon; how much of its host it takes is known."""
    day = Day()
    began = day.now

    [hot_at] = day.pass_by(60, 0.9, {0: FAST, 1: 500.0, 2: 500.0})

    assert HOT_SECONDS < hot_at - began < 3 * HOT_SECONDS
    assert {0} == day.heat.hot
    assert pytest.approx(8 / 9, abs=0.01) == day.heat.share(0)
    assert {"a"} == day.heat.full()


@pytest.mark.parametrize(
    ("busy", "rates"),
    [
        pytest.param(0.6, {0: FAST}, id="a host that idles"),
        pytest.param(0.9, {0: 4_000.0, 1: 4_500.0, 2: 3_000.0}, id="nobody has half of it"),
        pytest.param(0.9, {0: HOT_RATE - 10, 1: 1.0}, id="busy with something else"),
        pytest.param(0.9, {}, id="nobody at all"),
    ],
)
def test_who_is_not_hot(busy: float, rates: dict[int, float]) -> None:
    """However long it lasts."""
    assert [] == Day().pass_by(600, busy, rates)


def test_a_burst_is_no_sale() -> None:
    """Every half minute a shard is busy for a few seconds, and never hot."""
    day = Day()

    assert [] == [
        turned
        for _ in range(10)
        for turned in day.pass_by(8, 1.0, {0: FAST}) + day.pass_by(22, 0.1, {0: 100.0})
    ]


def test_a_lull_cools_nothing_down() -> None:
    """Minutes later the sale may go on; when it has not, the shard is cold."""
    day = Day()
    day.pass_by(60, 0.9, {0: FAST, 1: 100.0})

    assert [] == day.pass_by(COLD_SECONDS - 10, 0.05, {0: 10.0, 1: 10.0})
    assert [] == day.pass_by(30, 0.9, {0: FAST, 1: 100.0})
    [cold_at] = day.pass_by(2 * COLD_SECONDS, 0.05, {0: 10.0, 1: 10.0})

    assert set() == day.heat.hot
    assert COLD_SECONDS < cold_at - (day.now - 2 * COLD_SECONDS) < COLD_SECONDS + 30


def test_alone_it_stays_hot() -> None:
    """The least that is hot is still more than what cools down, when the others have left."""
    day = Day()
    assert [] != day.pass_by(100, 0.72, {0: 4_000.0, 1: 3_800.0})

    assert [] == day.pass_by(3 * COLD_SECONDS, 0.72 * 4 / 7.8, {0: 4_000.0})


def test_lost_beats_cost_nothing() -> None:
    """Totals say the same, heard once in seconds."""
    day = Day()
    assert [] != day.pass_by(60, 0.9, {0: FAST, 1: 500.0}, every=3.0)
    assert pytest.approx(16 / 17, abs=0.01) == day.heat.share(0)


def test_beats_at_one_moment_are_no_rate() -> None:
    """What was held up comes at once: that makes nobody busier than one core can be."""
    day = Day()
    day.pass_by(60, 0.1, {0: 100.0, 1: 100.0})
    for late in range(20):
        day.heat.hear("a", day.now, day.spent + late, day.epochs, {0: 10_000 * late, 1: 0})

    assert set() == day.heat.full()
    assert pytest.approx(0.5, abs=0.01) == day.heat.share(0)


def test_another_owner_begins_at_none() -> None:
    """Its count is no drop and no jump, and what was hot is still hot, wherever it is."""
    day = Day()
    day.pass_by(60, 0.9, {0: FAST, 1: 500.0})
    day.epochs[0], day.taken[0] = 2, 0.0

    assert [] == day.pass_by(60, 0.9, {0: FAST, 1: 500.0})
    assert 0.5 < day.heat.share(0) < 1.0


def test_who_is_gone_is_forgotten() -> None:
    """Its successor's totals begin anew; a shard that nobody has cools down in its time."""
    day = Day()
    day.pass_by(60, 0.9, {0: FAST, 1: 500.0})

    day.heat.forget("a")

    assert (0.0, set()) == (day.heat.share(0), day.heat.full())
    assert {0} == day.heat.look(day.now + 1)
    assert {0} == day.heat.look(day.now + COLD_SECONDS)
    assert set() == day.heat.look(day.now + 1 + COLD_SECONDS)


def test_a_total_that_shrinks_is_anothers() -> None:
    """A process that was started again under the name says nothing of before."""
    day = Day()
    day.pass_by(60, 0.9, {0: FAST})
    day.spent = 0.0

    day.pass_by(BEAT, 0.9, {0: FAST})

    assert set() == day.heat.full()
