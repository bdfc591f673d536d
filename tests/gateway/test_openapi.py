"""The description: valid, complete, and true of what is served."""

import re
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Struct
from openapi_spec_validator import validate

from actors.control import Map
from engine import limits
from engine.messages import STATE_NAMES
from gateway.http_routes import RouteTable
from gateway.http_table import OPERATIONS
from gateway.http_types import Reservation
from gateway.moves import move_operation
from gateway.openapi import describe, document
from gateway.problems import EDGE_KINDS, TABLE
from gateway.restarts import restart_operation
from gateway.status import status_operation
from tests.gateway.http_engine import serving


async def _restart(name: str) -> str | None:
    return None


async def _move(shard: int, host: str) -> str | None:
    return None


EVERY = (
    *OPERATIONS,
    move_operation(_move),
    restart_operation(_restart),
    status_operation(lambda: Map(0, 1, [], [], {})),
)
"""What a gateway serves."""
DESCRIPTION = describe(EVERY)
RESPONSES = [
    (path, method, http, response)
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
    for http, response in operation["responses"].items()
]


def test_it_is_valid() -> None:
    """By the OpenAPI 3.1 schema."""
    validate(msgspec.json.decode(document(RouteTable(EVERY))))


def test_what_it_refers_to_is_there() -> None:
    """Each name is that of one schema; two of one name would be neither."""
    text = document(RouteTable(EVERY)).decode()

    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert set() == names - DESCRIPTION["components"]["schemas"].keys()


def test_every_operation_is_described_and_every_description_served() -> None:
    """The page and the table are the same list."""
    described = {
        (method.upper(), path, operation["operationId"])
        for path, operations in DESCRIPTION["paths"].items()
        for method, operation in operations.items()
    }

    assert {(each.method, each.path, each.name) for each in EVERY} == described


@pytest.mark.parametrize("operation", EVERY, ids=lambda each: each.name)
def test_every_described_path_is_found(operation: Any) -> None:
    """What is described under a path is what a request to it reaches."""
    table = RouteTable(EVERY)
    path = re.sub(r"\{\w+\}", "x", operation.path)

    assert (operation, "x" if "{" in operation.path else "") == table.find(operation.method, path)
    assert (operation.call is None) != (operation.page is None)


async def test_the_page_is_the_description() -> None:
    """/openapi.json, as JSON."""
    async with serving() as server:
        answered = await server.get("/openapi.json")

    assert "application/json" == answered.headers["content-type"]
    assert describe(OPERATIONS) == answered.body


@pytest.mark.parametrize(("path", "method", "http", "response"), RESPONSES)
def test_every_answer_has_an_example(path: str, method: str, http: str, response: Any) -> None:
    """Successes show a body of their type, refusals one problem per code."""
    ((media, content),) = response["content"].items()
    if int(http) < 400:
        assert "example" in content or path == "/openapi.json"
        return
    assert "application/problem+json" == media
    for code, example in content["examples"].items():
        assert (code, int(http)) == (example["value"]["code"], example["value"]["status"])
        assert f"`{code}`" in response["description"]


def test_examples_of_bodies_are_bodies() -> None:
    """Each example would be accepted by the call that it belongs to."""
    for operation in EVERY:
        if operation.body is not None:
            operation.body.decode(msgspec.json.encode(operation.example))


def test_examples_of_answers_are_answers() -> None:
    """Each is what its type says, after a trip through JSON."""
    for operation in EVERY:
        for body in operation.answers.values():
            if isinstance(body, Struct):
                data = msgspec.json.encode(body)
                assert body == msgspec.json.decode(data, type=type(body))


def test_every_code_is_described_somewhere() -> None:
    """A code that a caller can meet stands in the page, but for those that no call has.

    A stale count is refused inside the answer to a list of movements.
    """
    found = {
        code
        for *_, response in RESPONSES
        for content in response["content"].values()
        for code in content.get("examples", {})
    }
    kinds = {kind.code for kind in (*TABLE.values(), *EDGE_KINDS)}

    none = {"ok", "replayed", "internal", "not_found", "method_not_allowed", "stale_count"}
    assert none == kinds - found


def test_states_have_one_spelling() -> None:
    """The words of an answer are the engine's."""
    status = Reservation.__annotations__["status"]

    assert tuple(STATE_NAMES.values()) == get_args(status)


def test_ids_show_the_plain_pattern() -> None:
    """What guards against a final newline here would confuse other readers."""
    schema = DESCRIPTION["components"]["schemas"]["ReserveLine"]["properties"]["sku"]

    assert limits.ID_PATTERN == schema["pattern"]
    assert "(?!" not in document(RouteTable(EVERY)).decode()
