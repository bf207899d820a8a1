"""`bullpen new-worker` and `bullpen init`: what they make works as it is, and they overwrite nothing."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bullpen import dotenv
from bullpen.cli import app
from bullpen.cli.scaffold import RESERVED, TEMPLATE
from contracts import FinishReason, InferenceRequest
from tests.backends import test_folders as conformance
from workers.base import Delta, Done, Job
from workers.base.interface.discovery import BackendFolder, find


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.fixture
def made(tmp_path: Path) -> BackendFolder:
    code, out = run("new-worker", "my_model", "--path", str(tmp_path))
    assert code == 0
    assert f"bullpen worker {tmp_path / 'my_model'}" in out
    return find(str(tmp_path / "my_model"))


async def test_a_new_worker_passes_the_checks_of_every_folder(made: BackendFolder) -> None:
    conformance.test_the_folder_is_complete(made)
    assert made.config().models
    conformance.test_the_report_card_is_filled_in(made)
    conformance.test_what_a_model_claims_the_report_card_confirms(made)
    await conformance.test_it_says_whether_it_can_run_here(made)
    assert (made.path / "Dockerfile").is_file()


def test_a_new_worker_bears_its_name_everywhere(made: BackendFolder) -> None:
    texts = {file.name: file.read_text() for file in made.path.iterdir() if file.is_file()}
    assert texts.keys() == {file.name for file in TEMPLATE.iterdir() if file.is_file()}
    for text in texts.values():
        assert "new_worker" not in text.lower()
        assert "NewWorker" not in text
    assert "class MyModelBackend(" in texts["backend.py"]
    assert "BULLPEN_MY_MODEL__" in texts["config.yaml"]


@pytest.mark.parametrize(
    ("max_tokens", "text", "reason", "tokens"), [(None, "Does it work? ", "stop", 3), (2, "Does it ", "length", 2)]
)
async def test_a_new_worker_repeats_the_question(
    made: BackendFolder, max_tokens: int | None, text: str, reason: FinishReason, tokens: int
) -> None:
    backend = made.load()(made.config())
    [card] = backend.models()
    job = Job(InferenceRequest(prompt="Does it work?"), card, max_tokens)
    pieces = [piece async for piece in backend.stream(job)]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)) == text
    assert pieces[-1] == Done(finish_reason=reason, prompt_tokens=3, completion_tokens=tokens)


@pytest.mark.parametrize(
    "name", ["Mine", "my-model", "1st", "_x", "x_", "a.b", "../x", "", "class", "a" * 65, *RESERVED]
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    code, out = run("new-worker", "--path", str(tmp_path), "--", name)
    assert code == 2
    assert "cannot be a backend's name" in out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code, out = run("new-worker", "mine", "--path", str(tmp_path))
    assert code == 2
    assert "exists already" in out
    assert list((tmp_path / "mine").iterdir()) == []


def test_in_a_checkout_it_goes_to_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "workers" / "base" / "interface").mkdir(parents=True)
    (tmp_path / "workers" / "base" / "interface" / "backend.py").touch()
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    code, out = run("new-worker", "mine")
    assert code == 0
    assert "bullpen worker mine " in out
    assert (tmp_path / "workers" / "mine" / "backend.py").is_file()


def test_elsewhere_it_asks_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = run("new-worker", "mine")
    assert code == 2
    assert "--path DIR" in out


EXAMPLE = """\
# comment with PASSWORD=
NATS_PASSWORD=
POSTGRES_PASSWORD=change-me   # anything
SESSION_SECRET=changeme
OPENAI_API_KEY=
OLD_TOKEN=kept
HTTP_PORT=8080
"""


def test_init_fills_in_every_secret_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env.example").write_text(EXAMPLE)
    code, out = run("init")
    assert code == 0
    assert "NATS_PASSWORD, POSTGRES_PASSWORD, SESSION_SECRET" in out
    values = dict(line.split("=", 1) for line in Path(".env").read_text().splitlines() if not line.startswith("#"))
    secrets = [values.pop(name) for name in ("NATS_PASSWORD", "POSTGRES_PASSWORD", "SESSION_SECRET")]
    assert len(set(secrets)) == 3
    assert all(len(secret) >= 32 and secret[0].isalpha() and secret.isalnum() for secret in secrets)
    assert values == {"OPENAI_API_KEY": "", "OLD_TOKEN": "kept", "HTTP_PORT": "8080"}
    assert stat.S_IMODE(Path(".env").stat().st_mode) == 0o600
    assert not any(secret in out for secret in secrets)


def test_init_leaves_no_password_of_ours_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = (Path(__file__).resolve().parents[2] / ".env.example").read_text()
    monkeypatch.chdir(tmp_path)
    Path(".env.example").write_text(example)
    assert run("init")[0] == 0
    empty = [line for line in Path(".env").read_text().splitlines() if line.endswith("PASSWORD=")]
    assert empty == []


def test_init_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env.example").write_text(EXAMPLE)
    mine = "NATS_PASSWORD=\nexport POSTGRES_PASSWORD='mine'\nSESSION_SECRET=s"
    Path(".env").write_text(mine)
    code, out = run("init")
    assert code == 2
    assert "left as it is" in out
    assert Path(".env").read_text() == mine


def test_init_adds_the_secrets_that_a_newer_version_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env.example").write_text(EXAMPLE)
    mine = b"# SESSION_SECRET=no\r\nNATS_PASSWORD=mine\r\n\r\nPOSTGRES_PASSWORD=mine"
    Path(".env").write_bytes(mine)
    Path(".env").chmod(0o640)
    code, out = run("init")
    assert code == 0
    assert "SESSION_SECRET" in out
    text = Path(".env").read_bytes()
    assert text.startswith(mine + b"\nSESSION_SECRET=s")
    assert text.count(b"\n") == mine.count(b"\n") + 2
    assert stat.S_IMODE(Path(".env").stat().st_mode) == 0o640
    assert run("init")[0] == 2
    assert Path(".env").read_bytes() == text


def test_outside_a_checkout_init_copies_the_settings_with_their_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BULLPEN_CONFIG_DIR", "")  # put back afterwards, whatever the option sets
    settings = tmp_path / "settings"
    (settings / "gateway.yaml").parent.mkdir()
    (settings / "gateway.yaml").write_text("mine")
    code, out = run("--config-dir", str(settings), "init")
    assert code == 0, out
    assert {"manager.yaml", "telemetry.yaml", "simulated.yaml"} < {file.name for file in settings.iterdir()}
    assert (settings / "gateway.yaml").read_text() == "mine"
    assert (settings / "manager.yaml").read_text().startswith("# Counts instead of")


def test_up_takes_keys_and_addresses_from_a_dotenv_and_no_password() -> None:
    text = (
        "# keys\nexport BIG_API_KEY='sk-1'\nOTHER_API_KEY=\nBIG_BASE_URL=http://here\nPOSTGRES_PASSWORD=x\nNATS_URL=y\n"
    )
    assert dotenv.providers_in(text, {}) == {"BIG_API_KEY": "sk-1", "BIG_BASE_URL": "http://here"}
    assert dotenv.providers_in(text, {"BIG_API_KEY": "mine"}) == {"BIG_BASE_URL": "http://here"}
    inside = text.replace("http://here", "http://host.docker.internal:8000/v1")
    assert dotenv.providers_in(inside, {}) == {}, "the key would go to another server than its own"
