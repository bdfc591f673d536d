"""Logs: every line is JSON, whoever wrote it, and is where it belongs."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from actors.log import Sparing, close_logs, set_up_logs, warn_on_stderr


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The rest of the run logs as if nothing had happened."""
    level = logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().setLevel(level)


def test_ours_and_the_librarys_lines_are_alike(tmp_path: Path) -> None:
    """Structured events and plain ones of the standard library end up in one file, as JSON."""
    handler = set_up_logs(tmp_path / "logs" / "host-1.log", "info")

    structlog.get_logger("ours").info("opened", shard=3)
    logging.getLogger("theirs").warning("%d bytes", 5)
    structlog.get_logger("ours").debug("not this")
    close_logs(handler)

    lines = (tmp_path / "logs" / "host-1.log").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert ["opened", "5 bytes"] == [each["event"] for each in found]
    assert ["ours", "theirs"] == [each["logger"] for each in found]
    assert 3 == found[0]["shard"]


def test_a_traceback_is_part_of_its_line(tmp_path: Path) -> None:
    """An exception does not break the lines apart."""
    handler = set_up_logs(tmp_path / "x.log", "info")

    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("ended")
    close_logs(handler)

    (line,) = (tmp_path / "x.log").read_text().splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]


def test_warnings_are_on_stderr_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever watches `onhand up` sees what went wrong, and nothing else."""
    handlers = [set_up_logs(tmp_path / "x.log", "info"), warn_on_stderr()]

    structlog.get_logger().info("all is well")
    structlog.get_logger().warning("down", name="host-1")
    for handler in handlers:
        close_logs(handler)

    (line,) = capsys.readouterr().err.splitlines()
    assert ("down", "host-1") == (json.loads(line)["event"], json.loads(line)["name"])


def test_a_flood_is_told_in_a_few_lines() -> None:
    """So many lines of each event a second; the next one says how many there were more."""
    now = 10.0
    lines = Sparing(structlog.get_logger("ours"), 3, lambda: now)
    with capture_logs() as said:
        for _ in range(10):
            lines.warn("late", shard=1)
        lines.warn("slow", shard=2)
        now = 11.0
        lines.warn("late", shard=1)

    assert ["late"] * 3 + ["slow", "late"] == [each["event"] for each in said]
    assert [7] == [each["left_out"] for each in said if "left_out" in each]
