"""Where foreign clients are installed, and how they are run: as programs of their own, in a home of their own."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CLIENTS = ROOT / ".clients"
PYTHON = CLIENTS / "python" / "bin" / "python"
WITHIN = 100.0
"""Seconds that a client gets: the first start of one may take its time."""
NO_DOWNLOADS = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def needs(name: str) -> pytest.MarkDecorator:
    """Skips the tests where this client is not installed. `name`: of its folder in `.clients`."""
    there = (CLIENTS / name / "complete").exists()
    return pytest.mark.skipif(not there, reason=f"{name} is not installed: make clients")


def node_tool(package: str, name: str) -> str:
    """The path of a command that a package for Node brings."""
    return str(CLIENTS / package / "node_modules" / ".bin" / name)


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, object]]:
        """What it printed as JSON, line by line; other lines are passed over."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


def run(command: Sequence[str | Path], home: Path, environment: Mapping[str, str]) -> Done:
    """Runs it to its end, in `home`."""
    with running(command, home, environment) as process:
        out, err = process.communicate(timeout=WITHIN)
        return Done(process.returncode, out, err)


@contextmanager
def running(
    command: Sequence[str | Path], home: Path, environment: Mapping[str, str], *, keep_stdin: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Ends it when it is left. Nothing of our own environment is known to it, but where programs are.

    `keep_stdin`: it reads from us. Else there is nothing to read.
    """
    told = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **NO_DOWNLOADS}
    process = subprocess.Popen(
        command,
        cwd=home,
        env={**told, **environment},
        stdin=subprocess.PIPE if keep_stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def program(name: str, home: Path) -> list[str | Path]:
    """The command of one of our programs that drive a client: `node/openai.mjs`, `python/litellm_program.py`.

    Node looks for packages beside the program, so it is copied to where they seem to be.
    """
    path = HERE / name
    if path.suffix == ".py":
        return [PYTHON, path]
    for module in path.parent.glob("*.mjs"):
        shutil.copy(module, home)
    with_packages(home)
    return ["node", path.name]


def with_packages(home: Path) -> None:
    """Lets JavaScript in `home` import the SDKs."""
    (home / "node_modules").symlink_to(CLIENTS / "sdks" / "node_modules")
