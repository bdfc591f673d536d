"""The alerts: valid, each of them shown to fire and to keep still, and each with its runbook."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.prometheus_process import PROMETHEUS, tool
from tests.deploy.queries import ROOT, alerts

RUNBOOKS = "docs/runbooks.md"
PARTS = ("Means", "Look", "Causes", "Do", "Do not", "Over")
"""What every section of the runbooks has."""
TESTS = PROMETHEUS / "alerts.test.yaml"


def sections() -> dict[str, str]:
    """Of the runbooks, by the name of the alert."""
    _, *parts = re.split(r"^## ", (ROOT / RUNBOOKS).read_text(encoding="utf-8"), flags=re.M)
    named = (part.partition("\n") for part in parts)
    return {title: text for title, _, text in named if title.startswith("Onhand")}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("test", "rules", "alerts.test.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    """Rules and configuration are valid; every alert fires when it should, with the words it
    should, and not a moment before."""
    command = [tool("promtool"), *arguments]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    """There is a moment at which it fires, and one at which it does not."""
    fires, keeps_still = set[str](), set[str]()
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for look in test["alert_rule_test"]:
            (fires if look.get("exp_alerts") else keeps_still).add(look["alertname"])

    assert set(alerts()) == fires == keeps_still


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_to_do(name: str) -> None:
    """How urgent it is, what it means in one sentence, and where the rest is said."""
    alert = alerts()[name]

    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["summary"].endswith(".")
    assert f"{RUNBOOKS}#{name.lower()}" == alert["annotations"]["runbook_url"]


def test_every_alert_has_its_runbook() -> None:
    """And every runbook its alert, in the same order."""
    assert list(alerts()) == list(sections())


@pytest.mark.parametrize("name", alerts())
def test_a_runbook_is_whole(name: str) -> None:
    """What it means, where to look, what causes it, what to do and what not, when it is over."""
    found = re.findall(r"^\*\*([^*]+)\.\*\*", sections()[name], flags=re.M)

    assert list(PARTS) == found


def test_the_configuration_loads_the_rules() -> None:
    """And scrapes under the name that the alert for silence counts on."""
    content = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())

    assert ["alerts.yaml"] == content["rule_files"]
    assert ["onhand"] == [each["job_name"] for each in content["scrape_configs"]]
    assert 'job="onhand"' in alerts()["OnhandDown"]["expr"]
    assert Path(PROMETHEUS / "alerts.yaml").is_file()
