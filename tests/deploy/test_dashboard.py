"""The dashboard: what Grafana needs of it, as far as that can be checked without Grafana."""

from itertools import combinations
from typing import Any

import pytest

from tests.deploy.queries import alerts, dashboard

COLUMNS = 24
UNITS = {"short", "percentunit", "ops", "reqps", "s", "bytes"}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard()["panels"]
    return found


def graphs() -> list[dict[str, Any]]:
    return [each for each in panels() if each["type"] != "row"]


def test_what_grafana_asks_of_every_dashboard() -> None:
    """A name, an edition of the schema, ids that are unique, a data source that can be chosen."""
    content = dashboard()

    assert ("onhand", "Onhand", 39) == (content["uid"], content["title"], content["schemaVersion"])
    ids = [each["id"] for each in panels()]
    assert sorted(set(ids)) == sorted(ids)
    assert ["datasource"] == [each["name"] for each in content["templating"]["list"]]
    assert {"row", "stat", "timeseries"} == {each["type"] for each in panels()}


def test_panels_do_not_overlap() -> None:
    """Each has a place of its own within the 24 columns."""

    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        rows = range(place["y"], place["y"] + place["h"])
        return {(x, y) for y in rows for x in range(place["x"], place["x"] + place["w"])}

    assert all(x < COLUMNS for each in panels() for x, _ in cells(each))
    for first, second in combinations(panels(), 2):
        assert not cells(first) & cells(second), (first["title"], second["title"])


@pytest.mark.parametrize("panel", graphs(), ids=lambda panel: panel["title"])
def test_a_panel_answers_a_question(panel: dict[str, Any]) -> None:
    """It says what it shows, in which unit, and asks the chosen source under distinct names."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = panel["targets"]

    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert [source] * len(targets) == [each["datasource"] for each in targets]
    assert len(targets) == len({each["refId"] for each in targets})


def test_alerts_are_found_on_the_dashboard() -> None:
    """Whoever is woken by an alert sees what woke them, unless nothing answers."""
    texts = " ".join(each["description"] for each in graphs())
    named = {name for name in alerts() if name in texts}

    assert {"OnhandDown"} == set(alerts()) - named


def test_who_is_named_exists() -> None:
    """A panel that refers to a runbook refers to one that there is."""
    for panel in graphs():
        _, _, named = panel["description"].partition("unbook")
        for word in named.replace(",", " ").replace(".", " ").split():
            assert not word.startswith("Onhand") or word in alerts(), panel["title"]
