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
    """None: the books are off."""
    http_url: str | None = None
    pids: dict[str, int] = Field(default_factory=dict)
    silent_since: dict[str, float] = Field(default_factory=dict)
    """Workers whose heartbeats are missing: when each was last heard, in Unix seconds."""


def default_data_dir() -> Path:
    """`BULLPEN_DATA_DIR`, or `.bullpen` in the current directory."""
    return Path(os.environ.get("BULLPEN_DATA_DIR") or DEFAULT_DATA_DIR)


def read(data_dir: Path | None = None) -> Endpoints | None:
    """What the last mesh of this data directory wrote, running or not; None when there is nothing readable."""
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

    Only its owner may read it, because the database's password stands in it. Raises `OSError`.
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
    """Where a command finds NATS. Raises `BusUnreachable` when the environment names a mesh that does not run.

    Whoever listens at the standard address then is not the one that was meant, and should not get the question.
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
    """Where a command finds the books; None when neither the environment nor a running mesh says so."""
    if url := secret("DATABASE_URL"):
        return url
    endpoints = running(data_dir)
    return endpoints.database_url if endpoints else None
