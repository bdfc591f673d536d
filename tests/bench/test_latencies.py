"""Folding and merging latencies loses neither counts nor percentiles."""

from array import array

import pytest

from bench.latencies import few, fold, merge, quantile


def test_folding_keeps_percentiles_and_weights() -> None:
    """A request that carried ten operations counts ten times."""
    values = array("Q", [1_000_000] * 90 + [5_000_000])
    merged = merge([fold(values, array("H", [1] * 90 + [10]))])

    assert 100 == merged.get_total_count()
    assert 1_000 == pytest.approx(merged.get_value_at_percentile(50), rel=0.001)
    assert 5_000 == pytest.approx(merged.get_value_at_percentile(99), rel=0.001)


def test_processes_add_up() -> None:
    """Two histograms together hold what each held; an empty one adds nothing."""
    one = fold(array("Q", [2_000]), array("H", [3]))

    assert 6 == merge([one, fold(array("Q"), array("H")), one]).get_total_count()


def test_what_is_shorter_than_a_microsecond_counts_as_one() -> None:
    """Nothing falls out of the histogram at its lower end."""
    assert 1 == merge([fold(array("Q", [10]), array("H", [1]))]).get_total_count()


def test_few_is_a_fair_sample() -> None:
    """About as many as asked for, over the whole range, ascending."""
    sample = few(array("Q", range(0, 10_000_000, 1_000)), 100)

    assert 100 == len(sample)
    assert sorted(sample) == sample
    assert 5_000 == pytest.approx(quantile(sample, 0.5), rel=0.02)
    assert 0 == quantile([], 0.5)
