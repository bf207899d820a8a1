"""What the manifests promise: locked down, limited, asked how they are, and made of what is really here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((ROOT / "kustomization.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]

Json = dict[str, Any]
DOCUMENTS: list[Json] = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]
WORKLOADS: dict[str, Json] = {
    document["metadata"]["name"]: document
    for document in DOCUMENTS
    if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod")
}
PODS = {name: document["spec"]["template"]["spec"] for name, document in WORKLOADS.items()}
ONCE = [name for name, document in WORKLOADS.items() if document["kind"] == "Job"]
OURS = [name for name, pod in PODS.items() if pod["containers"][0]["image"].startswith("bullpen/")]


def container(name: str) -> Json:
    pod = PODS[name]
    assert len(pod["containers"]) == 1
    assert "initContainers" not in pod
    told: Json = pod["containers"][0]
    return told


def labels(workload: Json) -> dict[str, str]:
    told: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return told


def test_every_role_has_a_deployment() -> None:
    workers = {"local-worker", "openai-worker", "gemini-worker", "anthropic-worker", "ollama-worker"}
    assert set(OURS) == {"manager", "telemetry", "gateway", *workers}
    assert set(PODS) - set(OURS) == {"nats", "postgres", *ONCE}


@pytest.mark.parametrize("name", PODS)
def test_no_pod_may_do_more_than_its_work_needs(name: str) -> None:
    pod, here = PODS[name]["securityContext"], container(name)["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert here["allowPrivilegeEscalation"] is False
    assert here["readOnlyRootFilesystem"] is True
    assert here["capabilities"] == {"drop": ["ALL"]}
    assert not {"privileged", "runAsUser", "runAsNonRoot"} & here.keys()
    assert PODS[name]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & PODS[name].keys()
    assert not [volume for volume in PODS[name]["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("name", PODS)
def test_every_pod_has_limits_and_probes(name: str) -> None:
    told = container(name)
    assert told["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert told["resources"]["requests"]["memory"] == told["resources"]["limits"]["memory"]
    assert name in ONCE or (told["readinessProbe"] and told["livenessProbe"])


@pytest.mark.parametrize("name", OURS)
def test_ours_are_asked_themselves(name: str) -> None:
    told, ask = container(name), COMPOSE[name.replace("-", "_")]["healthcheck"]["test"][1:-1]
    assert told["readinessProbe"]["exec"]["command"] == [*ask, "/readyz"]
    for probe in ("startupProbe", "livenessProbe"):  # one that waits for its provider is alive
        assert told[probe]["exec"]["command"] == [*ask, "/healthz"]
    assert all(told[probe]["timeoutSeconds"] >= 5 for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    patience = told["livenessProbe"]["periodSeconds"] * told["livenessProbe"]["failureThreshold"]
    assert patience >= 120  # loading a model may hold up the loop
    assert PODS[name]["terminationGracePeriodSeconds"] > 30


@pytest.mark.parametrize("name", PODS)
def test_limits_are_those_of_the_other_containers(name: str) -> None:
    limits, there = container(name)["resources"]["limits"], COMPOSE[name.replace("-", "_")]
    assert _default(there["mem_limit"]) == limits["memory"].lower().removesuffix("i")
    assert _default(there["cpus"]) == limits["cpu"]


def _default(told: str | int) -> str:
    """What `${VARIABLE:-default}` is without the variable."""
    return str(told).rpartition(":-")[2].removesuffix("}")


@pytest.mark.parametrize("name", OURS)
def test_a_role_has_the_account_and_command_of_compose(name: str) -> None:
    told, there = container(name), COMPOSE[name.replace("-", "_")]
    environment = {variable["name"]: variable for variable in told["env"]}
    for variable in ("NATS_URL", "NATS_USER", "NATS_INBOX_PREFIX"):
        assert environment[variable]["value"] == there["environment"][variable]
    password = environment["NATS_PASSWORD"]["valueFrom"]["secretKeyRef"]["key"]
    assert there["environment"]["NATS_PASSWORD"].startswith(f"${{{password}:?")
    assert told["args"] == there["command"]


def test_no_secret_is_written_down_and_each_is_one_of_the_example() -> None:
    known = {line.partition("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line}
    secrets = [reference["key"] for reference in _found(DOCUMENTS, "secretKeyRef")]
    secrets += [item["key"] for secret in _found(DOCUMENTS, "secret") for item in secret["items"]]
    secrets += [told["key"] for auth in _found(DOCUMENTS, "secretTargetRef") for told in auth]
    assert set(secrets) <= known
    plain = [told["name"] for name in PODS for told in container(name)["env"] if "value" in told]
    assert not [name for name in plain if name.endswith(("PASSWORD", "KEY", "TOKEN", "SECRET"))]
    assert KUSTOMIZATION["secretGenerator"] == [{"name": "bullpen", "envs": [".env"]}]


@pytest.mark.parametrize("name", ["openai-worker", "gemini-worker", "anthropic-worker"])
def test_a_providers_key_is_a_file_in_its_own_worker_only(name: str) -> None:
    key = f"{name.removesuffix('-worker').upper()}_API_KEY"
    (volume,) = [volume["secret"] for volume in PODS[name]["volumes"] if "secret" in volume]
    assert volume["items"] == [{"key": key, "path": "key"}]
    assert volume["defaultMode"] & 0o007 == 0
    (mount,) = [mount for mount in container(name)["volumeMounts"] if mount["name"] == "key"]
    assert {"name": f"{key}_FILE", "value": f"{mount['mountPath']}/key"} in container(name)["env"]
    assert [other for other in PODS if f"'{key}'" in str(PODS[other])] == [name]


def test_what_is_put_together_is_there() -> None:
    for resource in KUSTOMIZATION["resources"]:
        assert (ROOT / resource).is_file()
    commented = [line.strip().removeprefix("# - ") for line in (ROOT / "kustomization.yaml").read_text().splitlines()]
    components = [line for line in commented if line.startswith("deploy/")]
    assert {ROOT / path for path in components} == {path.parent for path in FILES if path.name == "kustomization.yaml"}
    generated = {made["name"]: made["files"] for made in KUSTOMIZATION["configMapGenerator"]}
    wanted = {told["name"] for told in _found(DOCUMENTS, "configMap")}
    assert wanted == set(generated)
    assert [file for files in generated.values() for file in files if not (ROOT / file).is_file()] == []
    assert {image["name"] for image in KUSTOMIZATION["images"]} == {container(name)["image"] for name in OURS}


def test_every_file_is_part_of_it() -> None:
    used = {ROOT / resource for resource in KUSTOMIZATION["resources"]}
    for file in FOLDER.rglob("kustomization.yaml"):
        used |= {file, *(file.parent / resource for resource in yaml.safe_load(file.read_text())["resources"])}
    assert used == set(FILES)


def test_no_pod_is_reached_from_outside_or_reaches_what_it_need_not() -> None:
    services = [document["spec"] for document in DOCUMENTS if document["kind"] == "Service"]
    assert [service for service in services if "type" in service] == []
    policies = {told["metadata"]["name"]: told["spec"] for told in DOCUMENTS if told["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    outside = {name for name, told in WORKLOADS.items() if "bullpen.outside" in labels(told)}
    books = policies["to-books"]["podSelector"]["matchLabels"].items()
    assert {name for name, told in WORKLOADS.items() if books <= labels(told).items()} == {"telemetry", *ONCE}
    assert outside == {"openai-worker", "gemini-worker", "anthropic-worker", "ollama-worker"}


def test_what_is_scaled_is_there() -> None:
    (scaled,) = [document["spec"] for document in DOCUMENTS if document["kind"] == "ScaledObject"]
    assert scaled["scaleTargetRef"]["name"] in WORKLOADS
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]


@pytest.mark.parametrize("name", OURS)
def test_a_prometheus_finds_the_figures_of_every_role(name: str) -> None:
    told = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
    assert told == {"prometheus.io/scrape": "true", "prometheus.io/port": "8223"}
    assert {"name": "BULLPEN_STATUS", "value": "0.0.0.0:8223"} in container(name)["env"]


def _found(told: Any, key: str) -> list[Any]:
    """Every value of that key, however deep."""
    if isinstance(told, list):
        return [value for item in told for value in _found(item, key)]
    if not isinstance(told, dict):
        return []
    own = [told[key]] if key in told else []
    return own + [value for below in told.values() for value in _found(below, key)]
