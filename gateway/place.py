"""Where a running engine serves: what its HTTP address leads to."""

import platform

import msgspec

from gateway.http_client import HttpClient


class PlaceError(Exception):
    """The engine does not say where it serves; the message is one line for the operator."""


class Place(msgspec.Struct, frozen=True):
    """Both protocols of one engine, and what is known of its processes."""

    url: str
    binary: str
    """`tcp:host:port`."""
    key: str | None = None
    pids: dict[str, list[int]] = {}
    """Hosts and gateways that run on this machine."""
    about: dict[str, str] = {}


def find_place(client: HttpClient, key: str | None) -> Place:
    """Ask the engine behind `client`. Raises PlaceError and UnreachableError."""
    reply = client.get("/v1/status")
    if not reply.ok:
        raise PlaceError(reply.refusal)
    status = reply.body
    alive = [each for each in status["gateways"] if each["alive"]]
    if not alive:
        raise PlaceError(f"the engine at {client.url} has no gateway")
    here = platform.node()
    pids = {
        role: [each["pid"] for each in status[role] if each["node"] == here]
        for role in ("hosts", "gateways")
    }
    sizes = {role: str(len(status[role])) for role in ("hosts", "gateways")}
    about = {"url": client.url, **sizes, "shards": str(status["shards"])}
    port = alive[0]["binary"].rpartition(":")[2]
    return Place(client.url, f"tcp:{client.host}:{port}", key, pids, about)
