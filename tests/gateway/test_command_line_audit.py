"""`onhand audit`, against an engine over HTTP: what of it is worst is what it says in the end."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from engine.messages import Answer, Audit, AuditView, Command, Status
from gateway.command_line import run
from tests.gateway.http_engine import SHARDS, Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        server.engine.replaced = lambda command: found(command)
        yield server


def found(command: Command, drift: int = 0, complete: bool = True) -> Answer | None:
    """What a shard says of itself that has ten units of a SKU."""
    if not isinstance(command, Audit):
        return None
    texts = [f"finding {number}" for number in range(drift)]
    view = AuditView(
        *(command.shard, 1, 2, bytes(16), 1, 10, 0, 0, 10, 0, {"reserved": 1}, {}, drift, texts),
        complete=complete and not command.quick,
        skipped="" if complete else "it was overtaken",
    )
    return Answer(Status.OK, view)


async def audit(server: Server, *arguments: str) -> int:
    port = str(server.port)
    return await asyncio.to_thread(run, ["audit", "--port", port, *arguments])


async def test_every_shard_is_asked_by_itself(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what they say is added up, in their order."""
    assert 0 == await audit(server, "--json")

    report = json.loads(capsys.readouterr().out)
    assert [Audit(shard) for shard in range(SHARDS)] == server.engine.commands
    assert (SHARDS, SHARDS * 10, True) == (report["skus"], report["on_hand"], report["complete"])
    assert {"reserved": SHARDS} == report["reservations"]
    assert [*range(SHARDS)] == [each["shard"] for each in report["shards"]]
    assert [] == report["refused"]


async def test_some_shards(server: Server) -> None:
    """Those that are named, and no other, as quickly as is asked for."""
    assert 0 == await audit(server, "--shard", "2", "--shard", "0", "--quick")

    assert [Audit(0, True), Audit(2, True)] == server.engine.commands


async def test_a_refusal_hides_no_finding(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was found is shown beside what could not be found out, and the status is that of the
    worst."""

    def answer(command: Command) -> Answer | None:
        if isinstance(command, Audit) and command.shard == 1:
            return Answer(Status.SHARD_STOPPED)
        return found(command, drift=int(command == Audit(2)))

    server.engine.replaced = answer
    assert 1 == await audit(server)

    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["on", "hand", f"{(SHARDS - 1) * 10}"] in lines
    assert "shard 2: finding 0" in printed.err
    assert "shard 1 was not audited: " in printed.err
    assert "shard_stopped" in printed.err


@pytest.mark.parametrize(
    ("drift", "complete", "status"), [(0, True, 0), (0, False, 1), (2, True, 1)]
)
async def test_one_shard_decides(
    server: Server,
    capsys: pytest.CaptureFixture[str],
    drift: int,
    complete: bool,
    status: int,
) -> None:
    """All others are clean; the last line is the verdict."""
    server.engine.replaced = lambda command: (
        found(command, drift, complete) if command == Audit(3) else found(command)
    )

    assert status == await audit(server)
    assert ["clean", "not clean"][status] == capsys.readouterr().out.splitlines()[-1]


async def test_nobody_can_be_audited(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard that there is not, for one: there are no sums, and the status is 1."""
    assert 1 == await audit(server, "--shard", "99")

    printed = capsys.readouterr()
    assert ("", 1) == (printed.out, printed.err.count("\n"))
    assert "shard 99 was not audited: " in printed.err
