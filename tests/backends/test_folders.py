"""Every backend's folder, whoever wrote it: complete, readable, honest about what it can do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from config.loader import ConfigError
from tests.cli import invoke
from tests.support import is_ours
from workers.base.interface.checklist import load_checklist
from workers.base.interface.discovery import BackendFolder, discover

FILES = ("__init__.py", "backend.py", "config.yaml", "README.md", "checklist.yaml")
every_folder = pytest.mark.parametrize("folder", [pytest.param(f, id=name) for name, f in discover().items()])


ANOTHER_MEANING = {
    "openai": {
        *(Path("workers/base/provider/chat.py"), Path("contracts/request.py")),
        *(Path("bullpen/cli/scaffold.py"), Path("bullpen/templates/new_http_worker/backend.py")),
        Path("bullpen/cli/add.py"),  # an example in its help
    },
    "gemini": {Path("workers/base/provider/chat_models.py")},
}
"""Files in which a backend's name is no backend: "OpenAI-style" is what the whole field calls that message format, and
Gemini is also a family of models that other servers list."""
DIALECTS = ("openai", "anthropic", "ollama")
"""In the gateway these are ways of asking over HTTP, named after whose clients speak them."""


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
    assert len(load_checklist(folder.path).items()) == 12


@every_folder
def test_what_a_model_claims_the_report_card_confirms(folder: BackendFolder) -> None:
    card = load_checklist(folder.path).items()
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
def test_no_other_code_names_a_backend(folder: BackendFolder) -> None:
    """The folder is the boundary: beside tests, benchmarks, examples and deployment nothing knows its name."""
    if folder.name in ("local", "simulated"):
        pytest.skip("an ordinary English word")
    if not is_ours(folder.path):
        pytest.skip("just made, and its name may be a word as well")
    root = Path(__file__).resolve().parents[2]
    ours = ("config", "contracts", "bus", "outbox", "client", "manager", "telemetry", "gateway", "bullpen", "workers")
    named = [
        path.relative_to(root)
        for package in ours
        for path in (root / package).rglob("*.py")
        if not path.is_relative_to(folder.path)
        and not (package == "gateway" and folder.name in DIALECTS)
        and re.search(rf"(?<![a-z]){folder.name}", path.read_text().lower())
    ]
    assert set(named) - ANOTHER_MEANING.get(folder.name, set()) == set()


GOOD = "".join(f"{item}: done\n" for item in load_checklist(discover()["simulated"].path).items())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("tools: done\n", ""), "checklist.yaml:1: tools: Field required"),
        (GOOD + "teleport: done\n", "checklist.yaml:13: teleport: unknown key"),
        (
            GOOD.replace("chat: done", "chat: soon"),
            "checklist.yaml:1: chat: should be `done`, `todo: why` or `exempt: why`",
        ),
        (GOOD.replace("stream: done", "stream: 'todo: '"), "checklist.yaml:2: stream: should be"),
        (GOOD.replace("cancel: done", "cancel: [done]"), "checklist.yaml:3: cancel: Input should be a valid string"),
        ("chat: [\n", "checklist.yaml:2: not valid YAML"),
    ],
)
def test_a_checklist_that_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "checklist.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_checklist(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{told}")


def test_the_command_shows_what_each_can_do_without_a_mesh() -> None:
    told = invoke("workers", "--capabilities", "--json")
    assert told.code == 0
    assert told.json().keys() == discover().keys()
    assert told.json()["simulated"]["vision"] == "exempt: no model"
    shown = invoke("workers", "--capabilities").out
    assert "simulated, vision: no model" in shown


def test_the_command_names_a_checklist_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checklist.yaml").write_text("chat: perhaps\n")
    found = {"mine": BackendFolder("mine", tmp_path, ""), "simulated": discover()["simulated"]}
    monkeypatch.setattr("bullpen.cli.capabilities.discover", lambda: found)
    told = invoke("workers", "--capabilities", "--json")
    assert told.code == 1
    assert f"{tmp_path}/checklist.yaml:1: chat: should be" in told.err
    assert told.json().keys() == {"simulated"}
