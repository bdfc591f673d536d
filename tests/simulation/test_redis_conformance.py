"""Conformance: the simulated Redis answers as Valkey and Redis 7.0 do, byte for byte.

Command by command, with everything that is refused; `test_redis_lives` has what happens over time.
"""

from collections.abc import Iterator

import pytest

from actors.redis_wire import pack
from tests.actors.servers import SERVERS
from tests.simulation.pair import Pair, living
from tests.simulation.real_redis import RealServer

pytestmark = pytest.mark.redis

LARGEST = 2**64 - 1


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
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
        "XADD k 9-3 another-field v",
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
