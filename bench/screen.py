"""What a run looks like while it lasts: a live screen at a terminal, else a line each second."""

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench.latencies import quantile
from bench.plan import Progress

BARS: Final = "▁▂▃▄▅▆▇█"
HISTORY_SECONDS: Final = 60


class Moment:
    """One second of all generator processes together."""

    def __init__(self, second: int, seconds: int, warming_up: bool, parts: Sequence[Progress]):
        self.second = second
        self.seconds = seconds
        self.warming_up = warming_up
        self.rate = sum(part.answered for part in parts)
        self.refused = sum(part.refused for part in parts)
        self.in_flight = sum(part.in_flight for part in parts)
        self.latencies_us = sorted(value for part in parts for value in part.latencies_us)

    def latency_ms(self, share: float) -> float:
        return quantile(self.latencies_us, share) / 1_000


class Screen(Protocol):
    """Shows each second as it comes, in a `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, moment: Moment) -> None: ...

    def say(self, step: str) -> None:
        """What is done now, where there are no seconds to show."""
        ...


class LineScreen:
    """One line each second."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, moment: Moment) -> None:
        latencies = ", ".join(
            f"{name} {moment.latency_ms(share):.2f} ms"
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        )
        phase = "warming up" if moment.warming_up else latencies
        self._console.print(
            f"{moment.second:>4}/{moment.seconds} s  {moment.rate:>9,}/s  "
            f"{moment.refused:>7,} refused  {moment.in_flight:>6,} in flight  {phase}",
            highlight=False,
            soft_wrap=True,
        )

    def say(self, step: str) -> None:
        self._console.print(step, highlight=False, soft_wrap=True)


class LiveScreen:
    """The same, in place, with what it looked like in the last minute."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._rates: deque[int] = deque(maxlen=HISTORY_SECONDS)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, moment: Moment) -> None:
        self._rates.append(moment.rate)
        table = Table(box=None, show_header=False, padding=(0, 2))
        phase = " (warming up)" if moment.warming_up else ""
        table.add_row("elapsed", f"{moment.second} of {moment.seconds} s{phase}")
        table.add_row("rate", f"{moment.rate:,}/s  {sparkline(self._rates)}")
        table.add_row("refused", f"{moment.refused:,}/s")
        table.add_row("in flight", f"{moment.in_flight:,}")
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
            table.add_row(name, f"{moment.latency_ms(share):.2f} ms")
        self._live.update(table)

    def say(self, step: str) -> None:
        self._live.update(step)


def sparkline(values: Sequence[int] | deque[int]) -> str:
    """One bar per value, the highest of them full."""
    highest = max(values, default=0) or 1
    return "".join(BARS[value * (len(BARS) - 1) // highest] for value in values)


def screen(console: Console) -> Screen:
    return LiveScreen(console) if console.is_terminal else LineScreen(console)
