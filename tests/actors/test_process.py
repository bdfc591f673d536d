"""Processes, told apart by more than their ids."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from actors.process import (
    Identity,
    identify,
    is_alive,
    read_identity,
    send_signal,
    terminate,
    tied_to_parent,
    write_identity,
)
from tests.actors.servers import eventually

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); signal.pause()"
OBEDIENT = "import signal; print(); signal.pause()"
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


async def start(*command: str) -> asyncio.subprocess.Process:
    """A process that has said its first line."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    return process


async def started(code: str) -> tuple[asyncio.subprocess.Process, Identity]:
    process = await start(sys.executable, "-c", code)
    assert process.stdout is not None
    await process.stdout.readline()
    identity = identify(process.pid)
    assert identity is not None
    return process, identity


def test_a_process_knows_itself() -> None:
    """This very process is alive, and runs Python."""
    identity = identify(os.getpid())

    assert identity is not None
    assert is_alive(identity)
    assert os.path.realpath(sys.executable) == identity.program


def test_nobody_has_an_impossible_id() -> None:
    """An id beyond what the kernel gives out belongs to nobody."""
    assert None is identify(2**22 + 1)
    assert not send_signal(Identity(2**22 + 1, 1, "/bin/true"), signal.SIGTERM)


@pytest.mark.parametrize("change", [{"started": 1}, {"program": "/bin/other"}])
async def test_a_reused_id_is_left_alone(change: dict[str, int | str]) -> None:
    """Neither another start time nor another program is the process that was meant."""
    process, identity = await started(OBEDIENT)
    other = Identity(**{**identity._asdict(), **change})

    assert not is_alive(other)
    assert not await terminate(other, 1.0)
    assert process.returncode is None
    process.kill()
    await process.wait()


@pytest.mark.parametrize(
    ("code", "number"), [(OBEDIENT, signal.SIGTERM), (STUBBORN, signal.SIGKILL)]
)
async def test_terminate_ends_it(code: str, number: signal.Signals) -> None:
    """Who obeys ends by SIGTERM, who does not by SIGKILL; afterwards it is gone."""
    process, identity = await started(code)

    assert await terminate(identity, 0.2)
    assert not is_alive(identity)
    assert -number == await process.wait()
    assert not await terminate(identity, 0.2)


async def test_a_process_dies_with_its_parent() -> None:
    """The child of a killed parent gets SIGTERM, whatever the parent could not do any more."""
    child = tied_to_parent([sys.executable, "-c", OBEDIENT])
    # The child is tied to the process that starts it, which here is not this one.
    at = child.index(str(os.getpid()))
    code = f"import os, sys; a = sys.argv; a[{at + 1}] = str(os.getpid())" + PARENT
    parent = await start(sys.executable, "-c", code, *child)
    assert parent.stdout is not None
    identity = identify(int(await parent.stdout.readline()))
    assert identity is not None
    assert is_alive(identity)

    parent.kill()
    await parent.wait()
    await eventually(lambda: not is_alive(identity))


async def test_a_process_whose_parent_is_gone_already_does_not_start() -> None:
    """If the parent died before the tie was made, the command is not run."""
    command = tied_to_parent([sys.executable, "-c", "print('ran')"])
    command[command.index(str(os.getpid()))] = "1"
    process = await start(*command)

    output, _ = await process.communicate()
    assert (b"", 1) == (output, process.returncode)


def test_an_identity_is_remembered(tmp_path: Path) -> None:
    """What is written is read, by whoever comes next; nothing is there at first."""
    path = tmp_path / "identity"
    assert None is read_identity(path)
    identity = Identity(7, 9, "/opt/a b/server")

    write_identity(path, identity)

    assert identity == read_identity(path)
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "7", '["a", 2, "c"]', "[1, 2]"])
def test_an_illegible_identity_is_an_error(tmp_path: Path, text: str) -> None:
    """Whom an illegible file meant cannot be guessed."""
    path = tmp_path / "identity"
    path.write_text(text)

    with pytest.raises(ValueError, match="identity names no process"):
        read_identity(path)
