"""What is found on a machine, and what of it keeps hosts away: with a real server behind it."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from actors.config import Settings
from actors.installation import Installation, read_installation, write_installation
from actors.machine import Machine, Needs, examine, shares_archive, unfit, witness
from engine.formats import FORMAT, FORMATS
from tests.actors.servers import running

pytestmark = [pytest.mark.redis]

READS = max(FORMATS)


def here(data_dir: Path, *redis: str) -> Settings:
    return Settings(data_dir=str(data_dir), redis=redis, cluster_id="mine", shards=4)


async def answer_of(settings: Settings, needs: Needs) -> str | None:
    """What is unfit about a machine whose settings are these: Ray asks in a thread, too."""
    asked = msgspec.structs.replace(needs, settings=settings.encode())
    return unfit(needs, await asyncio.to_thread(examine, asked.encode()))


async def test_a_machine_like_this_one_is_fit(tmp_path: Path) -> None:
    """It reaches the same server, and its directory says from now on whose it is."""
    async with running(tmp_path / "redis", "redis") as server:
        settings = here(tmp_path / "data", server.url)

        assert None is await answer_of(settings, await Needs.of(settings))

    assert Installation("mine", 4) == read_installation(tmp_path / "data")


async def test_an_archive_of_its_own(tmp_path: Path) -> None:
    """A machine whose archive is another directory is fit all the same, and known; the witness
    leaves nothing behind."""
    async with running(tmp_path / "redis", "redis") as server:
        settings, other = (here(tmp_path / name, server.url) for name in ("data", "other"))
        with witness(tmp_path / "data" / "archive") as name:
            needs = msgspec.structs.replace(await Needs.of(settings), witness=name)
            asked = msgspec.structs.replace(needs, settings=other.encode())
            same, apart = [
                await asyncio.to_thread(examine, each.encode()) for each in (needs, asked)
            ]

    assert [True, False] == [shares_archive(each) for each in (same, apart)]
    assert [None, None] == [unfit(needs, each) for each in (same, apart)]
    assert [] == [*(tmp_path / "data" / "archive").iterdir()]


async def test_another_server_at_the_same_name(tmp_path: Path) -> None:
    """A server that answers there, but is not the one that answers here, is found out."""
    async with (
        running(tmp_path / "here", "redis") as server,
        running(tmp_path / "there", "redis") as other,
    ):
        needs = await Needs.of(here(tmp_path / "data", server.url))

        problem = await answer_of(here(tmp_path / "data", other.url), needs)

    assert problem is not None
    assert problem.startswith("--redis leads to other servers there than here")


async def test_no_server_there(tmp_path: Path) -> None:
    """A server that cannot be reached is named."""
    settings = here(tmp_path / "data", f"unix://{tmp_path}/nobody.sock")

    problem = await answer_of(settings, Needs(settings.encode(), ["run"]))

    assert problem is not None
    assert problem.startswith(f"cannot use Redis at unix:{tmp_path}/nobody.sock")


async def test_several_servers(tmp_path: Path) -> None:
    """They must be the same in the same order; one that is down here is not asked for there."""
    down = f"unix://{tmp_path}/nobody.sock"
    async with (
        running(tmp_path / "first", "redis") as first,
        running(tmp_path / "second", "redis") as second,
    ):
        settings = here(tmp_path / "data", first.url, down, second.url)
        needs = await Needs.of(settings)
        swapped = here(tmp_path / "data", second.url, down, first.url)

        assert ["", None] == [needs.run_ids[1], await answer_of(settings, needs)]
        assert "leads to other servers" in (await answer_of(swapped, needs) or "")

    assert Installation("mine", 4, 3) == read_installation(tmp_path / "data")


async def test_a_directory_of_another_installation(tmp_path: Path) -> None:
    """Marks of another installation would be taken for floors; the directory is refused."""
    write_installation(tmp_path, Installation("another", 4))
    settings = here(tmp_path, "redis://127.0.0.1:1/0")

    problem = await answer_of(settings, Needs(settings.encode(), ["run"]))

    assert f"{tmp_path} there is of another installation" == problem


async def test_settings_that_its_engine_does_not_know(tmp_path: Path) -> None:
    """An engine of another version says so, instead of ending again and again."""
    settings = msgspec.msgpack.encode({"data_dir": str(tmp_path), "from_the_future": 1})
    needs = Needs(settings, ["run"])

    problem = unfit(needs, await asyncio.to_thread(examine, needs.encode()))

    assert problem is not None
    assert problem.startswith("its engine is of another version")
    assert "from_the_future" in problem


@pytest.mark.parametrize(
    ("writes", "reads", "fit"),
    [
        (FORMAT, READS, True),
        (FORMAT, READS + 1, True),
        (FORMAT, FORMAT - 1, False),
        (READS + 1, READS + 1, False),
    ],
)
def test_formats(writes: int, reads: int, fit: bool) -> None:
    """Each side must read what the other writes; a reader that is ahead is how upgrades begin."""
    answer = msgspec.msgpack.encode(Machine(["run"], writes, reads))

    assert fit is (unfit(Needs(b"", ["run"]), answer) is None)


def test_an_engine_that_is_not_there() -> None:
    """What Ray says, at its end, when a machine cannot import what it is to run."""
    problem = unfit(Needs(b"", []), RuntimeError("a long story\nNo module named 'actors'"))

    assert "cannot run this engine; is it installed there? (No module named 'actors')" == problem
