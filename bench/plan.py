"""What the command that runs a benchmark and its generator processes say to each other.

    run ──Plan──► generator ──Ready──► run ──Go──► generator ──Progress…, Result──► run

Frames of `bench.plan` are those of `engine.wire`: a length and MessagePack. A generator whose
standard input ends stops: whoever wanted its numbers is gone.
"""

from typing import BinaryIO, Final, Literal

import msgspec

from bench.ledger import Entry, Group
from bench.scenarios import Distribution, Scenario

Via = Literal["http", "gateway", "host"]
Arrivals = Literal["closed", "fixed", "poisson"]

OPERATIONS: Final = ("reserve", "commit", "release")
RESERVE, COMMIT, RELEASE = range(3)
NO_ANSWER: Final = 255
"""Stands beside the statuses for a request that was never answered."""


class Plan(msgspec.Struct, tag=True):
    """Everything that one generator process has to know."""

    scenario: Scenario
    distribution: Distribution
    names: list[str]
    """The SKUs, by number."""
    shards: int
    via: Via
    addresses: list[str]
    """`unix:/path` or `tcp:host:port`: where to connect to."""
    routes: list[int]
    """By shard, the number of the address that owns it; empty unless straight to the hosts."""
    host_header: str
    key: str | None
    prefix: str
    """Of the ids that this process makes up."""
    connections: int
    in_flight: int
    """Requests that wait for an answer; with a rate, the most that may."""
    frame: int
    """Commands of one request."""
    arrivals: Arrivals
    rate: float
    """Requests per second, of this process."""
    warm_up_ns: int
    duration_ns: int
    drain_ns: int
    """For how long the last answers are waited for."""
    operations: int
    """Measured reservations after which this process stops before its time."""
    sample: int
    """Reservations to be named in the result, to be read back."""
    seed: int


class Ready(msgspec.Struct, tag=True):
    """Connected, and everything that can be prepared is."""


class Go(msgspec.Struct, tag=True):
    """Start at this moment of the monotonic clock, which all processes of a machine share."""

    start_ns: int


class Moved(msgspec.Struct, tag=True):
    """Some shards are elsewhere by now."""

    addresses: list[str]
    """Those that were known already come first, in their order."""
    routes: list[int]


class Progress(msgspec.Struct, tag=True):
    """The last second."""

    answered: int
    refused: int
    """Answered otherwise than with success."""
    in_flight: int
    latencies_us: list[int]
    """Some of them, evenly chosen, ascending."""


class Latencies(msgspec.Struct):
    """Histograms of one operation, encoded by HdrHistogram; of microseconds."""

    intended: str
    """From the moment at which the request ought to have been sent."""
    service: str
    """From the moment at which it was."""


class Result(msgspec.Struct, tag=True):
    """What one generator process saw."""

    outcomes: list[dict[int, int]]
    """By operation, how many of those begun in the measured time had which status."""
    answered: list[int]
    """By operation, how many were answered within the measured time."""
    measured_ns: int
    latencies: list[Latencies]
    lateness: str
    """How long after its time a request was sent, though a connection was free."""
    held_back: int
    """Requests sent late because too many were under way already."""
    unanswered: int
    reconnects: int
    cpu_ns: int
    """Spent by this process within the measured time."""
    groups: list[Group]
    sample: list[Entry]


class Failed(msgspec.Struct, tag=True):
    """The generator cannot go on."""

    reason: str


Message = Plan | Ready | Go | Moved | Progress | Result | Failed

_decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return len(payload).to_bytes(4) + payload


def decode(payload: bytes) -> Message:
    return _decoder.decode(payload)


def read(stream: BinaryIO) -> Message | None:
    """The next message, or None at the end of the stream."""
    head = stream.read(4)
    return decode(stream.read(int.from_bytes(head))) if len(head) == 4 else None
