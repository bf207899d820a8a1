"""The Helm chart makes the mesh that the Kustomize base makes: the same variables, ports, probes and limits."""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from config import VERSION

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "bullpen"
HELM = shutil.which("helm") or shutil.which("helm", path=str(ROOT / ".venv" / "bin"))
BASE = ROOT / "deploy" / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
EVERY = ("--set", ",".join(f"workers.{name}.enabled=true" for name in VALUES["workers"]))
OWN_SERVERS = ("--set", "nats.enabled=false,postgres.enabled=false,postgres.urlSecret.name=db,nats.replicas=3")

Json = dict[str, Any]
NO_HELM = "helm is not installed: go install helm.sh/helm/v3/cmd/helm@latest"
needs_helm = pytest.mark.skipif(HELM is None, reason=NO_HELM)


@cache
def _rendered(*options: str) -> dict[tuple[str, str], Json]:
    """What the chart makes, by kind and name."""
    assert HELM is not None
    command = [HELM, "template", "bullpen", str(CHART), "--kube-version", "1.32.0", *options]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    made = [one for one in yaml.safe_load_all(told) if one]
    found = {(one["kind"], one["metadata"]["name"]): one for one in made}
    assert len(found) == len(made)
    return found


def _base() -> dict[tuple[str, str], Json]:
    documents = [one for file in BASE.rglob("*.yaml") for one in yaml.safe_load_all(file.read_text())]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents if "metadata" in one}


WORKLOADS = [key for key in _base() if key[0] in ("Deployment", "StatefulSet")]


def _pod(workload: Json) -> Json:
    told: Json = workload["spec"]["template"]["spec"]
    return told


# What needs no helm


def test_the_values_are_those_that_their_schema_allows() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)
    wrong = {**VALUES, "nats": {**VALUES["nats"], "url": "nats://user:password@nats:4222"}}
    for values in (wrong, {**VALUES, "nats": {"replicas": 2}}, {**VALUES, "image": {"tags": "x"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values, SCHEMA)


def test_every_value_is_limited_and_equal_to_the_base() -> None:
    told = {**{f"{name}-worker": one for name, one in VALUES["workers"].items()}, **VALUES["roles"]}
    told |= {name: VALUES[name] for name in ("nats", "postgres")}
    assert told.keys() == {name for _, name in WORKLOADS}
    for key in WORKLOADS:
        there = _base()[key]
        assert told[key[1]]["resources"] == _pod(there)["containers"][0]["resources"]
        if key[0] == "Deployment":
            assert told[key[1]]["replicas"] == there["spec"]["replicas"]


def test_the_chart_has_the_version_of_the_package_and_the_files_of_the_roles() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    files = {file.name: file.resolve() for file in (CHART / "files").iterdir()}
    for name in VALUES["roles"]:
        assert files.pop(f"{name}.yaml") == ROOT / name / "config.yaml"
    for name in VALUES["workers"]:
        assert files.pop(f"{name}-worker.yaml") == ROOT / "workers" / name / "config.yaml"
    assert files == {"nats.conf": ROOT / "nats" / "nats.conf", "kubernetes.conf": BASE / "kubernetes.conf"}


def test_no_rollout_ends_a_pod_before_the_next_one_serves() -> None:
    text = (CHART / "templates" / "_helpers.tpl").read_text()
    assert "maxUnavailable: 0, maxSurge: 1" in text
    assert not [file for file in CHART.rglob("*.*") if "Recreate" in file.read_text()]


# What helm makes of it


@needs_helm
@pytest.mark.parametrize("key", WORKLOADS, ids=lambda key: key[1])
def test_a_pod_is_the_one_of_the_base(key: tuple[str, str]) -> None:
    made, there = _rendered(*EVERY)[key], _base()[key]
    ours, base = _pod(made)["containers"][0], _pod(there)["containers"][0]
    assert {one["name"]: one for one in ours["env"]} == {one["name"]: one for one in base["env"]}
    same = ("ports", "resources", "readinessProbe", "livenessProbe", "startupProbe", "securityContext", "args")
    for part in (*same, "volumeMounts", "lifecycle"):
        assert ours.get(part) == base.get(part), part
    for part in ("securityContext", "volumes", "terminationGracePeriodSeconds", "automountServiceAccountToken"):
        assert _pod(made).get(part) == _pod(there).get(part), part
    assert ours["image"].removesuffix(f":{VERSION}") == base["image"]
    assert made["spec"]["selector"] == there["spec"]["selector"]
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= there["spec"]["template"]["metadata"]["labels"].items()
    assert made["spec"].get("volumeClaimTemplates") == there["spec"].get("volumeClaimTemplates")


@needs_helm
def test_services_policies_and_scaling_are_those_of_the_base() -> None:
    made, base = _rendered(*EVERY, "--set", "autoscaling.enabled=true"), _base()
    for key, there in base.items():
        if key[0] in ("Service", "NetworkPolicy", "ScaledObject"):
            assert made[key]["spec"] == there["spec"], key
    assert "replicas" not in made["Deployment", "local-worker"]["spec"]
    assert {name for kind, name in made if kind == "PodDisruptionBudget"} == {"manager", "gateway", "local-worker"}


@needs_helm
def test_every_config_is_the_roles_own() -> None:
    made = _rendered(*EVERY)
    assert made["ConfigMap", "manager"]["data"]["config.yaml"] == (ROOT / "manager" / "config.yaml").read_text()
    assert made["ConfigMap", "nats"]["data"]["nats.conf"] == (ROOT / "nats" / "nats.conf").read_text()
    own = _rendered("--set", "roles.manager.config=policies: {}")
    assert own["ConfigMap", "manager"]["data"]["config.yaml"] == "policies: {}"


@needs_helm
def test_servers_of_ones_own_are_used_instead() -> None:
    made = _rendered(*OWN_SERVERS)
    assert not [key for key in made if key[0] == "StatefulSet"]
    env = {one["name"]: one for one in _pod(made["Deployment", "telemetry"])["containers"][0]["env"]}
    assert env["DATABASE_URL"]["valueFrom"]["secretKeyRef"] == {"name": "db", "key": "DATABASE_URL"}
    assert env["NATS_REPLICAS"]["value"] == "3"
    (books,) = made["NetworkPolicy", "to-books"]["spec"]["egress"]
    assert books["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0"}}]


@needs_helm
def test_a_value_that_cannot_be_is_refused_by_its_name() -> None:
    assert HELM is not None
    command = [HELM, "template", "x", str(CHART), "--kube-version", "1.32.0", "--set", "nats.replicas=2"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "replicas" in told.stderr
