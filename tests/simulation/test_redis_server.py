"""What only the simulated server can do: sync when told, die at any effect, go back in time."""

import pytest

from actors.redis_wire import pack
from tests.simulation.redis_server import (
    Append,
    Session,
    Set,
    SimulatedServer,
    Trim,
    Unlink,
    UnsupportedError,
)

Stored = list[tuple[bytes, str, bytes]]


def served() -> tuple[SimulatedServer, Stored]:
    """A server, and what it tells of entries that are durable."""
    server, stored = SimulatedServer(), Stored()
    server.on_stored = lambda key, identity, record: stored.append((key, identity, record))
    return server, stored


def ask(session: Session, command: str) -> bytes:
    return session.feed(pack(*command.encode().split()))


def append(session: Session, *numbers: int) -> None:
    for number in numbers:
        assert ask(session, f"XADD k 1-{number} r record-{number}").startswith(b"$")


def ids(server: SimulatedServer) -> list[bytes]:
    reply = ask(server.session(), "XRANGE k - +")
    return [line for line in reply.split(b"\r\n") if line.startswith(b"1-")]


def test_effects_are_logged_in_order() -> None:
    """The log has one effect per command that changed something, a trim as what it came to."""
    server, _ = served()
    session = server.session()
    append(session, 1, 2, 3, 4, 5)
    for command in (
        *("XTRIM k MINID ~ 1-9 LIMIT 4", "XTRIM k MINID ~ 1-9 LIMIT 4", "XTRIM k MINID = 1-5"),
        *("SET c v NX", "SET c w NX", "XADD k 1-1 r v", "XADD gone NOMKSTREAM 1-1 r v"),
        *("UNLINK c gone", "UNLINK gone", "GET c", "XRANGE k - +"),
    ):
        ask(session, command)

    expected = [
        *(Append(b"k", (1, number), b"r", b"record-%d" % number) for number in range(1, 6)),
        *(Trim(b"k", (1, 5)), Trim(b"k", (2**64 - 1, 2**64 - 1))),
        *(Set(b"c", b"v"), Unlink((b"c",))),
    ]
    assert expected == server.log


def test_entries_are_told_when_they_are_durable() -> None:
    """Not when they are appended, but at the sync, each once and in order."""
    server, stored = served()
    session = server.session()
    append(session, 1, 2)
    assert ([], 0) == (stored, server.durable)

    server.sync()
    append(session, 3)
    server.sync()
    server.sync()

    assert [(b"k", f"1-{n}", b"record-%d" % n) for n in (1, 2, 3)] == stored
    assert 3 == server.durable


@pytest.mark.parametrize("survive", [2, 3, 4])
def test_a_crash_keeps_what_is_durable_and_perhaps_more(survive: int) -> None:
    """Any part of what was not synced may survive; it is durable then, and told of."""
    server, stored = served()
    session = server.session()
    append(session, 1, 2)
    server.sync()
    append(session, 3, 4)

    server.crash(survive)
    server.start()

    assert [b"1-%d" % number for number in range(1, survive + 1)] == ids(server)
    assert [f"1-{number}" for number in range(1, survive + 1)] == [entry[1] for entry in stored]
    assert survive == server.durable == len(server.log)


def test_a_crash_by_default_loses_all_that_is_not_durable() -> None:
    """Nothing that was not synced survives unless it is said how much."""
    server, stored = served()
    append(server.session(), 1, 2)
    server.crash()
    server.start()

    assert ([], []) == (ids(server), stored)
    with pytest.raises(AssertionError, match="survive"):
        server.crash(1)


def test_another_process_is_another_run_id() -> None:
    """Each start has a run_id of its own; connections to the process before are dead."""
    server, _ = served()
    session, before = server.session(), server.run_id
    session.feed(pack(b"PING")[:7])
    server.crash()
    assert (True, b"") == (session.closed, ask(session, "PING"))
    with pytest.raises(AssertionError, match="no process"):
        server.session()

    server.start()

    assert before != server.run_id
    assert server.run_id.encode() in ask(server.session(), "INFO server")
    assert (True, b"") == (session.closed, ask(session, "PING"))
    assert b"+PONG\r\n" == ask(server.session(), "PING")


def test_older_data() -> None:
    """A restored file has its first effects only, and an id may be used a second time."""
    server, stored = served()
    append(server.session(), 1, 2, 3)
    server.sync()

    server.restore(2)
    assert [b"1-1", b"1-2"] == ids(server)
    append(server.session(), 3)
    server.sync()
    assert ["1-1", "1-2", "1-3", "1-3"] == [entry[1] for entry in stored]

    server.crash()
    server.restore(1)
    assert [b"1-1"] == ids(server)

    server.wipe()
    assert ([], 0, 0) == (ids(server), len(server.log), server.durable)


def test_without_its_file_nothing_lasts() -> None:
    """With appendonly off what is stored is served, and gone with the process."""
    server, stored = served()
    server.settings["appendonly"] = "no"
    append(server.session(), 1)
    server.sync()
    assert ([b"1-1"], []) == (ids(server), stored)

    server.crash()
    server.start()

    assert [] == ids(server)
    assert b"appendonly\r\n$2\r\nno" in ask(server.session(), "CONFIG GET appendonly")


def test_memory_is_free_when_it_is_given_back() -> None:
    """Whatever was stored and deleted again leaves no trace in what INFO tells."""
    server, _ = served()
    empty, session = server.used_memory, server.session()
    append(session, *range(1, 11))
    ask(session, "SET c a-chunk")
    ask(session, "SET c another-chunk")
    server.maxmemory = server.used_memory - 1
    assert server.full

    ask(session, "XTRIM k MINID = 1-6")
    ask(session, "UNLINK k c")

    assert (empty, False) == (server.used_memory, server.full)
    assert f"used_memory:{empty}\r\n".encode() in ask(session, "INFO memory")


@pytest.mark.parametrize(
    "command",
    [
        *("XADD k * r v", "XADD k 1-* r v", "XADD k MAXLEN 5 1-1 r v", "XADD k 1-1 a b c d"),
        *("XTRIM k MAXLEN 5", "SET c v EX 5"),
    ],
)
def test_what_is_not_simulated(command: str) -> None:
    """What a real server could do, and no journal asks for, is an error of whoever asked."""
    server, _ = served()

    with pytest.raises(UnsupportedError):
        ask(server.session(), command)
