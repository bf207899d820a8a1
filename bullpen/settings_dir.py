"""Where the settings of this machine's mesh are: the checkout's own folders, and above them a folder of the user's.

A file there counts instead of Bullpen's own: `manager.yaml`, `telemetry.yaml`, `gateway.yaml`, and one for each backend
(`local.yaml`). Workers made with `bullpen add` are in `workers/<backend>/<worker id>.yaml`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bullpen.supervision.endpoints import default_data_dir
from contracts.subjects import is_name

VARIABLE = "BULLPEN_CONFIG_DIR"
HOUSE = Path(__file__).resolve().parents[1]
ROLES = ("manager", "telemetry", "gateway")


def is_checkout() -> bool:
    """Whether Bullpen runs from its repository, and not from an installed package."""
    return (HOUSE / "pyproject.toml").is_file()


def settings_dir(data_dir: Path | None = None) -> Path:
    """The folder: `BULLPEN_CONFIG_DIR`; else, in a checkout, `config/` in the data directory, and otherwise
    `~/.config/bullpen`.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    if is_checkout():
        return (data_dir or default_data_dir()) / "config"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "bullpen"


def settings_of(name: str, data_dir: Path | None = None) -> Path | None:
    """The user's own settings of a role or a backend; None: there are none."""
    file = settings_dir(data_dir) / f"{name}.yaml"
    return file if file.is_file() else None


def role_config(role: str) -> Path | None:
    """The settings of a role: the user's, else Bullpen's own."""
    ours = HOUSE / role / "config.yaml"
    return settings_of(role) or (ours if ours.is_file() else None)


def short_name(text: str) -> str:
    """A worker id that resembles the name of a file or a server."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:58] or "worker"


def added_config(backend: str, worker_id: str, data_dir: Path | None = None) -> Path:
    """The file with the settings of an added worker."""
    return settings_dir(data_dir) / "workers" / backend / f"{worker_id}.yaml"


def added_workers(data_dir: Path | None = None) -> Iterator[tuple[str, str, Path]]:
    """Backend, worker id and settings of each added worker, in alphabetical order."""
    for file in sorted((settings_dir(data_dir) / "workers").glob("*/*.yaml")):
        if is_name(file.parent.name) and is_name(file.stem):
            yield file.parent.name, file.stem, file


def marker(backend: str, data_dir: Path | None = None) -> Path:
    """The file that marks a backend without settings of its own as turned on by `bullpen add`."""
    return settings_dir(data_dir) / "workers" / f"{backend}.on"


def turned_on(data_dir: Path | None = None) -> dict[str, int]:
    """The backends that `bullpen add` turned on, each with a value that changes when it is turned on again."""
    found = {}
    for file in (settings_dir(data_dir) / "workers").glob("*.on"):
        with suppress(OSError):  # it was just taken back
            if is_name(file.stem):
                found[file.stem] = file.stat().st_mtime_ns
    return found


def key_file(variable: str, data_dir: Path | None = None) -> Path:
    """The file in which `bullpen add` keeps the key of this variable."""
    return settings_dir(data_dir) / "keys" / variable


def kept_keys(environ: Mapping[str, str], data_dir: Path | None = None) -> dict[str, str]:
    """`<NAME>_FILE` for every key that is kept here, unless the environment sets the key."""
    kept = {file.name: file for file in sorted((settings_dir(data_dir) / "keys").glob("*")) if file.name.isidentifier()}
    return {
        f"{name}_FILE": str(file)
        for name, file in kept.items()
        if not environ.get(name) and not environ.get(f"{name}_FILE")
    }
