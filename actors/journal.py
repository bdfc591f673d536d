"""The journal: per shard one Redis stream, whose explicit ids fence, deduplicate and arbitrate.

    onhand:{<shard>}:journal         entries `<epoch>-<sequence>`, each one record
    onhand:{<shard>}:chunk:<name>    one piece of a snapshot, written once

Redis refuses an id that is not larger than the stream's last one, also after trimming. So of two
contenders for `<epoch>-0` one wins, an owner of an older epoch can append nothing any more, and a
batch that is sent twice is stored once: no lock, no lease, no script. Every append but the first of
all demands that the stream exists, so that a vanished journal stops its shard.

What came of an append is one of five:

    returns          the record is as durable as the server's settings make it
    RefusedError     the id is not larger than the last: fenced, or a duplicate of our own
    MissingError     there is no such stream
    BusyError        certainly not appended; the same record may be sent again
    LostError        perhaps appended: read the last entry before sending the same record again

`RedisJournal` reconnects by itself but resends nothing. It serves only while the server has the
settings that the promises rest on (`wrong_settings`), and is the one of several that it was taken
for (`actors.seat`), both of which are checked on every connection. A new
`run_id` means that another process serves now, which may have gone back in time: an append that
was asked for under one run_id is never sent under another, it fails with BusyError. After that the
owner has to look before it appends on.

`LostError` leaves one thing open that no client can close: the lost command may still sit in the
frozen server's socket and be executed later, even after what the next connection reads. That is
why a record which has its id must not change any more: whichever copy comes first, it is the same.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial
from random import random
from typing import Any, Final, NamedTuple, Protocol

import structlog

from actors import redis_wire
from actors.config import Fsync
from actors.redis_wire import Connection, ConnectionLostError, ReplyError, Target, pack
from actors.seat import KEY, Seat, SeatError
from engine import limits
from engine.codec import START, CorruptRecordError, Position

TIMEOUT_DEFAULT: Final = 2.0
CONNECTIONS_PER_HOST: Final = 4
"""How many journals a host should open to each server, each shard always using the same one of
them. A server takes 16 KiB from each connection per turn of its loop, and syncs once per turn: with
fsync `always` and 16 shards, records of 20 KB go in at 2,200/s over one connection and at 6,300/s
over four; small ones lose a tenth to a quarter."""
_BACKOFF_FIRST: Final = 0.05
_BACKOFF_MAX: Final = 1.0
_STABLE_SECONDS: Final = 1.0
"""A connection that lasted this long is reconnected without delay."""
_NOT_DONE: Final = frozenset(
    ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY")
)
"""First words of the replies by which a server says that it did nothing, for now."""
_NOT_LARGER: Final = "equal or smaller than the target stream top item"
_CHUNK_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_log = structlog.get_logger(__name__)


class JournalError(Exception):
    """The server answered what it never should; its words are in the message."""


class RefusedError(JournalError):
    """The id is not larger than the stream's last: fenced, or already there."""


class MissingError(JournalError):
    """The stream does not exist, although it should."""


class BusyError(JournalError):
    """Certainly not done; the same may be asked again, later."""


class FullError(BusyError):
    """The server has no memory left for more."""


class ServerSettingsError(BusyError):
    """The server's settings do not keep what the journal promises; nothing is sent to it."""


class WrongServerError(ServerSettingsError):
    """The server is not the one of the journal's that it was taken for."""


class LostError(JournalError):
    """Perhaps done, perhaps not: the connection ended, or stayed silent, before the reply."""


class Entry(NamedTuple):
    """One record where it stands."""

    position: Position
    record: bytes


Done = Callable[[JournalError | None], None]


class Journal(Protocol):
    """What an owner needs of a journal. All of it may raise BusyError and LostError.

    What was asked for under one `run_id` and changes anything, but for storing a chunk, is not done
    under another: whoever asked has to look first what the other server process has.
    """

    @property
    def run_id(self) -> str:
        """Of the server process that answers now: another one may have gone back in time."""

    async def append(
        self, shard: int, position: Position, record: bytes, *, create: bool = False
    ) -> None:
        """Append `record` at `position`; only with `create` may it be a stream's first entry.

        Raises RefusedError and MissingError, see above.
        """

    def send(self, shard: int, entry: Entry, done: Done) -> None:
        """Append without waiting: `done` is called once, later, with None or why it failed."""

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        """The first `count` entries after `after`; or the `count` newest, newest first."""

    async def trim(self, shard: int, below: Position) -> int:
        """Remove all entries below `below`, in small steps. How many there were."""

    async def store(self, shard: int, name: str, chunk: bytes | None) -> bool:
        """Keep `chunk` under a new name: False if the name is taken. None removes the name."""

    async def load(self, shard: int, name: str) -> bytes | None:
        """The chunk of that name, if there is one."""


class Memory(NamedTuple):
    """How full the server is, in bytes."""

    used: int
    limit: int


def journal_key(shard: int) -> str:
    """The key of the stream of a shard."""
    return f"onhand:{{{shard}}}:journal"


def chunk_key(shard: int, name: str) -> str:
    """The key of one piece of a snapshot of a shard."""
    assert _CHUNK_NAME.fullmatch(name), f"not a name for a chunk: {name!r}"
    return f"onhand:{{{shard}}}:chunk:{name}"


def check_append(shard: int, position: Position, record: bytes) -> None:
    """Assert what every journal may expect of its caller."""
    assert 0 <= shard < limits.SHARDS_MAX, f"shard {shard}"
    assert position > START, f"position {position}"
    assert 0 < len(record) <= limits.RECORD_BYTES_MAX, f"a record of {len(record)} bytes"


def wrong_settings(
    settings: Mapping[str, str], information: Mapping[str, str], fsync: Fsync
) -> list[str]:
    """What is wrong with a server, one line per setting, each saying how it should be.

    `settings` is what CONFIG GET says, `information` what INFO says.
    """
    wanted = {
        "appendonly": "yes",
        "appendfsync": fsync,
        "no-appendfsync-on-rewrite": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    wrong = [
        f"{name} is {settings.get(name, 'not told')!r}, must be {value!r}"
        for name, value in wanted.items()
        if settings.get(name) != value
    ]
    if settings.get("maxmemory", "0") == "0":
        wrong.append("maxmemory is 0, must be set: a full machine must refuse, not fail")
    if information.get("role") != "master":
        wrong.append(f"role is {information.get('role')!r}, must be 'master'")
    return wrong


_CHECKED: Final = (
    *(b"appendonly", b"appendfsync", b"no-appendfsync-on-rewrite"),
    *(b"save", b"maxmemory", b"maxmemory-policy"),
)


class RedisJournal:
    """The journal on a Redis or Valkey server, over one pipelined connection.

    `fsync` is what the server's `appendfsync` must be. Every operation ends within `timeout`
    seconds of silence: BusyError if it could not be sent, LostError if it was. `jitter` draws from
    [0, 1) and spreads the reconnects of many hosts. `seat`: which server it must be; None = any.
    """

    def __init__(
        self,
        url: str,
        *,
        fsync: Fsync = "always",
        timeout: float = TIMEOUT_DEFAULT,
        jitter: Callable[[], float] = random,
        seat: Seat | None = None,
    ) -> None:
        self._target = Target.parse(url)
        self._fsync = fsync
        self._timeout = timeout
        self._jitter = jitter
        self._seat = seat
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        """Set when the connection comes or goes; replaced by whoever sets it."""
        self._keeper: asyncio.Task[None] | None = None
        self.trouble: JournalError | None = JournalError("the journal is not open")
        """Why nothing can be asked now; None while there is a connection that serves."""
        self._keys: dict[int, bytes] = {}
        self._waiting = 0
        self.run_id = ""
        self.connections = 0
        """How many connections have served so far."""

    @property
    def address(self) -> str:
        """Where the server is, without what opens it."""
        return str(self._target)

    async def open(self, timeout: float = 10.0, *, demand: bool = True) -> None:
        """Connect, for up to `timeout` seconds, and from then on stay connected until `close`.

        Raises ServerSettingsError at once, and any other JournalError when the time is up; without
        `demand` it goes on trying instead, and whoever asks for something is told to wait.
        """
        assert self._keeper is None, "opened twice"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        attempts = 0
        while not await self._attempt():
            attempts += 1
            if self.trouble is not None and (
                isinstance(self.trouble, ServerSettingsError) or loop.time() > deadline
            ):
                if not demand:
                    break
                raise self.trouble
            await asyncio.sleep(self._backoff(attempts))
        self._keeper = loop.create_task(self._keep(), name="journal connection")

    async def close(self) -> None:
        """Hang up; what is in flight is lost."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if self._connection is not None:
            self._connection.drop("the journal is closed")
        self.trouble = JournalError("the journal is closed")

    # The journal's five methods.

    async def append(
        self, shard: int, position: Position, record: bytes, *, create: bool = False
    ) -> None:
        """See Journal."""
        check_append(shard, position, record)
        command = _append_command(self._key(shard), position, record, create)
        if await self._ask(command, moves=False) is None:
            raise MissingError(f"the journal of shard {shard} is gone: {journal_key(shard)}")

    def send(self, shard: int, entry: Entry, done: Done) -> None:
        """See Journal."""
        check_append(shard, *entry)
        connection = self._connection
        if connection is None or _is_busy(connection):
            error = BusyError(f"{self._target}: {self.trouble or 'too much is in flight'}")
            asyncio.get_running_loop().call_soon(done, error)
            return
        command = _append_command(self._key(shard), *entry, create=False)
        connection.put(command, partial(self._appended, connection, shard, done))

    def _appended(self, connection: Connection, shard: int, done: Done, reply: Any) -> None:
        """What came of `send`."""
        if type(reply) is bytes:
            done(None)
        elif reply is None:
            done(MissingError(f"the journal of shard {shard} is gone: {journal_key(shard)}"))
        else:
            done(self._error_of(connection, reply))

    async def read(
        self, shard: int, after: Position, count: int, *, newest: bool = False
    ) -> list[Entry]:
        """See Journal."""
        assert 0 < count <= limits.JOURNAL_READ_ENTRIES_MAX, f"{count} entries"
        key, number = self._key(shard), b"%d" % count
        if newest:
            command = pack(b"XREVRANGE", key, b"+", b"-", b"COUNT", number)
        else:
            command = pack(b"XRANGE", key, b"(%d-%d" % after, b"+", b"COUNT", number)
        return [_entry(shard, item) for item in await self._ask(command)]

    async def trim(self, shard: int, below: Position) -> int:
        """See Journal. Whole nodes of the stream first, few at a time; then what is left of one."""
        key, limit, run_id = self._key(shard), b"%d-%d" % below, self.run_id
        nodes = pack(
            *(b"XTRIM", key, b"MINID", b"~", limit, b"LIMIT", b"%d" % limits.TRIM_ENTRIES_MAX)
        )
        removed = 0
        while step := await self._ask(nodes, moves=False):
            removed += int(step)
            if self.run_id != run_id:
                raise BusyError(f"{self._target}: another server process answers now")
        rest = await self._ask(pack(b"XTRIM", key, b"MINID", b"=", limit), moves=False)
        return removed + int(rest)

    async def store(self, shard: int, name: str, chunk: bytes | None) -> bool:
        """See Journal."""
        key = chunk_key(shard, name).encode()
        if chunk is None:
            return bool(await self._ask(pack(b"UNLINK", key), moves=False))
        assert 0 < len(chunk) <= limits.SNAPSHOT_CHUNK_BYTES_MAX, f"a chunk of {len(chunk)} bytes"
        return await self._ask(pack(b"SET", key, chunk, b"NX")) is not None

    async def load(self, shard: int, name: str) -> bytes | None:
        """See Journal."""
        chunk: bytes | None = await self._ask(pack(b"GET", chunk_key(shard, name).encode()))
        return chunk

    async def said(self) -> bytes | None:
        """What the server says of itself, if it was told; see `actors.seat`."""
        try:
            said: bytes | None = await self._ask(pack(b"GET", KEY))
        except (BusyError, LostError):
            raise
        except JournalError as error:  # a user of the server's who may not see this key
            raise JournalError(f"{self._target}: GET {KEY.decode()}: {error}") from error
        return said

    async def tell(self, seat: Seat) -> None:
        """Let the server say this of itself from now on, unless it says something already."""
        await self._ask(pack(b"SET", KEY, seat.encode(), b"NX"))

    async def memory(self) -> Memory:
        """How full the server is: snapshots and trimming start long before it refuses."""
        information = _information(await self._ask(pack(b"INFO", b"memory")))
        return Memory(int(information["used_memory"]), int(information["maxmemory"]))

    # Asking.

    def _key(self, shard: int) -> bytes:
        key = self._keys.get(shard)
        if key is None:
            key = self._keys[shard] = journal_key(shard).encode()
        return key

    async def _ask(self, command: bytes, *, moves: bool = True) -> Any:
        """The server's reply, or the error that it amounts to. `moves`: to a new run_id as well."""
        connection = self._connection
        if connection is None:
            connection = await self._connected(self.run_id, moves)
        if _is_busy(connection):
            raise BusyError(f"{connection.in_flight} operations are in flight already")
        try:
            reply = await connection.send(command)
        except ConnectionLostError as error:
            raise self._error_of(connection, error) from error
        if isinstance(reply, ReplyError):
            raise self._error_of(connection, reply)
        return reply

    def _error_of(
        self, connection: Connection, failure: ReplyError | ConnectionLostError
    ) -> JournalError:
        """What a failure amounts to."""
        if isinstance(failure, ConnectionLostError):
            return LostError(f"{self._target}: {failure}")
        if str(failure).startswith("READONLY"):
            connection.drop("the server has become a replica")
        return _judge(failure)

    async def _connected(self, run_id: str, moves: bool) -> Connection:
        """The connection, once there is one. Raises BusyError if there is none in time."""
        if self._keeper is None or self._waiting >= limits.JOURNAL_IN_FLIGHT_MAX:
            raise BusyError(f"{self._target}: {self.trouble}")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout):
                while self._connection is None:
                    await self._changed.wait()
        except TimeoutError as error:
            kind = (
                ServerSettingsError if isinstance(self.trouble, ServerSettingsError) else BusyError
            )
            raise kind(f"{self._target}: {self.trouble}") from error
        finally:
            self._waiting -= 1
        if self.run_id != run_id and not moves:
            raise BusyError(f"{self._target}: another server process answers now")
        return self._connection

    # Being connected.

    async def _keep(self) -> None:
        """Connect again whenever the connection is gone, for ever."""
        loop = asyncio.get_running_loop()
        failures, since = 0, loop.time()
        while True:
            if self._connection is not None:
                await self._changed.wait()
                failures = 0 if loop.time() - since >= _STABLE_SECONDS else failures + 1
            if failures:
                await asyncio.sleep(self._backoff(failures))
            since = loop.time()
            if not await self._attempt():
                failures += 1

    def _backoff(self, failures: int) -> float:
        longest = min(_BACKOFF_MAX, _BACKOFF_FIRST * 2.0 ** min(failures, 10))
        return longest * (0.5 + self._jitter() / 2)

    async def _attempt(self) -> bool:
        """Connect and check the server; if that fails, `_trouble` says why."""
        try:
            connection = await redis_wire.connect(self._target, self._timeout, self._on_lost)
        except OSError as error:
            self._refuse(BusyError(f"no connection: {str(error) or 'timeout'}"))
            return False
        try:
            run_id = await self._admit(connection)
            if connection.lost is None:
                self._serve(connection, run_id)
        except ConnectionLostError as error:
            self._refuse(BusyError(f"no connection: {error}"))
        except JournalError as error:
            self._refuse(error)
        finally:
            if self._connection is not connection:
                connection.drop("not admitted")
        return self._connection is connection

    def _serve(self, connection: Connection, run_id: str) -> None:
        self._connection, self.run_id = connection, run_id
        self.connections += 1
        self.trouble = None
        self._announce()
        _log.info("journal connected", server=str(self._target), run_id=run_id)

    async def _admit(self, connection: Connection) -> str:
        """Log in and check the server. Its run_id. Raises JournalError if it must not serve."""
        target = self._target
        commands = [pack(b"INFO"), pack(b"CONFIG", b"GET", *_CHECKED)]
        if target.database:
            commands.insert(0, pack(b"SELECT", b"%d" % target.database))
        if target.password is not None:
            credentials = [word.encode() for word in (target.user, target.password) if word]
            commands.insert(0, pack(b"AUTH", *credentials))
        replies = await asyncio.gather(*map(connection.send, commands))
        for reply in replies:
            if isinstance(reply, ReplyError):
                kind = BusyError if str(reply).startswith("LOADING") else ServerSettingsError
                raise kind(f"{target}: {reply}")
        information = _information(replies[-2])
        if information.get("loading") == "1":
            raise BusyError("the server is loading its data")
        words = [word.decode() for word in replies[-1]]
        found = dict(zip(words[::2], words[1::2], strict=True))
        if wrong := wrong_settings(found, information, self._fsync):
            raise ServerSettingsError(f"{target} is not set up as a journal: {'; '.join(wrong)}")
        if self._seat is not None:
            await self._check_seat(connection, self._seat)
        return information["run_id"]

    async def _check_seat(self, connection: Connection, seat: Seat) -> None:
        """Raises WrongServerError if another server answers here than the one that is meant."""
        said = await connection.send(pack(b"GET", KEY))
        if isinstance(said, ReplyError):
            raise JournalError(f"GET {KEY.decode()}: {said}")
        try:
            seat.check(said)
        except SeatError as error:
            raise WrongServerError(f"{self._target}: {error}") from error

    def _on_lost(self, reason: str) -> None:
        if self._connection is None or self._connection.lost is None:
            return  # it never served
        self._connection = None
        self._refuse(BusyError(f"the connection is lost: {reason}"))
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _refuse(self, trouble: JournalError) -> None:
        if self._keeper is not None and str(trouble) != str(self.trouble):
            _log.warning("journal unavailable", server=str(self._target), reason=str(trouble))
        self.trouble = trouble


_APPEND: Final = (
    b"*6\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n$%d\r\n%b\r\n$1\r\nr\r\n$%d\r\n%b\r\n"
)
"""The one command of the hot path, packed four times as fast as by `pack`."""


def _is_busy(connection: Connection) -> bool:
    """Whether so much is in flight that nothing more may be."""
    return (
        connection.in_flight >= limits.JOURNAL_IN_FLIGHT_MAX
        or connection.bytes_in_flight >= limits.JOURNAL_IN_FLIGHT_BYTES_MAX
    )


def _append_command(key: bytes, position: Position, record: bytes, create: bool) -> bytes:
    name = b"%d-%d" % position
    if create:
        return pack(b"XADD", key, name, b"r", record)
    return _APPEND % (len(key), key, len(name), name, len(record), record)


def _entry(shard: int, item: Any) -> Entry:
    """An item of XRANGE. Raises CorruptRecordError if it is none that we have written."""
    name, fields = item
    if len(fields) != 2 or fields[0] != b"r":
        raise CorruptRecordError(f"shard {shard}, entry {name.decode()}: not written by a journal")
    epoch, _, sequence = name.partition(b"-")
    return Entry(Position(int(epoch), int(sequence)), fields[1])


def _information(reply: bytes) -> dict[str, str]:
    """What INFO says, as a mapping."""
    pairs = (line.partition(":") for line in reply.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


def _judge(reply: ReplyError) -> JournalError:
    """The error of ours that an error of the server amounts to."""
    words = str(reply)
    word = words.partition(" ")[0]
    if word in _NOT_DONE:
        return FullError(words) if word == "OOM" else BusyError(words)
    return RefusedError(words) if _NOT_LARGER in words else JournalError(words)
