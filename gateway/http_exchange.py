"""A request that its connection answers itself, and the answer's first bytes.

Sans-I/O: what a request stands for, and how what comes of it is written down. When that happens is
the connection's business.
"""

from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Protocol

import structlog

from engine import limits
from engine.messages import Answer, Command
from gateway import problems
from gateway.correlation import Correlation
from gateway.http_api import Api
from gateway.http_calls import Call, show
from gateway.http_input import is_json
from gateway.http_routes import Operation
from gateway.problems import RefusedError, Reply, refusal

SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)

Headers = list[tuple[bytes, bytes]]
_log = structlog.get_logger(__name__)


class Line(Protocol):
    """Where an answer goes: the connection."""

    def finish(self, exchange: "Exchange", reply: Reply) -> None:
        """Send `reply`, the answer to `exchange`."""


class Exchange(Call):
    """A request that this connection answers itself: a call, or one that is refused at once."""

    __slots__ = (
        "chunks",
        "complete",
        "connection",
        "correlation",
        "expects",
        "finished",
        "headers",
        "is_head",
        "keep_alive",
        "operation",
        "raw_query",
        "raw_subject",
        "refused",
        "reservation",
        "since",
        "size",
        "started",
    )

    headers: dict[bytes, bytes]
    raw_query: bytes
    raw_subject: str

    def __init__(self, api: Api, connection: Line, *, keep_alive: bool) -> None:
        self.api = api
        self.connection = connection
        self.keep_alive = keep_alive
        self.operation: Operation | None = None
        self.refused: Reply | None = None
        self.correlation: Correlation | None = None
        """What ties it to its caller; None = nothing that its caller said could be read."""
        self.reservation = ""
        """The id of the reservation that it is about."""
        self.chunks: list[bytes] = []
        self.size = 0
        self.complete = self.started = self.finished = self.expects = self.is_head = False
        self.since = 0.0

    @property
    def ready(self) -> bool:
        """Whether it can be answered."""
        if self.complete:
            return True
        return self.refused is not None and (
            self.expects or not self.keep_alive or self.size > limits.BODY_BYTES_MAX
        )

    def command(self, peer: str) -> Command:
        """What it stands for. Raises RefusedError if that cannot be read or is not allowed."""
        operation, headers = self.operation, self.headers
        assert operation is not None
        assert operation.call is not None
        scope, self.subject, self.query, self.key = self.api.admit(
            operation, self.raw_subject, self.raw_query, headers, peer
        )
        chunks = self.chunks
        self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self.body and operation.body is not None:
            media = headers.get(b"content-type", b"")
            if media != b"application/json" and not is_json(media):
                raise RefusedError(problems.UNSUPPORTED_MEDIA_TYPE)
        return self.api.narrow(operation.call(self), scope)

    def answered(self, answer: Answer) -> None:
        """The router's reply."""
        assert self.operation is not None
        try:
            reply = show(answer, self.operation.success)
        except Exception:  # what cannot be shown must not leave the peer waiting
            _log.exception("answer_not_shown", operation=self.operation.name)
            reply = refusal(problems.INTERNAL)
        self.connection.finish(self, reply)


class AnswerHeads:
    """The first bytes of answers, up to the length; each sort is made once a second.

    There are as many sorts as the table of problems and the calls' methods make, no more.
    """

    def __init__(self) -> None:
        self.common: Headers = []
        """What all answers carry, pages too."""
        self._made: dict[tuple[object, ...], bytes] = {}

    def renew(self, now: float) -> None:
        """It is `now`, in seconds since 1970."""
        self.common = [(b"date", formatdate(now, usegmt=True).encode()), *SECURITY_HEADERS]
        self._made.clear()

    def of(self, reply: Reply, *, keep_alive: bool) -> bytes:
        """What comes before the number of the payload's bytes."""
        kind = (reply.status, reply.media, reply.headers, keep_alive)
        head = self._made.get(kind)
        if head is None:
            head = self._made[kind] = self._make(reply, keep_alive=keep_alive)
        return head

    def _make(self, reply: Reply, *, keep_alive: bool) -> bytes:
        headers = [*self.common, (b"content-type", reply.media), *reply.headers]
        if not keep_alive:
            headers.append((b"connection", b"close"))
        phrase = HTTPStatus(reply.status).phrase.encode()
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"HTTP/1.1 %d %b\r\n%bcontent-length: " % (reply.status, phrase, b"".join(lines))
