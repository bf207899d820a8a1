"""What the containers promise: hardened, limited, healthy by their own word, and no password by default."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import is_ours

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
ONCE = "books_reader"
"""Does something and ends."""
OURS = {name: told for name, told in COMPOSE["services"].items() if "build" in told}
HEALTH_CHECK = "bullpen/health_check.py"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_locked_down(name: str) -> None:
    told = OURS[name]
    assert told["user"] == "10001:10001"
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["tmpfs"][0].startswith("/tmp:size=")
    assert told["mem_limit"]
    assert told["memswap_limit"] == told["mem_limit"]
    assert told["cpus"]
    assert told["pids_limit"]
    assert told["init"] is True
    assert "container_name" not in told  # so that it can be scaled
    assert told["restart"] == "unless-stopped"
    assert told["healthcheck"]["test"] == ["CMD", "python", "-IS", f"/app/{HEALTH_CHECK}", "/readyz"]
    assert ("ports" in told) == (name == "gateway")


@pytest.mark.parametrize("name", OURS)
def test_a_config_saved_here_is_seen_in_the_container(name: str) -> None:
    """By its folder: an editor puts a new file in the place of the old, and a single one that is mounted stays old."""
    told = OURS[name]
    folder = Path(told["build"]["dockerfile"]).parent
    assert f"./{folder}:/config:ro" in told["volumes"]
    assert (ROOT / folder / "config.yaml").is_file()
    assert told["command"] == [*_role(folder), "--config", "/config/config.yaml"]


def _role(folder: Path) -> list[str]:
    return ["worker", folder.name] if folder.parts[0] == "workers" else [folder.name]


def test_each_backend_is_a_profile_and_the_local_one_is_on() -> None:
    profiles = {name: told["profiles"] for name, told in OURS.items() if "profiles" in told}
    assert profiles == {name: [name.removesuffix("_worker")] for name in OURS if name.endswith("_worker")}
    assert "COMPOSE_PROFILES=local" in (ROOT / ".env.example").read_text().splitlines()


def test_one_manager_and_one_local_worker_may_die() -> None:
    assert OURS["manager"]["scale"] == "${MANAGERS:-2}"
    replicas = yaml.safe_load((ROOT / "workers" / "local" / "config.yaml").read_text())["replicas"]
    assert OURS["local_worker"]["scale"] == f"${{LOCAL_WORKERS:-{replicas}}}"


def test_no_service_starts_before_what_it_needs_is_healthy() -> None:
    for told in OURS.values():
        assert {wait["condition"] for wait in told["depends_on"].values()} == {"service_healthy"}
        assert "nats" in told["depends_on"]


@pytest.mark.parametrize("name", ["openai", "gemini", "anthropic"])
def test_a_key_may_be_in_a_file(name: str) -> None:
    told = OURS[f"{name}_worker"]
    assert told["secrets"] == [f"{name}_api_key"]
    assert told["environment"][f"{name.upper()}_API_KEY_FILE"] == f"/run/secrets/{name}_api_key"
    assert f"${{{name.upper()}_API_KEY_FILE:-}}" in told["labels"].values(), "so that another file is another container"
    others = {told for told in OURS if told != f"{name}_worker"}
    assert not [other for other in others if f"{name}_api_key" in str(OURS[other])]


@pytest.mark.parametrize("name", OURS)
def test_every_image_has_its_dockerfile_where_the_role_shows_its_status(name: str) -> None:
    made = (ROOT / OURS[name]["build"]["dockerfile"]).read_text()
    assert "BULLPEN_STATUS=127.0.0.1:" in made
    assert "COPY . /app\nWORKDIR /app\n" in made
    assert (ROOT / HEALTH_CHECK).is_file()


@pytest.mark.parametrize("name", OURS)
def test_every_image_has_a_version_to_go_back_to(name: str) -> None:
    assert OURS[name]["image"] == f"bullpen/{name.replace('_', '-')}:${{BULLPEN_VERSION:-latest}}"
    assert "BULLPEN_VERSION=latest" in (ROOT / ".env.example").read_text().splitlines()


def test_every_backend_has_its_container() -> None:
    made = [path.parent for path in (ROOT / "workers").glob("*/backend.py") if path.parent.name != "base"]
    folders = {folder.name for folder in made if is_ours(folder)}
    built = {Path(told["build"]["dockerfile"]).parent.name for told in OURS.values()}
    assert folders <= built


def test_only_nats_the_gateway_and_dashboards_are_reachable_and_only_from_this_machine() -> None:
    published = {name: told["ports"] for name, told in COMPOSE["services"].items() if "ports" in told}
    assert published.pop("grafana")[0].startswith("127.0.0.1:")
    assert list(published) == ["nats", "gateway"]
    assert published["nats"][0].startswith("${NATS_BIND:-127.0.0.1}:")
    assert published["gateway"][0].startswith("${HTTP_BIND:-127.0.0.1}:")
    assert COMPOSE["services"]["gateway"]["environment"]["BULLPEN_GATEWAY__KEYS"] == "required"


def test_only_telemetry_reaches_the_books() -> None:
    services, networks = COMPOSE["services"], COMPOSE["networks"]
    with_way = [name for name, told in services.items() if "books" in told["networks"]]
    assert [name for name in with_way if "profiles" not in services[name]] == ["postgres", "telemetry"]
    assert [name for name in with_way if services[name].get("profiles") == ["observability"]] == [
        "books_reader",
        "grafana",
    ]
    assert len(with_way) == 4
    assert "POSTGRES_PASSWORD" not in str(services["grafana"])  # it only reads
    assert services["postgres"]["networks"] == ["books"]
    assert networks["mesh"]["internal"] is True
    assert networks["books"]["internal"] is True


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_no_container_keeps_what_it_does_not_need(name: str) -> None:
    told = COMPOSE["services"][name]
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["mem_limit"]
    assert told["pids_limit"]
    assert told["read_only"] is True
    assert "healthcheck" in told or name == ONCE
    assert told["restart"] == ("on-failure" if name == ONCE else "unless-stopped")
    assert told["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


def test_what_must_be_said_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text()))
    example = (ROOT / ".env.example").read_text()
    assert asked == set(re.findall(r"^(\w+PASSWORD)=$", example, re.MULTILINE))


@pytest.mark.parametrize("file", ["compose.tls.yaml", "compose.gpu.yaml"])
def test_an_overlay_names_services_that_exist(file: str) -> None:
    assert set(yaml.safe_load((ROOT / file).read_text())["services"]) <= set(COMPOSE["services"])


def test_prometheus_looks_at_every_role_and_nobody_else_may_ask_it() -> None:
    looked_at = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text())
    (names,) = looked_at["scrape_configs"][0]["dns_sd_configs"]
    assert set(names["names"]) == set(OURS)
    for told in OURS.values():
        assert told["environment"]["BULLPEN_STATUS"] == f"0.0.0.0:{names['port']}"
        assert "mesh" in told["networks"]
    figures = {name for name, told in COMPOSE["services"].items() if "figures" in told["networks"]}
    assert figures == {"prometheus", "grafana"}
    assert COMPOSE["networks"]["figures"]["internal"] is True


def test_no_password_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert "PASSWORD:-" not in text
    example = (ROOT / ".env.example").read_text().splitlines()
    assert [
        line for line in example if "PASSWORD=" in line and not line.startswith("#") and not line.endswith("=")
    ] == []
