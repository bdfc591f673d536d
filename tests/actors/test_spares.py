"""Pairs of hosts and spares: each host has somebody, and pairs last."""

from itertools import chain

import pytest

from actors.spares import Spares


def test_hosts_are_shared_out() -> None:
    """Each has one spare, and no spare has two more than another."""
    assert {"a": {"1", "3"}, "b": {"2", "4"}} == Spares().pair(["1", "2", "3", "4"], ["a", "b"])


def test_a_spare_that_is_left_over_looks_at_what_few_look_at() -> None:
    """Until there is a host for it."""
    spares = Spares()

    assert {"a": {"1"}, "b": {"2"}, "c": {"1"}} == spares.pair(["1", "2"], ["a", "b", "c"])
    found = spares.pair(["1", "2", "3"], ["a", "b", "c"])
    assert sorted("123") == sorted(chain.from_iterable(found.values()))


def test_pairs_last() -> None:
    """Whatever comes or goes, those who are there go on with what they had."""
    spares = Spares()
    spares.pair(["1", "2", "3"], ["a", "b", "c"])

    assert {"a": {"1", "3"}, "b": {"2"}} == spares.pair(["1", "2", "3"], ["a", "b"])
    assert {"a": {"3", "4"}, "b": {"2"}} == spares.pair(["2", "3", "4"], ["a", "b"])


def test_who_joins_gets_its_share() -> None:
    """One host of those of the spare that has most."""
    spares = Spares()
    spares.pair(["1", "2", "3"], ["a"])

    assert {"a": {"1", "2"}, "b": {"3"}} == spares.pair(["1", "2", "3"], ["a", "b"])


@pytest.mark.parametrize(("hosts", "spares"), [([], []), (["1"], []), ([], ["a"])])
def test_nobody_to_pair(hosts: list[str], spares: list[str]) -> None:
    """Nobody keeps up with anything."""
    assert {spare: set() for spare in spares} == Spares().pair(hosts, spares)
