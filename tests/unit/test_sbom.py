"""The bill of materials lists what the lock installs."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-run.lock"


def test_the_tools_of_a_release_are_locked_beside_the_others() -> None:
    known = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    tools = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements-release.lock").read_text(), re.MULTILINE)
    assert {"twine", "cyclonedx-bom"} <= {name for name, _ in tools}
    assert [name for name, version in tools if known.get(name, version) != version] == []


@pytest.mark.skipif(find_spec("cyclonedx_py") is None, reason="cyclonedx-bom is not installed: make release-tools")
def test_every_package_of_the_lock_is_in_it_with_its_version_and_hashes(tmp_path: Path) -> None:
    (recipe,) = re.findall(
        r"-m (cyclonedx_py .*) -o dist/sbom.json (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    command = [sys.executable, "-m", *recipe[0].split(), "-o", str(tmp_path / "sbom.json"), str(ROOT / recipe[1])]
    subprocess.run(command, check=True, capture_output=True)
    told = json.loads((tmp_path / "sbom.json").read_text())["components"]
    locked = re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK.read_text(), re.MULTILINE)
    assert {(one["name"], one["version"]) for one in told} == set(locked)
    assert all(any(reference.get("hashes") for reference in one.get("externalReferences", ())) for one in told)
