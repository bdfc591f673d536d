"""A program: the `Cluster` on three raylets of `ray.cluster_utils`, told on stdout as JSON.

A process of its own, because a process belongs to one Ray at a time, and to its token for good.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster as Raylets

from actors.cluster import Cluster, ClusterError
from actors.control import Join, Kind
from actors.process import Identity, identify, is_alive

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 75 << 20}
HOSTS = 3
SECONDS = 60


class Sleeper:
    """A program that says where it is, and does nothing until it is ended."""

    def __init__(self, settings: bytes, name: str, control: str) -> None:
        self._path = Path(control) / name

    async def run(self) -> None:
        found = identify(os.getpid())
        parent = identify(os.getppid())
        assert found is not None
        assert parent is not None
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps([found, parent.pid]))
        fresh.replace(self._path)
        await asyncio.Event().wait()


def where(data: bytes) -> bytes:
    """A question for every machine."""
    return data + str(os.getppid()).encode()


class Story:
    """What happens, in order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._raylets = Raylets(True, head_node_args={**NODE, "include_dashboard": False})
        self._workers = [self._raylets.add_node(**NODE) for _ in range(HOSTS - 1)]
        self._remembered: list[Identity] = []
        self._cluster = Cluster({Kind.HOST: Sleeper}, self._remembered.append)
        self._cluster.arguments = (b"", str(directory))
        self._found: dict[str, Any] = {}

    async def tell(self) -> dict[str, Any]:
        await self._cluster.start(self._raylets.address, self._directory)
        names = [f"host-{number + 1}" for number in range(HOSTS)]
        for name in names:
            await self._cluster.place(Kind.HOST, name)
        first = [await self._at(name) for name in names]
        self._found["raylets"] = len({raylet for _, raylet in first})
        answers = await self._cluster.ask_everywhere(where, b"x")
        self._found["answers"] = [isinstance(each.answer, bytes) for each in answers]
        crowded = await self._lose_one(names, first)
        await self._spread(crowded)
        await self._stop(names)
        return self._found

    async def _lose_one(self, names: list[str], first: list[tuple[Identity, int]]) -> str:
        """The host that was there, and shares another's raylet now."""
        head = first[0][1]
        number = next(each for each, (_, raylet) in enumerate(first) if raylet != head)
        host, raylet = first[number]
        (node,) = [each for each in self._workers if raylet_of(each) == raylet]
        self._raylets.remove_node(node, allow_graceful=False)
        await until(lambda: not is_alive(host))
        await self._cluster.kill(Join("", Kind.HOST, names[number], host, "", ""))
        await until(lambda: self._read(names[number]) != first[number])
        self._found["elsewhere"] = self._read(names[number])[1] != raylet
        return names[number]

    async def _spread(self, crowded: str) -> None:
        """A raylet that comes late gets it, when it is restarted in order."""
        late = raylet_of(self._raylets.add_node(**NODE))
        process, _ = self._read(crowded)
        await self._cluster.restart(Join("", Kind.HOST, crowded, process, "", ""))
        await until(lambda: self._read(crowded)[0] != process)
        self._found["roomier"] = self._read(crowded)[1] == late

    async def _stop(self, names: list[str]) -> None:
        last = [self._read(name)[0] for name in names]
        watch = asyncio.create_task(self._cluster.watch(lambda: None))
        for process in self._cluster.head:
            os.kill(process.pid, 9)
        with suppress(ClusterError):
            await asyncio.wait_for(watch, SECONDS)
            raise AssertionError("the raylet of this machine is dead, and nobody has noticed")
        await self._cluster.stop()
        self._raylets.shutdown()  # type: ignore[no-untyped-call] # Ray's
        await until(lambda: not any(map(is_alive, last)))
        self._found["left"] = 0

    async def _at(self, name: str) -> tuple[Identity, int]:
        await until((self._directory / name).exists)
        return self._read(name)

    def _read(self, name: str) -> tuple[Identity, int]:
        process, raylet = json.loads((self._directory / name).read_text())
        return Identity(*process), raylet


def raylet_of(node: Any) -> int:
    """Its process."""
    (info,) = node.all_processes["raylet"]
    return int(info.process.pid)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(Story(Path(sys.argv[1])).tell())) + "\n")
