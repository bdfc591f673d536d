"""What ties a request to its traces: an id that its caller may choose, and W3C trace context.

    X-Request-Id: 7f3a…           taken over if it is an id, else one is minted; always answered
    traceparent: 00-<trace>-<parent>-<flags>       taken over if it is valid, else a trace is begun

The rules are those of W3C Trace Context, level 1: lower-case hexadecimal, no id of zeros only, not
version ff; of a later version the first four fields are read. A header that stands twice is no
header. `tracestate` is not read: it is for the vendors along the way, and the engine is none.

Only a trace whose caller says *sampled* travels on to the hosts and gets a line of log for each of
its spans. A trace of our own is not sampled; its id is made when somebody is to be shown it, so
that a request which goes well pays for two lookups and a counter.
"""

import itertools
import re
import secrets
from collections.abc import Mapping
from typing import Final

from engine.messages import Trace

REQUEST_ID: Final = b"x-request-id"
TRACEPARENT: Final = b"traceparent"
_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_CONTEXT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 0x01
_ZEROS: Final = b"0"
_PREFIX: Final = secrets.token_hex(6)
_numbers: Final = itertools.count(1)


class Correlation:
    """One request: what its caller calls it, and the trace that it is a part of."""

    __slots__ = ("_span_id", "_trace_id", "parent_id", "request_id", "sampled")

    def __init__(
        self,
        request_id: str = "",
        trace_id: str = "",
        parent_id: str = "",
        *,
        sampled: bool = False,
    ) -> None:
        self.request_id = request_id or f"{_PREFIX}-{next(_numbers):x}"
        self.parent_id = parent_id
        """The caller's span; empty if the trace is our own."""
        self.sampled = sampled
        self._trace_id = trace_id
        self._span_id = ""

    @property
    def trace_id(self) -> str:
        if not self._trace_id:
            self._trace_id = secrets.token_hex(16)
        return self._trace_id

    @property
    def span_id(self) -> str:
        """Of what this gateway does about the request."""
        if not self._span_id:
            self._span_id = secrets.token_hex(8)
        return self._span_id

    def onward(self) -> Trace | None:
        """What the hosts are told."""
        if not self.sampled:
            return None
        return Trace(0, self.trace_id, self.span_id, self.request_id)

    def fields(self) -> dict[str, str]:
        """For a line of log."""
        ids = {
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "parent_id": self.parent_id,
        }
        return {name: value for name, value in ids.items() if value}


def correlate(headers: Mapping[bytes, bytes]) -> Correlation:
    """The correlation that these headers ask for."""
    name, context = headers.get(REQUEST_ID), headers.get(TRACEPARENT)
    request_id = name.decode() if name is not None and _ID.fullmatch(name) else ""
    if context is None:
        return Correlation(request_id)
    found = _CONTEXT.fullmatch(context)
    if found is None:
        return Correlation(request_id)
    version, trace_id, parent_id, flags, rest = found.groups()
    if (
        version == b"ff"
        or (version == b"00" and rest is not None)
        or not trace_id.strip(_ZEROS)
        or not parent_id.strip(_ZEROS)
    ):
        return Correlation(request_id)
    sampled = bool(int(flags, 16) & _SAMPLED)
    return Correlation(request_id, trace_id.decode(), parent_id.decode(), sampled=sampled)


def forget_doubles(headers: dict[bytes, bytes], names: list[bytes]) -> None:
    """A header of ours that stands more than once says nothing."""
    for name in (REQUEST_ID, TRACEPARENT):
        if names.count(name) > 1:
            del headers[name]
