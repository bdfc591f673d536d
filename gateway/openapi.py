"""The OpenAPI 3.1 description, made of the table that is served.

Nothing is written down twice: paths, parameters, bodies and answers come from the operations,
schemas from their types, refusals from the table of problems, examples from values of those types.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from engine import limits
from engine.messages import Status
from gateway import problems
from gateway.http_routes import Operation, RouteTable
from gateway.http_types import NO_NEWLINE
from gateway.problems import PROBLEM_MEDIA, TABLE, Kind, Problem, problem

OPENAPI: Final = "3.1.1"
VERSION: Final = "1"
_PROBLEM: Final = PROBLEM_MEDIA.decode()
_REF: Final = "#/components/schemas/{name}"
_ID: Final = {"type": "string", "pattern": limits.ID_PATTERN, "examples": ["cart-7"]}
_DESCRIPTION: Final = """\
Reserve, commit and release stock; move it; see what may be sold.

Every refusal is an RFC 9457 problem document: test its `code`, which never changes. Where
`retryable` is true, the very same request may be sent again: requests are named by their
reservation id or Idempotency-Key, and have no second effect.
"""
_OF_ALL: Final[tuple[Kind | Status, ...]] = (
    Status.INVALID,
    problems.MALFORMED_HTTP,
    problems.ORIGIN_NOT_ALLOWED,
    problems.REQUEST_TIMEOUT,
    problems.BODY_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.MISDIRECTED,
    problems.HEADERS_TOO_LARGE,
    problems.TOO_MANY_CONNECTIONS,
)
_OF_COMMANDS: Final[tuple[Kind | Status, ...]] = (
    Status.UNAUTHENTICATED,
    Status.FORBIDDEN,
    Status.TOO_MANY_REQUESTS,
    Status.NOT_DONE,
    Status.OUTCOME_UNKNOWN,
    Status.OVERLOADED,
    Status.MOVED,
    Status.SHARD_STOPPED,
)


@lru_cache(maxsize=4)
def document(routes: RouteTable) -> bytes:
    """The description as JSON."""
    return msgspec.json.encode(describe(routes.operations))


def describe(operations: Iterable[Operation]) -> dict[str, Any]:
    """The description of these operations."""
    operations = tuple(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    types = [Problem]
    types += (each.body.body for each in operations if each.body is not None)
    types += (type(body) for each in operations for body in each.answers.values())
    structs = [each for each in dict.fromkeys(types) if issubclass(each, Struct)]
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    return {
        "openapi": OPENAPI,
        "info": {"title": "Onhand", "version": VERSION, "description": _DESCRIPTION},
        "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in operations)],
        "paths": paths,
        "components": {
            "schemas": _published(schemas),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _published(schema: Any) -> Any:
    """`schema` with its patterns as other readers understand them."""
    if isinstance(schema, dict):
        return {name: _published(part) for name, part in schema.items()}
    if isinstance(schema, list):
        return [_published(part) for part in schema]
    return schema.removesuffix(NO_NEWLINE) if isinstance(schema, str) else schema


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        found["description"] = operation.description
    parameters = list(_parameters(operation))
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None or operation.streamed:
        found["requestBody"] = _request_body(operation)
    found["responses"] = _responses(operation)
    # Without keys, callers of the same machine are let in: hence the empty alternative.
    found["security"] = [{}, {"key": []}] if operation.command is not None else []
    return found


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    _, brace, rest = operation.path.partition("{")
    if brace:
        yield _parameter(rest.partition("}")[0], "path", _ID, "", required=True)
    for parameter in operation.query:
        yield _parameter(
            parameter.name,
            "query",
            parameter.schema,
            parameter.description,
            required=parameter.required,
        )
    if operation.key is not None:
        text = "Names the request: the same again has no second effect. With quotes or without."
        yield _parameter("Idempotency-Key", "header", _ID, text, required=operation.key)


def _parameter(
    name: str, place: str, schema: dict[str, Any], description: str, *, required: bool
) -> dict[str, Any]:
    found = {"name": name, "in": place, "required": required, "schema": schema}
    return found | ({"description": description} if description else {})


def _request_body(operation: Operation) -> dict[str, Any]:
    if operation.body is None:
        content = {media: {"schema": {"type": "string"}} for media in operation.media}
        content[operation.media[0]]["example"] = operation.example
        return {"required": True, "content": content}
    entry = {"schema": _ref(operation.body.body), "example": msgspec.to_builtins(operation.example)}
    return {
        "required": not operation.body.optional,
        "content": dict.fromkeys(operation.media, entry),
    }


def _ref(body: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=body.__name__)}


def _responses(operation: Operation) -> dict[str, Any]:
    responses = {str(http): _answer(operation, http) for http in operation.answers}
    for http, kinds in sorted(_refusals(operation).items()):
        responses[str(http)] = _refusal(kinds)
    return responses


def _answer(operation: Operation, http: int) -> dict[str, Any]:
    body = operation.answers[http]
    if isinstance(body, Struct):
        content = {"schema": _ref(type(body)), "example": msgspec.to_builtins(body)}
    elif operation.answer_media == "application/json":
        content = {"schema": {"type": "object"}}
    else:
        content = {"schema": {"type": "string"}, "example": body}
    replayed = http < operation.success
    return {
        "description": "Done before; how it stands now." if replayed else operation.summary,
        "content": {operation.answer_media: content},
    }


def _refusals(operation: Operation) -> dict[int, list[Kind]]:
    """The kinds that an operation may be refused by, by HTTP status."""
    general = _OF_ALL if operation.command is None else (*_OF_ALL, *_OF_COMMANDS)
    kinds: dict[int, list[Kind]] = {}
    for each in dict.fromkeys((*general, *operation.refusals)):
        kind = TABLE[each] if isinstance(each, Status) else each
        kinds.setdefault(kind.http, []).append(kind)
    return kinds


def _refusal(kinds: list[Kind]) -> dict[str, Any]:
    examples = {
        kind.code: {"summary": kind.title, "value": msgspec.to_builtins(problem(kind))}
        for kind in kinds
    }
    found: dict[str, Any] = {
        "description": "; ".join(f"`{kind.code}`" for kind in kinds),
        "content": {_PROBLEM: {"schema": _ref(Problem), "examples": examples}},
    }
    headers: dict[str, Any] = {}
    if any(kind.retry_after for kind in kinds):
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds."}
    if kinds[0].http == 401:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    return found | ({"headers": headers} if headers else {})
