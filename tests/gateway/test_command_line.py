"""The command line: every command against one real engine, and everything that can be refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.command_line import run
from gateway.command_line_engine import UsageError, line
from gateway.command_line_server import memory_bytes

ENTRY = "from gateway.command_line import main; main()"
ROOT = Path(__file__).parents[2]
READY_SECONDS = 90


class Served:
    """`onhand up` in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        arguments = ["up", "--port=0", "--binary-port=0", "--shards=5", "--hosts=2", "--json"]
        command = [sys.executable, "-c", ENTRY, *arguments, f"--data-dir={data_dir}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=READY_SECONDS)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    engine = Served(tmp_path_factory.mktemp("data"))
    yield engine
    status, errors = engine.stop()
    assert (0, "") == (status, errors), "an interrupted engine stops in order, and quietly"


class Shell:
    """Runs commands against the engine, as a terminal would."""

    def __init__(self, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
        self._url = served.ready["http"]
        self._capsys = capsys
        self.errors = ""

    def status(self, *arguments: str) -> int:
        return self.text(*arguments)[0]

    def text(self, *arguments: str) -> tuple[int, str]:
        status = run([*arguments, "--url", self._url])
        printed, self.errors = self._capsys.readouterr()
        return status, printed

    def json(self, *arguments: str) -> Any:
        status, printed = self.text(*arguments, "--json")
        assert 0 == status, self.errors
        return json.loads(printed)

    def wait(self, condition: Callable[[Any], bool]) -> None:
        """Until what `onhand status` says meets the condition; 1 = some shard is on its way."""
        until = time.monotonic() + READY_SECONDS
        while not condition(json.loads(self.text("status", "--json")[1])):
            assert time.monotonic() < until, "it did not come to that"


@pytest.fixture
def shell(served: Served, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(served, capsys)


@pytest.mark.ray
def test_stock_is_received_and_shown(shell: Shell) -> None:
    """A movement is booked once however often it is sent, and the stock is shown after it."""
    receive = ("stock", "tee", "--receive", "40", "--location", "berlin", "--reference", "PO-17")

    for _ in range(2):
        found = shell.json(*receive, "--idempotency-key", "delivery-1")

    assert (40, 40) == (found["on_hand"], found["available"])
    status, printed = shell.text("stock", "tee")
    assert 0 == status
    assert ["berlin", "40", "0", "0", "0", "40"] == printed.splitlines()[1].split()
    assert 40 == shell.json("stock", "tee", "--channel", "web")["available_to_promise"]


@pytest.mark.ray
def test_a_reservation_from_start_to_end(shell: Shell) -> None:
    """Reserve, reserve again, commit; reserve, release: each as the engine says it."""
    shell.json("stock", "cap", "--receive", "10", "--location", "main")

    first = shell.json("reserve", "cap=3@main", "--id", "order-1", "--ttl", "60")
    again = shell.json("reserve", "cap=3@main", "--id", "order-1", "--ttl", "60")
    committed = shell.json("commit", "order-1", "--home", str(first["home"]))

    assert first == again
    assert ("reserved", "committed") == (first["status"], committed["status"])
    other = shell.json("reserve", "cap=2")
    assert "released" == shell.json("release", other["reservation_id"])["status"]
    part = shell.json("reserve", "cap=4")
    assert 1 == shell.json("commit", part["reservation_id"], "cap=1")["lines"][0]["quantity"]
    found = shell.json("stock", "cap")
    assert (10, 0, 4) == (found["on_hand"], found["reserved"], found["allocated"])
    status, printed = shell.text("reserve", "cap")
    assert 0 == status
    assert "1 × cap: 1 main" in printed


@pytest.mark.ray
def test_the_past_is_shown(shell: Shell) -> None:
    """What changed a SKU, page by page, and its stock as of one of those movements."""
    for number in ("3", "4"):
        shell.json("stock", "hat", "--receive", number, "--location", "main", "--reason", "bought")
    shell.json("reserve", "hat=2", "--id", "hats", "--channel", "web")

    first = shell.json("movements", "hat", "--limit", "1")
    rest = shell.json("movements", "hat", "--after", first["next"])
    assert [("received", 4), ("reserved", 2)] == [
        (each["kind"], each["quantity"]) for each in rest["movements"]
    ]
    place, then = (first["movements"][0][name] for name in ("place", "time"))
    position = place.rpartition("-")[0]
    assert 3 == shell.json("stock", "hat", "--as-of", position)["on_hand"]
    assert 3 == shell.json("stock", "hat", "--as-of", then)["on_hand"]
    assert (0, f"as of {then}, record {position}") == (
        (shown := shell.text("stock", "hat", "--as-of", position))[0],
        shown[1].splitlines()[0],
    )
    status, printed = shell.text("movements", "hat", "--limit", "2")
    assert 0 == status
    expected = [f"{then} · received 3 · bought", "  main: on_hand 0→3, available 0→3"]
    assert expected == printed.splitlines()[:2]
    assert printed.splitlines()[-1].startswith("there is more: --after ")
    assert (0, "") == shell.text("movements", "cloak")
    assert "nothing that changed cloak is known\n" == shell.errors
    assert 1 == shell.status("stock", "hat", "--as-of", "2999-01-01T00:00:00Z")
    assert "(not_yet)" in shell.errors
    assert 2 == shell.status("stock", "hat", "--as-of", position, "--channel", "web")


@pytest.mark.ray
def test_refusals_are_one_line_and_status_1(shell: Shell) -> None:
    """What the engine refuses is said as it says it; nothing else is printed."""
    shell.json("stock", "mug", "--receive", "1", "--location", "main")

    for arguments, reason in (
        (("reserve", "mug=5"), "mug: 5 wanted, 1 available"),
        (("commit", "nobody", "--home", "0"), "Unknown reservation (unknown_reservation)"),
        (("stock", "nothing"), "Unknown SKU (unknown_sku)"),
        (("stock", "mug", "--count", "1", "--location", "attic", "--reason", "\n"), "again: --"),
        (("move", "--shard", "0", "--to", "host-9"), "There is no host host-9."),
        (("move", "--shard", "99", "--to", "host-1"), "There is no shard 99."),
        (("move", "--shard", "-1", "--to", "host-1"), "-1 is no shard"),
    ):
        assert (1, "") == shell.text(*arguments)
        assert reason in shell.errors
        assert 1 == shell.errors.count("\n")


@pytest.mark.ray
def test_a_file_is_imported_once(shell: Shell, tmp_path: Path) -> None:
    """CSV and NDJSON; again adds nothing; bad rows are named, and the status is 1."""
    csv, ndjson = tmp_path / "stock.csv", tmp_path / "stock.ndjson"
    csv.write_text("sku,location,quantity\n" + "".join(f"i-{n},main,{n}\n" for n in range(1, 500)))
    ndjson.write_text('{"sku": "i-1", "location": "main", "quantity": 7}\nnonsense\n')

    counts = [shell.json("import", str(csv)) for _ in range(2)]
    status, _ = shell.text("import", str(ndjson))

    assert [(499, 499, 0), (499, 0, 499)] == [
        (found["rows"], found["applied"], found["replayed"]) for found in counts
    ]
    assert 1 == status
    assert shell.errors.startswith("row 2: ")
    assert 8 == shell.json("stock", "i-1")["on_hand"]


@pytest.mark.ray
def test_status_and_audit_agree_with_the_processes(shell: Shell, served: Served) -> None:
    """The host's process id is real, every shard is served, nothing has drifted."""
    found = shell.json("status")

    assert [True] * 3 == [each["alive"] for each in (*found["hosts"], *found["gateways"])]
    assert [0, 1, 2, 3, 4] == sorted(shard for host in found["hosts"] for shard in host["shards"])
    assert all(Path(f"/proc/{host['pid']}").exists() for host in found["hosts"])
    assert 5 == found["served"]
    assert "5 of 5 shards are served" in shell.text("status")[1]
    audit, quick = shell.json("audit"), shell.json("audit", "--quick")
    assert (0, [], True) == (audit["drift"], audit["findings"], audit["complete"])
    assert audit["replayed"] > 5 > quick["replayed"] == 0
    assert [0, 0] == [shell.status("audit"), shell.status("audit", "--quick")]


@pytest.mark.ray
def test_a_shard_is_moved(shell: Shell) -> None:
    """To the host that has fewer, so that it is left there; it arrives a moment later."""
    more, fewer = sorted(shell.json("status")["hosts"], key=lambda host: -len(host["shards"]))
    shard, target = more["shards"][0], fewer["name"]

    assert {"shard": shard, "host": target} == shell.json(
        "move", "--shard", str(shard), "--to", target
    )

    shell.wait(lambda status: shard in served_by(status, target))
    again = shell.text("move", "--shard", str(shard), "--to", target)
    assert (0, f"shard {shard} is on its way to {target}\n") == again


def served_by(status: Any, name: str) -> list[int]:
    """What the host serves by now."""
    (host,) = (each for each in status["hosts"] if each["name"] == name)
    return [int(shard) for shard in host["epochs"]]


@pytest.mark.ray
def test_a_sale_and_a_benchmark_of_a_running_engine(shell: Shell, tmp_path: Path) -> None:
    """Both find the binary port by themselves, over HTTP as well, and both audits pass."""
    sale = shell.json("demo", "--units", "50", "--buyers", "200", "--connections", "20")
    result = tmp_path / "result.json"

    assert (True, 50, 150) == (sale["passed"], sale["sold"], sale["refused"])
    for via in ("http", "gateway", "host"):
        short = ("--warm-up", "0", "--duration", "1", "--operations", "300", "--skus", "20")
        report = shell.json("bench", "run", "order", "--via", via, *short, "--output", str(result))

        assert report == json.loads(result.read_text())
        assert report["audit"]["passed"], report["audit"]["findings"]
        assert {"generator", "hosts", "gateways"} == set(report["cpu_seconds_per_1000"])
        assert report["audit"]["held"]["allocated"] > 200


@pytest.mark.ray
def test_a_busy_data_directory_is_one_clear_line(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second engine does not start beside the first, and says why."""
    status = run(["up", "--port=0", "--binary-port=0", "--data-dir", served.ready["data_dir"]])

    printed = capsys.readouterr()
    assert (1, "") == (status, printed.out)
    assert f"in use by process {served.ready['pid']}" in printed.err


@pytest.mark.ray
def test_a_sale_with_an_engine_of_its_own_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Started, sold out, audited, and every process that it started is gone."""
    sizes = ("--units", "20", "--buyers", "60", "--connections", "10")

    assert 0 == run(["demo", *sizes, "--json"])

    sale = json.loads(capsys.readouterr().out)
    assert (20, 40, []) == (sale["sold"], sale["refused"], sale["left_running"])


# --- without an engine -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "nonsense"),
        (["stock"], "SKU"),
        (["stock", "a", "--nonsense"], "nonsense"),
        (["stock", "a", "--receive", "1"], "together with --location"),
        (["stock", "a", "--receive", "1", "--count", "1", "--location", "b"], "one of --receive"),
        (["reserve"], "what is to be reserved?"),
        (["reserve", "a=b"], "'a=b' is no line"),
        (["reserve", "a", "--url", "ftp://example.org"], "is no URL of an engine"),
        (["import", "stock.txt"], "--format csv"),
        (["move", "--shard", "0"], "--to"),
        (["move", "--shard", "x", "--to", "host-1"], "--shard"),
        (["up", "--hosts", "20"], "--hosts is 20, more than the 8 shards"),
        (["up", "--maxmemory", "much"], "--maxmemory is 'much'"),
        (["up", "--bind", "nowhere"], "--bind is 'nowhere'"),
        (["demo", "--buyers", "0"], "must be above 0"),
        (["bench", "run", "siege"], "no scenario 'siege'"),
        (["bench", "run", "--redis-binary", "missing"], "there is no missing"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started or asked."""
    status = run(arguments)

    printed = capsys.readouterr()
    assert (2, "") == (status, printed.out)
    assert printed.err.startswith("onhand: ")
    assert reason in printed.err
    assert 1 == printed.err.count("\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["stock", "a"],
        ["reserve", "a"],
        ["commit", "a"],
        ["release", "a"],
        ["status"],
        ["audit"],
        ["move", "--shard", "0", "--to", "host-1"],
        ["demo"],
        ["bench", "run"],
    ],
)
def test_no_engine_is_one_line_and_status_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever was asked for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        status = run([*arguments, "--port", str(taken.getsockname()[1])])

    printed = capsys.readouterr()
    assert (1, "") == (status, printed.out)
    assert "no engine answers at http://127.0.0.1:" in printed.err
    assert 1 == printed.err.count("\n")


def test_a_file_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, or a directory."""
    assert 1 == run(["import", str(tmp_path / "missing.csv")])
    assert "there is no file" in capsys.readouterr().err
    assert 1 == run(["import", str(tmp_path), "--format", "csv"])
    assert "Is a directory" in capsys.readouterr().err


def test_keys_are_made_listed_rotated_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key is shown once; the list shows everything but secrets."""

    def keys(*arguments: str) -> Any:
        assert 0 == run(["keys", *arguments, "--data-dir", str(tmp_path), "--json"])
        return json.loads(capsys.readouterr().out)

    made = keys("create", "--channel", "web", "--verbs", "sell", "--verbs", "read")["key"]
    prefix = made.split("_")[1]
    (listed,) = keys("list")

    assert (prefix, "web", ["read", "sell"]) == tuple(
        listed[name] for name in ("prefix", "channel", "verbs")
    )
    assert made.split("_", 2)[2] not in json.dumps(listed)
    assert made != keys("rotate", prefix, "--overlap", "0")["key"]
    assert {"revoked": prefix} == keys("revoke", prefix)
    assert 0 == run(["keys", "list", "--data-dir", str(tmp_path)])
    states = [row.split()[-1] for row in capsys.readouterr().out.splitlines()[1:]]
    assert ["revoked", "valid"] == sorted(states)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["revoke", "0000"], "there is no key 0000"),
        (["create", "--channel", "web", "--verbs", "admin"], "a channel's key may have"),
    ],
)
def test_impossible_keys_are_one_line_and_status_1(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the key file says it."""
    assert 1 == run(["keys", *arguments, "--data-dir", str(tmp_path)])
    assert reason in capsys.readouterr().err


COMMANDS = [
    ["up"],
    ["demo"],
    ["import"],
    ["stock"],
    ["reserve"],
    ["commit"],
    ["release"],
    ["status"],
    ["audit"],
    ["move"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "rotate"],
    ["keys", "revoke"],
    ["bench", "run"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_helps_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An example that begins with the command itself; and every command speaks JSON."""
    assert 0 == run([*command, "--help"])

    printed = capsys.readouterr().out
    assert f" onhand {' '.join(command)}" in printed.partition("or example")[2]
    assert "--json" in printed


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else."""
    assert 0 == run(["--version"])
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_help_loads_neither_ray_nor_the_benchmark() -> None:
    """What a command does not need, it does not wait for."""
    code = (
        "import sys; from gateway.command_line import run; run(['--help']);"
        "sys.exit(any(name in sys.modules for name in ('ray', 'bench.run', 'hdrh')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)

    assert 0 == done.returncode, done.stderr


def test_lines_say_sku_quantity_and_location() -> None:
    """Of which only the SKU has to be there."""
    assert {"sku": "a", "quantity": 1} == line("a")
    assert {"sku": "a:b", "quantity": 20} == line("a:b=20")
    assert {"sku": "a", "quantity": 2, "location": "x"} == line("a=2@x")
    assert {"sku": "a", "quantity": 1, "location": "x"} == line("a@x")
    for wrong in ("", "=2", "a=", "a=-1", "a@", "a@x=2"):
        with pytest.raises(UsageError):
            line(wrong)


def test_memory_is_told_in_units() -> None:
    """Plain bytes, or with a unit, in any case."""
    assert [1_000, 512 << 20, 2 << 30] == [memory_bytes(text) for text in ("1000", "512mb", "2GB")]


def test_an_interrupt_is_quiet() -> None:
    """Status 130, and not a word, let alone a traceback."""
    command = [sys.executable, "-c", ENTRY, "import", "-", "--format", "csv"]
    with (
        socket.socket() as listener,
        subprocess.Popen(
            [*command, "--port", str(_listen(listener))],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        ) as process,
    ):
        listener.accept()[0].close()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=READY_SECONDS)

    assert (130, b"") == (process.returncode, errors)


def _listen(listener: socket.socket) -> int:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.settimeout(READY_SECONDS)
    return int(listener.getsockname()[1])
