"""What the tests of owners share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.dev import plain_traceback

from engine import limits
from tests.actors.trial import Trial


@pytest.fixture(autouse=True)
def plain_tracebacks() -> Iterator[None]:
    """What an owner logs of a bug is not drawn with every variable: that takes a second."""
    structlog.configure([structlog.dev.ConsoleRenderer(exception_formatter=plain_traceback)])
    yield
    structlog.reset_defaults()


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """An empty store, and marks on a disk of its own."""
    return Trial(tmp_path)


@pytest.fixture
def small_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot every few batches, in several chunks."""
    monkeypatch.setattr(limits, "SNAPSHOT_AFTER_EVENTS", 5)
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ENTRIES_MAX", 3)
