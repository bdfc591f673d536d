"""Whatever alerts and dashboard ask for, a real engine serves: names, labels, and their values."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from engine.messages import Audit, Receive, Status
from gateway.http_client import HttpClient
from tests.deploy.queries import Query, Selector, queries, recorded
from tests.faults.engine_process import eventually, get, running
from tests.faults.till import Till

pytestmark = [pytest.mark.ray, pytest.mark.redis, pytest.mark.asyncio(loop_scope="module")]

Served = dict[str, dict[str, set[str]]]
"""Metric → label → values."""
SHARDS = 2
NOT_THE_ENGINE_S = {"alertname", "alertstate", "job", "instance"}
"""Labels that Prometheus makes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """What an engine says that has sold something, was audited, and was asked about the past."""
    data = tmp_path_factory.mktemp("served") / "data"
    async with running(data, "--shards", str(SHARDS)) as engine:
        async with Till(engine.binary) as till:
            await till.insist([Receive("cup", "main", 3)])
            await till.insist([Audit(shard) for shard in range(SHARDS)])
        cart = {"lines": [{"sku": "cup", "quantity": 1}]}
        await asyncio.to_thread(HttpClient(engine.http, None).post, "/v1/reservations", cart)

        async def scrape() -> Served:
            found = parsed((await get(engine.http, "/metrics"))[1].decode())
            return found if "onhand_drift" in found else {}

        yield await eventually(scrape)


def parsed(text: str) -> Served:
    found: Served = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def wrong_with(selector: Selector, served: Served) -> list[str]:
    """What the engine does not have of it."""
    if selector.metric in recorded():
        return []
    if selector.metric not in served:
        return [f"there is no {selector.metric}"]
    labels, wrong = served[selector.metric], []
    for name, values in selector.values.items():
        known = labels.get(name, set())
        if name == "outcome" and selector.metric == "onhand_commands_total":
            known = {status.name.lower() for status in Status}  # those that there have been
        wrong += [f"{selector.metric} has no {name}={each}" for each in values if each not in known]
    return wrong


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.place)
async def test_what_is_asked_for_is_there(query: Query, served: Served) -> None:
    """Every metric, every value that is picked, every label that is grouped by or shown."""
    selectors = query.selectors
    wrong = [text for each in selectors for text in wrong_with(each, served)]
    labels = {label for each in selectors for label in served.get(each.metric, {})}
    if any(each.metric in recorded() for each in selectors):
        labels |= {"status", "host"}
    absent = query.labels - labels - NOT_THE_ENGINE_S

    assert ([], set()) == (wrong, absent)
