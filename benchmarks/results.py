"""What every benchmark writes: its figures, the commit, the machine, and what they do not prove."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def write(name: str, figures: dict[str, Any], *, does_not_prove: list[str]) -> Path:
    """Writes `results/<name>.json` and returns its path."""
    FOLDER.mkdir(exist_ok=True)
    document = {
        "benchmark": name,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "figures": figures,
        "does_not_prove": does_not_prove,
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def git(*words: str) -> str:
    """What git says; `unknown` without it."""
    try:
        told = subprocess.run(["git", *words], cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()
