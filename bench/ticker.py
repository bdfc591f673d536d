"""A timer of some tens of microseconds.

An open-loop generator has to send when the schedule says so, and uvloop's own timers know whole
milliseconds only. The kernel's timerfd is exact to the scheduler's wake-up, and an event loop waits
for it as for a socket. (Python has its own binding from 3.13 on.)
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_BILLION: Final = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Ticker:
    """Calls `due` once after each `arm`, at that moment of the monotonic clock or just after."""

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        self._loop = loop
        self._due = due
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._fd, self._fired)

    def arm(self, moment_ns: int) -> None:
        """Replaces what was armed before. A moment in the past is due at once."""
        timer = _Timer(_Timespec(0, 0), _Timespec(*divmod(max(moment_ns, 1), _BILLION)))
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(timer), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # armed anew between the kernel's wake-up and this read
            return
        self._due()
