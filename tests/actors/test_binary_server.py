"""The binary server: what it promises to good peers, and what bad ones cannot do to it."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.address import parse_address
from actors.binary_server import GOODBYE_SECONDS, SWEEP_SECONDS, BinaryServer, Connection, Reply
from actors.config import Settings
from actors.keys import RELOAD_SECONDS, Authenticator, KeyFile
from engine import limits
from engine.messages import (
    GOODBYE,
    MAGIC,
    Answer,
    Audit,
    Command,
    Detail,
    GetStock,
    Hello,
    LineRequest,
    Outgoing,
    Receive,
    Request,
    ReservationView,
    Reserve,
    Response,
    State,
    Status,
)
from engine.scope import ALL_VERBS, CHANNEL_VERBS, ENGINE, OPERATOR, SELL, STOCK, Scope
from engine.wire import FrameReader, decode_response, encode_frame
from tests.actors.peer import DEADLINE_SECONDS, Peer, connect, until

SHARDS = 4
CHANNEL_SCOPE = Scope("web", CHANNEL_VERBS)
SCOPES: dict[str | None, Scope] = {
    None: OPERATOR,
    "web": CHANNEL_SCOPE,
    "stocktaker": Scope(None, frozenset({SELL, STOCK}), "0a1b2c"),
    "operator": Scope(None, ALL_VERBS, "3d4e5f"),
    "gateway": ENGINE,
}


class Shop:
    """Remembers what it was asked; answers at once, or when told to."""

    def __init__(self) -> None:
        self.asked: list[Command] = []
        self.held: list[Callable[[], None]] | None = None

    def submit(self, request: Request, scope: Scope, reply: Reply) -> None:
        self.asked += request.commands
        if any(isinstance(each, GetStock) and each.sku == "bug" for each in request.commands):
            raise RuntimeError("a bug")
        response = Outgoing(request.request_id, [answer_to(each) for each in request.commands])
        if self.held is None:
            reply(response)
        else:
            self.held.append(lambda: reply(response))

    def let_go(self) -> None:
        held, self.held = self.held, None
        for answer in held or ():
            answer()


def answer_to(command: Command) -> Answer:
    if isinstance(command, Reserve):
        view = ReservationView(command.reservation_id, 0, State.RESERVED, command.channel, 0, [])
        return Answer(Status.OK, view)
    if isinstance(command, GetStock) and command.sku == "large":
        return Answer(Status.OK, Detail("x" * 100_000))
    return Answer(Status.OK)


def authenticate(key: str | None, peer: str) -> Scope | None:
    assert peer.startswith(("tcp:127.0.0.1:", "unix:"))
    return SCOPES.get(key)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def server(shop: Shop) -> AsyncIterator[BinaryServer]:
    server = BinaryServer("host-1", SHARDS, shop, authenticate)
    yield server
    await server.close()


@asynccontextmanager
async def greeted(server: BinaryServer, key: str | None = None) -> AsyncIterator[Peer]:
    async with connect(await server.listen("tcp:127.0.0.1:0")) as peer:
        await peer.greet(key)
        yield peer


def reserve(reservation_id: str, channel: str | None = None) -> Reserve:
    return Reserve(reservation_id, [LineRequest("sku", 1)], channel)


async def test_shakes_hands_and_answers_on_tcp_and_unix_sockets(
    server: BinaryServer, tmp_path: Path
) -> None:
    """One server listens on several addresses, says who it is, and answers on each."""
    for wanted in ("tcp:127.0.0.1:0", f"unix:{tmp_path}/socket", "tcp:localhost:0"):
        address = await server.listen(wanted)
        assert not address.endswith(":0")
        async with connect(address) as peer:
            hello = await peer.greet()
            assert ("host-1", SHARDS) == (hello.name, hello.shards)
            response = await peer.ask(7, reserve("r1"))
            assert Response(7, [answer_to(reserve("r1"))]) == response


async def test_unix_socket_is_private_and_goes_away(server: BinaryServer, tmp_path: Path) -> None:
    """Only the owner may connect to the socket, and none is left behind."""
    path = tmp_path / "socket"
    await server.listen(f"unix:{path}")
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    await server.close()
    assert not path.exists()


async def test_replaces_the_socket_of_a_killed_predecessor(
    server: BinaryServer, tmp_path: Path
) -> None:
    """A socket file that nobody serves any more does not keep the server from starting."""
    path = tmp_path / "socket"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with connect(await server.listen(f"unix:{path}")) as peer:
        assert SHARDS == (await peer.greet()).shards


async def test_several_processes_may_share_a_port(shop: Shop, server: BinaryServer) -> None:
    """With reuse_port a second server binds the same port; without, it may not."""
    address = await server.listen("tcp:127.0.0.1:0", reuse_port=True)
    second = BinaryServer("host-2", SHARDS, shop, authenticate)
    with pytest.raises(OSError, match="in use"):
        await second.listen(address)
    assert address == await second.listen(address, reuse_port=True)
    await second.close()


@pytest.mark.parametrize("text", ["", "tcp:", "tcp:host", "tcp:host:99999", "unix:", "http:a:1"])
def test_refuses_what_is_no_address(text: str) -> None:
    """A mistyped address is named as such."""
    with pytest.raises(ValueError, match="no address"):
        parse_address(text)


async def test_answers_may_come_out_of_order(server: BinaryServer, shop: Shop) -> None:
    """A request that is answered late holds up none that came after it."""
    async with greeted(server) as peer:
        shop.held = []
        await peer.send(encode_frame(Request(1, 1_000, [reserve("slow")])))
        await until(lambda: shop.held)
        held, shop.held = shop.held, None
        assert 2 == (await peer.ask(2, reserve("fast"))).request_id
        held[0]()
        assert 1 == (await peer.response()).request_id


async def test_answers_of_one_turn_leave_in_one_write(server: BinaryServer, shop: Shop) -> None:
    """However many requests one read brings, their answers arrive complete and in order."""
    async with greeted(server) as peer:
        frames = [encode_frame(Request(n, 1_000, [reserve(f"r{n}")])) for n in range(1, 501)]
        await peer.send(b"".join(frames))
        assert list(range(1, 501)) == [(await peer.response()).request_id for _ in frames]


async def test_unknown_key_is_told_so(server: BinaryServer) -> None:
    """A key that opens nothing gets UNAUTHENTICATED, then the end of the connection."""
    async with connect(await server.listen("tcp:127.0.0.1:0")) as peer:
        await peer.send(encode_frame(Hello(MAGIC, 1, key="stolen")))
        response = await peer.response()
        assert [Status.UNAUTHENTICATED] == [answer.status for answer in response.answers]
        assert await peer.is_closed()
    assert 1 == server.statistics().refused


async def test_a_key_that_is_revoked(shop: Shop, tmp_path: Path) -> None:
    """It ends the connections that it has opened, within five seconds; no others."""
    now = [1_800_000_000.0]
    keys = KeyFile(tmp_path / "keys.json")
    revoked, kept = keys.create(), keys.create("web")
    guard = Authenticator(Settings(), tmp_path / "keys.json", lambda: now[0])
    server = BinaryServer("host-1", SHARDS, shop, guard, handshake_seconds=0.05)
    async with greeted(server, revoked) as out, greeted(server, kept), greeted(server) as keyless:
        await out.ask(1, reserve("r1"))
        keys.revoke(revoked.split("_")[1])
        now[0] += RELOAD_SECONDS
        response = await out.response()
        assert [Status.UNAUTHENTICATED] == [answer.status for answer in response.answers]
        assert await out.is_closed()

        await keyless.ask(1, reserve("r2"))
        assert 2 == len(server.connections)
    await server.close()
    assert RELOAD_SECONDS + SWEEP_SECONDS < 5


async def test_what_a_key_opens_may_change(shop: Shop) -> None:
    """Connections follow what their key may do by now."""
    scopes = {"key": OPERATOR}
    server = BinaryServer(
        "host-1", SHARDS, shop, lambda key, peer: scopes[key or ""], handshake_seconds=0.05
    )
    async with greeted(server, "key") as peer:
        assert Status.OK is (await peer.ask(1, Audit(0))).answers[0].status
        scopes["key"] = CHANNEL_SCOPE
        await until(lambda: all(each.scope is CHANNEL_SCOPE for each in server.connections))
        assert Status.FORBIDDEN is (await peer.ask(2, Audit(0))).answers[0].status
    await server.close()


async def test_refused_commands_are_answered_in_their_places(
    server: BinaryServer, shop: Shop
) -> None:
    """Of a channel's frame the handler sees what its key may do; the rest is refused in order."""
    commands: list[Command] = [
        Receive("sku", "l", 1),
        reserve("r1"),
        Audit(0),
        reserve("r2", "pos"),
    ]
    async with greeted(server, "web") as peer:
        response = await peer.ask(1, *commands, reserve("r3", "web"))
        statuses = [answer.status for answer in response.answers]
        refused = Status.FORBIDDEN
        assert [refused, Status.OK, refused, refused, Status.OK] == statuses
        assert ["r1", "r3"] == [
            each.reservation_id for each in shop.asked if isinstance(each, Reserve)
        ]
        assert {"web"} == {each.scope for each in shop.asked if isinstance(each, Reserve)}
        assert len(shop.asked) == 2
        only_refused = await peer.ask(2, Audit(0), Audit(1))
        assert [refused, refused] == [answer.status for answer in only_refused.answers]
        allowed = await peer.ask(3, reserve("r4"))
        assert [Status.OK] == [answer.status for answer in allowed.answers]


async def test_handler_that_raises_costs_one_request(server: BinaryServer, shop: Shop) -> None:
    """A bug in the handler answers OUTCOME_UNKNOWN for each command of its frame, and no more."""
    async with greeted(server) as peer:
        failed = await peer.ask(1, GetStock("bug"), reserve("r1"))
        assert [Status.OUTCOME_UNKNOWN] * 2 == [answer.status for answer in failed.answers]
        assert [Status.OK] == [each.status for each in (await peer.ask(2, reserve("r2"))).answers]
    assert 1 == server.statistics().handler_errors


async def test_handler_that_answers_twice_is_heard_once(server: BinaryServer, shop: Shop) -> None:
    """A second answer to the same request is a bug, and does not reach the peer."""
    async with greeted(server) as peer:
        shop.held = []
        await peer.send(encode_frame(Request(1, 1_000, [reserve("r1")])))
        await until(lambda: shop.held)
        held, shop.held = shop.held, None
        held[0]()
        held[0]()
        assert 1 == (await peer.response()).request_id
        assert 2 == (await peer.ask(2, reserve("r2"))).request_id
    assert 1 == server.statistics().handler_errors


async def test_answers_larger_than_a_frame_are_cut(server: BinaryServer) -> None:
    """What does not fit into the answer's frame is OUTCOME_UNKNOWN, never a frame too large."""
    async with greeted(server) as peer:
        response = await peer.ask(1, *[GetStock("large")] * 20)
        statuses = [answer.status for answer in response.answers]
        assert 20 == len(statuses)
        assert [Status.OK] * 10 + [Status.OUTCOME_UNKNOWN] * 10 == statuses


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "empty frame": b"\0\0\0\0",
    "oversized frame": (limits.FRAME_BYTES_MAX + 1).to_bytes(4),
    "largest length": b"\xff\xff\xff\xff",
    "garbage": b"\0\0\0\5\xc1\xc1\xc1\xc1\xc1",
    "deep nesting": encode_frame(Hello(MAGIC, 1))[:0] + (100_000).to_bytes(4) + b"\x91" * 100_000,
    "four billion elements": b"\0\0\0\x0c\x93\x01\x01\x91\x93\x01\xa1r\xdd\xff\xff\xff",
    "four billion characters": b"\0\0\0\x0b\x93\x01\x01\x91\x92\x18\xdb\xff\xff\xff\xff",
    "four billion entries": b"\0\0\0\x0d\x93\x01\x01\x91\x93\x19\xa1s\xdf\xff\xff\xff\xff",
    "extension type": b"\0\0\0\x0a\x93\x01\x01\x91\x92\x18\xd4\x01\x01\x01",
    "not UTF-8": b"\0\0\0\x08\x93\x01\x01\x91\x92\x18\xa1\xff",
    "no commands": encode_frame(Request(1, 1_000, [])),
    "unknown command": b"\0\0\0\x07\x93\x01\x01\x91\x92\x63\x01",
    "quantity of zero": encode_frame(Request(1, 1_000, [Reserve("r", [LineRequest("s", 0)])])),
    "id too long": encode_frame(Request(1, 1_000, [GetStock("s" * 129)])),
    "deadline of zero": encode_frame(Request(1, 0, [GetStock("s")])),
    "another handshake": encode_frame(Hello(MAGIC, 1)),
    "too many commands": encode_frame(Request(1, 1, [Audit(0)] * 4_097)),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_bad_frame_closes_only_its_connection(server: BinaryServer, name: str) -> None:
    """Before and after the handshake, nonsense is refused and the server goes on for others."""
    address = await server.listen("tcp:127.0.0.1:0")
    async with connect(address) as good:
        await good.greet()
        async with connect(address) as bad:
            await bad.greet()
            await bad.send(GARBAGE[name])
            response = await bad.response()
            assert [Status.INVALID] == [answer.status for answer in response.answers]
            assert await bad.is_closed()
        if name != "another handshake":
            async with connect(address) as worse:
                await worse.send(GARBAGE[name])
                assert [Status.INVALID] == [
                    each.status for each in (await worse.response()).answers
                ]
                assert await worse.is_closed()
        assert [Status.OK] == [each.status for each in (await good.ask(1, reserve("r"))).answers]
    assert server.statistics().protocol_errors in (1, 2)


async def test_malformed_request_is_named(server: BinaryServer) -> None:
    """If the request's id can be read, the refusal carries it and says what was wrong."""
    async with greeted(server) as peer:
        await peer.send(encode_frame(Request(77, 1_000, [Reserve("r", [LineRequest("s", 0)])])))
        response = await peer.response()
        assert 77 == response.request_id
        body = response.answers[0].body
        assert isinstance(body, Detail)
        assert "int" in body.message


@pytest.mark.parametrize(
    "hello",
    [
        Hello("offhand", 1),
        Hello(MAGIC, 2),
        Hello(MAGIC, 1, key="k" * limits.HELLO_BYTES_MAX),
        Request(1, 1, [GetStock("s")]),
    ],
)
async def test_wrong_handshake_is_refused(server: BinaryServer, hello: Hello | Request) -> None:
    """Another protocol, another version, an endless key or none at all open nothing."""
    async with connect(await server.listen("tcp:127.0.0.1:0")) as peer:
        await peer.send(encode_frame(hello))
        assert [Status.INVALID] == [answer.status for answer in (await peer.response()).answers]
        assert await peer.is_closed()


@pytest.mark.parametrize("cut", [0, 10, 200, 1_100, 5_000])
async def test_what_follows_a_handshake_does_not_count_as_it(
    server: BinaryServer, cut: int
) -> None:
    """A handshake and a request may arrive in any pieces, also where both are large."""
    hello = encode_frame(Hello(MAGIC, 1, name="n" * (limits.HELLO_BYTES_MAX - 100)))
    request = encode_frame(Request(7, 1_000, [reserve(f"r{n}") for n in range(300)]))
    assert cut < len(request)
    stream = hello + request
    connection, sink = Connection(server), Sink()
    connection.connection_made(sink)
    connection.data_received(stream[: len(hello) + cut])
    connection.data_received(stream[len(hello) + cut :])
    server.flush()
    assert 7 == decode_response(FrameReader().feed(sink.written)[1]).request_id
    connection.connection_lost(None)


@pytest.mark.parametrize("over", [0, 1])
async def test_a_handshake_is_as_long_as_it_is_in_whatever_pieces(
    server: BinaryServer, over: int
) -> None:
    """The longest that may be opens the door byte by byte; a byte more never does."""
    empty = len(encode_frame(Hello(MAGIC, 1, name="n" * 300))) - 300 - 4
    hello = encode_frame(Hello(MAGIC, 1, name="n" * (limits.HELLO_BYTES_MAX - empty + over)))
    assert limits.HELLO_BYTES_MAX + over == len(hello) - 4
    for size in (1, len(hello) - 1, len(hello)):
        connection, sink = Connection(server), Sink()
        connection.connection_made(sink)
        for start in range(0, len(hello), size):
            connection.data_received(hello[start : start + size])
        server.flush()
        assert bool(over) == sink.closed
        connection.connection_lost(None)


async def test_request_id_in_use_is_refused(server: BinaryServer, shop: Shop) -> None:
    """Two requests in flight under one id could not be told apart."""
    async with greeted(server) as peer:
        shop.held = []
        await peer.send(encode_frame(Request(1, 1_000, [reserve("r")])) * 2)
        assert [Status.INVALID] == [answer.status for answer in (await peer.response()).answers]
        assert await peer.is_closed()
        shop.let_go()


async def test_connections_are_limited(shop: Shop) -> None:
    """One connection too many is told so; when another has gone, there is room again."""
    server = BinaryServer("host-1", SHARDS, shop, authenticate, connections_max=1)
    address = await server.listen("tcp:127.0.0.1:0")
    async with connect(address) as first:
        await first.greet()
        async with connect(address) as second:
            answers = (await second.response()).answers
            assert [Status.OVERLOADED] == [answer.status for answer in answers]
            assert await second.is_closed()
    await until(lambda: server.statistics().connections == 0)
    async with connect(address) as third:
        assert SHARDS == (await third.greet()).shards
    await server.close()


async def test_peer_that_never_greets_is_given_up(shop: Shop) -> None:
    """A connection without a handshake does not hold its place for long."""
    server = BinaryServer("host-1", SHARDS, shop, authenticate, handshake_seconds=0.01)
    async with connect(await server.listen("tcp:127.0.0.1:0")) as peer:
        await peer.send(encode_frame(Hello(MAGIC, 1))[:5])
        assert await peer.is_closed()
    assert 1 == server.statistics().stalled
    await server.close()


async def test_peer_that_stops_in_a_frame_is_given_up(shop: Shop) -> None:
    """A greeted peer may be silent for ever, but not in the middle of a frame."""
    server = BinaryServer("host-1", SHARDS, shop, authenticate, stalled_seconds=0.01)
    address = await server.listen("tcp:127.0.0.1:0")
    async with connect(address) as idle, connect(address) as stuck:
        await idle.greet()
        await stuck.greet()
        await stuck.send(encode_frame(Request(1, 1_000, [reserve("r")]))[:-1])
        assert await stuck.is_closed()
        assert 1 == (await idle.ask(1, reserve("r"))).request_id
    await server.close()


async def test_reading_pauses_at_the_limit_in_flight(server: BinaryServer, shop: Shop) -> None:
    """Beyond the limit nothing more is read; once answers have left, the rest follows."""
    frame = 1_000
    frames = 3 * limits.IN_FLIGHT_PER_CONNECTION_MAX // frame
    async with greeted(server) as peer:
        shop.held = []
        commands: list[Command] = [Audit(0)] * frame
        requests = [encode_frame(Request(n, 1_000, commands)) for n in range(1, frames + 1)]
        peer.writer.write(b"".join(requests))
        connection = next(iter(server.connections))
        await until(lambda: is_held(connection))
        assert len(shop.asked) <= limits.IN_FLIGHT_PER_CONNECTION_MAX + frame
        shop.let_go()
        answered = [(await peer.response()).request_id for _ in range(frames)]
        assert list(range(1, frames + 1)) == answered
        assert frames * frame == len(shop.asked)


def is_held(connection: Connection) -> bool:
    return bool(connection._held)


async def test_slow_reader_is_held_back_then_closed(shop: Shop) -> None:
    """Who asks but never reads is no longer read from, then closed; memory stays bounded."""
    server = BinaryServer("host-1", SHARDS, shop, authenticate, stalled_seconds=0.5)
    async with greeted(server) as peer:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        request = [GetStock("large")] * 10
        frames = (encode_frame(Request(n, 1_000, list(request))) for n in range(1, 1_000))
        peer.writer.write(b"".join(frames))
        connection = next(iter(server.connections))
        await until(lambda: server.statistics().stalled == 1)
        assert is_held(connection)
        assert len(shop.asked) < 1_000 * 10
        await until(lambda: server.statistics().connections == 0)
    async with greeted(server) as good:
        assert 1 == (await good.ask(1, reserve("r"))).request_id
    await server.close()


async def test_peer_that_leaves_is_forgotten(server: BinaryServer, shop: Shop) -> None:
    """Answers for a peer that has gone are dropped, and cost nobody anything."""
    async with greeted(server) as peer:
        shop.held = []
        await peer.send(encode_frame(Request(1, 1_000, [reserve("r")])))
        await until(lambda: shop.held)
    await until(lambda: server.statistics().connections == 0)
    shop.let_go()
    assert 0 == server.statistics().handler_errors


async def test_close_lets_the_last_answers_leave(server: BinaryServer, shop: Shop) -> None:
    """Answers given before close() arrive; then the connection ends, and nobody may come."""
    address = await server.listen("tcp:127.0.0.1:0")
    async with connect(address) as peer:
        await peer.greet()
        shop.held = []
        await peer.send(encode_frame(Request(1, 1_000, [reserve("r")])))
        await until(lambda: shop.held)
        shop.let_go()
        await server.close()
        assert 1 == (await peer.response()).request_id
        assert GOODBYE == await peer.response()
        assert await peer.is_closed()
    with pytest.raises(OSError):
        async with connect(address):
            pass


async def test_close_says_goodbye(server: BinaryServer, shop: Shop) -> None:
    """Whoever is connected, or just about to be, is asked to leave, and is served until it does."""
    address = await server.listen("tcp:127.0.0.1:0")
    async with connect(address) as peer, connect(address) as late:
        await peer.greet()
        await until(lambda: len(server.connections) == 2)

        closing = asyncio.create_task(server.close())
        assert GOODBYE == await peer.response()
        assert 1 == (await peer.ask(1, reserve("r1"))).request_id
        await late.greet()
        assert GOODBYE == await late.response()
        peer.writer.close()
        late.writer.close()

        await asyncio.wait_for(closing, GOODBYE_SECONDS)
    assert [reserve("r1")] == shop.asked


async def test_close_waits_for_answers(
    server: BinaryServer, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those who do not leave, one that waits for nothing loses its connection; what was in
    flight is answered before, and what comes then is not done."""
    monkeypatch.setattr("actors.binary_server.GOODBYE_SECONDS", 0.05)
    address = await server.listen("tcp:127.0.0.1:0")
    async with connect(address) as peer, connect(address) as idle:
        await peer.greet()
        await idle.greet()
        shop.held = []
        await peer.send(encode_frame(Request(1, 1_000, [reserve("r1")])))
        await until(lambda: shop.held)

        closing = asyncio.create_task(server.close())
        assert [GOODBYE] * 2 == [await each.response() for each in (peer, idle)]
        assert await idle.is_closed()
        await peer.send(encode_frame(Request(2, 1_000, [reserve("r2")])))
        assert Response(2, [Answer(Status.NOT_DONE)]) == await peer.response()
        shop.let_go()

        assert 1 == (await peer.response()).request_id
        await closing
    assert [reserve("r1")] == shop.asked


async def test_close_does_not_wait_for_ever(
    server: BinaryServer, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that does not answer keeps nobody."""
    monkeypatch.setattr("actors.binary_server.ANSWER_SECONDS", 0.1)
    async with greeted(server) as peer:
        shop.held = []
        await peer.send(encode_frame(Request(1, 1_000, [reserve("r")])))
        await until(lambda: shop.held)
        await server.close()
        assert GOODBYE == await peer.response()
        assert await peer.is_closed()
    assert 0 == server.statistics().connections


async def test_counters_count(server: BinaryServer) -> None:
    """Connections, frames, commands and bytes are what went over the wire."""
    request = Request(1, 1_000, [reserve("r1"), reserve("r2")])
    async with greeted(server) as peer:
        response = await peer.ask(1, *request.commands)
        statistics = server.statistics()
    assert (1, 1, 0) == (statistics.connections, statistics.accepted, statistics.in_flight)
    assert (1, 2) == (statistics.frames, statistics.commands)
    greeting = encode_frame(Hello(MAGIC, 1))
    assert len(greeting) + len(encode_frame(request)) == statistics.bytes_received
    said = encode_frame(Hello(MAGIC, 1, name="host-1", shards=SHARDS))
    assert len(said) + len(encode_frame(response)) == statistics.bytes_sent


# --- fragmentation, without sockets ----------------------------------------------------------

payloads = st.lists(st.binary(min_size=1, max_size=300), max_size=20)


@given(payloads, st.lists(st.integers(1, 700), max_size=50))
@settings(suppress_health_check=[HealthCheck.differing_executors])
def test_frames_survive_any_fragmentation(wanted: list[bytes], cuts: list[int]) -> None:
    """However a stream of frames is cut, the same payloads come out, and nothing is left over."""
    stream = b"".join(len(payload).to_bytes(4) + payload for payload in wanted)
    reader = FrameReader()
    found: list[bytes] = []
    for cut in (*cuts, len(stream)):
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert wanted == found
    assert 0 == reader.pending


class Sink(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("key", "by"),
    [(None, ""), ("stocktaker", "0a1b2c"), ("operator", "3d4e5f"), ("gateway", "forged")],
)
async def test_who_did_it_is_whose_key_was_shown(
    server: BinaryServer, shop: Shop, key: str | None, by: str
) -> None:
    """What a caller says of who it is, is written over; only the engine's own word is taken."""
    async with greeted(server, key) as peer:
        await peer.ask(1, reserve("r"), Receive("sku", "berlin", 1, by="forged"))

    assert [reserve("r"), Receive("sku", "berlin", 1, by=by)] == shop.asked


@given(st.binary(max_size=2_000), st.integers(0, 60), st.lists(st.integers(1, 90), max_size=30))
@settings(suppress_health_check=[HealthCheck.differing_executors])
def test_any_bytes_leave_the_connection_answered_or_closed(
    noise: bytes, keep: int, cuts: list[int]
) -> None:
    """Noise after a good beginning, in any pieces, never raises; good frames get their answers."""

    async def scenario() -> None:
        server = BinaryServer("host-1", SHARDS, Shop(), lambda key, peer: OPERATOR)
        connection, sink = Connection(server), Sink()
        connection.connection_made(sink)
        good = encode_frame(Hello(MAGIC, 1)) + encode_frame(Request(5, 1, [reserve("r")]))
        stream = good[: keep or len(good)] + noise
        for cut in (*cuts, len(stream)):
            connection.data_received(stream[:cut])
            stream = stream[cut:]
        server.flush()
        said = FrameReader().feed(sink.written)
        if not keep and not server.protocol_errors:
            assert 5 == decode_response(said[1]).request_id
        assert sink.closed or not server.protocol_errors

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_SECONDS))


def test_encoded_answer_is_typed() -> None:
    """A response survives the wire as the types that it was made of."""
    response = Response(3, [answer_to(reserve("r", "web"))])
    assert response == decode_response(encode_frame(response)[4:])
    assert isinstance(msgspec.msgpack.decode(encode_frame(response)[4:]), list)
