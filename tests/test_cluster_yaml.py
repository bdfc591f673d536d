"""The cluster file is what Ray's launcher accepts, and says what the engine needs of Ray.

Ray fills in its defaults and then checks the result against its own schema; the first test takes
the same road. The others pin what no schema asks for: authenticated ports, no dashboard, the
smallest object store, and addresses that cannot be mistaken for somebody's machines.
"""

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER_FILE = Path(__file__).parent.parent / "cluster.yaml"
OBJECT_STORE_BYTES_MIN = 75 * 1024 * 1024
DOCUMENTATION_NETWORK = ipaddress.ip_network("192.0.2.0/24")


@pytest.fixture
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text())
    return content


def ray_starts(cluster: dict[str, Any]) -> list[str]:
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return [command for command in commands if " start " in command]


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    """Ray's launcher prepares and validates the file without complaint."""
    prepared = prepare_config(cluster)

    validate_config(prepared)

    workers = len(cluster["provider"]["worker_ips"])
    assert workers == prepared["max_workers"], "max_workers: every worker listed joins"
    assert workers == cluster["min_workers"], "min_workers: no worker leaves because it is quiet"


@pytest.mark.parametrize(
    "needed",
    [
        "RAY_AUTH_MODE=token",
        "RAY_worker_niceness=0",
        "--disable-usage-stats",
        f"--object-store-memory={OBJECT_STORE_BYTES_MIN}",
    ],
)
def test_every_node_starts_alike(cluster: dict[str, Any], needed: str) -> None:
    """Head and workers each ask for tokens, niceness 0, silence and the smallest object store."""
    starts = ray_starts(cluster)

    assert [True, True] == [needed in command.split() for command in starts]


def test_the_head_binds_its_address_without_a_dashboard(cluster: dict[str, Any]) -> None:
    """The head listens on the address the provider names and serves no dashboard."""
    (head,) = [command for command in ray_starts(cluster) if "--head" in command]

    assert "--include-dashboard=false" in head.split()
    assert "RAY_health_check_period_ms=1000" in head.split(), "only the head asks after others"
    assert f"--node-ip-address={cluster['provider']['head_ip']}" in head.split()


def test_no_address_is_anybodys(cluster: dict[str, Any]) -> None:
    """Every address in the file is one reserved for documentation."""
    provider = cluster["provider"]

    for address in [provider["head_ip"], *provider["worker_ips"]]:
        assert ipaddress.ip_address(address) in DOCUMENTATION_NETWORK
