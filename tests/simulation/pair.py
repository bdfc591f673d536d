"""A real server and the simulated one side by side: the same bytes in, the same replies out.

Made equal before replies are compared, and nothing else, are: the name of the server in LOADING
(the simulated one says Valkey), the order of what CONFIG GET tells (it is by chance in the real
ones), and what INFO tells, of which only what a journal reads is compared: figures of memory and
the run_id by their form.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import hiredis

from actors.config import Fsync
from actors.redis_wire import pack
from tests.simulation.real_redis import RealServer, RealSession
from tests.simulation.redis_protocol import parse
from tests.simulation.redis_server import Session, SimulatedServer

NODE_ENTRIES: Final = 4
_COMPARED: Final[tuple[bytes, ...]] = (
    *(b"role", b"loading", b"maxmemory", b"maxmemory_policy", b"aof_enabled"),
    b"aof_last_write_status",
)


@contextmanager
def living(
    directory: Path, name: str, *, fsync: Fsync = "always", load_delay_us: int = 0
) -> Iterator[RealServer]:
    """A real server, killed in the end."""
    real = RealServer(
        directory / name,
        name,
        node_entries=NODE_ENTRIES,
        fsync=fsync,
        load_delay_us=load_delay_us,
    )
    try:
        real.start()
        yield real
    finally:
        real.kill()


class Pair:
    """Both, with nothing in them at first, and one connection to each."""

    def __init__(self, real: RealServer, fsync: Fsync = "always") -> None:
        self.real = real
        self.simulated = SimulatedServer(fsync=fsync, maxmemory=64 << 20, node_entries=NODE_ENTRIES)
        assert b"+OK\r\n" == real.ask(b"FLUSHALL")
        self.limit_memory(64 << 20, 64 << 20)
        self.connect()

    def connect(self) -> None:
        """A new connection to each."""
        self._real: RealSession = self.real.session()
        self._simulated: Session = self.simulated.session()

    def limit_memory(self, real: int, simulated: int) -> None:
        """Set both servers' maxmemory."""
        assert b"+OK\r\n" == self.real.ask(b"CONFIG", b"SET", b"maxmemory", b"%d" % real)
        self.simulated.maxmemory = simulated

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

    def same(self, *lines: str) -> list[bytes]:
        """Assert that both answer these commands, sent at once, in the same way; the replies."""
        real, simulated = self.feed(b"".join(pack(*line.encode().split()) for line in lines))
        for line, expected, reply in zip(lines, real, simulated, strict=True):
            assert expected == reply, f"{line}: {expected!r}, but simulated {reply!r}"
        return simulated


def split_commands(data: bytes) -> list[list[bytes]]:
    """The commands in complete bytes, without the empty ones."""
    commands, at = list[list[bytes]](), 0
    while (found := parse(data, at)) is not None:
        words, at = found
        if words:
            commands.append(words)
    return commands


def comparable(commands: list[list[bytes]], data: bytes) -> list[bytes]:
    """The replies to those commands one by one, with what may differ made equal."""
    replies, at = list[bytes](), 0
    while at < len(data):
        end = _reply_end(data, at)
        replies.append(data[at:end])
        at = end
    assert len(commands) == len(replies), data
    return [_plain(words, reply) for words, reply in zip(commands, replies, strict=True)]


def _reply_end(data: bytes, at: int) -> int:
    end = data.index(b"\r\n", at) + 2
    kind, line = data[at : at + 1], data[at + 1 : end - 2]
    if kind == b"$" and line != b"-1":
        return end + int(line) + 2
    if kind == b"*":
        for _ in range(int(line)):
            end = _reply_end(data, end)
    return end


def value_of(reply: bytes) -> Any:
    """A reply as a value."""
    reader = hiredis.Reader()
    reader.feed(reply)
    return reader.gets()


def told(information: bytes) -> dict[bytes, bytes]:
    """What INFO says."""
    return dict(line.split(b":", 1) for line in information.splitlines() if b":" in line)


def _plain(words: list[bytes], reply: bytes) -> bytes:
    name = words[0].upper()
    if reply.startswith(b"-LOADING"):
        return reply.replace(b"Redis", b"Valkey")
    if name == b"INFO" and reply.startswith(b"$"):
        return _plain_information(told(value_of(reply)))
    if name == b"CONFIG" and reply.startswith(b"*"):
        texts = value_of(reply)
        pairs = sorted(zip(texts[::2], texts[1::2], strict=True))
        return b"%d %b" % (len(reply), repr(pairs).encode())
    return reply


def _plain_information(lines: dict[bytes, bytes]) -> bytes:
    plain = [(name, lines[name]) for name in _COMPARED if name in lines]
    if b"run_id" in lines:
        plain.append((b"run_id", b"%d" % len(lines[b"run_id"])))
    if b"used_memory" in lines:
        assert 500_000 < int(lines[b"used_memory"])
    return repr(plain).encode()
