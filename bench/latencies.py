"""Latencies: recorded as plain integers, folded into HdrHistograms when the run is over.

Recording a value in an HdrHistogram costs most of a microsecond, which would be a tenth of a core
at 100,000 requests a second; appending to an array costs a thirtieth. Folding counts equal
microseconds first.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from hdrh.histogram import HdrHistogram

HIGHEST_US: Final = 3_600_000_000
SIGNIFICANT_DIGITS: Final = 3
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


class Recorder:
    """Of one operation: a latency in ns, and how many operations shared it."""

    def __init__(self) -> None:
        self.intended: Final = array("Q")
        self.service: Final = array("Q")
        self.weights: Final = array("H")


def histogram() -> HdrHistogram:
    return HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)


def fold(values_ns: Sequence[int], weights: Sequence[int]) -> str:
    """The histogram of these values, encoded."""
    counts: Counter[int] = Counter()
    for value, weight in zip(values_ns, weights, strict=True):
        counts[value // 1_000] += weight
    folded = histogram()
    for value_us, count in counts.items():
        folded.record_value(min(max(value_us, 1), HIGHEST_US), count)
    return str(folded.encode(), "ascii")


def merge(encoded: Iterable[str]) -> HdrHistogram:
    """One histogram of what several processes saw."""
    merged = histogram()
    for part in encoded:
        merged.decode_and_add(part)
    return merged


def few(values_ns: Sequence[int], size: int) -> list[int]:
    """At most about `size` of the values, evenly chosen, ascending, in microseconds."""
    step = max(1, len(values_ns) // size)
    return sorted(value // 1_000 for value in values_ns[::step])


def quantile(ascending: Sequence[int], share: float) -> int:
    """0 if there are no values."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0
