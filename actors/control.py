"""The control connection: how a process and the coordinator hear of each other's life and death.

    member ──Join──► coordinator            who I am; refused unless it shows the token
    member ◄──Assign, Release, Map──        what to own and what no longer, who owns what
    member ◄──Follow──                      what to keep up with, to take it over quickly
    member ◄──Leave, Stop──                 when to end
    gateway ◄──Pulse──                      that the coordinator lives, once a second
    member ──Beat──►                        four times a second, and at once when something changed
    member ──Left──►                        stopped in order; nothing is in flight any more

What it guarantees: messages of one connection arrive whole and in order; the end of a process ends
its connection, so death is known in milliseconds, and silence tells a frozen process from a live
one. The coordinator never waits for a member: a map that a slow reader has no room for is not sent,
and the beat that names an older version gets it later (who lags asks for what is newer).

A member whose coordinator is gone connects again. If nobody that knows it is there within
GONE_SECONDS, it leaves: nothing of an engine outlives it. A coordinator that is merely silent is
waited for, because nothing but new assignments depends on it.

Frames are those of `engine.wire`; the types are this module's own. The socket is a unix socket that
only this user may open, or TCP where Ray spans several machines; the token guards both.
"""

import asyncio
import hmac
import os
import platform
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, Protocol, cast

import msgspec
import structlog
from msgspec import field

from actors.address import UnixAddress, address_of, bind, dial, parse_address, tune
from actors.config import Settings
from actors.process import Identity, identify
from engine import limits
from engine.messages import Message
from engine.wire import FrameReader, WireError, encode_frame

BEAT_SECONDS: Final = 0.25
GONE_SECONDS: Final = 5.0
"""A coordinator that has not come back by then never will."""
RETRY_SECONDS: Final = 0.1
DIAL_SECONDS: Final = 1.0
"""What a connection may take. Behind a cut the kernel tries for two minutes, ever more rarely."""
JOIN_SECONDS: Final = 5.0
MEMBERS_MAX: Final = 1_024

_log = structlog.get_logger(__name__)


class Kind(IntEnum):
    HOST = 1
    GATEWAY = 2


class ShardHead(Message):
    """The last record of a shard that somebody knows to be acknowledged; checksum 0 = unknown."""

    shard: int
    epoch: int
    sequence: int
    checksum: int = 0


class Join(Message, tag=1):
    """`address`: where the process serves the binary protocol; `http`: where a gateway serves
    HTTP; `marks`: how far its machine knows every shard to have come, for whoever claims it
    elsewhere."""

    token: str
    kind: Kind
    name: str
    process: Identity
    node: str
    address: str
    http: str = ""
    marks: list[ShardHead] = field(default_factory=list)


class Beat(Message, tag=2):
    """`serial`: of the newest Assign or Release that was taken into account; `version`: of the
    map."""

    serial: int = 0
    version: int = 0
    owned: dict[int, int] = field(default_factory=dict)
    recovering: dict[int, int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    heads: list[ShardHead] = field(default_factory=list)
    alarms: dict[int, str] = field(default_factory=dict)
    near: list[int] = field(default_factory=list)
    """Shards of others that this host could take over in a moment."""
    servers: dict[int, str] = field(default_factory=dict)
    """Servers of the journal that cannot be asked now, and why."""
    spent: float = 0.0
    """Seconds of CPU that the thread of the event loop has used."""
    taken: dict[int, int] = field(default_factory=dict)
    """Commands that the owner of each shard has decided; another owner begins at 0."""


class Left(Message, tag=3):
    """Stopped in order."""


class Move(Message, tag=4):
    """An operator, by way of a gateway, wants `shard` to be at `host`."""

    request_id: int
    shard: int
    host: str


class Restart(Message, tag=5):
    """An operator, by way of a gateway, wants the process `name` to end in order and come back."""

    request_id: int
    name: str


class Assign(Message, tag=1):
    """Claim `shard`; a journal that ends below `floor` has lost what was acknowledged."""

    serial: int
    shard: int
    floor: ShardHead | None = None


class Release(Message, tag=5):
    """Serve what is queued for `shard`, then leave it: it moves to `host`."""

    serial: int
    shard: int
    host: str = ""


class MoveAnswer(Message, tag=6):
    """What an operator wanted is under way, or why it is not."""

    request_id: int
    problem: str | None = None


class Follow(Message, tag=7):
    """Keep up with these shards of other hosts, and with no others."""

    shards: list[int]


class Route(Message):
    shard: int
    epoch: int
    host: str
    address: str


class MemberView(Message):
    """A process of the engine, as operators see it. `alive` is false while it is silent."""

    kind: Kind
    name: str
    pid: int
    node: str
    address: str
    http: str
    alive: bool
    shards: list[int]
    near: list[int] = field(default_factory=list)
    """What others own and it could take over in a moment: it has read nearly all of it."""


class ServerView(Message):
    """A server that the journal is on: it has every shard whose remainder is its number."""

    number: int
    address: str
    troubles: dict[str, str]
    """Hosts that cannot ask it, and why; empty = it is up."""


class HotShard(Message):
    """A shard that takes most of what its host can do: this `share` of the commands, when it was
    last told; `is_alone`: there is nobody beside it who waits for that."""

    shard: int
    host: str
    share: float
    is_alone: bool


class Proposal(Message):
    """A move that an operator had better make."""

    shard: int
    host: str


class Map(Message, tag=2):
    """Who serves which shard; a shard without a route is served by nobody at the moment."""

    version: int
    shards: int
    """How many there are, dedicated ones included."""
    routes: list[Route]
    members: list[MemberView]
    failures: dict[int, str]
    alarms: dict[int, str] = field(default_factory=dict)
    """Shards that are served although an audit has found something, and what."""
    servers: list[ServerView] = field(default_factory=list)
    """Those that the journal is on."""
    moves_given_up: int = 0
    """How many, so far."""
    hot: list[HotShard] = field(default_factory=list)
    proposal: Proposal | None = None
    """For the sake of a hot shard."""

    def owners(self) -> dict[int, tuple[int, str]]:
        """shard → (epoch, its owner's address), of those that are served."""
        return {route.shard: (route.epoch, route.address) for route in self.routes}

    def hosts(self) -> set[str]:
        """Addresses of all hosts that live, owners or not."""
        return {each.address for each in self.members if each.kind is Kind.HOST and each.alive}


class Leave(Message, tag=3):
    """Another has the name, and everything that a host had: end, and come back as somebody new."""


class Stop(Message, tag=4):
    """Finish what is in flight, say Left, and wait for the end."""


class Pulse(Message, tag=8):
    """To gateways, every second: the coordinator looks after its members."""


FromMember = Join | Beat | Left | Move | Restart
FromCoordinator = Assign | Release | Map | Leave | Stop | MoveAnswer | Follow | Pulse

_from_member: Final = msgspec.msgpack.Decoder(FromMember)
_from_coordinator: Final = msgspec.msgpack.Decoder(FromCoordinator)


def introduce(
    settings: Settings,
    kind: Kind,
    name: str,
    address: str,
    http: str = "",
    marks: Sequence[ShardHead] = (),
) -> Join:
    """This process, as it joins."""
    process = identify(os.getpid())
    assert process is not None, "no /proc"
    node = platform.node()
    return Join(settings.control_token, kind, name, process, node, address, http, list(marks))


def tell_failure(stopping: asyncio.Task[None]) -> None:
    """A member could not end in order, and does not say Left: the coordinator has it ended."""
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        _log.error("not stopped in order", error=repr(error))


class Channel(asyncio.Protocol):
    """One end of a connection: frames in, frames out, and the end of it."""

    def __init__(
        self,
        on_payload: Callable[["Channel", bytes], None],
        on_lost: Callable[["Channel"], None],
    ) -> None:
        self._on_payload = on_payload
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        tune(transport)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                self._on_payload(self, payload)
        except (WireError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _log.warning("control connection ended", reason=str(error))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost.set()
        self._on_lost(self)

    def send(self, frame: bytes, *, at_all_costs: bool = True) -> bool:
        """Whether there was room; a peer that has taken nothing for long is given up."""
        if self._transport is None:
            return False
        unread = self._transport.get_write_buffer_size()
        if unread > limits.WRITE_BUFFER_BYTES_MAX:
            self.abort()
            return False
        if unread > limits.FRAME_BYTES_MAX and not at_all_costs:
            return False
        self._transport.write(frame)
        return True

    def close(self) -> None:
        """What was sent leaves first."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class ControlHandler(Protocol):
    """What the coordinator makes of its members."""

    def joined(self, channel: Channel, join: Join) -> None: ...
    def beaten(self, channel: Channel, beat: Beat) -> None: ...
    def left(self, channel: Channel) -> None: ...
    def asked(self, channel: Channel, wish: Move | Restart) -> None: ...
    def lost(self, channel: Channel) -> None: ...


class ControlServer:
    """The coordinator's side: accepts members that know the token."""

    def __init__(self, token: str, handler: ControlHandler) -> None:
        self._token = token
        self._handler = handler
        self._listener: asyncio.Server | None = None
        self._strangers: dict[Channel, asyncio.TimerHandle] = {}
        self._members: set[Channel] = set()

    async def listen(self, address: str) -> str:
        """Accept members at `address`; the address that was bound. Raises OSError."""
        loop = asyncio.get_running_loop()
        bound = await bind(parse_address(address))
        where = address_of(bound)
        serve = loop.create_unix_server if isinstance(where, UnixAddress) else loop.create_server
        self._listener = await serve(self._accept, sock=bound)
        return str(where)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for channel in [*self._strangers, *self._members]:
            channel.close()

    def _accept(self) -> Channel:
        channel = Channel(self._received, self._lost)
        loop = asyncio.get_running_loop()
        self._strangers[channel] = loop.call_later(JOIN_SECONDS, channel.abort)
        if len(self._strangers) + len(self._members) > MEMBERS_MAX:
            loop.call_soon(channel.abort)
        return channel

    def _received(self, channel: Channel, payload: bytes) -> None:
        message = _from_member.decode(payload)
        if channel in self._members:
            self._said(channel, message)
        elif isinstance(message, Join) and hmac.compare_digest(
            message.token.encode(), self._token.encode()
        ):
            self._strangers.pop(channel).cancel()
            self._members.add(channel)
            self._handler.joined(channel, message)
        else:
            raise WireError("a stranger")

    def _said(self, channel: Channel, message: FromMember) -> None:
        if isinstance(message, Beat):
            self._handler.beaten(channel, message)
        elif isinstance(message, Left):
            self._handler.left(channel)
        elif isinstance(message, Move | Restart):
            self._handler.asked(channel, message)
        else:
            raise WireError("joined twice")

    def _lost(self, channel: Channel) -> None:
        if (timer := self._strangers.pop(channel, None)) is not None:
            timer.cancel()
        if channel in self._members:
            self._members.remove(channel)
            self._handler.lost(channel)


class ControlMember:
    """A member's side: joins, beats, and joins again for as long as there is a coordinator.

    `beat` is asked for what is so now; it need not know the time.
    """

    def __init__(
        self,
        address: str,
        join: Join,
        beat: Callable[[], Beat],
        receive: Callable[[FromCoordinator], None],
        *,
        gone_seconds: float = GONE_SECONDS,
    ) -> None:
        self._address = address
        self._join = encode_frame(join)
        self._beat = beat
        self._receive = receive
        self._gone_seconds = gone_seconds
        self._channel: Channel | None = None
        self._heard = False
        self._noticed = False

    async def run(self) -> None:
        """Returns when the coordinator is gone for good."""
        loop = asyncio.get_running_loop()
        gone_at = loop.time() + self._gone_seconds
        while loop.time() < gone_at:
            try:
                async with asyncio.timeout(min(DIAL_SECONDS, self._gone_seconds)):
                    channel = await dial(
                        self._address, lambda: Channel(self._received, self._ended)
                    )
            except OSError:  # a timeout is one
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if await self._serve(channel):
                gone_at = loop.time() + self._gone_seconds
            else:
                await asyncio.sleep(RETRY_SECONDS)

    def notice(self) -> None:
        """Something changed: beat at the end of this turn of the event loop."""
        if not self._noticed:
            self._noticed = True
            asyncio.get_running_loop().call_soon(self._beat_now)

    def leave(self) -> None:
        """Tell the coordinator that all is done."""
        self._beat_now()
        self.say(Left())

    def say(self, message: FromMember) -> bool:
        """Whether there was a coordinator to say it to."""
        return self._channel is not None and self._channel.send(encode_frame(message))

    async def _serve(self, channel: Channel) -> bool:
        """Beat until the connection ends; whether the coordinator said anything on it."""
        self._channel, self._heard = channel, False
        channel.send(self._join)
        while not channel.lost.is_set():
            self._beat_now()
            try:
                await asyncio.wait_for(channel.lost.wait(), BEAT_SECONDS)
            except TimeoutError:
                continue
        return self._heard

    def _beat_now(self) -> None:
        self._noticed = False
        if self._channel is not None:
            self._channel.send(encode_frame(self._beat()))

    def _received(self, channel: Channel, payload: bytes) -> None:
        self._heard = True
        self._receive(_from_coordinator.decode(payload))

    def _ended(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
