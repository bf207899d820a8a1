"""Every backend's folder, whoever wrote it: complete, readable, honest about what it can do."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from workers.base.discovery import BackendFolder, discover

FILES = ("__init__.py", "backend.py", "config.yaml", "README.md", "checklist.yaml")
CHECKLIST = ("chat", "stream", "cancel", "usage", "logprobs", "continue", "tools", "json", "vision", "limits", "health")

every_folder = pytest.mark.parametrize("folder", [pytest.param(f, id=name) for name, f in discover().items()])


def checklist(folder: BackendFolder) -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((folder.path / "checklist.yaml").read_text())
    return told


@every_folder
def test_the_folder_is_complete(folder: BackendFolder) -> None:
    assert not [name for name in FILES if not (folder.path / name).is_file()]


@every_folder
def test_the_config_is_readable(folder: BackendFolder) -> None:
    config = folder.config()
    backend = folder.load()
    assert isinstance(config, backend.config_class)


@every_folder
def test_the_report_card_is_filled_in(folder: BackendFolder) -> None:
    card = checklist(folder)
    assert sorted(card) == sorted(CHECKLIST)
    for item, verdict in card.items():
        assert verdict == "done" or verdict.startswith(("todo: ", "exempt: ")), f"{item}: {verdict}"


@every_folder
def test_what_a_model_claims_the_report_card_confirms(folder: BackendFolder) -> None:
    card = checklist(folder)
    said = (c for model in folder.config().models for c in model.capabilities)
    claimed = {"continue" if c == "prefill" else c for c in said if c in (*card, "prefill")}
    assert {c for c in claimed if card[c] != "done"} == set()


@every_folder
async def test_it_says_whether_it_can_run_here(folder: BackendFolder) -> None:
    told = await folder.available()
    assert told.reason
    assert told.available or told.cure


@every_folder
def test_finding_it_does_not_import_its_sdk(folder: BackendFolder) -> None:
    """A process that only looks around must not pay for, or need, every provider's SDK."""
    if not folder.module.startswith("workers."):
        pytest.skip("lives outside the house")
    package = folder.module.rpartition(".")[0]
    heavy = "{'openai', 'google.genai', 'ollama', 'xllamacpp'}"
    code = f"import sys, {package}; assert not {heavy} & set(sys.modules), sys.modules.keys()"
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


@every_folder
def test_nobody_else_names_it(folder: BackendFolder) -> None:
    """The folder is the boundary: beside tests, benchmarks, examples and deployment nothing knows its name."""
    if folder.name in ("local", "simulated"):
        pytest.skip("an ordinary English word")
    root = Path(__file__).resolve().parents[2]
    ours = ("contracts", "bus", "client", "manager", "telemetry", "bullpen", "workers")
    named = [
        path.relative_to(root)
        for package in ours
        for path in (root / package).rglob("*.py")
        if not path.is_relative_to(folder.path) and folder.name in path.read_text().lower()
    ]
    allowed = {Path("workers/base/chat.py"), Path("contracts/request.py")} if folder.name == "openai" else set()
    assert set(named) - allowed == set()  # "OpenAI-style" is what the whole field calls that message format
