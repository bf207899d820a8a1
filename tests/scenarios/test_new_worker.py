"""A new kind of worker, as somebody makes one: `bullpen new-worker demo`, then the suite, then somewhere else."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli import ROOT, environment

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (shutil.which("git") and (ROOT / ".git").exists()), reason="this is no clone"),
]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider")
SUITE = "tests/backends/test_conformance.py"


async def done(*command: str, cwd: Path, **env: str) -> str:
    """What it printed; it has to end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**environment(), "PYTHONPATH": str(cwd), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_a_new_worker_passes_the_suite_touches_nothing_else_and_works_elsewhere(tmp_path: Path) -> None:
    clone, outside = tmp_path / "clone", tmp_path / "elsewhere" / "demo"
    await done("git", "clone", "-q", str(ROOT), str(clone), cwd=tmp_path)
    assert "made" in await done(sys.executable, "-m", "bullpen", "new-worker", "demo", cwd=clone)
    assert await done("git", "status", "--porcelain", cwd=clone) == "?? workers/demo/\n"
    assert " passed" in await done(*PYTEST, SUITE, "tests/backends/test_folders.py", "-k", "demo", cwd=clone)
    assert " passed" in await done(*PYTEST, "tests/unit/test_compose.py", "tests/unit/test_kubernetes.py", cwd=clone)
    outside.parent.mkdir()
    (clone / "workers" / "demo").rename(outside)
    told = await done(*PYTEST, SUITE, "-k", "demo", cwd=clone, BULLPEN_TEST_BACKENDS=str(outside))
    assert " passed" in told
