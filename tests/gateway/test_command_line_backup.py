"""`onhand backup` and `onhand restore`: what they say, and what they refuse in one line."""

import asyncio
import json
from pathlib import Path

import pytest

from actors.installation import Installation, write_installation
from actors.journal import RedisJournal
from actors.last_backup import NOTE
from actors.standing_journal import embedded
from engine.codec import GENESIS, START, Position, encode_record
from engine.messages import Genesis
from engine.placement import HASH
from gateway.command_line import run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An engine's data directory, its one shard just begun; nothing runs there."""
    directory = tmp_path / "data"
    directory.mkdir()
    write_installation(directory, Installation("here", 1))

    async def begin() -> None:
        async with embedded(directory / "redis", "always", 64 << 20) as server:
            journal = RedisJournal(server.url)
            await journal.open()
            record, _ = encode_record(0, GENESIS, 7, 0, START, [Genesis("here", 1, HASH)])
            await journal.append(0, GENESIS, record, create=True)
            await journal.close()

    asyncio.run(begin())
    return directory


def test_there_and_back(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both say what they have done, for people and for programs, and nothing else."""
    target = tmp_path / "backup"
    assert 0 == run(["backup", "--data-dir", str(data), "--to", str(target)])
    printed, errors = capsys.readouterr()
    assert "" == errors
    assert printed.startswith("1 records of 1 shards, ")
    assert printed.endswith(f" MB, backed up to {target}\n")
    assert (data / NOTE).is_file()

    assert 0 == run(["restore", str(target), "--data-dir", str(tmp_path / "new"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (str(tmp_path / "new"), "here", 1) == (
        said["directory"],
        said["cluster_id"],
        said["records"],
    )
    assert [str(Position(0, 1))] == [f"{s['epoch']}-{s['sequence']}" for s in said["shards"]]

    again = tmp_path / "again"
    assert 0 == run(
        ["backup", "--data-dir", str(tmp_path / "new"), "--to", str(again), "--no-archive"]
    )


def test_what_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1 and one line, and nothing is written."""
    target = str(tmp_path / "backup")
    assert 0 == run(["backup", "--data-dir", str(data), "--to", target])
    file = next((tmp_path / "backup" / "journal" / "0").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    before = set(tmp_path.iterdir())
    for arguments, said in (
        (["backup", "--data-dir", str(data), "--to", target], f"{target} exists already"),
        (
            ["backup", "--data-dir", str(tmp_path / "no"), "--to", f"{target}-2"],
            f"there is no data directory {tmp_path / 'no'}",
        ),
        (["restore", str(data), "--data-dir", f"{target}-2"], f"{data} is no backup: "),
        (["restore", target, "--data-dir", f"{target}-2"], f"{file}: "),
        (["restore", target, "--data-dir", str(data)], f"{file}: "),
    ):
        assert 1 == run(arguments)
        printed, errors = capsys.readouterr()
        assert "" == printed
        assert errors.startswith(f"onhand: {said}")
        assert 1 == errors.count("\n")
    assert before == set(tmp_path.iterdir())
    assert 2 == run(["restore", target])
    assert 2 == run(["backup"])


def test_long_ones_say_how_far_they_are(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, so that the result stays the result."""
    monkeypatch.setattr("gateway.command_line_backup._PATIENCE_SECONDS", 0.0)
    assert 0 == run(["backup", "--data-dir", str(data), "--to", str(tmp_path / "backup"), "--json"])
    printed, errors = capsys.readouterr()

    assert "here" == json.loads(printed)["cluster_id"]
    assert ["shards: 0 of 1", "archives: 0 of 1", "verifying"] == errors.splitlines()
