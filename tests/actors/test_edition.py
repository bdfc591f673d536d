"""What a process says that it is."""

from actors.edition import edition, installed_version
from engine.formats import FORMAT, FORMATS
from engine.messages import PROTOCOL_VERSION


def test_formats_are_those_of_this_engine() -> None:
    """The journal's, which may be read before it is written, and the wire's."""
    found = [dict(each.labels) for each in edition() if each.name == "onhand_format_info"]
    journal = {"of": "journal", "writes": f"{FORMAT}", "reads_up_to": f"{max(FORMATS)}"}
    wire = {"of": "wire", "writes": f"{PROTOCOL_VERSION}", "reads_up_to": f"{PROTOCOL_VERSION}"}

    assert [journal, wire] == found


def test_the_version_is_that_of_the_command_line() -> None:
    """Whoever compares what runs with what is installed compares the same words."""
    [build] = [each for each in edition() if each.name == "onhand_build_info"]

    assert ([("version", installed_version())], 1.0) == (build.labels, build.value)
