"""Conformance over time: random lives of a journal, kill -9, torn files, no memory, no disk."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from actors.redis_wire import pack
from tests.actors.servers import SERVERS
from tests.simulation.pair import Pair, living, told, value_of
from tests.simulation.real_redis import SECONDS_MAX
from tests.simulation.redis_protocol import parse

pytestmark = pytest.mark.redis

on_each_server = pytest.mark.parametrize("name", SERVERS)

SEEDS = 300
STREAMS = [b"onhand:{%d}:journal" % shard for shard in range(3)]
CHUNKS = [b"onhand:{%d}:chunk:1-7:0" % shard for shard in range(3)]
EVERYTHING = [
    *(pack(b"XRANGE", key, b"-", b"+") for key in STREAMS),
    *(pack(b"GET", key) for key in CHUNKS),
]
PROBES = (
    *("PING", "PING x y", "XADD k 1-1 r v", "XADD k NOMKSTREAM 1-1 r v", "XADD k 0-0 r v"),
    *("XADD k", "SET c v NX", "SET c v FOO", "SET c", "GET c", "GET", "XRANGE k - +"),
    *("XREVRANGE k + - COUNT 1", "XTRIM k MINID ~ 1-1 LIMIT 5", "XTRIM k MINID = 1-1"),
    *("XTRIM k FOO 1-1", "UNLINK c", "UNLINK", "SELECT 0", "SELECT 1", "AUTH x", "FOO"),
    *("CONFIG GET save appendonly", "CONFIG FOO", "INFO replication persistence"),
)
"""Commands of each kind, good and bad."""


class Life:
    """Commands as a journal sends them, to few streams and chunks, with ids that clash often."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self._step = 0

    def commands(self, count: int) -> list[bytes]:
        return [self._command() for _ in range(count)]

    def pieces(self, commands: list[bytes]) -> list[bytes]:
        """The commands' bytes, cut anywhere."""
        data = b"".join(commands)
        cuts = sorted(self.chance.randrange(len(data)) for _ in range(self.chance.randrange(4)))
        return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _command(self) -> bytes:
        self._step += 1
        makers = (self._append, self._read, self._trim, self._chunk, self._odd)
        (maker,) = self.chance.choices(makers, (50, 20, 12, 15, 3))
        return maker(self.chance.choice(STREAMS))

    def _id(self) -> bytes:
        epoch = max(0, self._step // 12 + self.chance.randrange(-1, 2))
        return b"%d-%d" % (epoch, self.chance.randrange(10))

    def _append(self, key: bytes) -> bytes:
        record = self.chance.randbytes(self.chance.randrange(60))
        create = [] if self.chance.random() < 0.7 else [b"NOMKSTREAM"]
        return pack(b"XADD", key, *create, self._id(), b"r", record)

    def _read(self, key: bytes) -> bytes:
        count = b"%d" % self.chance.randrange(1, 9)
        if self.chance.random() < 0.4:
            return pack(b"XREVRANGE", key, b"+", b"-", b"COUNT", count)
        return pack(b"XRANGE", key, b"(" + self._id(), b"+", b"COUNT", count)

    def _trim(self, key: bytes) -> bytes:
        if self.chance.random() < 0.4:
            return pack(b"XTRIM", key, b"MINID", b"=", self._id())
        limit = b"%d" % self.chance.choice((1, 4, 9, 500))
        return pack(b"XTRIM", key, b"MINID", b"~", self._id(), b"LIMIT", limit)

    def _chunk(self, _: bytes) -> bytes:
        key, kind = self.chance.choice(CHUNKS), self.chance.randrange(3)
        if kind == 0:
            return pack(b"SET", key, self.chance.randbytes(self.chance.randrange(60)), b"NX")
        return pack(b"UNLINK" if kind == 1 else b"GET", key)

    def _odd(self, key: bytes) -> bytes:
        """What no journal does, but a server must survive."""
        commands = ([b"UNLINK", key, *CHUNKS], [b"GET", key], [b"SET", key, b"v"], [b"PING"])
        return pack(*self.chance.choice(commands))


@on_each_server
def test_random_lives(name: str, tmp_path: Path) -> None:
    """The same replies to any commands of a journal, in pipelines and cut anywhere."""
    with living(tmp_path, name) as real:
        for seed in range(SEEDS):
            pair, life = Pair(real), Life(seed)
            for _ in range(3):
                real_replies, replies = pair.feed(*life.pieces(life.commands(25)))
                assert (seed, real_replies) == (seed, replies)


@on_each_server
def test_random_lives_with_deaths(name: str, tmp_path: Path) -> None:
    """What was acknowledged is there after kill -9, as are last ids and the nodes of streams.

    Also if the file was rewritten before, which the simulated server need not do.
    """
    with living(tmp_path, name) as real:
        for seed in range(1_000, 1_006):
            pair, life = Pair(real), Life(seed)
            for _ in range(3):
                real_replies, replies = pair.feed(*life.commands(40))
                assert (seed, real_replies) == (seed, replies)
                if life.chance.random() < 0.5:
                    real.rewrite_file()
                pair.restart()


@on_each_server
@pytest.mark.parametrize("seed", range(2_000, 2_003))
def test_torn_files(name: str, seed: int, tmp_path: Path) -> None:
    """One effect is one command of the real file, and any number of them makes the same server."""
    with living(tmp_path, name) as real:
        pair, life = Pair(real), Life(seed)
        pair.feed(*life.commands(150))
        (path,) = real.directory.glob("appendonlydir/*.incr.aof")
        file = path.read_bytes()
        ends = _effect_ends(file)
        assert len(ends) - 1 == len(pair.simulated.log)

        for survive in sorted(life.chance.sample(range(len(ends)), 4), reverse=True):
            real.kill()
            following = [*ends, ends[-1] + 1][survive + 1]
            path.write_bytes(file[: life.chance.randrange(ends[survive], following)])
            real.start()
            if pair.simulated.durable == 0:
                pair.simulated.crash(survive)
                pair.simulated.start()
            else:
                pair.simulated.restore(survive)
            pair.connect()
            real_replies, replies = pair.feed(*EVERYTHING, *life.commands(40))
            assert (survive, real_replies) == (survive, replies)
            pair.simulated.sync()


def _effect_ends(file: bytes) -> list[int]:
    """Where each effect ends in a real file; before them what ends the preamble."""
    ends, at = [0], 0
    while (found := parse(file, at)) is not None:
        words, at = found
        if words[0].upper() in (b"SELECT", b"FLUSHALL"):
            ends[-1] = at
        else:
            ends.append(at)
    return ends


@on_each_server
def test_no_memory(name: str, tmp_path: Path) -> None:
    """Which commands are refused, before anything else is said of them, and which go on."""
    with living(tmp_path, name) as real:
        pair = Pair(real)
        pair.same("XADD k 5-1 r v", "XADD k 5-2 r v", "SET c v")
        pair.limit_memory(1, 1)
        replies = pair.same(*PROBES)
        assert 5 == sum(reply.startswith(b"-OOM") for reply in replies)
        pair.limit_memory(64 << 20, 64 << 20)
        pair.same(*PROBES)


@on_each_server
def test_memory_that_fills_up(name: str, tmp_path: Path) -> None:
    """About as many chunks fit, the same is refused then, and room that is made helps."""
    fitted = list[int]()
    with living(tmp_path, name) as real:
        pair = Pair(real)
        pair.limit_memory(_used(real.ask) + (4 << 20), pair.simulated.used_memory + (4 << 20))
        for ask in (real.ask, _asking(pair)):
            chunks = 0
            while ask(b"SET", b"c%d" % chunks, bytes(64 << 10), b"NX") == b"+OK\r\n":
                chunks += 1
            fitted.append(chunks)
        assert 0.7 < fitted[0] / fitted[1] < 1.4

        for ask in (real.ask, _asking(pair)):
            assert ask(b"SET", b"c", bytes(64 << 10)).startswith(b"-OOM")
            assert b":20\r\n" == ask(b"UNLINK", *(b"c%d" % number for number in range(20)))
            assert b"+OK\r\n" == _admitted(ask, b"SET", b"c", bytes(64 << 10))
        pair.same("GET c", "XADD k 1-1 r v", "XRANGE k - +", "XADD k NOMKSTREAM 1-2 r v")


@on_each_server
def test_a_large_command_counts_itself(name: str, tmp_path: Path) -> None:
    """With a little room left a large chunk is refused, and a small record is not."""
    with living(tmp_path, name) as real:
        pair = Pair(real)
        room = 300 << 10
        pair.limit_memory(_used(real.ask) + room, pair.simulated.used_memory + room)
        for ask in (real.ask, _asking(pair)):
            assert ask(b"SET", b"c", bytes(1 << 20), b"NX").startswith(b"-OOM")
            assert b"$3\r\n1-1\r\n" == _admitted(ask, b"XADD", b"k", b"1-1", b"r", b"v")


@on_each_server
def test_memory_follows_what_is_stored(name: str, tmp_path: Path) -> None:
    """What INFO tells grows by much the same, and shrinks when whole nodes are trimmed."""
    with living(tmp_path, name) as real:
        pair = Pair(real)
        asks = (real.ask, _asking(pair))
        empty = [_used(ask) for ask in asks]
        record = bytes(8 << 10)
        for ask in asks:
            for number in range(600):
                ask(b"XADD", b"k", b"1-%d" % number, b"r", record)
        filled = [_used(ask) for ask in asks]
        pair.same("XTRIM k MINID ~ 1-400 LIMIT 500")
        trimmed = [_used(ask) for ask in asks]

        for before, after in ((empty, filled), (trimmed, filled), (empty, trimmed)):
            real_growth, growth = (b - a for a, b in zip(before, after, strict=True))
            assert 0.7 < real_growth / growth < 1.4


@on_each_server
def test_no_disk(name: str, tmp_path: Path) -> None:
    """When the file cannot be written every write is refused, and PING, until it can be."""
    with living(tmp_path, name, fsync="everysec") as real:
        pair = Pair(real, fsync="everysec")
        pair.same("XADD k 5-1 r v", "XADD k 5-2 r v", "SET c v")
        real.limit_file(10)
        deadline = monotonic() + SECONDS_MAX
        while real.ask(b"SET", b"other", b"v") == b"+OK\r\n":
            assert monotonic() < deadline
        pair.simulated.misconf = True
        replies = pair.same(*PROBES)
        assert 11 == sum(reply.startswith(b"-MISCONF") for reply in replies)
        pair.limit_memory(1, 1)
        pair.same(*PROBES)

        pair.limit_memory(64 << 20, 64 << 20)
        real.limit_file(None)
        while real.ask(b"PING") != b"+PONG\r\n":
            assert monotonic() < deadline
        pair.simulated.misconf = False
        pair.same(*PROBES)


@on_each_server
def test_loading(name: str, tmp_path: Path) -> None:
    """While the file is read all is refused but what asks the server about itself."""
    with living(tmp_path, name, fsync="everysec", load_delay_us=100) as real:
        pair = Pair(real, fsync="everysec")
        pair.feed(*(pack(b"SET", b"c%d" % number, b"v") for number in range(6_000)))
        real.kill()
        real.start(loaded=False)
        pair.connect()
        pair.simulated.loading = True
        replies = pair.same(*PROBES)
        assert 14 == sum(reply.startswith(b"-LOADING") for reply in replies)


def _asking(pair: Pair) -> Callable[..., bytes]:
    """As RealServer.ask, of the simulated one."""
    session = pair.simulated.session()
    return lambda *words: session.feed(pack(*words))


def _admitted(ask: Callable[..., bytes], *words: bytes) -> bytes:
    """The reply when it is no longer OOM: the real server frees some memory in the background."""
    deadline = monotonic() + SECONDS_MAX
    while (reply := ask(*words)).startswith(b"-OOM"):
        assert monotonic() < deadline
    return reply


def _used(ask: Callable[..., bytes]) -> int:
    return int(told(value_of(ask(b"INFO", b"memory")))[b"used_memory"])
