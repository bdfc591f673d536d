"""What a PromQL expression asks for: metrics, their labels, and the values that it picks.

Not a parser: it knows the few forms that alerts and dashboard are written in, and `promtool` has
parsed the same expressions before.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "onhand.json"

_SELECTOR = re.compile(r"\b(onhand[_:][\w:]*)\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"([^\"]*)\"")
_GROUPING = re.compile(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)")
_PLACEHOLDER = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)")


class Selector(NamedTuple):
    """One metric, and the values that are picked by label."""

    metric: str
    values: dict[str, list[str]]


class Query(NamedTuple):
    """One expression, and where it stands."""

    place: str
    expression: str
    text: str = ""
    """That is made of its labels: a legend."""

    @property
    def selectors(self) -> list[Selector]:
        found = []
        for metric, inside in _SELECTOR.findall(self.expression):
            values = {name: picked.split("|") for name, picked in _MATCHER.findall(inside)}
            found.append(Selector(metric, values))
        return found

    @property
    def labels(self) -> set[str]:
        """That it groups by, or that the text shows."""
        grouped = {
            label.strip()
            for group in _GROUPING.findall(self.expression)
            for label in group.split(",")
        }
        return grouped | set(_PLACEHOLDER.findall(self.text))


def rules() -> list[dict[str, Any]]:
    """All of them, recording rules as well."""
    content = yaml.safe_load(ALERTS.read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """Names that the rules make themselves."""
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return content


def queries() -> list[Query]:
    """Of alerts and dashboard."""
    found = [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            found.append(Query(panel["title"], target["expr"], target["legendFormat"]))
    return found
