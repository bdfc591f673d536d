"""The end of an engine, and what stands in the way of a second one."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.checker import check
from tests.faults.conftest import Figures
from tests.faults.engine_process import StartError, running, start
from tests.faults.history import History, statuses
from tests.faults.load import load, stock

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.redis]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load(
    tmp_path: Path, figures: Figures, number: signal.Signals
) -> None:
    """In order, exit status 0, no process and no socket left; everything there at the next start,
    which nobody else may have in the meantime, nor with another number of shards."""
    history = History()
    loop = asyncio.get_running_loop()
    async with running(tmp_path, "--shards", "8") as engine:
        await stock(engine, history)
        async with load(engine, history, name="before") as buyers:
            await buyers.until(3_000)
            with pytest.raises(StartError, match="is in use by process") as second:
                await start(tmp_path)
            assert 1 == second.value.code
            assert str(engine.pid) in second.value.said
            await buyers.until(500)
            before = loop.time()
            assert 0 == await engine.stop(number)
            took = loop.time() - before
        assert [] == engine.left_running()
        assert not engine.run_dir.exists()
        last = engine.log("coordinator")[-1]["event"]
    with pytest.raises(StartError, match="--shards is 4, but") as other:
        await start(tmp_path, "--shards", "4")
    assert 1 == len(other.value.said.splitlines())

    async with running(tmp_path, "--shards", "8") as engine:
        books = await check(engine, history)
    figures(stopped_s=took, last_log=last, **books.figures, heard=statuses(history.attempts))
