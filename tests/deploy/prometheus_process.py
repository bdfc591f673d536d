"""A real Prometheus that scrapes an engine every second and evaluates the rules as they are.

An alert counts as raised as soon as its expression is true; how long it must stay true before
anybody is woken is what `promtool test rules` looks at.
"""

import asyncio
import http.client
import json
import os
import shutil
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults.engine_process import eventually

PROMETHEUS = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
STOP_SECONDS = 20


def tool(name: str) -> str:
    """A program of Debian's package prometheus; without it the test is skipped, but never in CI."""
    if found := shutil.which(name):
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed")
    pytest.skip(f"{name} is not installed (Debian: prometheus)")


def free_port() -> int:
    """Of loopback, a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PrometheusProcess:
    """One server, behind one port."""

    def __init__(self, process: Process, url: str) -> None:
        self._process = process
        self.url = url

    async def raised(self) -> dict[str, list[dict[str, str]]]:
        """The alerts whose expressions are true, with the labels of each; what has begun to be
        counted only now included."""
        said = await self._get("/api/v1/alerts")
        found: dict[str, list[dict[str, str]]] = {}
        for each in said["data"]["alerts"]:
            found.setdefault(each["labels"].pop("alertname"), []).append(each["labels"])
        return found

    async def until_raised(self, name: str, seconds: float = 30) -> list[dict[str, str]]:
        """Wait until the alert is raised; the labels of each."""
        return await eventually(lambda: self.labels(name), seconds)

    async def until_over(self, name: str, seconds: float = 60) -> None:
        """Wait until it is not raised any more."""

        async def is_over() -> bool:
            return not await self.labels(name)

        await eventually(is_over, seconds)

    async def scrapes(self) -> int:
        """How many there were."""
        said = await self._get("/api/v1/query?query=count_over_time(up%5B1h%5D)")
        result = said["data"]["result"]
        return int(result[0]["value"][1]) if result else 0

    async def until_scraped(self, times: int) -> None:
        """Wait for so many scrapes."""

        async def enough() -> bool:
            return await self.scrapes() >= times

        await eventually(enough, 5 * times + 30)

    async def labels(self, name: str) -> list[dict[str, str]]:
        """Of each alert of that name; none if it is not raised."""
        return (await self.raised()).get(name, [])

    async def is_ready(self) -> bool:
        try:
            await self._get("/api/v1/status/runtimeinfo")
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return True

    async def _get(self, path: str) -> Any:
        """The JSON that is said there."""

        def get() -> Any:
            connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=5)
            try:
                connection.request("GET", path)
                return json.loads(connection.getresponse().read())
            finally:
                connection.close()

        return await asyncio.to_thread(get)

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)


def _configuration(target: str) -> str:
    """The one that is shipped, but for the pace and the address."""
    made = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    made["global"] = dict.fromkeys(made["global"], "1s")
    made["rule_files"] = [str(PROMETHEUS / "alerts.yaml")]
    made["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    text: str = yaml.safe_dump(made)
    return text


@asynccontextmanager
async def prometheus_watching(http: str, directory: Path) -> AsyncIterator[PrometheusProcess]:
    """A server that watches the engine at `http` for as long as the block lasts."""
    program, address = tool("prometheus"), f"127.0.0.1:{free_port()}"
    await asyncio.to_thread(directory.mkdir)
    file = directory / "prometheus.yaml"
    await asyncio.to_thread(file.write_text, _configuration(http.removeprefix("http://")))
    process = await asyncio.create_subprocess_exec(
        *(program, f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}"),
        f"--web.listen-address={address}",
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    )
    server = PrometheusProcess(process, f"http://{address}")
    try:
        await eventually(server.is_ready, 30)
        await server.until_scraped(1)
        await server.until_over("OnhandDown")
        yield server
    finally:
        await server.stop()
