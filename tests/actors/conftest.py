"""What the tests of owners share."""

from pathlib import Path

import pytest

from engine import limits
from tests.actors.trial import Trial


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """An empty store, and marks on a disk of its own."""
    return Trial(tmp_path)


@pytest.fixture
def small_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot every few batches, in several chunks."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 5)
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 3)
