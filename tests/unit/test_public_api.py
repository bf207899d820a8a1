"""`from bullpen import Client`: the public Python API, and what a file of the caller's may not do to it."""

import subprocess
import sys
from pathlib import Path

import bullpen
import client

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from bullpen import Client; print(Client.__module__)"


def test_the_client_and_its_errors_are_there() -> None:
    assert bullpen.Client is client.Bullpen
    assert all(getattr(bullpen, name) for name in bullpen.__all__)


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, *options, str(program)]
    return subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_file_that_hides_our_package_is_named(tmp_path: Path) -> None:
    assert run(tmp_path).stdout == "client.client\n"
    (tmp_path / "client.py").write_text("mine = 1")
    told = run(tmp_path)
    assert told.returncode == 1
    assert f"{tmp_path / 'client.py'} hides Bullpen's own package 'client': rename it" in told.stderr
    assert run(tmp_path, "-P").stdout == "client.client\n"
