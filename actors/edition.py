"""Which engine a process runs: its version, and the formats that it writes and reads.

While releases follow one another, several may run side by side, and a rollback is possible as long
as nothing of a newer format was written (`FORMATS.md`). So every process tells what it is: the
numbers to look at are those of the processes that run, not those of the files on a disk.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from engine.formats import FORMAT, FORMATS
from engine.messages import PROTOCOL_VERSION, Sample


def installed_version() -> str:
    """Of the whole."""
    try:
        return version("onhand")
    except PackageNotFoundError:
        return "0 (a checkout that is not installed)"


@cache
def edition() -> list[Sample]:
    """What a scrape tells of it: always 1, since all that counts is in the labels."""
    formats = {"journal": (FORMAT, max(FORMATS)), "wire": (PROTOCOL_VERSION, PROTOCOL_VERSION)}
    return [
        Sample("onhand_build_info", [("version", installed_version())], 1.0),
        *(
            Sample(
                "onhand_format_info",
                [("of", of), ("writes", str(writes)), ("reads_up_to", str(reads))],
                1.0,
            )
            for of, (writes, reads) in formats.items()
        ),
    ]
