"""What a run is asked to do, and against what."""

from collections.abc import Mapping, Sequence

import msgspec

from bench.plan import Via
from bench.scenarios import SCENARIOS, Distribution, Scenario
from engine import limits


class BenchError(Exception):
    """The run could not be done; says why in one line."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. None = what suits the scenario and the target."""

    scenario: str = "reserve"
    distribution: Distribution = "uniform"
    skus: int | None = None
    units: int | None = None
    via: Via = "gateway"
    connections: int | None = None
    in_flight: int | None = None
    frame: int = 1
    rate: float | None = None
    poisson: bool = False
    warm_up: float = 2.0
    duration: float = 10.0
    drain: float = 10.0
    operations: int | None = None
    processes: int = 1
    seed: int = 1

    def check(self) -> None:
        """Raises BenchError if this cannot be run."""
        if self.scenario not in SCENARIOS:
            raise BenchError(f"no scenario {self.scenario!r}; there is {', '.join(SCENARIOS)}")
        for name in ("skus", "units", "connections", "in_flight", "rate", "operations"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BenchError(f"--{name.replace('_', '-')} must be above 0")
        if not 1 <= self.frame <= limits.COMMANDS_PER_FRAME_MAX:
            raise BenchError(f"--frame must be 1 to {limits.COMMANDS_PER_FRAME_MAX}")
        if self.warm_up < 0 or self.drain < 0:
            raise BenchError("--warm-up and --drain must not be below 0")
        if self.duration <= 0 or self.processes < 1:
            raise BenchError("--duration and --processes must be above 0")
        if self.via == "http" and self.frame > 1:
            raise BenchError("--frame needs the binary protocol: HTTP takes one command a request")
        if self.poisson and self.rate is None:
            raise BenchError("--poisson needs a --rate")

    @property
    def shape(self) -> Scenario:
        return SCENARIOS[self.scenario]

    @property
    def sku_count(self) -> int:
        return 1 if self.distribution == "hot" else self.skus or self.shape.skus

    @property
    def unit_count(self) -> int:
        return self.units or (
            self.shape.hot_units if self.distribution == "hot" else self.shape.units
        )

    @property
    def connection_count(self) -> int:
        """Never fewer than one per process."""
        return max(self.connections or (50 if self.via == "http" else 8), self.processes)

    @property
    def in_flight_count(self) -> int:
        if self.via == "http":
            return self.connection_count
        full = 16 if self.frame > 1 else 128
        return self.in_flight or (full if self.rate is None else limits.GATEWAY_IN_FLIGHT_MAX)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine is. `pids`: processes on this machine, by role; `about`: its settings."""

    url: str
    binary: str
    key: str | None = None
    pids: Mapping[str, Sequence[int]] = {}
    about: Mapping[str, str] = {}
    is_engine: bool = True
    """False = the target that does nothing, for the generator's own ceiling."""
