"""What `deploy/` names exists: flags, ports, variables, settings, in the engine as it is.

Nothing here runs a container. Kubernetes' own schemas are asked where they are installed (package
`kubernetes-validate`), the compose specification likewise (`compose-spec`): neither is needed for
anything else, so neither is locked. The RayCluster has its fields checked against those of KubeRay
1.3, as its types declare them.
"""

import re
import subprocess
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.config import BINARY_PORT_DEFAULT, PORT_DEFAULT
from gateway.command_line_server import Doors, Memory, Shape, up
from gateway.http_table import OPERATIONS

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
NODE = (DEPLOY / "node").read_text(encoding="utf-8")
DEMANDED = {
    "--appendonly": "yes",
    "--appendfsync": "always",
    "--no-appendfsync-on-rewrite": "no",
    "--save": "",
    "--maxmemory-policy": "noeviction",
}
"""By `actors.journal.wrong_settings`; and a memory limit, of whatever size."""
KUBERNETES = "1.34"
RAY_CLUSTER = {
    "": {"gcsFaultToleranceOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"},
    "head": {"rayStartParams", "template"},
    "worker": {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"},
}


@pytest.fixture
def objects() -> list[dict[str, Any]]:
    """What the manifest has Kubernetes make."""
    return list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")))


@pytest.fixture
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return content


def cluster_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == "RayCluster"]
    return found


def groups_of(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The head's, then the workers'."""
    spec = cluster_of(objects)["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def containers(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in groups_of(objects):
        yield from each["template"]["spec"]["containers"]
    for each in objects:
        if each["kind"] == "StatefulSet":
            yield from each["spec"]["template"]["spec"]["containers"]


def flags_of_up() -> set[str]:
    names = [*signature(up).parameters]
    for group in (Doors, Shape, Memory):
        names += group.__dataclass_fields__
    return {f"--{name.replace('_', '-')}" for name in names}


def code_of(script: str) -> str:
    return "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))


def test_the_script_is_one() -> None:
    """bash can read deploy/node, and it may be run."""
    subprocess.run(["bash", "-n", DEPLOY / "node"], check=True)

    assert (DEPLOY / "node").stat().st_mode & 0o111


def test_its_flags_are_those_of_up() -> None:
    """Every flag that deploy/node gives `onhand up` is one of its flags."""
    asked = NODE[NODE.index("onhand up --address") :].split("engine=$!")[0]

    assert set() == set(re.findall(r"--[a-z-]+", asked)) - flags_of_up()


def test_ray_is_started_as_by_the_cluster_file() -> None:
    """The settings of Ray that cluster.yaml has are those of deploy/node."""
    cluster = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    settings = set(re.findall(r"RAY_[a-z_]+=\d+|--object-store-memory=\d+", cluster))

    assert settings == set(re.findall(r"RAY_[a-z_]+=\d+|--object-store-memory=\d+", code_of(NODE)))
    assert "--include-dashboard=false" in code_of(NODE)


def test_every_variable_is_told_of(objects: list[dict[str, Any]], compose: dict[str, Any]) -> None:
    """What is set in the files is read by the script, and the script's head tells of each."""
    said, code = NODE[: NODE.index("set -euo")], code_of(NODE)
    named = {env["name"] for each in containers(objects) for env in each.get("env", [])}
    for service in compose["services"].values():
        named |= service.get("environment", {}).keys()
    for name in {each for each in named if each.startswith(("ONHAND_", "RAY_HEAD", "RAY_PORT"))}:
        assert name in said, name
        assert f"${{{name}:" in code, name
    read = set(re.findall(r"\$\{((?:ONHAND|KUBERAY|RAY)_[A-Z_]+)", code))
    assert set() == {name for name in read if name not in said}


def test_ports_and_probes(objects: list[dict[str, Any]], compose: dict[str, Any]) -> None:
    """Ports are those that `onhand up` serves on; probes ask whether it answers, and not whether
    every shard does: one that is stopped takes no other off the air."""
    head, *_ = containers(objects)
    ports = {each["name"]: each["containerPort"] for each in head["ports"]}
    assert {"gcs-server": 6379, "http": PORT_DEFAULT, "binary": BINARY_PORT_DEFAULT} == ports
    paths = {operation.path for operation in OPERATIONS}
    probes = [head[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {"/healthz"} == {each["path"] for each in probes} <= paths
    assert f":{PORT_DEFAULT}/healthz'" in compose["services"]["head"]["healthcheck"]["test"][-1]
    assert {"http"} == {each["port"] for each in probes}
    published = [f"127.0.0.1:{port}:{port}" for port in (PORT_DEFAULT, BINARY_PORT_DEFAULT)]
    assert published == compose["services"]["head"]["ports"]
    assert [] == [
        each for name, each in compose["services"].items() if each.get("ports") and name != "head"
    ]


def test_all_machines_are_waited_for(
    objects: list[dict[str, Any]], compose: dict[str, Any]
) -> None:
    """The head waits for as many as there will be: itself and the workers."""
    head, worker = groups_of(objects)
    (node,) = head["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in node["env"]}
    services = compose["services"]
    replicas = services["worker"]["deploy"]["replicas"]
    cluster = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    workers = yaml.safe_load(cluster)["provider"]["worker_ips"]

    assert f"{1 + worker['replicas']}" == given["ONHAND_MACHINES"]
    assert f"{1 + replicas}" == services["head"]["environment"]["ONHAND_MACHINES"]
    assert f"--machines {1 + len(workers)} " in cluster


def test_a_drained_node_takes_one_pod_at_a_time(objects: list[dict[str, Any]]) -> None:
    """Workers go one by one; what there is one of goes when somebody means it. No pod is under two
    budgets, which Kubernetes refuses to evict at all."""
    budgets = {
        each["metadata"]["name"]: each["spec"]
        for each in objects
        if each["kind"] == "PodDisruptionBudget"
    }
    kept = {name: spec["maxUnavailable"] for name, spec in budgets.items()}
    labels = {
        name: spec["selector"].get("matchLabels", {}).get("ray.io/node-type")
        for name, spec in budgets.items()
    }
    [servers] = budgets["onhand-servers"]["selector"]["matchExpressions"]
    sets = [each for each in objects if each["kind"] == "StatefulSet"]
    components = [
        each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] for each in sets
    ]

    assert {"onhand-hosts": 1, "onhand-head": 0, "onhand-servers": 0} == kept
    assert {"onhand-hosts": "worker", "onhand-head": "head", "onhand-servers": None} == labels
    assert sorted(components) == sorted(servers["values"])
    assert {1} == {each["spec"]["replicas"] for each in sets}


def test_no_dashboard(objects: list[dict[str, Any]]) -> None:
    """Ray's dashboard does not run, and no port of it is named anywhere."""
    for group in groups_of(objects):
        assert "false" == group["rayStartParams"]["include-dashboard"]
    for path in filter(Path.is_file, DEPLOY.rglob("*")):
        assert "8265" not in path.read_text(encoding="utf-8"), path.name


def test_the_journals_server_is_as_demanded(
    objects: list[dict[str, Any]], compose: dict[str, Any]
) -> None:
    """It is started with the settings that `onhand up` refuses to serve without, on a volume."""
    (journal,) = [
        each
        for each in objects
        if each["kind"] == "StatefulSet" and each["metadata"]["name"] == "onhand-journal"
    ]
    (server,) = journal["spec"]["template"]["spec"]["containers"]
    words = server["command"]
    assert DEMANDED == {name: words[words.index(name) + 1] for name in DEMANDED}
    assert "--maxmemory" in words
    assert "/data" == words[words.index("--dir") + 1] == server["volumeMounts"][0]["mountPath"]
    said = compose["services"]["journal"]["command"][-1]
    for name, value in DEMANDED.items():
        assert f"{name} {value or repr('')}" in said
    assert ["journal:/data"] == compose["services"]["journal"]["volumes"]


def test_ray_keeps_its_tables_elsewhere(
    objects: list[dict[str, Any]], compose: dict[str, Any]
) -> None:
    """The GCS has a Redis of its own, which is not the journal's."""
    options = cluster_of(objects)["spec"]["gcsFaultToleranceOptions"]
    assert "onhand-gcs:6379" == options["redisAddress"]
    head = next(containers(objects))
    urls = {each["name"]: each.get("value") for each in head["env"]}
    assert "redis://:$(JOURNAL_PASSWORD)@onhand-journal:6379/0" == urls["ONHAND_JOURNAL"]
    assert "gcs:6379" == compose["services"]["head"]["environment"]["RAY_REDIS_ADDRESS"]


def test_secrets_are_named_in_the_instructions(objects: list[dict[str, Any]]) -> None:
    """Every secret that the manifest refers to is one that its head says how to make, and none is
    in it."""
    text = (DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"secretKeyRef: \{name: ([a-z-]+)", text))
    named |= set(re.findall(r"secretName: ([a-z-]+)", text))

    assert {"onhand-gcs", "onhand-journal", "onhand-keys", "onhand-ray"} == named
    assert named == set(re.findall(r"create secret generic ([a-z-]+)", text))
    assert [] == [each for each in objects if each["kind"] == "Secret"]


def test_secrets_stay_where_they_are_made(compose: dict[str, Any]) -> None:
    """Whatever the instructions have made is nobody else's to read, and goes neither into the
    repository nor along to other machines."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert {"/secrets/", "/deploy/secrets/"} <= {*ignored}
    assert {"secrets", "onhand-data"} <= {*cluster["rsync_exclude"]}
    for each in compose["secrets"].values():
        assert each["file"].startswith("./secrets/")
    for name in ("compose.yaml", "kuberay.yaml"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        assert text.index("umask 077") < text.index("onhand keys create")


def test_keys_are_mounted_as_a_directory(
    objects: list[dict[str, Any]], compose: dict[str, Any]
) -> None:
    """A keys.json that takes the place of another is seen: nowhere is the file itself mounted."""
    for name in ("head", "worker"):
        service = compose["services"][name]
        assert "./secrets/keys:/etc/onhand:ro" in service["volumes"]
        assert "/etc/onhand/keys.json" == service["environment"]["ONHAND_KEYS"]
    for group in groups_of(objects):
        (node,) = group["template"]["spec"]["containers"]
        (keys,) = [each for each in node["volumeMounts"] if each["name"] == "keys"]
        assert {"name": "keys", "mountPath": "/etc/onhand", "readOnly": True} == keys


def test_further_flags_and_servers(tmp_path: Path) -> None:
    """Every URL of the journal is a --redis of its own; further flags come last, word by word, and
    no blank or star in them is the shell's."""
    said = tmp_path / "said"
    for name, text in (
        ("ray", 'test "$1" = health-check || exec sleep 60'),
        ("onhand", f'printf "%s\\n" "$@" > {said}'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "RAY_HEAD": "127.0.0.1",
        "ONHAND_DATA_DIR": str(tmp_path),
        "ONHAND_JOURNAL": "redis://one/0 redis://two/0",
        "ONHAND_FLAGS": "--spares 1  --archive-days *",
    }

    ended = subprocess.run(["bash", DEPLOY / "node", "head"], env=environment, check=False)

    words = said.read_text(encoding="utf-8").splitlines()
    assert 1 == ended.returncode
    assert ["--redis", "redis://one/0", "--redis", "redis://two/0"] == words[3:7]
    assert ["--log-level", "info", "--spares", "1", "--archive-days", "*"] == words[-6:]


@pytest.mark.parametrize("role", ["head", "worker"])
def test_own_keys_are_not_overwritten(tmp_path: Path, role: str) -> None:
    """A data directory that has keys of its own keeps them: deploy/node refuses to link others."""
    own = tmp_path / "keys.json"
    own.write_text("[]", encoding="utf-8")
    environment = {"PATH": "/usr/bin:/bin", "ONHAND_DATA_DIR": str(tmp_path), "ONHAND_KEYS": "/k"}

    ended = subprocess.run(
        ["bash", DEPLOY / "node", role], env=environment, capture_output=True, text=True
    )

    assert 2 == ended.returncode
    assert "keys.json of its own" in ended.stderr
    assert "[]" == own.read_text(encoding="utf-8")


def test_the_cluster_has_fields_of_a_ray_cluster(objects: list[dict[str, Any]]) -> None:
    """No field is invented; every parameter of `ray start` is one that it takes."""
    spec = cluster_of(objects)["spec"]
    head, worker = groups_of(objects)
    assert [set(), set(), set()] == [
        set(spec) - RAY_CLUSTER[""],
        set(head) - RAY_CLUSTER["head"],
        set(worker) - RAY_CLUSTER["worker"],
    ]
    from ray.scripts.scripts import start

    known = {flag for each in start.params for flag in each.opts}
    asked = {f"--{name}" for group in (head, worker) for name in group["rayStartParams"]}
    assert set() == asked - known


def test_kubernetes_accepts_the_rest(objects: list[dict[str, Any]]) -> None:
    """Each object, and each pod of the RayCluster, is valid by Kubernetes' schema."""
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="Kubernetes' schemas are not installed (kubernetes-validate)"
    )
    for each in groups_of(objects):
        pod = {"apiVersion": "v1", "kind": "Pod", **each["template"]}
        objects.append(pod | {"metadata": {"name": "pod", **each["template"]["metadata"]}})
    for each in objects:
        if each["kind"] != "RayCluster":
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def test_the_compose_file_is_one() -> None:
    """The compose file is valid by the compose specification."""
    compose_spec = pytest.importorskip(
        "compose_spec", reason="the compose specification is not installed (compose-spec)"
    )
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(content)).validate()


def test_the_image_has_what_the_tree_has() -> None:
    """Whatever the Dockerfile copies is there; the installation is the locked one."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
    assert "make PYTHON=python3 install" in text
    owned = re.findall(r"install --directory --owner onhand (.+?)(?: \\)?$", text, re.MULTILINE)
    assert {"/var/lib/onhand", "/var/lib/onhand/archive"} <= {*owned[0].split()}
    assert f"EXPOSE {PORT_DEFAULT} {BINARY_PORT_DEFAULT}" in text
