"""What runbooks have one type, in the midst of the night, is what the command line understands."""

import re
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from gateway.command_line import make_app

DOCS = Path(__file__).parent.parent.parent / "docs"
STANDS_FOR = {"N": "3", "UNITS": "40"}
"""Of the words that stand for something, those that stand for a number."""


def commands() -> list[str]:
    """Every command of ours with an argument or a flag, as it stands between backticks."""
    found = set[str]()
    for path in DOCS.glob("*.md"):
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
        found |= set(re.findall(r"`(onhand [a-z]+ [^`…]+)`", text))
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one(command: str) -> None:
    """Every flag exists, and none that must be there is left out."""
    _, *words = command.split()

    make_app().parse_args([STANDS_FOR.get(word, word) for word in words])


def test_a_flag_that_is_left_out_is_noticed() -> None:
    """A backup goes somewhere."""
    assert any(command.startswith("onhand backup ") for command in commands())

    with pytest.raises(CycloptsError):
        make_app().parse_args(["backup", "--data-dir", "DATA"])
