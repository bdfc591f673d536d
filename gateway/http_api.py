"""What all of HTTP shares: the engine behind it, who may call, and what is counted.

An `Api` is made once per gateway, of parts that whoever composes the gateway chooses; nothing in
the HTTP modules reaches for a part by itself.

Who may call: a key in `Authorization: Bearer` is for `authenticate` to judge, and so is its
absence, which a gateway on loopback accepts. There the browser of the same machine is the danger: a
page from anywhere may send requests to localhost. So without keys the Host header must be a name of
this host (a page that rebinds its own name is refused), an Origin must be as well (a foreign page
is refused), and a body must say that it is JSON (a plain form is refused).
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, NamedTuple, Protocol

from actors.binary_server import Authenticate
from engine.codec import Position
from engine.messages import Answer, Command, Sample, Status, Trace
from engine.scope import OPERATOR, VERBS, Scope, narrow
from gateway import problems
from gateway.diary import Diary
from gateway.http_input import (
    check_id,
    parse_bearer,
    parse_idempotency_key,
    parse_query,
    unquote,
)
from gateway.http_pages import ReadinessProbe
from gateway.http_routes import Operation, RouteTable
from gateway.metrics import EdgeCounters, Others
from gateway.problems import TABLE, RefusedError
from gateway.router import RouterStatistics

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

Mint = Callable[[int], str]
"""The home of a reservation → an id for it that nobody else has."""
AskOthers = Callable[[], Awaitable[Others]]
"""The name of each host, and what it counts. Raises TimeoutError or OSError if one is silent."""


class Admission(NamedTuple):
    """Who calls, and what the head of the request says."""

    scope: Scope
    subject: str
    query: dict[str, str]
    key: str | None


class Engine(Protocol):
    """The router, as far as HTTP needs it (`gateway.router.Router`)."""

    heads: dict[int, Position]

    def forward(
        self,
        command: Command,
        deadline_ms: int,
        reply: Callable[[Answer], None],
        trace: Trace | None = None,
    ) -> None:
        """Never blocks; calls `reply` once, now or by the deadline. `command` is valid."""

    async def ask(self, command: Command, deadline_ms: int = ...) -> Answer:
        """The answer to one command."""

    async def ask_all(
        self, make: Callable[[int], Command], deadline_ms: int = ...
    ) -> dict[int, Answer]:
        """The answers of all shards."""

    def place_of(self, sku: str) -> int:
        """The shard that the SKU lives in, as far as is known here."""

    def owners(self) -> dict[int, tuple[int, str | None]]:
        """Shard → (epoch, address of the owner, or None)."""

    def statistics(self) -> RouterStatistics:
        """Counters."""


class Api:
    """The parts, and what follows from them."""

    def __init__(
        self,
        router: Engine,
        shards: int,
        routes: RouteTable,
        authenticate: Authenticate,
        mint: Mint,
        ask_others: AskOthers,
        *,
        dedicated: int = 0,
        names: Collection[str] | None = LOOPBACK_NAMES,
        servers_down: Callable[[], list[int]] = list,
        diary: Diary | None = None,
        name: str = "gateway-1",
        around: Callable[[], list[Sample]] = list,
    ) -> None:
        """`shards`: hashed ones, `dedicated`: beside those; `total`: both together.
        `names`: of this host, as the Host header may have them; None = any, for keys protect.
        `servers_down`: which of the servers that the journal is on cannot be asked; `name`: of this
        gateway; `around` tells of what is around the API at each scrape."""
        self.name = name
        self.around = around
        self.router = router
        self.shards = shards
        self.total = shards + dedicated
        self.routes = routes
        self.mint = mint
        self.ask_others = ask_others
        self.servers_down = servers_down
        self.diary = diary or Diary()
        self.readiness = ReadinessProbe(self)
        self.counters = EdgeCounters(operation.name for operation in routes.operations)
        self._authenticate = authenticate
        self._names = None if names is None else frozenset(name.lower() for name in names)

    def admit(
        self,
        operation: Operation,
        subject: str,
        query: bytes,
        headers: Mapping[bytes, bytes],
        peer: str,
    ) -> Admission:
        """What every request must pass before it is read. Raises RefusedError if it does not."""
        scope = OPERATOR
        if operation.command is not None:
            scope = self._scope(headers.get(b"authorization"), peer)
            if scope is not OPERATOR and VERBS[operation.command] not in scope.verbs:
                raise RefusedError(problems.FORBIDDEN)
        coding = headers.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            detail = (
                f"The content-encoding is {coding[:32].decode('latin-1')}; send it uncompressed."
            )
            raise RefusedError(problems.UNSUPPORTED_MEDIA_TYPE, detail)
        key = None
        if operation.key is not None:
            raw = headers.get(b"idempotency-key")
            if raw is not None:
                key = parse_idempotency_key(raw.decode("latin-1"))
            elif operation.key:
                raise RefusedError(problems.INVALID, "The header Idempotency-Key is missing")
        return Admission(
            scope,
            check_id(unquote(subject, "The path"), "The id in the path") if subject else "",
            parse_query(query, operation.parameters) if query else {},
            key,
        )

    def narrow(self, command: Command, scope: Scope) -> Command:
        """`command` as `scope` may give it. Raises RefusedError if it may not."""
        if scope is OPERATOR:
            return command
        outcome = narrow(command, scope)
        if isinstance(outcome, Status):
            raise RefusedError(TABLE[outcome])
        return outcome

    def check_names(self, host: str | None, origin: str | None) -> None:
        """Raises RefusedError if a browser was led here by a page of somebody else's."""
        if self._names is None:
            return
        if host is not None and _name(host) not in self._names:
            raise RefusedError(problems.MISDIRECTED)
        if origin is not None and _name(origin.partition("://")[2]) not in self._names:
            raise RefusedError(problems.ORIGIN_NOT_ALLOWED)

    def _scope(self, authorization: bytes | None, peer: str) -> Scope:
        """What the caller may do. Raises RefusedError if that is nothing."""
        key = None if authorization is None else parse_bearer(authorization.decode("latin-1"))
        scope = self._authenticate(key, peer)
        if scope is None:
            raise RefusedError(problems.UNAUTHENTICATED)
        return scope


def _name(authority: str) -> str:
    """The host of `host[:port]`, in lower case."""
    name, colon, port = authority.rpartition(":")
    return (name if colon and port.isdigit() else authority).lower()
