"""Processes that outlive whoever remembers them: named so that none is ever mistaken for another.

A process id alone is reused. An `Identity` adds the start time and the program, both from `/proc`,
so that one written to a file still says, after any crash, whether *that* process is alive. Signals
go through a pidfd that is opened before the identity is checked, so that they cannot hit a process
which came by the same id in between. A zombie counts as dead.

`tied_to_parent` makes a command whose process gets SIGTERM when its parent dies, without running
Python between fork and exec (which can deadlock in a parent that has threads). The kernel means
the parent *thread*: start such a process from the main thread only.

Linux only, as is the rest of `actors/`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

_STATE, _STARTED = 0, 19
"""Places in /proc/<pid>/stat, counted after the name (which may hold anything)."""
_TIE: Final = (
    "import ctypes, os, signal, sys; parent = int(sys.argv[1]); "
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM); "  # 1 is PR_SET_PDEATHSIG
    "os.getppid() == parent or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class Identity(NamedTuple):
    """One process, for good."""

    pid: int
    started: int
    """In clock ticks since the machine started."""
    program: str
    """The path of what it runs."""


def identify(pid: int) -> Identity | None:
    """Who has this process id now; None if nobody has, or a zombie, or someone out of sight."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[_STATE] in "ZX":
        return None
    return Identity(pid, int(fields[_STARTED]), program.removesuffix(" (deleted)"))


def is_alive(process: Identity) -> bool:
    """Whether it is this very process that has its id now."""
    return identify(process.pid) == process


def send_signal(process: Identity, number: signal.Signals) -> bool:
    """Send a signal to this very process. False if it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def terminate(process: Identity, grace_seconds: float) -> bool:
    """End it: SIGTERM, and SIGKILL if it has not gone after the grace. False if it was gone."""
    if not send_signal(process, signal.SIGTERM):
        return False
    if not await _gone(process, grace_seconds):
        send_signal(process, signal.SIGKILL)
        await _gone(process, float("inf"))  # the kernel's part, and a survivor would be dangerous
    return True


async def _gone(process: Identity, seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    pause = 0.005
    while is_alive(process):
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.1)
    return True


def write_identity(path: Path, process: Identity) -> None:
    """Remember the process in a file, which is replaced whole."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(msgspec.json.encode(process))
    fresh.replace(path)


def read_identity(path: Path) -> Identity | None:
    """The process that a file remembers; None if there is no such file.

    Raises ValueError, naming the file, if it is illegible.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} names no process: {error}") from error


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """`command` (its first word a path), as one that gets SIGTERM when the calling thread ends."""
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]
