"""The calls of the API as data: one table that the server obeys and the OpenAPI page describes.

An `Operation` says everything about one call: where it is, what comes in, what goes out, how it is
refused. There are two sorts. A *call* is one command to the engine: it is answered by the
connection itself, with no task, future or framework in between (`gateway.http_lane`). A *page* is
anything else: several commands, a stream, a document; Starlette serves those.

A path is one that is fixed, or `/v1/<noun>/{id}`, or `/v1/<noun>/{id}/<action>`. A fixed one goes
before: `POST /v1/stock/movements` is a call of its own, while `GET /v1/stock/movements` asks for a
SKU of that name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from engine.messages import Command, Status
from gateway.http_input import BodyDecoder
from gateway.problems import Kind, Reply

if TYPE_CHECKING:  # what handles an operation reads its own declaration
    from gateway.http_calls import Call
    from gateway.http_pages import Page


class Parameter(NamedTuple):
    """Of the query. `schema` is JSON Schema."""

    name: str
    schema: dict[str, Any]
    description: str
    required: bool = False


class Operation(Struct, frozen=True, kw_only=True):
    """One call of the API. `name` is its operationId, and its label in metrics."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    description: str = ""
    command: type[Command] | None = None
    """The command that a key must be allowed to give; None = anybody may call."""
    key: bool | None = None
    """Whether an Idempotency-Key is required (True), possible (False) or of no use (None)."""
    query: tuple[Parameter, ...] = ()
    body: BodyDecoder[Any] | None = None
    media: tuple[str, ...] = ("application/json",)
    """Of the body."""
    streamed: bool = False
    """The body is read as it comes, however long it is."""
    example: Any = None
    """Of the body."""
    answers: dict[int, Any]
    """An example of the answer's body, by HTTP status: a Struct, or text that is no JSON."""
    answer_media: str = "application/json"
    refusals: tuple[Status | Kind, ...] = ()
    """In addition to those that every call may meet."""
    call: Callable[[Call], Command] | None = None
    page: Callable[[Page], Awaitable[Reply]] | None = None

    parameters: frozenset[str] = frozenset()
    """Names that may stand in the query: set by itself."""
    success: int = 200
    """The HTTP status of an answer OK (one that is replayed has 200): set by itself."""

    def __post_init__(self) -> None:
        names = frozenset(parameter.name for parameter in self.query)
        msgspec.structs.force_setattr(self, "parameters", names)
        msgspec.structs.force_setattr(self, "success", max(self.answers))


class RouteTable:
    """Finds the operation that a request means."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = tuple(operations)
        self._fixed: dict[tuple[str, str], Operation] = {}
        self._nested: dict[tuple[str, ...], Operation] = {}
        for operation in self.operations:
            if "{" in operation.path:
                self._nested[operation.method, *_shape(operation.path)] = operation
            else:
                self._fixed[operation.method, operation.path] = operation
        assert len(self._fixed) + len(self._nested) == len(self.operations)

    def find(self, method: str, path: str) -> tuple[Operation, str] | None:
        """The operation and what stands for its `{id}`, as sent; None if there is none.

        An `{id}` that is empty is none.
        """
        if method == "HEAD":
            method = "GET"
        operation = self._fixed.get((method, path))
        if operation is not None:
            return operation, ""
        parts = path.split("/")
        if len(parts) not in _NESTED_PARTS or parts[1] != "v1":
            return None
        operation = self._nested.get((method, parts[2], *parts[4:]))
        return None if operation is None or not parts[3] else (operation, parts[3])

    def methods(self, path: str) -> list[str]:
        """The methods that `path` has; none if there is nothing."""
        return [method for method in _METHODS if self.find(method, path)]


_METHODS: Final = ("GET", "HEAD", "POST", "PUT")
_NESTED_PARTS: Final = (4, 5)


def _shape(path: str) -> tuple[str, ...]:
    empty, version, noun, subject, *action = path.split("/")
    assert (empty, version, subject[0], len(action) < 2) == ("", "v1", "{", True), path
    return (noun, *action)
