"""Logs: one line of JSON per event, to a file of its own per process, bounded in size.

Everything goes through the standard library's root logger, so that what uvicorn, asyncio or Ray
have to say about this process lands in the same file, in the same form. `onhand up` says warnings
on stderr as well, for whoever watches it, or keeps what it says.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

import structlog

from actors.config import LogLevel

FILE_BYTES_MAX: Final = 16 << 20
FILES_KEPT: Final = 3

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
