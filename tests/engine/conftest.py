"""How long Hypothesis looks: `HYPOTHESIS_PROFILE=deep pytest tests/engine` looks for longer.

The default repeats the same examples on every run, so that a change is judged by what it changed.
"""

import os

import pytest
from hypothesis import settings


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile(
        "brief", max_examples=60, stateful_step_count=40, derandomize=True, database=None
    )
    settings.register_profile("ci", max_examples=300, stateful_step_count=60)
    settings.register_profile("deep", max_examples=3_000, stateful_step_count=80)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "brief"))
