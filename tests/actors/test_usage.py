"""What a process says of itself to whoever scrapes it."""

import os
import time
from pathlib import Path

from actors.binary_server import ServerStatistics
from actors.usage import Usage, Volume, served


def readings(usage: Usage) -> dict[str, float]:
    """By name: of the data's disk, where there are several."""
    found = {}
    for each in usage.samples():
        assert isinstance(each.value, int | float)
        assert each.labels in ([], [("volume", "data")])
        found[each.name] = each.value
    return found


def test_memory_and_time_of_this_very_process(tmp_path: Path) -> None:
    """It grows by what is allocated and by what is computed; when it began stays the same."""
    usage = Usage(tmp_path)
    before = readings(usage)
    ballast = os.urandom(32 << 20)
    after = readings(usage)

    grown = after["onhand_process_resident_bytes"] - before["onhand_process_resident_bytes"]
    assert len(ballast) * 0.9 < grown < len(ballast) * 2
    used = after["onhand_process_cpu_seconds_total"] - before["onhand_process_cpu_seconds_total"]
    assert 0 < used <= time.process_time()
    assert (
        time.time()
        > after["onhand_process_start_time_seconds"]
        == before["onhand_process_start_time_seconds"]
    )


def test_the_disk_is_that_of_the_directory(tmp_path: Path) -> None:
    """Free is what is left to who is not root, of all that there is."""
    found, disk = readings(Usage(tmp_path)), os.statvfs(tmp_path)

    assert disk.f_blocks * disk.f_frsize == found["onhand_disk_bytes"]
    assert 0 < found["onhand_disk_free_bytes"] < found["onhand_disk_bytes"]


def test_an_archive_on_the_same_disk_is_not_told_twice(tmp_path: Path) -> None:
    """It is no file system of its own, and neither is one that is not there."""
    volume = Volume(tmp_path / "archive")
    for _ in range(2):
        assert None is volume.latest()
        assert volume._asking is not None
        volume._asking.join(10)
        (tmp_path / "archive").mkdir(exist_ok=True)

    assert None is volume.latest()


def test_a_file_system_of_its_own() -> None:
    """What was found last is told, without waiting for what is being asked."""
    volume = Volume(Path("/proc"))
    volume.latest()
    assert volume._asking is not None
    volume._asking.join(10)

    found, disk = volume.latest(), os.statvfs("/proc")
    assert found is not None
    assert disk.f_bsize == found.f_bsize


def test_what_came_over_the_binary_protocol() -> None:
    """Totals are called so."""
    found = {each.name: each.value for each in served(ServerStatistics(*range(11)))}

    assert 0 == found["onhand_binary_connections"]
    assert 3 == found["onhand_binary_connections_refused_total"]
    assert 5 == found["onhand_binary_commands_total"]
    assert 10 == found["onhand_binary_stalled_total"]
