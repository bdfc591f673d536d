"""A simulated Redis: answers what a journal sends, byte for byte as the real ones do.

There is no clock, no socket and no chance in it. Bytes go in by `Session.feed`, replies come out;
when they may leave, and what a crash leaves behind, is for the world around it to say:

    feed ──► memory and `log` at once, replies to the caller
    sync ──► everything in `log` is durable; under fsync `always` replies leave only after that
    crash ──► memory is gone, and of `log` what was not durable, or any part of it: a torn tail
    start ──► another process, with another run_id, reads `log`; the connections before are dead

`redis_commands` answers, `redis_store` keeps, and `test_redis_conformance` holds all of it against
Valkey and Redis. Settings are texts and change nothing but what CONFIG GET says, save two:
`maxmemory`, and `appendonly`. Unless that is yes nothing is logged, and what is stored meanwhile is
gone with the process. (A real server that is switched on again rewrites its file; this one not.)
"""

from collections.abc import Callable
from typing import Final

from tests.simulation.redis_commands import UnsupportedError, error, execute
from tests.simulation.redis_protocol import ProtocolError, parse
from tests.simulation.redis_store import Append, Effect, Set, Store, Stream, Trim, Unlink

__all__ = [
    "Append",
    "Effect",
    "Session",
    "Set",
    "SimulatedServer",
    "Trim",
    "Unlink",
    "UnsupportedError",
]

NODE_ENTRIES_DEFAULT: Final = 4
"""stream-node-max-entries: few, so that the whole nodes of XTRIM are met in small worlds too."""
MEMORY_BASE: Final = 1_000_000
"""What a server uses that stores nothing."""


class SimulatedServer:
    """One server, through the lives of its processes; it runs from the beginning."""

    def __init__(
        self,
        *,
        fsync: str = "always",
        maxmemory: int = 1 << 30,
        node_entries: int = NODE_ENTRIES_DEFAULT,
    ) -> None:
        self.log: list[Effect] = []
        """The append-only file."""
        self.durable = 0
        """How many effects of `log` are on disk."""
        self.has_lost = False
        """Something is gone that was on disk: an older copy was served, or somebody deleted it."""
        self.settings = {
            "appendonly": "yes",
            "appendfsync": fsync,
            "no-appendfsync-on-rewrite": "no",
            "save": "",
            "maxmemory": str(maxmemory),
            "maxmemory-policy": "noeviction",
        }
        self.role = "master"
        self.loading = False
        self.misconf = False
        self.on_stored: Callable[[bytes, str, bytes], None] = lambda key, identity, record: None
        """Told of each appended entry when it becomes durable: key, id, record."""
        self.node_entries = node_entries
        self.run_id = ""
        self.serving = False
        self._lives = 0
        self._store = Store(node_entries)
        self.start()

    @property
    def maxmemory(self) -> int:
        """In bytes; 0 is no limit. Can be set."""
        return int(self.settings["maxmemory"])

    @maxmemory.setter
    def maxmemory(self, limit: int) -> None:
        self.settings["maxmemory"] = str(limit)

    @property
    def used_memory(self) -> int:
        """What INFO tells."""
        return MEMORY_BASE + self._store.used

    @property
    def full(self) -> bool:
        """Whether every command that needs memory is refused."""
        return not self.has_room(0)

    def has_room(self, size: int) -> bool:
        """Whether a command of `size` bytes is let in: itself it is in memory by then."""
        limit = self.maxmemory
        return limit == 0 or MEMORY_BASE + self._store.used + size <= limit

    def session(self) -> "Session":
        """A new connection."""
        assert self.serving, "there is no process to connect to"
        return Session(self)

    # The life of the process, and of the file.

    def sync(self) -> None:
        """Everything in the log is on disk now; replies that waited for it may leave."""
        log, on_stored = self.log, self.on_stored
        while self.durable < len(log):
            effect = log[self.durable]
            self.durable += 1
            if type(effect) is Append:
                on_stored(effect.key, f"{effect.id[0]}-{effect.id[1]}", effect.record)

    def crash(self, durable: int | None = None) -> None:
        """The process dies. `durable` effects survive: those on disk, or some more."""
        assert self.serving, "it is dead already"
        survive = self.durable if durable is None else durable
        assert self.durable <= survive <= len(self.log), f"{survive} of {len(self.log)} survive"
        self._end(survive)
        self.sync()

    def start(self) -> None:
        """Another process serves what is on disk."""
        assert not self.serving, "it serves already"
        self._lives += 1
        self.run_id = f"{self._lives:040x}"
        for effect in self.log:
            self._store.apply(effect)
        self.serving = True

    def restore(self, length: int) -> None:
        """An older copy of the file, its first `length` effects, is put in place and served."""
        assert 0 <= length <= self.durable, f"{length} of {self.durable} durable effects"
        self.has_lost = self.has_lost or length < self.durable
        self._end(length)
        self.start()

    def wipe(self) -> None:
        """The file is gone; an empty one is served."""
        self.restore(0)

    def flush(self) -> None:
        """Somebody else deletes all there is; the process goes on."""
        if keys := tuple(self._store.keys):
            self.has_lost = True
            self.change(Unlink(keys))

    def _end(self, survive: int) -> None:
        """No process any more, and `survive` effects left."""
        self.serving = False
        self._store = Store(self.node_entries)
        del self.log[survive:]
        self.durable = min(self.durable, survive)

    # What commands ask for.

    def key(self, key: bytes) -> Stream | bytes | None:
        """What is stored there."""
        return self._store.keys.get(key)

    def change(self, effect: Effect) -> None:
        """Apply an effect, and log it."""
        self._store.apply(effect)
        if self.settings["appendonly"] == "yes":
            self.log.append(effect)

    def information(self) -> dict[str, dict[str, str]]:
        """What INFO tells, by section; the real servers tell more."""
        logging = self.settings["appendonly"] == "yes" and not self.loading
        return {
            "server": {"redis_version": "7.2.4", "run_id": self.run_id},
            "memory": {
                "used_memory": str(self.used_memory),
                "maxmemory": self.settings["maxmemory"],
                "maxmemory_policy": self.settings["maxmemory-policy"],
            },
            "persistence": {
                "loading": "1" if self.loading else "0",
                "aof_enabled": "1" if logging else "0",
                "aof_last_write_status": "err" if self.misconf else "ok",
            },
            "replication": {"role": self.role},
        }


class Session:
    """One connection to one process."""

    def __init__(self, server: SimulatedServer) -> None:
        self._server = server
        self._run_id = server.run_id
        self._rest = b""
        self._hung_up = False

    @property
    def closed(self) -> bool:
        """Whether the server has hung up, or is no more."""
        server = self._server
        return self._hung_up or not server.serving or server.run_id != self._run_id

    def feed(self, data: bytes) -> bytes:
        """Execute what is complete, in order. The replies; nothing from a closed session."""
        if self.closed:
            return b""
        buffer = self._rest + data if self._rest else data
        replies, at, server = list[bytes](), 0, self._server
        try:
            while (found := parse(buffer, at)) is not None:
                words, at = found
                if words:
                    replies.append(execute(server, words))
        except ProtocolError as trouble:
            self._hung_up = True
            replies.append(error(f"ERR Protocol error: {trouble}"))
        self._rest = buffer[at:]
        return b"".join(replies)
