"""`bullpen add` and `remove`: what is written, who finds it, and that a key is never shown."""

import os
import struct
from pathlib import Path

import pytest

from bullpen.settings_dir import added_workers, kept_keys, key_file, settings_dir, settings_of, turned_on
from bullpen.start_plan import every_backend, named_backends
from config.loader import load_config
from manager.config import ManagerConfig
from tests.backends.providers import OllamaProvider, OpenAIProvider, Provider
from tests.cli import bullpen
from workers.local.bundled import bundled_file


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a data directory on which no mesh runs, with settings of its own."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    told = {"BULLPEN_DATA_DIR": str(tmp_path / "data"), "BULLPEN_CONFIG_DIR": str(tmp_path / "settings")}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return told


async def test_a_model_file_becomes_a_worker_with_its_own_window(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "my model v2.5.gguf"
    bundled = bundled_file()
    assert bundled is not None
    file.symlink_to(bundled)
    told = await bullpen("add", str(file), env=env)
    assert (told.code, told.err) == (0, "")
    assert "added my-model-v2-5: local" in told.out
    assert "it starts with `bullpen up`" in told.out
    [(backend, worker_id, config)] = added_workers()
    assert (backend, worker_id) == ("local", "my-model-v2-5")
    assert str(file.resolve()) in config.read_text()
    plan = await named_backends(f"simulated:2,{worker_id}")
    assert [one.worker_id for one in plan.added] == [worker_id]
    assert [one.folder.config(one.config).models[0].context_window for one in plan.added] == [8192]
    again = await bullpen("add", str(file), env=env)
    assert (again.code, len(list(added_workers()))) == (0, 1), "the same file is the same worker"
    assert (await bullpen("remove", worker_id, env=env)).code == 0
    assert list(added_workers()) == []


@pytest.mark.parametrize("made", [OllamaProvider, OpenAIProvider])
async def test_a_server_is_recognised_by_what_it_speaks(env: dict[str, str], made: type[Provider]) -> None:
    async with made() as provider:
        told = await bullpen("add", provider.url, "--name", "box", env=env)
        assert (told.code, told.err) == (0, "")
        [(backend, worker_id, config)] = added_workers()
        assert (backend, worker_id) == (made.backend, "box")
        plan = await every_backend()
        assert [(one.folder.name, one.worker_id, one.config) for one in plan.added] == [(made.backend, "box", config)]
        assert (await plan.added[0].folder.available(config)).available


async def test_a_key_is_kept_apart_and_never_shown(env: dict[str, str]) -> None:
    told = await bullpen("add", "anthropic", stdin=b"sk-secret\n", env=env)
    assert told.code == 0
    assert "sk-secret" not in told.out + told.err
    kept = kept_keys({})
    file = key_file("ANTHROPIC_API_KEY")
    assert kept == {"ANTHROPIC_API_KEY_FILE": str(file)}
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("sk-secret\n", 0o600)
    assert kept_keys({"ANTHROPIC_API_KEY": "sk-other"}) == {}, "the environment comes first"
    assert turned_on().keys() == {"anthropic"}
    assert (await bullpen("remove", "anthropic", env=env)).code == 0
    assert "ANTHROPIC_API_KEY_FILE" not in os.environ, "it would be the next test's"
    assert not file.exists()
    assert turned_on() == {}


async def test_what_cannot_be_added_is_told(env: dict[str, str], tmp_path: Path) -> None:
    text, cut = tmp_path / "notes.md", tmp_path / "cut.gguf"
    text.write_text("no model")
    cut.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 5))
    for arguments, said in (
        (["add", str(text)], "no GGUF file"),
        (["add", str(cut)], "cannot be served"),
        (["add", str(tmp_path / "missing.gguf")], "there is no file"),
        (["add", "http://127.0.0.1:9"], "no server that a backend knows answers at http://127.0.0.1:9"),
        (["add", "http://127.0.0.1:9", "--name", "a.b"], "--name 'a.b'"),
        (["remove", "box"], "box was not added"),
    ):
        told = await bullpen(*arguments, env=env)
        assert told.code == 2
        assert said in told.err
    assert list(added_workers()) == []


async def test_settings_of_the_user_s_count_before_those_that_came_along(env: dict[str, str]) -> None:
    folder = settings_dir()
    folder.mkdir(parents=True)
    (folder / "manager.yaml").write_text("max_waiting: 7\n")
    assert settings_of("manager") == folder / "manager.yaml"
    assert settings_of("gateway") is None
    assert load_config(ManagerConfig, "manager", settings_of("manager")).max_waiting == 7
