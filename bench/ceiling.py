"""The generator measured alone: the same run, against a target that does nothing.

What it reaches here is the most that it can measure of an engine; a figure near it says more about
the generator than about the engine.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.options import Target


@asynccontextmanager
async def echo() -> AsyncIterator[Target]:
    """A process that answers everything at once, and ends with the block."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.echo", stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        binary = (await process.stdout.readline()).decode().strip()
        http = (await process.stdout.readline()).decode().strip().removeprefix("tcp:")
        yield Target(
            url=f"http://{http}",
            binary=binary,
            pids={"echo": [process.pid]},
            about={"target": "a handler that answers at once"},
            is_engine=False,
        )
    finally:
        process.stdin.close()
        await process.wait()
