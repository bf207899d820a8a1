"""`.ci/setup.py`: which lock is installed, with what, and what is said."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """What the set-up runs, instead of running it."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.uv = True

    def succeeds(self, *command: str | Path) -> bool:
        self.ran.append([str(word) for word in command])
        return "uv" not in str(command[0]) or self.uv

    @property
    def installers(self) -> list[str]:
        """`uv` or `pip`, and which lock, or the checkout."""
        return [
            f"{'uv' if 'uv' in words[0] else 'pip'} {Path(words[-1]).name}" for words in self.ran if "install" in words
        ]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[ModuleType, Machine]:
    spec = importlib.util.spec_from_file_location("set_up", ROOT / ".ci" / "setup.py")
    assert spec is not None and spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    machine = Machine()
    monkeypatch.setattr(setup, "succeeds", machine.succeeds)
    monkeypatch.setattr(setup, "STAMPS", {setup.RUN: tmp_path / "run", setup.WHOLE: tmp_path / "whole"})
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["setup.py", "run"])
    return setup, machine


def test_up_needs_no_tools_and_tests_add_them(
    machine: tuple[ModuleType, Machine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup, made = machine
    setup.main()
    assert made.installers == ["pip requirements-run.lock", f"pip {ROOT.name}"]
    assert all("--require-hashes" in words for words in made.ran if "--requirement" in words)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("Setting up .venv once: about 300 MB to download")
    assert len(told) == 5, "a line per step"
    made.ran.clear()
    setup.main()
    assert made.installers == []
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    setup.main()
    assert made.installers == ["pip requirements.lock"]
    made.ran.clear()
    monkeypatch.setattr(sys, "argv", ["setup.py", "run"])
    setup.main()
    assert made.installers == [], "the whole has what is needed to run"


def test_uv_is_used_where_it_is_and_pip_when_it_fails(
    machine: tuple[ModuleType, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, made = machine
    monkeypatch.setattr(setup.shutil, "which", lambda name: "/opt/uv")
    setup.install(setup.RUN)
    assert made.installers == ["uv requirements-run.lock"]
    made.ran.clear()
    made.uv = False
    setup.install(setup.RUN)
    assert made.installers == ["uv requirements-run.lock", "pip requirements-run.lock"]
