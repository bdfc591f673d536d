"""The other gateways of the engine, which are asked what they count when one of them is scraped.

    Prometheus ──► the port of all ──► one gateway ──GetStatistics──► each of the others

Several gateways share a port, and whoever scrapes it keeps one connection, to one of them: without
this, nobody would hear of what happens at the others. An address of its own for each would be one
more thing to configure for whoever operates them, and would have every host told of several times.

What it guarantees: one answer of each that lives, or that it is silent, at the deadline at the
latest. Each listens for that, beside the port of all, on a unix socket under its name: gateways are
all on the machine of `onhand up`.
"""

import asyncio
from collections.abc import Collection

from engine.messages import GetStatistics, Statistics
from gateway.way import Through


def address_of(run_dir: str, name: str) -> str:
    """Where the gateway of that name can be asked, and no other."""
    return f"unix:{run_dir}/{name}"


class Siblings:
    """Lives on one event loop. Links are made when somebody is asked, and kept."""

    def __init__(self, run_dir: str, key: str | None) -> None:
        self._run_dir = run_dir
        self._key = key
        self._ways: dict[str, Through] = {}

    async def ask(self, names: Collection[str], seconds: float) -> dict[str, Statistics]:
        """What these say that they count; who is not among them has said nothing."""
        await self._settle(names)
        deadline = asyncio.get_running_loop().time() + seconds
        ways = list(self._ways.items())
        heard = await asyncio.gather(*(way.ask([GetStatistics()], deadline) for _, way in ways))
        return {
            name: answer.body
            for (name, _), [answer] in zip(ways, heard, strict=True)
            if isinstance(answer.body, Statistics)
        }

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._settle(())

    async def _settle(self, names: Collection[str]) -> None:
        """One way to each of these, and to nobody else."""
        gone = [self._ways.pop(name) for name in self._ways.keys() - set(names)]
        for name in sorted(set(names) - self._ways.keys()):
            self._ways[name] = way = Through(address_of(self._run_dir, name), self._key)
            way.link.start()
        await asyncio.gather(*(way.close() for way in gone))
