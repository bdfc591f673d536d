"""Logs: one line of JSON per event, to a file of its own per process, bounded in size.

Everything goes through the standard library's root logger, so that what uvicorn, asyncio or Ray
have to say about this process lands in the same file, in the same form. `onhand up` says warnings
on stderr as well, for whoever watches it, or keeps what it says.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import structlog

from actors.config import LogLevel

FILE_BYTES_MAX: Final = 16 << 20
FILES_KEPT: Final = 3


class Sparing:
    """Lines that callers can cause, and cannot flood with: of each event so many per second; how
    many were left out is told with the next. Events are words of this code, so there are few."""

    def __init__(
        self, logger: Any, per_second: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._per_second = per_second
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._said: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def may(self, event: str) -> bool:
        """Whether there is room for one more line of that event; if not, it is counted."""
        now = self._clock()
        if now - self._begun.get(event, -1.0) >= 1.0:
            self._begun[event], self._said[event] = now, 0
        if self._said[event] < self._per_second:
            self._said[event] += 1
            return True
        self._left_out[event] = self._left_out.get(event, 0) + 1
        return False

    def say(self, level: LogLevel, event: str, fields: Mapping[str, object]) -> None:
        """A line for which `may` has found room."""
        left_out = self._left_out.pop(event, 0)
        more = {"left_out": left_out} if left_out else {}
        getattr(self._logger, level)(event, **fields, **more)

    def warn(self, event: str, **fields: object) -> None:
        """A warning, if there is room for it."""
        if self.may(event):
            self.say("warning", event, fields)


_SHARED: Final[list[structlog.typing.Processor]] = [
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def set_up_logs(path: Path, level: LogLevel) -> logging.Handler:
    """From now on everything that is logged goes to `path`; the handler, for `close_logs`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _configure(level)
    return _add(RotatingFileHandler(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT))


def _configure(level: LogLevel) -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    logging.getLogger().setLevel(level.upper())


@contextmanager
def only_warnings() -> Iterator[None]:
    """For a command, whose output is its result: warnings go to stderr, the rest nowhere."""
    _configure("warning")
    handler = warn_on_stderr()
    try:
        yield
    finally:
        close_logs(handler)
        structlog.reset_defaults()


def warn_on_stderr() -> logging.Handler:
    """Warnings go to stderr as well; the handler, for `close_logs`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    return _add(handler)


def close_logs(handler: logging.Handler) -> None:
    """What was logged is where it belongs."""
    logging.getLogger().removeHandler(handler)
    handler.close()


def _add(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.getLogger().addHandler(handler)
    return handler
