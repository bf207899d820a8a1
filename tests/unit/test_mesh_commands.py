"""Role processes import our modules, whatever lies in the directory they are started from."""

import sys
from pathlib import Path

import pytest

from bullpen.supervision.mesh import role_command


def test_a_role_looks_for_modules_where_we_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/usr/lib/python", str(tmp_path)])
    assert role_command() == [sys.executable, "-m", "bullpen"]


def test_a_role_imports_nothing_from_a_foreign_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/usr/lib/python"])
    assert role_command() == [sys.executable, "-P", "-m", "bullpen"]
