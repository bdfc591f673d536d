"""The fixtures of the tests of owners."""

from tests.actors.conftest import plain_tracebacks, small_snapshots, trial

__all__ = ["plain_tracebacks", "small_snapshots", "trial"]
