"""Prebuilt requests are what the engine's own decoders read."""

import json
from random import Random

import httptools
import pytest

from bench.requests import ID_CHARS, Act, BinaryDialect, HttpDialect, reservation_id
from bench.scenarios import ANY, SCENARIOS, Parcel
from engine import limits
from engine.messages import Commit, LineRequest, Release, Request, Reserve
from engine.wire import FrameReader, decode_request

SCENARIO = SCENARIOS["checkout"]
NAMES = ["plain", "with%percent"]
PREFIX = "run%d-".ljust(24, "x")


def binary() -> BinaryDialect:
    return BinaryDialect(NAMES, [3, 4_095], PREFIX, SCENARIO)


def decode(frame: bytes) -> Request:
    (payload,) = FrameReader().feed(frame)
    return decode_request(payload)


@pytest.mark.parametrize("shard", [ANY, 0, 7, 4_095])
@pytest.mark.parametrize("count", [1, 2, 64, 1_000])
def test_a_binary_reserve_is_what_the_engine_reads(count: int, shard: int) -> None:
    """Every field arrives, whatever bytes lengths, ids and numbers happen to be made of."""
    dialect = binary()
    random = Random(count)
    skus = tuple(random.choices(range(2), k=count))
    template = dialect.template(Parcel(shard, skus, False))

    for request_id, first in ((1, 0), (0x25252525, 37), (2**32 - 1, 999_999_000)):
        request = decode(dialect.reserve(template, request_id, first, count))

        assert request_id == request.request_id
        assert limits.DEADLINE_MS_DEFAULT == request.deadline_ms
        expected = [
            Reserve(
                reservation_id(PREFIX, first + number),
                [LineRequest(NAMES[sku], 1)],
                ttl_seconds=SCENARIO.hold_seconds,
            )
            for number, sku in enumerate(skus)
        ]
        assert expected == request.commands
        assert shard == request.shard, "ANY is spelt as an unknown home is"


def test_a_brief_reserve_has_a_short_time() -> None:
    """What is to expire is reserved for the scenario's brief time."""
    dialect = binary()
    template = dialect.template(Parcel(0, (0,), True))

    (command,) = decode(dialect.reserve(template, 1, 5, 1)).commands

    assert isinstance(command, Reserve)
    assert SCENARIO.brief_seconds == command.ttl_seconds


def test_commits_and_releases_know_their_home() -> None:
    """One frame may finish several reservations, in order, each at its home."""
    frame = binary().finish(9, [Act(True, 7, 0), Act(False, 8, 1)])

    assert [
        Commit(reservation_id(PREFIX, 7), 3),
        Release(reservation_id(PREFIX, 8), 4_095),
    ] == decode(frame).commands


def test_ids_are_as_long_as_uuids() -> None:
    """36 characters, so that sizes are those of real requests."""
    assert ID_CHARS == len(reservation_id(PREFIX, 10**12 - 1))


class Parsed:
    """One HTTP request, as httptools reads it."""

    def __init__(self, data: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.url = self.body = b""
        self.complete = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def test_an_http_reserve_is_one_request() -> None:
    """Line, headers and JSON body agree with each other."""
    dialect = HttpDialect(NAMES, [3, 5], PREFIX, SCENARIO, "localhost:8080", "secret")
    template = dialect.template(Parcel(0, (1,), False))

    parsed = Parsed(dialect.reserve(template, 1, 42, 1))

    assert parsed.complete
    assert b"/v1/reservations" == parsed.url
    assert ("localhost:8080", "Bearer secret", "application/json") == tuple(
        parsed.headers[name] for name in ("Host", "Authorization", "Content-Type")
    )
    assert {
        "reservation_id": reservation_id(PREFIX, 42),
        "ttl_seconds": SCENARIO.hold_seconds,
        "lines": [{"sku": NAMES[1], "quantity": 1}],
    } == json.loads(parsed.body)


@pytest.mark.parametrize("commit", [True, False])
def test_an_http_finish_names_the_reservation(commit: bool) -> None:
    """Commit and release have no body, and send the home back."""
    dialect = HttpDialect(NAMES, [3, 5], PREFIX, SCENARIO, "localhost:8080", None)

    parsed = Parsed(dialect.finish(1, [Act(commit, 42, 1)]))

    verb = "commit" if commit else "release"
    assert f"/v1/reservations/{reservation_id(PREFIX, 42)}/{verb}?home=5" == parsed.url.decode()
    assert "0" == parsed.headers["Content-Length"]
    assert parsed.complete
