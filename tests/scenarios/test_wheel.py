"""The wheel, installed elsewhere: `bullpen up` runs from another folder, whatever files lie there."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 200.0

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(400)]


async def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """What it said; it has to end well."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "BULLPEN_", "PYTHON"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**kept, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    said, _ = await asyncio.wait_for(process.communicate(), WITHIN)
    assert process.returncode == 0, said.decode()
    return said.decode()


def copy_of_what_is_packaged(source: Path) -> None:
    """So that nothing is built in the checkout."""
    for folder in (".ci", *(place.parent.name for place in ROOT.glob("*/__init__.py"))):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)


@pytest.fixture
async def installed(tmp_path: Path) -> AsyncIterator[Path]:
    """A virtual environment with the wheel; what it needs comes from the environment of the tests."""
    source, venv = tmp_path / "source", tmp_path / "venv"
    copy_of_what_is_packaged(source)
    await run(sys.executable, source / ".ci" / "dist.py", tmp_path / "dist", cwd=tmp_path)
    await run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    [wheel] = (tmp_path / "dist").glob("bullpen_mesh-*.whl")
    python = venv / "bin" / "python"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
    ]
    await run(*pip, wheel, cwd=tmp_path)
    site = await run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    (tmp_path / site.strip() / "needed.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    yield venv / "bin" / "bullpen"


async def test_the_wheel_runs_a_mesh_from_another_folder(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("client.py", "config.py", "workers.py"):
        (folder / name).write_text("raise SystemExit('this is not ours')")
    home = {"HOME": str(tmp_path / "home"), "BULLPEN_GATEWAY__LISTEN": f"127.0.0.1:{free_port()}"}
    assert "bullpen 0." in await run(installed, "--version", cwd=folder, **home)
    made = await run(installed, "init", cwd=folder, **home)
    settings = tmp_path / "home" / ".config" / "bullpen"
    assert str(settings) in made
    assert (settings / "simulated.yaml").is_file()
    (settings / "simulated.yaml").write_text("models: [{name: my-own}]\n")
    try:
        ports = ("--port-nats", str(free_port()))
        up = await run(
            installed, "up", "--detach", "--workers", "simulated:2", "--no-postgres", *ports, cwd=folder, **home
        )
        assert "Bullpen is up" in up
        answer = json.loads(await run(installed, "ask", "--json", "Hello?", cwd=folder, **home))
        assert (answer["model_id"], bool(answer["output"])) == ("my-own", True)
        assert (folder / ".bullpen" / "endpoints.json").is_file()
        python = installed.with_name("python")
        program = (
            "import asyncio\nfrom bullpen import Client\n"
            "async def main():\n    async with Client.connect() as mesh: print((await mesh.ask('Hello?')).output)\n"
            "asyncio.run(main())"
        )
        nats = json.loads((folder / ".bullpen" / "endpoints.json").read_text())["nats_url"]
        assert await run(python, "-P", "-c", program, cwd=folder, NATS_URL=nats, **home)
    finally:
        await run(installed, "down", cwd=folder, **home)
