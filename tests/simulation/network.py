"""The simulated network: streams of bytes between processes, late, cut or broken off.

A connection keeps its bytes in order, as TCP does. What goes wrong is what goes wrong in life:

    delay         every piece of bytes takes its own time, drawn from the seed; now and then long
    cut           nothing passes between two processes, and neither of them is told; what was sent
                  arrives after the cut, unless somebody has given up the connection meanwhile
    reset         one side learns at once that the connection is gone; what it had sent may still
                  arrive at the other side, which learns it later: so a command can be executed
                  after its sender has connected again and sent the next
    a death       is a reset of all connections of the process; what was on its way may arrive

A frozen process's connections stay: its kernel takes bytes, and even new connections.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple

from actors.address import TcpAddress
from tests.simulation.loop import SimulatedLoop, Time

Address = tuple[Any, ...]
TORN: Final = 0.1
"""Of what is written at once, this share arrives in two pieces where the network tears."""


class BoundSocket(NamedTuple):
    """What stands for a socket that is bound to an address of this network."""

    address: Address

    def getsockname(self) -> Address:
        return self.address

    def close(self) -> None:
        """Whoever listens does so until it dies."""


async def bind(address: TcpAddress) -> BoundSocket:
    """As `actors.address.bind`."""
    return BoundSocket(tuple(address))


class Weather:
    """How long bytes take."""

    def __init__(self, random: Random, usual: int, spike: int, spikes: float) -> None:
        """`usual`, `spike`: nanoseconds, at most; `spikes`: share of pieces that take longer."""
        self._random = random.random
        self._usual = usual
        self._spike = spike
        self._spikes = spikes

    def calm(self) -> None:
        """From now on it is fine."""
        self._usual, self._spikes = min(self._usual, 300_000), 0.0

    def delay(self) -> int:
        drawn = self._random()
        if drawn < self._spikes:
            return int(self._spike * self._random())
        return int(self._usual * drawn)


class Transport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, net: "Network", loop: SimulatedLoop) -> None:
        super().__init__()
        self.loop = loop
        self.peer: Transport | None = None
        self.protocol: Any = None
        self.lost = False
        """This end knows that the connection is over."""
        self.deaf = False
        """Nothing that comes in for this end is delivered any more."""
        self._net = net
        self._arrives = 0
        """Nothing that is sent to this end from now on arrives before."""
        self._paused = False
        self._held: list[bytes] = []

    def begin(self, protocol: Any) -> None:
        """The connection stands, and this is who uses it."""
        self.protocol = protocol
        protocol.connection_made(self)

    # --- what protocols call -----------------------------------------------------------------

    def write(self, data: Any) -> None:
        peer = self.peer
        if self.lost or peer is None or not self.loop.alive:
            return
        self._net.carry(self, peer, bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.lost:
            self._net.reset(self, None)

    def is_closing(self) -> bool:
        return self.lost

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered here: the network takes everything."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        held, self._held = self._held, []
        for data in held:
            self.loop.call_soon(self._hand_over, data)

    def is_reading(self) -> bool:
        return not self._paused

    # --- what the network calls --------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        if not self.deaf:
            self.loop.call_soon(self._hand_over, data)

    def _hand_over(self, data: bytes) -> None:
        if self.lost or self.protocol is None:
            return
        if self._paused:
            self._held.append(data)
        else:
            self.protocol.data_received(data)

    def lose(self, error: Exception | None) -> None:
        """This end is told that the connection is over."""
        if not self.lost:
            self.lost = self.deaf = True
            self._net.forget(self)
            if self.protocol is not None:
                self.loop.call_soon(self.protocol.connection_lost, error)


class Network:
    """Who listens where, what is connected, and what stands between."""

    def __init__(
        self, time: Time, random: Random, weather: Weather, tears: Random | None = None
    ) -> None:
        """`tears`: what is written at once may arrive in two pieces."""
        self.weather = weather
        self._time = time
        self._random = random
        self._listeners: dict[Address, tuple[SimulatedLoop, Callable[[], Any]]] = {}
        self._open: dict[Transport, None] = {}
        self._tears = tears
        self._cuts: dict[frozenset[str], None] = {}
        self._stuck: list[tuple[Transport, Transport, bytes | None]] = []

    # --- connections -------------------------------------------------------------------------

    def listen(self, loop: SimulatedLoop, address: Address, factory: Callable[[], Any]) -> None:
        """`loop` accepts connections there, from now on."""
        self._listeners[address] = loop, factory

    async def connect(
        self, loop: SimulatedLoop, factory: Callable[[], Any], address: Address
    ) -> tuple[Any, Any]:
        """See `loop.create_connection`."""
        there = loop.create_future()
        self._time.at(self._time.now + self.weather.delay(), self._ring, loop, address, there)
        transport: Transport = await there
        protocol = factory()
        transport.begin(protocol)
        return transport, protocol

    def _ring(self, loop: SimulatedLoop, address: Address, there: asyncio.Future[Any]) -> None:
        if not loop.alive or there.done():
            return
        found = self._listeners.get(address)
        if found is None or not found[0].alive:
            there.set_exception(ConnectionRefusedError(f"nobody listens at {address}"))
            return
        server, factory = found
        if frozenset((loop.name, server.name)) in self._cuts:
            return  # silence: whoever rings gives up by itself
        near, far = Transport(self, loop), Transport(self, server)
        near.peer, far.peer = far, near
        self._open[near] = self._open[far] = None
        server.call_soon(lambda: far.begin(factory()))
        there.set_result(near)
        there.add_done_callback(lambda _: None)

    def forget(self, end: Transport) -> None:
        self._open.pop(end, None)

    # --- bytes -------------------------------------------------------------------------------

    def carry(self, sender: Transport, receiver: Transport, data: bytes | None) -> None:
        """Take bytes on their way; None = that was all, the connection is over."""
        tears = self._tears
        if tears is not None and data is not None and len(data) > 1 and tears.random() < TORN:
            at = tears.randrange(1, len(data))
            self._carry(sender, receiver, data[:at])
            data = data[at:]
        self._carry(sender, receiver, data)

    def _carry(self, sender: Transport, receiver: Transport, data: bytes | None) -> None:
        when = max(receiver._arrives, self._time.now + self.weather.delay())
        receiver._arrives = when
        self._time.at(when, self._deliver, sender, receiver, data)

    def _deliver(self, sender: Transport, receiver: Transport, data: bytes | None) -> None:
        if self._cuts and frozenset((sender.loop.name, receiver.loop.name)) in self._cuts:
            self._stuck.append((sender, receiver, data))
        elif not receiver.loop.alive or receiver.lost:
            pass
        elif data is None:
            receiver.loop.call_soon(receiver.lose, None)
        else:
            receiver.arrive(data)

    # --- faults ------------------------------------------------------------------------------

    def reset(self, end: Transport, error: Exception | None, *, swallow: bool = False) -> None:
        """`end` loses the connection now; the other end later. `swallow`: and nothing of what is
        on its way to the other end arrives."""
        peer = end.peer
        end.lose(error)
        if peer is not None and not peer.lost:
            if swallow:
                peer.deaf = True
            self.carry(end, peer, None)

    def break_one(self) -> None:
        """Some connection breaks."""
        ends = list(self._open)
        if ends:
            end = ends[self._random.randrange(len(ends))]
            swallow = self._random.random() < 0.5
            self.reset(end, ConnectionResetError("reset by the network"), swallow=swallow)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Who talks to whom."""
        return [(end.loop.name, end.peer.loop.name) for end in self._open if end.peer is not None]

    def cut(self, one: str, other: str) -> None:
        """Silence between two processes."""
        self._cuts[frozenset((one, other))] = None

    def mend(self, one: str, other: str) -> None:
        """The two hear each other again, and what was held up arrives."""
        pair = frozenset((one, other))
        if pair not in self._cuts:
            return
        del self._cuts[pair]
        stuck, self._stuck = self._stuck, []
        for sender, receiver, data in stuck:
            self._deliver(sender, receiver, data)

    def mend_all(self) -> None:
        """Everybody hears everybody again."""
        for one, *other in map(sorted, list(self._cuts)):
            self.mend(one, other[0] if other else one)

    def died(self, loop: SimulatedLoop) -> None:
        """All connections of the process are over; nobody listens for it any more."""
        for address, (who, _) in list(self._listeners.items()):
            if who is loop:
                del self._listeners[address]
        swallow = self._random.random() < 0.3
        for end in [each for each in self._open if each.loop is loop]:
            self.reset(end, None, swallow=swallow)
