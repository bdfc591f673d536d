"""Where a host listens: as far as its gateways are reached, and no farther."""

import ipaddress
import os
import socket

import pytest

from actors import host_process
from actors.address import TcpAddress, parse_address
from actors.config import Settings
from actors.host_process import listen_address

CONTROL = "unix:/run/onhand/control"
SOCKET = f"unix:/run/onhand/host-1-{os.getpid()}"


def where(bind: str, control: str = CONTROL) -> str:
    return listen_address(Settings(bind=bind, run_dir="/run/onhand"), "host-1", control)


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1"])
def test_who_is_on_this_machine_only_has_a_socket(bind: str) -> None:
    """Gateways on loopback: hosts open no port."""
    assert SOCKET == where(bind)


@pytest.mark.parametrize(
    ("bind", "expected"), [("192.0.2.7", "tcp:192.0.2.7:0"), ("2001:db8::7", "tcp:[2001:db8::7]:0")]
)
def test_where_gateways_are_reached_hosts_are(bind: str, expected: str) -> None:
    """The address that the operator has named, and a free port."""
    assert expected == where(bind)


def test_every_address_is_not_one() -> None:
    """Nobody can dial "every address": what is told is the one by which this machine reaches out,
    if it reaches anybody."""
    address = parse_address(where("0.0.0.0"))
    if isinstance(address, TcpAddress):
        assert 0 == address.port
        assert not ipaddress.ip_address(address.host).is_unspecified


def test_a_machine_without_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It still serves itself."""

    def unreachable(peer: TcpAddress) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(host_process, "_own_address", unreachable)
    assert SOCKET == where("0.0.0.0")


def test_on_several_machines_hosts_are_where_the_coordinator_sees_them() -> None:
    """Whatever gateways bind, every machine of the cluster must reach every host."""
    with socket.socket() as coordinator:
        coordinator.bind(("127.0.0.1", 0))
        control = str(TcpAddress(*coordinator.getsockname()))
        assert "tcp:127.0.0.1:0" == where("127.0.0.1", control)
