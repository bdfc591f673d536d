"""What a process uses of its machine, and what its server counts: read when somebody scrapes.

`changes()` of the start time tells restarts, because who was started again has the name of the one
before. It is the program's, not its process's: Ray has processes at hand that wait for a program.
The directory is the one with the data, whose disk the embedded server's append-only file and the
archive fill up.
"""

import os
import time
from pathlib import Path
from typing import Final

from actors.binary_server import ServerStatistics
from engine.messages import Sample

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """Of one program, from now on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._began = time.time()

    def samples(self) -> list[Sample]:
        """Of this process, and of the disk that the directory is on."""
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        disk = os.statvfs(self._directory)
        return [
            Sample("onhand_process_cpu_seconds_total", [], time.process_time()),
            Sample("onhand_process_resident_bytes", [], resident * _PAGE_BYTES),
            Sample("onhand_process_start_time_seconds", [], self._began),
            Sample("onhand_disk_free_bytes", [], disk.f_bavail * disk.f_frsize),
            Sample("onhand_disk_bytes", [], disk.f_blocks * disk.f_frsize),
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
