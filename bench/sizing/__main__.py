"""`python -m bench.sizing`: measure, and print the tables as Markdown.

--entries N      of each kind, whose memory is measured (200,000)
--seconds S      of load, over each way (5)
"""

import argparse
from collections.abc import Sequence
from typing import Final

import uvloop
from rich.console import Console

from actors.config import Settings
from bench.environment import environment
from bench.screen import screen
from bench.sizing.memory import KINDS, Cost, measure
from bench.sizing.work import Growth, Work
from bench.sizing.work import measure as measure_work

SETTINGS: Final = Settings(audit_interval_us=0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown; all but the first column are numbers."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *rows]) + "\n"


def memory_table(costs: Sequence[Cost]) -> str:
    rows = [(each.name, f"{each.resident:,.0f}", f"{each.snapshot:,.0f}") for each in costs]
    return table(("one", "bytes in a host", "bytes in a snapshot"), rows)


def cpu_table(works: Sequence[Work]) -> str:
    rows = [
        (
            each.name + ("" if each.passed else " (audit FAILED)"),
            *(f"{each.per_second:,.0f}", f"{each.gateway_ms:.0f}", f"{each.hosts_ms:.0f}"),
            *(f"{each.server_ms:.0f}", f"{each.foreign:.0%}"),
        )
        for each in works
    ]
    head = ("per 1,000 operations", "per second", "gateway, ms", "hosts, ms", "server, ms")
    return table((*head, "others on the machine"), rows)


def disk_table(works: Sequence[Work], growth: Growth) -> str:
    rows = [
        (
            each.name,
            f"{each.records:,.0f}",
            *(
                f"{each.record_bytes * factor / 1_000:,.0f}"
                for factor in (1, growth.file, growth.memory, growth.archive)
            ),
        )
        for each in works
    ]
    head = ("per 1,000 operations", "records", "records, kB", "append-only file, kB")
    return table((*head, "memory of the server, kB", "archive, kB"), rows)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    console = Console(stderr=True)
    where = environment({})
    print(f"{where.cores} cores, {where.cpu}, Python {where.python}, commit {where.commit}\n")
    costs = []
    for name in KINDS:
        console.print(name)
        costs.append(measure(name, options.entries))
    print(memory_table(costs), flush=True)
    with screen(console) as shown:
        works, growth = uvloop.run(measure_work(SETTINGS, options.seconds, shown))
    print(cpu_table(works))
    print(disk_table(works, growth))


if __name__ == "__main__":
    main()
