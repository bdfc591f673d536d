"""What an operator decides: everything that `onhand up` takes, checked once, then passed on whole.

`Settings` are made by the command line (or a test), resolved by `gateway.up`, and travel to every
process as MessagePack bytes, so that a process restarted by Ray starts from what its predecessor
had. Whoever holds Settings may rely on them: an object that breaks a rule below cannot be made.
"""

import ipaddress
from math import inf
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec
from msgspec import Struct

from engine import limits

Fsync = Literal["always", "everysec"]
LogLevel = Literal["debug", "info", "warning", "error"]
HotShards = Literal["tell", "move"]

PORT_DEFAULT: Final = 8080
BINARY_PORT_DEFAULT: Final = 8081
DATA_DIR_DEFAULT: Final = "onhand-data"
MACHINES_MAX: Final = 256
HOSTS_MAX: Final = 256
GATEWAYS_MAX: Final = 64
MAXMEMORY_BYTES_DEFAULT: Final = 2 << 30
MAXMEMORY_BYTES_MIN: Final = 64 << 20


class SettingsError(ValueError):
    """A setting is not what it may be; the message is one line for the operator."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this installation is to be. Port 0 means any free port."""

    data_dir: str = DATA_DIR_DEFAULT
    bind: str = "127.0.0.1"
    """The address that gateways listen on, and hosts if it is not a loopback one; any but that
    needs API keys."""
    port: int = PORT_DEFAULT
    binary_port: int = BINARY_PORT_DEFAULT
    redis: tuple[str, ...] = ()
    """URLs of the servers that keep the journal, in their order, which is for ever; none = one of
    our own, in the data directory."""
    address: str | None = None
    """Of a Ray cluster that runs already; None = Ray on this machine only."""
    machines: int = 1
    """Of that cluster, which are waited for before hosts are placed: these stay where they are."""
    hosts: int = 2
    spares: int = 0
    """Hosts that own nothing, keep up with everything, and take over from one that dies."""
    hot_shards: HotShards = "tell"
    """What is done about a shard that takes most of what its host can do: the moves that leave it
    alone there are told of, or made."""
    shards: int = 8
    """For ever: the hash of a SKU by this number is in the journal. More shards spread over more
    hosts; fewer make larger batches."""
    dedicated: int = 0
    """Shards beside those, each for one SKU that is declared hot. There may be more at a later
    start, never fewer."""
    gateways: int = 1
    fsync: Fsync = "always"
    maxmemory_bytes: int = MAXMEMORY_BYTES_DEFAULT
    """Of the embedded server. One that is named by URL must have a limit of its own."""
    remembered_max: int = limits.REMEMBERED_MAX
    """Reservations and keys that one shard remembers, at most."""
    finished_window_us: int = limits.FINISHED_WINDOW_US
    returns_window_us: int = limits.RETURNS_WINDOW_US
    keys_window_us: int = limits.KEYS_WINDOW_US
    grace_us: int = limits.GRACE_US
    archive_days: int = 400
    """How long records that were trimmed off the journal are kept in files: a year, with the same
    season of the year before; 0 = for ever."""
    archive_snapshot_bytes: int = limits.ARCHIVE_SNAPSHOT_BYTES
    """Journal of one shard between two snapshots that are kept there, at least."""
    audit_interval_us: int = 900 * limits.SECOND_US
    """Between two audits of a shard that nobody asks for; 0 = there are none."""
    require_keys: bool = False
    """Also on loopback and unix sockets."""
    log_level: LogLevel = "info"
    slow_ms: int = 1_000
    """Requests and appends that take so long are logged; 0 = none is for that."""

    # What `gateway.up` fills in, and nobody else.
    run_dir: str = ""
    """Where this run's sockets are: a short path, because a socket's may have 107 bytes."""
    cluster_id: str = ""
    """Of the installation, as its journal's genesis has it."""
    control_token: str = ""
    """What a process shows to the coordinator, which tells it from anybody else's."""

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{_flag(name)} is {value}; {low} to {high} is possible")
        for name, choices in _CHOICES:
            if getattr(self, name) not in get_args(choices):
                known = " or ".join(get_args(choices))
                raise SettingsError(f"{_flag(name)} is {getattr(self, name)!r}; it may be {known}")
        if not self.data_dir:
            raise SettingsError("--data-dir is empty")
        if self.hosts > self.total:
            raise SettingsError(f"--hosts is {self.hosts}, more than the {self.total} shards")
        if self.total > limits.SHARDS_MAX:
            raise SettingsError(
                f"--shards and --dedicated are {self.total} together;"
                f" {limits.SHARDS_MAX} are possible"
            )
        if self.port == self.binary_port != 0:
            raise SettingsError(f"--port and --binary-port are both {self.port}")
        if not self.finished_window_us <= self.keys_window_us <= self.returns_window_us:
            raise SettingsError("windows must grow in this order: finished, keys, returns")
        self._check_servers()
        if self.address is not None and not self.redis:
            raise SettingsError("--address needs --redis, which every machine must reach")
        if self.address is None and self.machines > 1:
            raise SettingsError("--machines needs --address: they are those of a Ray cluster")
        try:
            ipaddress.ip_address(self.bind)
        except ValueError:
            raise SettingsError(f"--bind is {self.bind!r}; an IP address is expected") from None

    def _check_servers(self) -> None:
        for url in self.redis:
            if not url.startswith(("redis://", "rediss://", "unix:")):
                raise SettingsError(f"--redis is {url!r}; redis://host:port/0 is expected")
        if len(set(self.redis)) < len(self.redis):
            raise SettingsError("--redis names the same server twice")
        if len(self.redis) > self.shards:
            raise SettingsError(f"--redis names {len(self.redis)} servers for {self.shards} shards")

    @property
    def total(self) -> int:
        """How many shards there are, hashed and dedicated."""
        return self.shards + self.dedicated

    @property
    def slow_seconds(self) -> float:
        return self.slow_ms / 1_000 or inf

    @property
    def servers(self) -> int:
        """On how many servers the journal is."""
        return max(1, len(self.redis))

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir)

    @property
    def archive_us(self) -> int | None:
        """How long the archive keeps what is in it; None = for ever."""
        return self.archive_days * _DAY_US or None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateways."""
        return ipaddress.ip_address(self.bind).is_loopback

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes) -> "Settings":
        return msgspec.msgpack.decode(data, type=Settings)


def _flag(name: str) -> str:
    """As the command line spells it."""
    return f"--{name.removesuffix('_us').removesuffix('_bytes').replace('_', '-')}"


_CHOICES: Final = (("fsync", Fsync), ("log_level", LogLevel), ("hot_shards", HotShards))
_DAY_US: Final = 86_400 * limits.SECOND_US
_RANGES: Final = (
    ("port", 0, 65_535),
    ("binary_port", 0, 65_535),
    ("machines", 1, MACHINES_MAX),
    ("hosts", 1, HOSTS_MAX),
    ("spares", 0, HOSTS_MAX),
    ("shards", 1, limits.SHARDS_MAX),
    ("dedicated", 0, limits.SHARDS_MAX - 1),
    ("gateways", 1, GATEWAYS_MAX),
    ("maxmemory_bytes", MAXMEMORY_BYTES_MIN, 1 << 44),
    ("remembered_max", 1_000, limits.REMEMBERED_MAX),
    ("finished_window_us", limits.SECOND_US, 3_650 * _DAY_US),
    ("returns_window_us", limits.SECOND_US, 3_650 * _DAY_US),
    ("keys_window_us", limits.SECOND_US, 3_650 * _DAY_US),
    ("grace_us", 0, _DAY_US),
    ("archive_days", 0, 36_500),
    ("archive_snapshot_bytes", 1 << 10, 1 << 44),
    ("audit_interval_us", 0, 365 * _DAY_US),
    ("slow_ms", 0, 3_600_000),
)
