"""What a fault run has measured stands at the end of its output, a line per test."""

import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

Figures = Callable[..., None]
_NAME = "figures"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What clients log about connections that they lose is of no interest here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Put down what was measured; `pytest --junitxml` writes it to a file as well."""

    def put_down(**values: object) -> None:
        record_property(_NAME, values)

    return put_down


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, values in getattr(report, "user_properties", []):
                if name == _NAME and report.when == "call":
                    said = ", ".join(f"{key} {_text(value)}" for key, value in values.items())
                    lines.append(f"{report.nodeid.rpartition('::')[2]}: {said}")
    if lines:
        terminalreporter.section("figures of the fault runs")
        for line in lines:
            terminalreporter.write_line(line)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list | tuple):
        return " / ".join(_text(each) for each in value)
    return str(value)
