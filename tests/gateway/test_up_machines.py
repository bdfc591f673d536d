"""How `onhand up` takes it that machines are late, or unfit; without any."""

import msgspec
import pytest
from structlog.testing import capture_logs

from actors.cluster import Told
from actors.machine import Machine, Needs
from engine.formats import FORMAT, FORMATS
from gateway import up
from gateway.up import UpError, sort_out, wait_for_machines

NEEDS = Needs(b"", ["run"])
LIKE_OURS = Machine(["run"], FORMAT, max(FORMATS), shares_archive=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "MACHINES_LOOK_SECONDS", 0.001)


def told(node: str, machine: Machine = LIKE_OURS) -> Told:
    return Told(node, f"{node}.example", msgspec.msgpack.encode(machine))


async def test_machines_are_waited_for() -> None:
    """As long as one is missing, and that is said; nothing is if all are there."""
    coming = [["a"], ["a"], ["a", "b"], ["a", "b", "c"]]

    async def there() -> list[str]:
        return coming.pop(0)

    with capture_logs() as logs:
        await wait_for_machines(there, 3, 60)
    assert [("waits_for_machines", 3, ["a"])] == [
        (each["event"], each["wanted"], each["there"]) for each in logs
    ]
    assert [] == coming

    coming.append(["a"])
    with capture_logs() as logs:
        await wait_for_machines(there, 1, 60)
    assert [] == logs


async def test_not_for_ever() -> None:
    """The engine starts on what is there, and says what is missing."""

    async def there() -> list[str]:
        return ["a"]

    with capture_logs() as logs:
        await wait_for_machines(there, 2, 0.05)

    last = logs[-1]
    assert ("machines_missing", "error", ["a"]) == (last["event"], last["log_level"], last["there"])


def test_one_unfit_machine_keeps_nobody_down() -> None:
    """It is named, with the reason, and gets no hosts."""
    other = msgspec.structs.replace(LIKE_OURS, problem="cannot use /data: Read-only file system")
    silent = Told("c", "c.example", TimeoutError("no answer within 60 s"))

    with capture_logs() as logs:
        assert {"b", "c"} == sort_out(NEEDS, [told("a"), told("b", other), silent], "a")

    errors = [each for each in logs if each["log_level"] == "error"]
    assert [
        ("b.example", "cannot use /data: Read-only file system"),
        (
            "c.example",
            "cannot run this engine; is it installed there? (no answer within 60 s)",
        ),
    ] == [(each["address"], each["problem"]) for each in errors]


def test_this_machine_must_be_fit() -> None:
    """The coordinator and the gateways are here."""
    with pytest.raises(UpError, match=r"the machine at a\.example: cannot use /data"):
        sort_out(NEEDS, [told("b"), told("a", Machine([], 1, 1, "cannot use /data"))], "a")


def test_an_archive_of_its_own_is_told() -> None:
    """Of those that are to be used."""
    apart = msgspec.structs.replace(LIKE_OURS, shares_archive=False)

    with capture_logs() as logs:
        assert set() == sort_out(NEEDS, [told("a"), told("b", apart)], "a")

    assert [["b.example"]] == [
        each["addresses"] for each in logs if each["event"] == "archive_not_shared"
    ]
