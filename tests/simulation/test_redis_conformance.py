"""Conformance: the simulated Redis answers as Valkey and Redis 7.0 do, byte for byte.

The same bytes go to both. Made equal before they are compared, and nothing else, are: the name of
the server in LOADING (the simulated one says Valkey), the order of CONFIG GET (by chance in the
real ones), and what INFO tells besides what a journal reads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import hiredis
import pytest

from actors.redis_wire import pack
from tests.actors.servers import SERVERS
from tests.simulation.real_redis import RealServer, RealSession
from tests.simulation.redis_protocol import parse
from tests.simulation.redis_server import Session, SimulatedServer

pytestmark = pytest.mark.redis

NODE_ENTRIES = 4
LARGEST = 2**64 - 1


class Pair:
    """A real server and a simulated one that live the same life."""

    def __init__(self, real: RealServer) -> None:
        self.real = real
        self.simulated = SimulatedServer(maxmemory=64 << 20, node_entries=NODE_ENTRIES)
        self.connect()

    def connect(self) -> None:
        """A new connection to each."""
        self._real: RealSession = self.real.session()
        self._simulated: Session = self.simulated.session()

    def restart(self) -> None:
        """Both are killed, with everything acknowledged, and started again."""
        self.simulated.sync()
        self.simulated.crash()
        self.simulated.start()
        self.real.kill()
        self.real.start()
        self.connect()

    def feed(self, *pieces: bytes) -> tuple[list[bytes], list[bytes]]:
        """The replies of the real and of the simulated server to bytes in pieces."""
        commands = split_commands(b"".join(pieces))
        simulated = b"".join(self._simulated.feed(piece) for piece in pieces)
        for piece in pieces[:-1]:
            self._real.feed(piece, 0)
        real = self._real.feed(pieces[-1], len(commands))
        return comparable(commands, real), comparable(commands, simulated)

    def same(self, *lines: str) -> None:
        """Assert that both answer these commands, sent at once, in the same way."""
        commands = [pack(*line.encode().split()) for line in lines]
        real, simulated = self.feed(b"".join(commands))
        assert list(zip(lines, real, strict=True)) == list(zip(lines, simulated, strict=True))


def split_commands(data: bytes) -> list[list[bytes]]:
    commands, at = list[list[bytes]](), 0
    while (found := parse(data, at)) is not None:
        words, at = found
        if words:
            commands.append(words)
    return commands


def comparable(commands: list[list[bytes]], data: bytes) -> list[bytes]:
    """The replies to those commands one by one, with what may differ made equal."""
    ends, reader = list[int](), hiredis.Reader(notEnoughData=...)
    for end in range(1, len(data) + 1):
        reader.feed(data[end - 1 : end])
        if reader.gets() is not ...:
            ends.append(end)
    replies = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert len(commands) == len(replies), data
    return [_plain(words, reply) for words, reply in zip(commands, replies, strict=True)]


def _plain(words: list[bytes], reply: bytes) -> bytes:
    name = words[0].upper()
    if reply.startswith(b"-LOADING"):
        return reply.replace(b"Redis", b"Valkey")
    if name == b"INFO" and reply.startswith(b"$"):
        return _told(value_of(reply))
    if name == b"CONFIG" and reply.startswith(b"*"):
        texts = value_of(reply)
        pairs = sorted(zip(texts[::2], texts[1::2], strict=True))
        return b"%d %b" % (len(reply), repr(pairs).encode())
    return reply


INFORMATION: Final = (
    *(b"role", b"loading", b"maxmemory", b"maxmemory_policy", b"aof_enabled"),
    b"aof_last_write_status",
)


def _told(information: bytes) -> bytes:
    """What a journal reads of INFO, or might."""
    lines = dict(line.split(b":", 1) for line in information.splitlines() if b":" in line)
    if b"run_id" in lines:
        assert 40 == len(lines[b"run_id"])
    if b"used_memory" in lines:
        assert 500_000 < int(lines[b"used_memory"])
    return repr({name: lines[name] for name in INFORMATION if name in lines}).encode()


def value_of(reply: bytes) -> Any:
    """A reply as a value."""
    reader = hiredis.Reader()
    reader.feed(reply)
    return reader.gets()


@contextmanager
def living(directory: Path, name: str, **settings: Any) -> Iterator[RealServer]:
    """A real server, killed in the end."""
    real = RealServer(directory / name, name, node_entries=NODE_ENTRIES, **settings)
    try:
        real.start()
        yield real
    finally:
        real.kill()


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with living(tmp_path_factory.mktemp("conformance"), request.param) as real:
        yield real


@pytest.fixture
def pair(server: RealServer) -> Pair:
    """Both, with nothing in them."""
    assert b"+OK\r\n" == server.ask(b"FLUSHALL")
    assert b"+OK\r\n" == server.ask(b"CONFIG", b"SET", b"maxmemory", b"64mb")
    return Pair(server)


def test_appends(pair: Pair) -> None:
    """XADD, and everything that it refuses."""
    pair.same(
        "XADD",
        "XADD k 1-1 r",
        "XADD k NOMKSTREAM 1-1 r v",
        "XADD k NOMKSTREAM 1-1 r v w",
        "XADD k NOMKSTREAM NOMKSTREAM NOMKSTREAM",
        "XADD k 1-1 r v w",
        "XADD k 0-0 r v",
        "XADD k 1-1 r v",
        "XADD k 1-1 r v",
        "XADD k 1-0 r v",
        "XADD k 0-0 r v",
        "XADD k 0 r v",
        "XADD k x r v",
        "XADD k 1-x r v",
        "XADD k 1- r v",
        "XADD k -1 r v",
        "XADD k - r v",
        "XADD k + r v",
        "XADD k (2-1 r v",
        "XADD k 007 r v",
        f"XADD k 8-{LARGEST} r v",
        f"XADD k 8-{LARGEST + 1} r v",
        "XADD k 9 r v",
        "XADD k NOMKSTREAM NOMKSTREAM 9-1 r v",
        "xadd k nomkstream 9-2 r v",
        "XADD k NOMKSTREAM 9-2 r v",
        "XADD c x r v",
        "SET c v NX",
        "XADD c 1-1 r v",
        "XADD c NOMKSTREAM 1-1 r v",
        "XADD c 0-0 r v",
        f"XADD k {LARGEST}-{LARGEST} r v",
        f"XADD k {LARGEST}-{LARGEST} r v",
        "XADD k 1-1 r v",
        "XRANGE k - +",
    )


def test_ranges(pair: Pair) -> None:
    """XRANGE and XREVRANGE, with all bounds and counts."""
    pair.same(*(f"XADD k {ms}-{sequence} r v" for ms in range(1, 4) for sequence in range(3)))
    plain = ("-", "+", "0", "0-0", "1", "1-1", "2-7", "9", "x", f"1-{LARGEST}")
    open_ones = ("(1", "(1-1", "(2-2", "(0", "(0-0", "(", "(-", "(+", f"({LARGEST}-{LARGEST}")
    bounds = (*plain, *open_ones, f"(1-{LARGEST}")
    counts = ("", " COUNT 1", " COUNT 2", " count 100")
    for first in bounds:
        for last in bounds:
            for count in counts:
                pair.same(
                    f"XRANGE k {first} {last}{count}",
                    f"XREVRANGE k {last} {first}{count}",
                )
    pair.same(
        *(
            f"{name} {key} - +{options}"
            for name in ("XRANGE", "XREVRANGE")
            for key in ("k", "gone")
            for options in (
                *("", " COUNT", " COUNT 0", " COUNT -3", " COUNT x", " COUNT 1 COUNT 2"),
                *(" FOO 1", " COUNT 01", f" COUNT {LARGEST}", " COUNT 1 FOO", " COUNT +1"),
            )
        ),
        "XRANGE k -",
        "XRANGE gone x +",
        "XRANGE gone + (0-0",
        "SET c v",
        "XRANGE c - +",
        "XRANGE c - + COUNT 0",
        "XREVRANGE c x -",
    )


def test_trimming(pair: Pair) -> None:
    """XTRIM by whole nodes and exactly, its refusals, and the last id that stays."""
    pair.same(*(f"XADD k 1-{sequence} r v" for sequence in range(30)))
    pair.same(
        "XTRIM gone MINID ~ 1-1 LIMIT 5",
        "XTRIM gone MINID ~ 1-1 LIMIT x",
        "XTRIM k MINID",
        "XTRIM k MINID ~",
        "XTRIM k MINID =",
        "XTRIM k MINID ~ x",
        "XTRIM k MINID ~ - LIMIT 5",
        "XTRIM k MINID ~ (1-1",
        "XTRIM k MINID = 1-1 LIMIT 5",
        "XTRIM k MINID 1-1 LIMIT 5",
        "XTRIM k MINID ~ 1-1 LIMIT -1",
        "XTRIM k MINID ~ 1-1 LIMIT x",
        "XTRIM k MINID ~ 1-1 LIMIT",
        "XTRIM k MINID ~ 1-1 FOO",
        "XTRIM k FOO 1-1",
        "XTRIM k MINID 1-1 MINID 2-1",
        "XTRIM k LIMIT 5",
        "XTRIM k MINID ~ 1-1 NOMKSTREAM",
        "XTRIM k LIMIT 5 MINID ~ 1-1",
        "XTRIM k MINID ~ 1-1 LIMIT 5 LIMIT 6",
        "XTRIM k MINID ~ 1-2 LIMIT 500",
        "XTRIM k MINID ~ 1-9 LIMIT 3",
        "XTRIM k MINID ~ 1-9 LIMIT 4",
        "XTRIM k MINID = 1-6",
        "XTRIM k MINID ~ 1-7 LIMIT 500",
        "XTRIM k MINID ~ 1-8 LIMIT 500",
        "XTRIM k MINID ~ 1-20 LIMIT 0",
        "XRANGE k - +",
        "XTRIM k MINID 1-28",
        "XADD k 1-30 r v",
        "XTRIM k minid ~ 1-40 limit 500",
        "XTRIM k MINID ~ 2",
        "XRANGE k - +",
        "XREVRANGE k + - COUNT 1",
        "XADD k NOMKSTREAM 1-30 r v",
        "XADD k NOMKSTREAM 1-31 r v",
        "SET c v",
        "XTRIM c MINID ~ 1-1 LIMIT 5",
        "UNLINK k",
        "XADD k NOMKSTREAM 1-1 r v",
        "XADD k 1-1 r v",
    )


def test_chunks(pair: Pair) -> None:
    """SET, GET and UNLINK."""
    pair.same(
        *("SET c v NX", "SET c w NX", "SET c w nx NX", "SET c v FOO", "SET c v NX FOO", "SET c"),
        *("GET", "GET c", "GET gone", "GET c d", "UNLINK", "UNLINK gone", "UNLINK c gone c"),
        *("SET c v", "SET c w", "GET c", "XADD k 1-1 r v", "GET k", "SET k v NX", "UNLINK c k"),
        *("GET c", "GET k", "XADD k 1-1 r v", "SET k v", "GET k"),
    )


def test_everything_else(pair: Pair) -> None:
    """What is asked when connecting, and what nobody should ask."""
    pair.same(
        *("PING", "ping hi", "PING a b", "SELECT 0", "SELECT 1", "SELECT -1", "SELECT x"),
        *("SELECT", "SELECT 0 0", "AUTH p", "AUTH u p", "AUTH default p", "AUTH", "AUTH a b c"),
        *("CONFIG", "CONFIG GET", "CONFIG FOO", "CONFIG FOO x", "CONFIG GET MAXMEMORY"),
        "CONFIG GET appendonly appendfsync no-appendfsync-on-rewrite save maxmemory"
        " maxmemory-policy nothing",
        *("config get save", "CONFIG GET maxmemory maxmemory", "INFO", "INFO foo"),
        *("INFO memory", "info MEMORY Replication", "INFO all", "INFO persistence server"),
        *("FOO", "foo 'a' b", f"FOO {'x' * 200} y", f"FOO {'x ' * 100}", f"{'x' * 200} y"),
    )
    odd = pack(b"FOO\r\nBAR", b"a\r\nb", b"c\0d") + pack(b"") + pack(b"CONFIG", b"a\nb")
    real, simulated = pair.feed(odd)
    assert real == simulated


def test_any_bytes(pair: Pair) -> None:
    """Keys, records and chunks are bytes, up to the largest."""
    records = [bytes(range(256)), b"\r\n$-1\r\n", b"", b"x" * (1 << 20)]
    commands = [pack(b"XADD", b"\0\r\n", b"1-%d" % n, b"r", records[n]) for n in range(4)]
    commands += [pack(b"SET", b"c%d" % n, records[n], b"NX") for n in range(4)]
    commands += [pack(b"GET", b"c%d" % n) for n in range(3)]
    commands += [pack(b"XRANGE", b"\0\r\n", b"-", b"+", b"COUNT", b"3")]

    real, simulated = pair.feed(*commands)

    assert real == simulated


@pytest.mark.parametrize(
    "data",
    [
        b"*1\r\n+PING\r\n",
        b"*x\r\n",
        b"*\r\n",
        b"*01\r\n",
        b"*9999999999\r\n",
        b"*2147483648\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*1\r\n$4194305\r\n",
        b"*1\n$4\r\nPING\r\n",
        b"*1\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n*1\r\n!\r\n*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$4\r\nPING\r\n!\r\n",
        b"*" + b"1" * 65_540,
        b"*1\r\n$" + b"1" * 65_540,
        b"x" * 65_540,
    ],
)
def test_what_is_no_command(pair: Pair, data: bytes) -> None:
    """Bytes that are no command: the same last words, and the connection is closed."""
    session = pair.simulated.session()
    expected = session.feed(data)
    real = pair.real.session()
    real.feed(data, 0)

    assert session.closed
    assert real.rest() == expected


def test_inline_commands(pair: Pair) -> None:
    """Commands as a person types them, and empty ones, which nobody answers."""
    data = b"PING\r\nping hi\n\r\n*0\r\n*-1\r\n" + pack(b"PING")

    real, simulated = pair.feed(data)

    assert real == simulated == [b"+PONG\r\n", b"$2\r\nhi\r\n", b"+PONG\r\n"]
