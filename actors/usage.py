"""What a process uses of its machine, and what its server counts: read when somebody scrapes.

`changes()` of the start time tells restarts, because who was started again has the name of the one
before. It is the program's, not its process's: Ray has processes at hand that wait for a program.
The directory is the one with the data, whose disk the embedded server's append-only file and the
archive fill up; if the archive is a file system of its own, that is told as well (`volume`). It may
be mounted from elsewhere, and then asking can take for ever: a thread asks, and what it found last
is told. Who serves never waits for it.
"""

import os
import threading
import time
from pathlib import Path
from typing import Final

from actors.binary_server import ServerStatistics
from actors.data_directory import DataDirectory
from engine.messages import Sample

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Volume:
    """The file system of a directory, if it is another than that of its parent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._found: os.statvfs_result | None = None
        self._asking: threading.Thread | None = None

    def latest(self) -> os.statvfs_result | None:
        """What was found last; None = nothing yet, or there is none. Asks anew meanwhile."""
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask, daemon=True)
            self._asking.start()
        return self._found

    def _ask(self) -> None:
        try:
            is_own = self._directory.stat().st_dev != self._directory.parent.stat().st_dev
            self._found = os.statvfs(self._directory) if is_own else None
        except OSError:  # not there; that it cannot be written is for the archiver to tell
            self._found = None


class Usage:
    """Of one program, from now on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._archive = Volume(DataDirectory(directory).archive)
        self._began = time.time()

    def samples(self) -> list[Sample]:
        """Of this process, and of the disks that its directories are on."""
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        archive = self._archive.latest()
        return [
            Sample("onhand_process_cpu_seconds_total", [], time.process_time()),
            Sample("onhand_process_resident_bytes", [], resident * _PAGE_BYTES),
            Sample("onhand_process_start_time_seconds", [], self._began),
            *_room("data", os.statvfs(self._directory)),
            *(() if archive is None else _room("archive", archive)),
        ]


def _room(volume: str, disk: os.statvfs_result) -> list[Sample]:
    labels = [("volume", volume)]
    return [
        Sample("onhand_disk_free_bytes", labels, disk.f_bavail * disk.f_frsize),
        Sample("onhand_disk_bytes", labels, disk.f_blocks * disk.f_frsize),
    ]


def served(server: ServerStatistics) -> list[Sample]:
    """What came over the binary protocol."""
    return [
        Sample("onhand_binary_connections", [], server.connections),
        Sample("onhand_binary_connections_refused_total", [], server.refused),
        Sample("onhand_binary_commands_total", [], server.commands),
        Sample("onhand_binary_received_bytes_total", [], server.bytes_received),
        Sample("onhand_binary_sent_bytes_total", [], server.bytes_sent),
        Sample("onhand_binary_protocol_errors_total", [], server.protocol_errors),
        Sample("onhand_binary_handler_errors_total", [], server.handler_errors),
        Sample("onhand_binary_stalled_total", [], server.stalled),
    ]
