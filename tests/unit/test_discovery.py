"""Backends that somebody else wrote: an installed package's are found by its entry point, and break nothing of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from bullpen.cli import app
from workers.base.interface.discovery import discover, find

ROOT = Path(__file__).resolve().parents[2]


def install(site: Path, name: str, entry_point: str) -> None:
    """As pip leaves it."""
    info = site / f"{name}_bullpen-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-bullpen\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bullpen.workers]\n{name} = {entry_point}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages are installed, with a backend in `acme_bullpen`."""
    assert CliRunner().invoke(app, ["new-worker", "acme", "--path", str(tmp_path)]).exit_code == 0
    (tmp_path / "acme").rename(tmp_path / "acme_bullpen")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [module for module in sys.modules if module.startswith("acme_bullpen")]:
        monkeypatch.delitem(sys.modules, module)
    return tmp_path


@pytest.mark.parametrize("entry_point", ["acme_bullpen.backend", "acme_bullpen.backend:AcmeBackend"])
def test_an_installed_backend_is_found_by_its_entry_point(site: Path, entry_point: str) -> None:
    install(site, "acme", entry_point)
    found = find("acme")
    assert found.path == site / "acme_bullpen"
    assert found.load().name == "acme"
    assert [model.name for model in found.config().models] == ["acme-echo"]


@pytest.mark.parametrize("code", [None, "raise RuntimeError('no')\n"])
def test_a_package_that_is_broken_is_left_out_and_said(site: Path, code: str | None) -> None:
    """Without it, no worker of ours would start."""
    install(site, "acme", "acme_bullpen.backend")
    install(site, "wrong", "wrong_bullpen.backend")
    if code is not None:
        (site / "wrong_bullpen").mkdir()
        (site / "wrong_bullpen" / "__init__.py").write_text(code)
    with structlog.testing.capture_logs() as logs:
        found = discover()
    assert "acme" in found
    assert "wrong" not in found
    assert [entry["name"] for entry in logs if entry["event"] == "backend_not_found" and "name" in entry] == ["wrong"]


async def test_a_backend_whose_code_fails_counts_as_broken(site: Path) -> None:
    (site / "acme_bullpen" / "backend.py").write_text("nobody.knows\n")
    told = await find(str(site / "acme_bullpen")).available()
    assert not told.available
    assert "NameError" in told.reason
    assert str(site / "acme_bullpen" / "backend.py") in told.cure


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_a_provider_that_is_not_configured_is_unavailable_without_its_sdk(name: str) -> None:
    code = (
        "import asyncio, sys\n"
        "from workers.base.interface.discovery import find\n"
        f"told = asyncio.run(find({name!r}).available())\n"
        f"assert f'workers.{name}.backend' not in sys.modules\n"
        "print(told.available, told.reason, told.cure)"
    )
    bare = {key: value for key, value in os.environ.items() if not key.startswith((name.upper(), "BULLPEN_"))}
    told = _run(code, bare)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("False no key")
    assert f"set {name.upper()}_API_KEY, or {name.upper()}_BASE_URL" in told.stdout
    assert "AssertionError" in _run(code, {**bare, f"{name.upper()}_API_KEY": "x" * 40}).stderr


def _run(code: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
