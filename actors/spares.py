"""Which spare keeps up with which host: pure bookkeeping.

    host-1 ◄── spare-a          host-1 dies ──► spare-a has its shards, and is a host;
    host-2 ◄── spare-b                          spare-b keeps up with host-2, and with it
    host-3 ◄── spare-a

A spare keeps up with all that a host has, so that the death of one host takes up one spare, whose
place the dead one takes when it is back. If each had its part of every host, one death would make
hosts of all the spares, and none would be left for the next.

Every host has somebody, spares that are left over have a second look at one, and the pairs stay as
they are for as long as both are there: to be given another host is to read all of its shards anew.
"""

from collections.abc import Collection


class Spares:
    """Who keeps up with whom."""

    def __init__(self) -> None:
        self._hosts_of: dict[str, set[str]] = {}

    def pair(self, hosts: Collection[str], spares: Collection[str]) -> dict[str, set[str]]:
        """spare → the hosts that it keeps up with."""
        kept = {spare: self._hosts_of.get(spare, set()) & set(hosts) for spare in sorted(spares)}
        self._hosts_of = kept
        if kept:
            for host in sorted(set(hosts) - set().union(*kept.values())):
                kept[self._fewest()].add(host)
            self._even_out(sorted(hosts))
        return {spare: set(followed) for spare, followed in kept.items()}

    def _even_out(self, hosts: list[str]) -> None:
        """Nobody has two more than another; only who would have none looks at another's host."""
        kept = self._hosts_of
        for followed in kept.values():
            for host in sorted(followed):
                if len(followed) > 1 and self._followers(host) > 1:
                    followed.discard(host)
        while len(kept[self._most()]) - len(kept[self._fewest()]) > 1:
            moved = max(kept[self._most()])
            kept[self._most()].discard(moved)
            kept[self._fewest()].add(moved)
        for followed in kept.values():
            if not followed and hosts:
                followed.add(min(hosts, key=self._followers))

    def _fewest(self) -> str:
        return min(self._hosts_of, key=lambda spare: len(self._hosts_of[spare]))

    def _most(self) -> str:
        return max(self._hosts_of, key=lambda spare: len(self._hosts_of[spare]))

    def _followers(self, host: str) -> int:
        return sum(host in followed for followed in self._hosts_of.values())
