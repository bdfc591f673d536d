"""Who starts and ends the processes that a coordinator wants: Ray, in production.

A coordinator knows names and what joins under them; where a process runs, and how it is brought
there, is no business of its.
"""

from typing import Protocol

from actors.control import Join, Kind


class Launcher(Protocol):
    """Places and ends processes; Ray, in production."""

    async def place(self, kind: Kind, name: str) -> None:
        """Start a process that joins as `name`, and start it again whenever it ends."""

    async def kill(self, join: Join) -> None:
        """End that very process; it is started again if it was placed."""

    async def restart(self, join: Join) -> None:
        """That very process has ended in order, or does so now; it is to be started again, where
        it was or where it is of more use."""
