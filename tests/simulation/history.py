"""What happened in a simulated world, as far as its judge needs to know.

    client ──Asked──►  …  ──► Arrived: host ──Given──►  …  ──► client ──Told
                                         │
                                         └──► server: Stored

Times are the world's own: nanoseconds since it began, known to nobody inside it. Everything is
listed in the order in which it happened.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from engine.codec import Position
from engine.messages import Answer, Command, Head, Status


class Asked(NamedTuple):
    """A client wanted this done, at `at`; the client library may send it more than once."""

    call: int
    client: str
    command: Command
    at: int


class Told(NamedTuple):
    """What the client was told in the end."""

    call: int
    answer: Answer
    at: int


class Arrived(NamedTuple):
    """A command has reached a host, in one of its sendings."""

    host: str
    command: Command
    at: int


class Given(NamedTuple):
    """A host answered a command that had reached it at `arrived`; perhaps nobody heard it.

    `host` is who claims under that name, `head` the record that the answer rests on, None where it
    rests on none.
    """

    host: str
    command: Command
    answer: Answer
    head: Head | None
    arrived: int
    at: int


class Stored(NamedTuple):
    """From `at` on this record was durable: the server could acknowledge it."""

    shard: int
    position: Position
    record: bytes
    at: int


@dataclass
class History:
    """One world, from its beginning to its end."""

    shards: int
    """Hashed ones."""
    asked: list[Asked] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    arrived: list[Arrived] = field(default_factory=list)
    """Every sending that got to a host; empty: this world does not say."""
    given: list[Given] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    lineage: dict[int, list[tuple[Position, bytes]]] = field(default_factory=dict)
    """Shard → every record that its journal ever had and did not lose, trimmed ones included."""
    digests: dict[int, bytes] = field(default_factory=dict)
    """Shard → digest of the living state at the end, where a host serves it."""
    lived: dict[int, tuple[Position, bytes]] = field(default_factory=dict)
    """Shard → the same after an earlier record."""
    stopped: dict[int, str] = field(default_factory=dict)
    """Shard → why it refuses to serve; the others are served at the end."""
    once_stopped: dict[int, str] = field(default_factory=dict)
    """Shard → why it ever did."""
    settings: tuple[int, int, int, int] | None = None
    """Grace, and the windows of finished and shipped reservations and of keys, all in microseconds,
    that every owner opens with; None = not known."""
    wall_us: int | None = None
    """The latest that a wall clock may show when the world begins; None = not known."""
    deadline_ns: int | None = None
    """In which a call must be told what came of it; None = not known."""
    dedicated: int = 0
    """Shards beside the hashed ones."""
    impossible: frozenset[Status] = frozenset()
    """What nobody may be answered in this world."""
    lossy: bool = False
    """The server has gone back in time, or came back empty, at some moment."""
    damaged: set[int] = field(default_factory=set)
    """Shards of which the world has spoilt a record, a chunk or a mark: they may stop."""
    unknowable: set[int] = field(default_factory=set)
    """Shards that were opened without what was lost, when nobody who could have told was left."""

    @property
    def total(self) -> int:
        """How many shards there are."""
        return self.shards + self.dedicated
