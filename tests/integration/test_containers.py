"""`bullpen upgrade` and Docker's command line: a stand-in program that remembers what it was told."""

import json
from pathlib import Path

import pytest

from bullpen.upgrading import Pace
from tests.cli import ROOT, Result, invoke

DOCKER = """#!/usr/bin/env python3
import json, os, sys
state_file = os.environ["STATE"]
state = json.load(open(state_file))
arguments = sys.argv[1:]
state["told"].append([os.environ.get("BULLPEN_VERSION"), *arguments])
version = os.environ.get("BULLPEN_VERSION")
def services(): return {s: {"build": {}, "image": f"bullpen/{s}:{version}"} for s in state["active"]}
def answer():
    match arguments:
        case ["compose", "version"]: return "2"
        case ["compose", "config"]: return json.dumps({"services": {**services(), "nats": {"image": "nats"}}})
        case ["compose", "config", "--services"]: return " ".join([*state["active"], "nats"])
        case ["compose", "config", _]: return f"{arguments[2].partition('=')[2]} hash-1"
        case ["compose", "ps", "-q", service]: return "\\n".join(c for c in state["there"] if c.startswith(service))
        case ["compose", "up", *_]:
            service = arguments[-1]
            name = f"{service}-{len(state['told'])}"
            image = state["images"][f"bullpen/{service}:{version}"]
            state["there"][name] = [image, state["health"].get(version, "healthy")]
        case ["compose", "build", *names]:
            for name in names: state["images"][f"bullpen/{name}:{version}"] = f"sha-{version}"
        case ["image", "inspect", "--format", _, image]: return state["images"][image]
        case ["image", "inspect", image]: sys.exit(0 if image in state["images"] else 1)
        case ["inspect", "--format", form, one]:
            if "project" in form: return "mesh"
            image, health = state["there"][one]
            return f"{image} running {health} hash-1"
        case ["stop", "-t", _, one]: pass
        case ["rm", "--force", one]: del state["there"][one]
        case ["logs", *_]: print("config.yaml:3: max_waiting", file=sys.stderr)
        case ["ps", *_]: return "\\n".join(f"{c} {c.partition('-')[0]}" for c in state["there"])
        case _: sys.exit(f"unknown: {arguments}")
print(answer() or "")
json.dump(state, open(state_file, "w"))
"""


class Lab:
    """A checkout whose containers run version 1."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (place / "bin").mkdir()
        program = place / "bin" / "docker"
        program.write_text(DOCKER)
        program.chmod(0o755)
        (place / "compose.yaml").write_text((ROOT / "compose.yaml").read_text())
        (place / ".env").write_text("COMPOSE_PROFILES=local\nBULLPEN_VERSION=1\nNATS_CLIENT_PASSWORD=x\n")
        (place / ".env").chmod(0o600)
        self._file = place / "state.json"
        self.env_file = place / ".env"
        services = ["manager", "telemetry", "local_worker"]
        there = {name: ["sha-1", "healthy"] for name in ("manager-1", "manager-2", "telemetry-1", "openai_worker-1")}
        self.write(
            active=services,
            there=there,
            images={f"bullpen/{name}:1": "sha-1" for name in services},
            health={"broken": "unhealthy"},
            told=[],
        )
        monkeypatch.chdir(place)
        monkeypatch.setattr("bullpen.cli.upgrade.PACE", Pace(look_every=0.01, settles=0.0))
        self._env = {"PATH": f"{place / 'bin'}:/usr/bin:/bin", "STATE": str(self._file)}

    def write(self, **state: object) -> None:
        self._file.write_text(json.dumps(state))

    @property
    def there(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = json.loads(self._file.read_text())["there"]
        return found

    def upgrade(self, *arguments: str) -> Result:
        return invoke("upgrade", *arguments, env=self._env)


pytestmark = pytest.mark.timeout(300)  # Docker's command line is a process of its own, a hundred times


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_an_upgrade_replaces_what_runs_and_remembers_its_version(lab: Lab) -> None:
    told = lab.upgrade("2")
    assert told.code == 0, told.err
    assert sorted((name.partition("-")[0], image) for name, (image, _) in lab.there.items()) == [
        ("manager", "sha-2"),
        ("manager", "sha-2"),
        ("telemetry", "sha-2"),
    ]
    assert "openai_worker: stopped, it is not among COMPOSE_PROFILES any more" in told.out
    assert lab.env_file.read_text() == "COMPOSE_PROFILES=local\nBULLPEN_VERSION=2\nNATS_CLIENT_PASSWORD=x\n"
    assert lab.env_file.stat().st_mode & 0o777 == 0o600
    assert told.out.splitlines()[-1].endswith("to go back: bullpen upgrade 1 --no-build")
    back = lab.upgrade("1", "--no-build")
    assert back.code == 0
    assert {image for image, _ in lab.there.values()} == {"sha-1"}


def test_a_version_that_does_not_serve_changes_nothing(lab: Lab) -> None:
    before = lab.there
    told = lab.upgrade("broken")
    assert told.code == 1
    assert "telemetry: the new one does not serve" in told.err
    assert "config.yaml:3: max_waiting" in told.err
    assert "bullpen upgrade 1 --no-build" in told.err
    assert lab.there == before
    assert "BULLPEN_VERSION=1" in lab.env_file.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["3", "--no-build"], "there is no image bullpen/telemetry:3"),
        (["a b"], "'a b' cannot be a tag"),
        (["-", "--no-build"], "'-' cannot be a tag"),
    ],
)
def test_a_version_that_cannot_be_had_is_told(lab: Lab, arguments: list[str], said: str) -> None:
    told = lab.upgrade(*arguments)
    assert told.code > 0
    assert said in told.err
    assert "Traceback" not in told.err


def test_an_upgrade_outside_a_checkout_or_without_docker_says_so(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "docker").unlink()
    without = invoke("upgrade", "2", env={"PATH": str(tmp_path / "bin")})
    assert (without.code, "install Docker Compose" in without.err) == (1, True)
    monkeypatch.chdir("/")
    outside = lab.upgrade("2")
    assert (outside.code, "there is no compose.yaml here" in outside.err) == (2, True)
