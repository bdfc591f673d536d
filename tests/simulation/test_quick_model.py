"""The model that keeps its sums is the naive one, only quicker."""

from random import Random

import pytest

from engine import limits
from engine.messages import State
from tests.engine.comparison import START_US
from tests.engine.model import Model
from tests.engine.model_stock import StockModel
from tests.engine.traffic import Traffic
from tests.simulation.quick_model import QuickModel

STEPS = 150


def check_sums(model: QuickModel) -> None:
    """Every kept sum is what the naive model makes of the same reservations and ledger."""
    for sku, stock in model.skus.items():
        for place in stock.locations:
            assert StockModel.on_hand(model, sku, place) == model.on_hand(sku, place)
            assert StockModel.available(model, sku, place) == model.available(sku, place)
            for state in (State.RESERVED, State.COMMITTED):
                expected = StockModel.promised(model, sku, place, state)
                assert expected == model.promised(sku, place, state)
    assert StockModel.shortfalls(model) == model.shortfalls()


@pytest.mark.parametrize("seed", range(8))
def test_it_answers_as_the_naive_one(seed: int) -> None:
    """Whatever is asked, with and without a step back before it, both answer alike."""
    random = Random(seed)
    naive, quick, traffic, now = Model(0, 1), QuickModel(0, 1), Traffic(random), START_US
    commands = traffic.opening()
    for step in range(STEPS):
        if random.randrange(5) == 0:
            now += random.choice([1, 5, 700]) * limits.SECOND_US
        command = commands[step] if step < len(commands) else traffic.command(naive)
        naive.begin(now)
        quick.begin(now)
        before = quick.save(command)
        first = quick.execute(command)
        if random.randrange(2):
            quick.restore(before)
            check_sums(quick)
            assert first == quick.execute(command)
        assert naive.execute(command) == first
        check_sums(quick)
        assert naive.skus == quick.skus
        assert naive.reservations == quick.reservations
        assert naive.keys == quick.keys
