"""What a host does at the word of its coordinator, over a real control connection."""

import asyncio
from pathlib import Path

from actors.control import Beat, Channel, ControlServer, Join, Kind, Leave, Move, Restart
from actors.host_member import HostMember
from actors.process import Identity
from engine.wire import encode_frame
from tests.actors.servers import eventually
from tests.actors.tenure import Tenure
from tests.actors.trial import Trial


class Listener:
    """A coordinator that says one word to whoever joins."""

    def joined(self, channel: Channel, join: Join) -> None:
        channel.send(encode_frame(Leave()))
        channel.send(encode_frame(Leave()))

    def beaten(self, channel: Channel, beat: Beat) -> None: ...
    def left(self, channel: Channel) -> None: ...
    def asked(self, channel: Channel, wish: Move | Restart) -> None: ...
    def lost(self, channel: Channel) -> None: ...


async def test_the_last_answers_leave_before_the_end(trial: Trial, tmp_path: Path) -> None:
    """A host that is sent away closes its server in order, once, and only then does it end."""
    events: list[str] = []
    server = ControlServer("token", Listener())
    address = await server.listen(f"unix:{tmp_path}/c")
    member = HostMember(events.append)

    async def close() -> None:
        events.append("closing")
        await asyncio.sleep(0)
        events.append("closed")

    join = Join("token", Kind.HOST, "host-1", Identity(1, 0, "/bin/x"), "here", "unix:/host-1")
    running = asyncio.create_task(member.run(address, join, Tenure(trial).host, close))
    await eventually(lambda: len(events) > 2)

    assert ["closing", "closed", "superseded"] == events
    running.cancel()
    await server.close()
