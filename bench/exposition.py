"""What /metrics said before and after: the engine's own account of the same seconds."""

import re
from typing import Final

_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][\w:]*(?:\{[^}]*\})?) (\S+)", re.MULTILINE)
_COUNTERS: Final = re.compile(r"^[a-zA-Z_:][\w:]*_(?:total|count|sum|bucket)(?:\{|$)")


def samples(text: str) -> dict[str, float]:
    """The samples of a Prometheus text page, by name and labels."""
    return {name: float(value) for name, value in _SAMPLE.findall(text)}


def difference(before: str, after: str) -> dict[str, float]:
    """By how much each counter has grown, of those that have; buckets of histograms left out."""
    old = samples(before)
    return {
        name: value - old.get(name, 0.0)
        for name, value in samples(after).items()
        if _COUNTERS.match(name) and "_bucket" not in name and value != old.get(name, 0.0)
    }
