"""The command `audit`: shard by shard, so that one which cannot be audited hides no other.

A host audits one shard at a time, and a gateway waits a minute for an answer: whoever asks for all
shards at once waits that minute for the first one that is late, and learns nothing of the rest. So
shards are asked for one by one, those of different hosts beside each other, each with a minute of
its own; what was found is shown together with what could not be found out, and the exit status is
that of the worst.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, as_completed
from threading import Thread
from typing import Annotated, Any, Final, NamedTuple

from cyclopts import App, Parameter
from rich.console import Console

from gateway.command_line_engine import THE_ENGINE, Engine, FailedError, say_json, show, table
from gateway.http_client import HttpClient, UnreachableError

_NUMBERS: Final = (
    *("skus", "on_hand", "reserved", "allocated", "available", "shipped"),
    *("drift", "damage", "replayed", "checks"),
)
_LISTS: Final = ("findings", "shards")
_COUNTS: Final = ("reservations", "units")


class Refused(NamedTuple):
    """A shard that was not audited, and why."""

    shard: int
    reason: str


Found = dict[str, Any] | Refused


def audit(
    *,
    shard: Annotated[tuple[int, ...], Parameter(negative=(), consume_multiple=False)] = (),
    quick: Annotated[bool, Parameter(negative=())] = False,
    engine: Engine = THE_ENGINE,
) -> int:
    """Hold shards against their reservations and against their journal.

    Every counter is recomputed from the reservations; then the journal is replayed beside the
    shard, every record proven, and what comes out is compared.

    Exit status 1 if anything disagrees, is not replayed, or is not audited at all. For example,
    all shards, or two of them:

        onhand audit

        onhand audit --shard 3 --shard 5

    Parameters
    ----------
    shard
        Only this one; may be given several times.
    quick
        Leave out the replay.
    """
    client = engine.client()
    reply = client.get("/v1/shards")
    if not reply.ok:
        raise FailedError(reply.refusal)
    hosts = {row["shard"]: row["host"] for row in reply.body["shards"]}
    wanted = sorted(set(shard)) or sorted(hosts)
    report: dict[str, Any] = {}
    refused: list[Refused] = []
    with Console(stderr=True).status("auditing") as shown:
        for done, found in enumerate(_ask(client, wanted, hosts, quick), 1):
            shown.update(f"auditing: {done} of {len(wanted)} shards")
            if isinstance(found, Refused):
                refused.append(found)
            else:
                _add(report, found)
    return _say(report, sorted(refused), quick=quick, json=engine.json)


def _ask(
    client: HttpClient, shards: Iterable[int], hosts: Mapping[int, str | None], quick: bool
) -> Iterator[Found]:
    """What comes of each, as it comes: one at a time of each host."""
    queues: dict[str | None, dict[int, Future[Found]]] = defaultdict(dict)
    for shard in shards:
        queues[hosts.get(shard)][shard] = Future()
    for queue in queues.values():  # daemons, so that an interrupt does not wait for them
        Thread(target=_work_off, args=(client, queue, quick), daemon=True).start()
    for each in as_completed([future for queue in queues.values() for future in queue.values()]):
        yield each.result()


def _work_off(client: HttpClient, queue: Mapping[int, Future[Found]], quick: bool) -> None:
    for shard, future in queue.items():
        try:
            reply = client.post("/v1/audit", shard=shard, quick=str(quick).lower())
            future.set_result(reply.body if reply.ok else Refused(shard, reply.refusal))
        except UnreachableError as error:
            future.set_result(Refused(shard, str(error)))
        except Exception as error:  # a bug: raised where the result is waited for
            future.set_exception(error)


def _add(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Of one more shard, to what there is of others."""
    if not report:
        report.update(found)
        return
    for name in (*_NUMBERS, *_LISTS):
        report[name] = report[name] + found[name]
    for name in _COUNTS:
        for state, count in found[name].items():
            report[name][state] = report[name].get(state, 0) + count
    report["complete"] = report["complete"] and found["complete"]


def _say(report: dict[str, Any], refused: list[Refused], *, quick: bool, json: bool) -> int:
    """Print it; the exit status."""
    report.get("shards", []).sort(key=lambda each: each["shard"])
    complete = not refused and (quick or report["complete"])
    is_clean = complete and not report["drift"] and not report["findings"]
    if json:
        say_json(report | {"refused": [each._asdict() for each in refused]})
    elif report:
        _show(report)
        print("clean" if is_clean else "not clean")
    for each in report.get("shards", ()):
        if each["skipped"]:
            text = "shard {shard} was not replayed, because {skipped}".format(**each)
            print(text, file=sys.stderr)
    for shard, reason in refused:
        print(f"shard {shard} was not audited: {reason}", file=sys.stderr)
    return 0 if is_clean else 1


def _show(report: dict[str, Any]) -> None:
    made = table("", "", numbers=("",))
    for name in _NUMBERS:
        made.add_row(name.replace("_", " "), f"{report[name]:,}")
    for state, count in report["reservations"].items():
        made.add_row(f"reservations {state}", f"{count:,}")
    show(made)
    for finding in report["findings"]:
        print(finding, file=sys.stderr)


def register(app: App) -> None:
    """Make it a command of `app`."""
    app.command(audit, name="audit")
