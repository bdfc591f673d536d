"""Requests as bytes, made before they are needed.

What a request costs to make would otherwise be measured as if the engine had spent it. So a parcel
becomes a template when the run is prepared, and sending it is one `%`: the request's number and the
ids, 12 decimal digits each, are patched into fields of fixed width. Ids are 36 characters long, as
UUIDs are: a prefix that is new for every run and process, and the number of the reservation.

The binary templates are those of `engine.wire`, spelt out in MessagePack's fixed-width forms; a
test decodes them with the engine's own decoder.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from bench.scenarios import ANY, Parcel, Scenario
from engine import limits

ID_CHARS: Final = 36
DIGITS: Final = 12
PREFIX_CHARS: Final = ID_CHARS - DIGITS
REQUEST_ID_BYTES: Final = 4


class Act(NamedTuple):
    """What becomes of one accepted reservation."""

    commit: bool
    number: int
    sku: int


class Dialect(Protocol):
    """How requests are spelt for one kind of target."""

    def template(self, parcel: Parcel) -> bytes:
        """Of a request that reserves the parcel; to be given to `reserve`."""
        ...

    def reserve(self, template: bytes, request_id: int, first: int, count: int) -> bytes:
        """The request that reserves under the ids numbered `first`, `first + 1`, …"""
        ...

    def finish(self, request_id: int, acts: Sequence[Act]) -> bytes:
        """The request that commits or releases."""
        ...


def reservation_id(prefix: str, number: int) -> str:
    """The id that a run of this prefix gave its reservation of this number."""
    return f"{prefix}{number:0{DIGITS}}"


def _text(value: str) -> bytes:
    data = value.encode()
    return b"\xd9" + len(data).to_bytes(1) + data


def _literal(data: bytes) -> bytes:
    """As part of a template."""
    return data.replace(b"%", b"%%")


class BinaryDialect:
    """Frames: length, request id, deadline, commands. All numbers of fixed width."""

    def __init__(
        self, names: Sequence[str], homes: Sequence[int], prefix: str, scenario: Scenario
    ) -> None:
        assert len(prefix) == PREFIX_CHARS
        self._scenario = scenario
        self._names = [_text(name) for name in names]
        self._id = b"\xd9" + ID_CHARS.to_bytes(1) + prefix.encode()
        self._homes = [b"\xcd" + home.to_bytes(2) for home in homes]

    def template(self, parcel: Parcel) -> bytes:
        ttl = self._scenario.brief_seconds if parcel.brief else self._scenario.hold_seconds
        shard = b"" if parcel.shard == ANY else b"\xc0\xcd" + parcel.shard.to_bytes(2)
        tail = b"\x01\xc0\xce" + ttl.to_bytes(4)
        commands = [
            (b"\x95\x01" + self._id, b"\x91\x92" + self._names[sku] + tail) for sku in parcel.skus
        ]
        size = sum(len(before) + DIGITS + len(after) for before, after in commands)
        start, end = _head(len(commands), size, shard)
        return (
            _literal(start)
            + b"%b"
            + _literal(end)
            + b"".join(_literal(before) + b"%012d" + _literal(after) for before, after in commands)
            + _literal(shard)
        )

    def reserve(self, template: bytes, request_id: int, first: int, count: int) -> bytes:
        return template % (request_id.to_bytes(4), *range(first, first + count))

    def finish(self, request_id: int, acts: Sequence[Act]) -> bytes:
        commands = b"".join(
            [
                (b"\x93\x02" if act.commit else b"\x93\x03")
                + self._id
                + b"%012d" % act.number
                + self._homes[act.sku]
                for act in acts
            ]
        )
        start, end = _head(len(acts), len(commands))
        return start + request_id.to_bytes(4) + end + commands


def _head(count: int, commands_bytes: int, shard: bytes = b"") -> tuple[bytes, bytes]:
    """What stands before and after the request id in a frame of `count` commands, which ends with
    which shard it is for, if that is known."""
    fields = b"\x95\xce" if shard else b"\x93\xce"
    end = b"\xcd" + limits.DEADLINE_MS_DEFAULT.to_bytes(2) + b"\xdc" + count.to_bytes(2)
    length = len(fields) + REQUEST_ID_BYTES + len(end) + commands_bytes + len(shard)
    return length.to_bytes(4) + fields, end


class HttpDialect:
    """HTTP/1.1 with a JSON body. One command a request."""

    def __init__(
        self,
        names: Sequence[str],
        homes: Sequence[int],
        prefix: str,
        scenario: Scenario,
        host: str,
        key: str | None,
    ) -> None:
        assert len(prefix) == PREFIX_CHARS
        self._names = names
        self._prefix = prefix.encode()
        self._scenario = scenario
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._headers = f"Host: {host}\r\n{authorization}".encode()
        self._homes = [b"?home=%d" % home for home in homes]

    def template(self, parcel: Parcel) -> bytes:
        (sku,) = parcel.skus
        ttl = self._scenario.brief_seconds if parcel.brief else self._scenario.hold_seconds
        body = msgspec.json.encode(
            {
                "reservation_id": reservation_id(self._prefix.decode(), 0),
                "ttl_seconds": ttl,
                "lines": [{"sku": self._names[sku], "quantity": 1}],
            }
        )
        request = self._post(b"/v1/reservations", body)
        before, after = request.split(b"0" * DIGITS + b'"', 1)
        return _literal(before) + b'%012d"' + _literal(after)

    def reserve(self, template: bytes, request_id: int, first: int, count: int) -> bytes:
        return template % first

    def finish(self, request_id: int, acts: Sequence[Act]) -> bytes:
        (act,) = acts
        verb = b"commit" if act.commit else b"release"
        home = self._homes[act.sku]
        return self._post(
            b"/v1/reservations/%b%012d/%b%b" % (self._prefix, act.number, verb, home), b""
        )

    def _post(self, path: bytes, body: bytes) -> bytes:
        kind = b"Content-Type: application/json\r\n" if body else b""
        return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
            path,
            self._headers,
            kind,
            len(body),
            body,
        )
