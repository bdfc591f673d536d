"""A machine behind a cable of its own, which can be cut: a network namespace and a pair of veths.

    this side                                 the other side, with a name of its own
    HEAD  10.77.7.1  gateways, coordinator ┐
    REDIS 10.77.7.3  the journal's server  ┴─ veth ══ veth ── OTHER 10.77.7.2  raylet, hosts

Cut means: frames are sent to a hardware address that nobody has. Nothing is refused and nothing
reset, connections stand still, as they do when a switch fails. Each way, and the way to each
address, is cut for itself. A client on the other side is reached through a unix socket, which no
namespace shuts in.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from tests.faults.engine_process import eventually
from tests.faults.ray_nodes import Place

HEAD: Final = "10.77.7.1"
OTHER: Final = "10.77.7.2"
REDIS: Final = "10.77.7.3"
_NOBODY: Final = "02:00:00:00:00:01"
_HERE, _THERE = "onhand-here", "onhand-there"
_RELAY: Final = """
import asyncio, sys
path, host, port = sys.argv[1:]
async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()
async def serve(reader, writer):
    try:
        there = await asyncio.open_connection(host, int(port))
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
async def main():
    async with await asyncio.start_unix_server(serve, path) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def why_not() -> str | None:
    """What is missing here for namespaces; None if they can be made."""
    if os.geteuid() != 0:
        return "network namespaces are root's to make"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "iproute2 or util-linux is not installed"
    made = _ip("netns", "add", "onhand-trial", check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    _ip("netns", "del", "onhand-trial")
    return None


class OtherSide:
    """The namespace, while it is there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def place(self, number: int) -> Place:
        """The head is here, everybody else there, under another host name."""
        if number == 0:
            return Place(HEAD)
        renamed = f'hostname {self.name}; exec "$@"'
        enter = ("ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", renamed, "sh")
        return Place(OTHER, enter)

    def cut_off(self, *addresses: str) -> None:
        """What the other side sends to these goes nowhere, nor what is sent there, if all are."""
        for address in addresses:
            self._lead("-n", self.name, address=address, device=_THERE)
        if set(addresses) == {HEAD, REDIS}:
            self._lead(address=OTHER, device=_HERE)

    def heal(self) -> None:
        for address in (HEAD, REDIS):
            _ip("-n", self.name, "neigh", "del", address, "dev", _THERE, check=False)
        _ip("neigh", "del", OTHER, "dev", _HERE, check=False)

    @asynccontextmanager
    async def relay(self, directory: Path, address: str) -> AsyncIterator[str]:
        """The address of a unix socket that leads to `address`, as seen from the other side."""
        path = directory / "relay"
        host, _, port = address.removeprefix("tcp:").rpartition(":")
        process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self.name, sys.executable, "-c", _RELAY, path, host, port)
        )
        try:

            async def listens() -> bool:
                return path.exists()

            await eventually(listens, 30)
            yield f"unix:{path}"
        finally:
            process.kill()
            await process.wait()

    def _lead(self, *where: str, address: str, device: str) -> None:
        """Astray."""
        _ip(
            *where,
            "neigh",
            "replace",
            address,
            "lladdr",
            _NOBODY,
            "nud",
            "permanent",
            "dev",
            device,
        )


@contextmanager
def other_side() -> Iterator[OtherSide]:
    """A namespace, cabled to this one."""
    side = OtherSide(f"onhand-{os.getpid()}")
    _ip("netns", "add", side.name)
    try:
        _ip("link", "add", _HERE, "type", "veth", "peer", "name", _THERE, "netns", side.name)
        for address in (HEAD, REDIS):
            _ip("address", "add", f"{address}/29", "dev", _HERE)
        _ip("link", "set", _HERE, "up")
        _ip("-n", side.name, "address", "add", f"{OTHER}/29", "dev", _THERE)
        _ip("-n", side.name, "link", "set", _THERE, "up")
        _ip("-n", side.name, "link", "set", "lo", "up")
        yield side
    finally:
        _ip("link", "del", _HERE, check=False)
        _ip("netns", "del", side.name)


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)
