"""One list of settings, `.env.example`: whatever stands there counts in Compose and in Kubernetes, or says why not."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from config import VERSION

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.findall(r"^([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
COMPOSE = "".join(file.read_text() for file in ROOT.glob("compose*.yaml"))
MANIFESTS = "".join(file.read_text() for file in (ROOT / "deploy" / "kubernetes").rglob("*.yaml"))
CONFS = "".join(file.read_text() for file in (ROOT / "deploy" / "kubernetes").rglob("*.conf"))

COMPOSE_S_OWN = {"COMPOSE_PROFILES"}
"""Read by the program itself."""
NOT_ON_KUBERNETES = {
    "BULLPEN_VERSION": "the images' tags in the kustomization",
    "COMPOSE_PROFILES": "the list of components in kustomization.yaml",
    "BOOKS_READER_PASSWORD": "dashboards are a cluster's own",
    "GRAFANA_PASSWORD": "dashboards are a cluster's own",
    "GRAFANA_PORT": "dashboards are a cluster's own",
    "LOCAL_GPUS": "limits in the manifest",
    "MANAGERS": "replicas in the manifest",
    "LOCAL_WORKERS": "replicas in the manifest",
    "NATS_BIND": "a Service of type ClusterIP",
    "NATS_PORT": "a Service of type ClusterIP",
    "HTTP_BIND": "a Service of type ClusterIP",
    "HTTP_PORT": "a Service of type ClusterIP",
    **dict.fromkeys((f"{name}_API_KEY_FILE" for name in ("OPENAI", "GEMINI", "ANTHROPIC")), "the secret is a file"),
    **dict.fromkeys((name for name in EXAMPLE if name.endswith(("_MEMORY", "_CPUS"))), "limits in the manifest"),
    **dict.fromkeys((name for name in EXAMPLE if name.endswith("_IMAGE")), "images in the manifest"),
}
"""Why a setting of the example does not count there."""


@pytest.mark.parametrize("name", sorted(set(EXAMPLE) - COMPOSE_S_OWN))
def test_a_setting_counts_in_compose(name: str) -> None:
    assert f"${{{name}" in COMPOSE


@pytest.mark.parametrize("name", EXAMPLE)
def test_a_setting_counts_on_kubernetes_or_says_why_not(name: str) -> None:
    used = f"key: {name}" in MANIFESTS or f"${name}" in CONFS
    assert used != (name in NOT_ON_KUBERNETES), NOT_ON_KUBERNETES.get(name, "no manifest reads it")


def test_every_setting_of_compose_is_in_the_example() -> None:
    assert set(re.findall(r"\$\{([A-Z][A-Z0-9_]*)", COMPOSE)) <= set(EXAMPLE)


@pytest.mark.parametrize("file", [ROOT / "deploy" / "kubernetes" / "manager.yaml", ROOT / "compose.yaml"])
def test_what_the_books_keep_reaches_every_role_that_books(file: Path) -> None:
    text = file.read_text()
    assert "BULLPEN_TELEMETRY__CONTENT" in text
    assert "BULLPEN_TELEMETRY__MODE" in text
    assert MANIFESTS.count("BULLPEN_TELEMETRY__CONTENT") == MANIFESTS.count("BULLPEN_CONTENT_KEY")


def test_the_server_is_one_with_the_fixes_that_the_example_asks_for() -> None:
    tags = re.findall(r"nats:(\d+)\.(\d+)", COMPOSE + MANIFESTS + (ROOT / ".env.example").read_text())
    assert len(tags) == 3
    assert all((int(major), int(minor)) >= (2, 14) for major, minor in tags)


def test_no_default_asks_for_more_processors_than_a_small_machine_has() -> None:
    example = dict(re.findall(r"^(\w+_CPUS)=(\S+)", (ROOT / ".env.example").read_text(), re.MULTILINE))
    in_compose = dict(re.findall(r"\$\{(\w+_CPUS):-(\S+)\}", COMPOSE))
    assert example == in_compose
    assert {float(value) <= 1 for value in example.values()} == {True}


def test_every_image_and_command_tells_the_version_of_the_package() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    dockerfiles = _dockerfiles()
    label = f'org.opencontainers.image.version="{VERSION}"'
    assert [file for file in dockerfiles if label not in file.read_text()] == []


def test_every_image_is_built_for_both_architectures_with_what_it_is_made_of() -> None:
    bake = (ROOT / "docker-bake.hcl").read_text()
    folders = re.findall(r'folder = "([^"]+)"', bake)
    assert {ROOT / "Dockerfile", *(ROOT / folder / "Dockerfile" for folder in folders)} == set(_dockerfiles())
    assert f'"VERSION" {{ default = "{VERSION}" }}' in bake
    assert 'platforms = ["linux/amd64", "linux/arm64"]' in bake
    assert '"type=sbom"' in bake


def test_the_image_of_the_whole_mesh_lets_nobody_in_without_a_key_and_is_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "BULLPEN_GATEWAY__LISTEN=0.0.0.0:4000 BULLPEN_GATEWAY__KEYS=required" in text
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^VOLUME /data$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)


def _dockerfiles() -> list[Path]:
    return [*ROOT.glob("Dockerfile"), *ROOT.glob("*/Dockerfile"), *ROOT.glob("workers/*/Dockerfile")]


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no checkout of git")
def test_no_key_that_the_docs_make_can_be_committed() -> None:
    pages = "".join(file.read_text() for file in (ROOT / "docs").glob("*.md"))
    keys = re.findall(r"-keyout (\S+)", pages)
    assert len(keys) >= 2
    for key in keys:
        assert subprocess.run(["git", "check-ignore", "-q", key], cwd=ROOT, check=False).returncode == 0, key
