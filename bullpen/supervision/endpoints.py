"""Where the mesh of a data directory is: `endpoints.json`, written by `bullpen up`, read by all commands.

A command finds its mesh in this order: `NATS_URL` (or `DATABASE_URL`) of the environment, the mesh that
runs on the data directory, the standard address.
"""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydantic import Field, ValidationError

from bullpen.supervision.lock import holder
from bus import BusUnreachable
from bus.settings import DEFAULT_URL
from config.loader import secret
from contracts import OpenModel

NAME = "endpoints.json"
DEFAULT_DATA_DIR = ".bullpen"


class Endpoints(OpenModel):
    """Addresses, and process ids by process name (`manager-1`, `worker-local-1`, `telemetry-1`, `nats` …)."""

    nats_url: str
    database_url: str | None = None
    """None: there are no books."""
    http_url: str | None = None
    pids: dict[str, int] = Field(default_factory=dict)
    silent_since: dict[str, float] = Field(default_factory=dict)
    """Silent workers, with the time of their last heartbeat in Unix seconds."""


def default_data_dir() -> Path:
    """`BULLPEN_DATA_DIR`, or `.bullpen` in the current directory."""
    return Path(os.environ.get("BULLPEN_DATA_DIR") or DEFAULT_DATA_DIR)


def read(data_dir: Path | None = None) -> Endpoints | None:
    """The file of the last mesh on this data directory, running or not; None: it is missing or unreadable."""
    try:
        return Endpoints.model_validate_json((data_dir or default_data_dir()).joinpath(NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def running(data_dir: Path | None = None) -> Endpoints | None:
    """The endpoints of the mesh that runs on this data directory now; None when none runs or is ready."""
    data_dir = data_dir or default_data_dir()
    return read(data_dir) if holder(data_dir) else None


def write(endpoints: Endpoints, data_dir: Path) -> None:
    """Writes `endpoints.json` in one step: a reader sees the old file or the new one, never half of one.

    Only its owner may read it, because it has the database's password. Raises `OSError`.
    """
    with NamedTemporaryFile("w", encoding="utf-8", dir=data_dir, prefix=f".{NAME}.", delete=False) as file:
        made = Path(file.name)
        try:
            file.write(endpoints.model_dump_json(indent=2) + "\n")
            file.flush()
        except OSError:
            made.unlink()
            raise
    made.replace(data_dir / NAME)


def forget(data_dir: Path) -> None:
    """Removes `endpoints.json`: the mesh has stopped."""
    (data_dir / NAME).unlink(missing_ok=True)


def resolve_nats_url(data_dir: Path | None = None) -> str:
    """The address of NATS for a command. Raises `BusUnreachable` when the environment names a mesh that does not run.

    In that case a server at the standard address is another one, and should not get the request.
    """
    if url := os.environ.get("NATS_URL"):
        return url
    if endpoints := running(data_dir):
        return endpoints.nats_url
    named = os.environ.get("BULLPEN_DATA_DIR") if data_dir is None else None
    if named:
        raise BusUnreachable(
            f"no mesh runs on {named}, which BULLPEN_DATA_DIR names: start it with `bullpen up`, unset the variable, "
            "or set NATS_URL to a server that runs",
            hopeless=True,
        )
    return DEFAULT_URL


def resolve_database_url(data_dir: Path | None = None) -> str | None:
    """The address of the books for a command; None: neither the environment nor a running mesh has one."""
    if url := secret("DATABASE_URL"):
        return url
    endpoints = running(data_dir)
    return endpoints.database_url if endpoints else None
