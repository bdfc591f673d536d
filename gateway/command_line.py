"""The command line: `onhand`, and what it can do.

Exit status 0: done. 1: it could not be done, and stderr says why in one line. 2: the command makes
no sense. `bench run` adds 3: the audit failed. An interrupt is quiet: 130.

What a command needs is imported when it runs: `onhand stock` does not wait for Ray, and the
benchmark is loaded by nobody but `onhand bench`.
"""

import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError

from actors.edition import installed_version
from actors.keys import KeysError
from gateway import (
    command_line_audit,
    command_line_backup,
    command_line_bench,
    command_line_engine,
    command_line_export,
    command_line_history,
    command_line_server,
)
from gateway.command_line_engine import FailedError, UsageError
from gateway.http_client import UnreachableError
from gateway.place import PlaceError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


def make_app() -> App:
    """All commands."""
    app = App(
        name="onhand",
        help="A real-time, multichannel inventory and order engine.",
        help_format="markdown",
        version=installed_version,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    command_line_server.register(app)
    command_line_backup.register(app)
    command_line_engine.register(app)
    command_line_audit.register(app)
    command_line_export.register(app)
    command_line_history.register(app)
    command_line_bench.register(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """One command; its exit status."""
    try:
        status = make_app()(list(arguments))
    except (CycloptsError, UsageError) as error:
        return complain(str(error), USAGE)
    except (FailedError, KeysError, PlaceError, UnreachableError) as error:
        return complain(str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return FAILED
    return status if isinstance(status, int) else OK


def complain(reason: str, status: int) -> int:
    print(f"onhand: {reason.strip()}", file=sys.stderr)
    return status


def main() -> None:
    """The entry point of the script `onhand`."""
    sys.exit(run(sys.argv[1:]))
