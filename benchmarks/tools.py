"""Programs of others that a benchmark asks or is compared with, each in a virtual environment of its own.

Made when they are first asked for, kept under `~/.cache/bullpen-benchmarks`; the package index is the one that pip is
set up for.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path


def installed(name: str, *packages: str) -> Path:
    """The programs of the environment `name`, which has these packages. Exits when pip cannot install them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "bullpen-benchmarks" / name
    done, programs = folder / "installed", folder / "bin"
    wanted = "\n".join(packages)
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return programs
    print(f"installing {' '.join(packages)} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    told = subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", *packages], check=False)
    if told.returncode:
        sys.exit(f"pip cannot install {' '.join(packages)}")
    done.write_text(wanted, encoding="utf-8")
    return programs
