"""The schema, as numbered files that run once each, in order, forward only.

Several telemetry processes may start at once: an advisory lock lets one migrate while the others wait. A
database that is newer than this code, or a file that was changed after it ran, is an error, not a guess.
"""

import hashlib
from pathlib import Path

import structlog

from telemetry.store import SQL, Connection, Store

log = structlog.get_logger(__name__)

FOLDER = SQL / "migrations"
LOCK = 0x62756C6C
"""Any number that is ours: the advisory lock's key."""

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    digest     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class SchemaMismatch(Exception):
    """The database's schema does not fit this code; the message says how and what to do."""


def available(folder: Path = FOLDER) -> dict[int, Path]:
    """The migration files by number."""
    return {int(path.name[:4]): path for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))}


async def migrate(store: Store, folder: Path = FOLDER) -> int:
    """Brings the database to the newest schema and returns its version. Raises `DatabaseAway`, `SchemaMismatch`."""
    files = available(folder)
    texts = {number: path.read_text(encoding="utf-8") for number, path in files.items()}

    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            await connection.execute(_TABLE)
            done = {row["version"]: row["digest"] for row in await connection.fetch("SELECT * FROM schema_migrations")}
            _check(done, files)
            for number in sorted(files.keys() - done.keys()):
                await _apply(connection, number, files[number], texts[number])

    await store.perform(work)
    return max(files, default=0)


def _check(done: dict[int, str], files: dict[int, Path]) -> None:
    if unknown := sorted(done.keys() - files.keys()):
        raise SchemaMismatch(
            f"the database has migration {unknown[-1]:04d}, which this version does not know: run a newer bullpen"
        )
    for number, digest in done.items():
        if digest != _digest(files[number]):
            raise SchemaMismatch(f"{files[number].name} was changed after it ran: add a new migration instead")


async def _apply(connection: Connection, number: int, path: Path, text: str) -> None:
    await connection.execute(text)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, digest) VALUES ($1, $2, $3)", number, path.stem, _digest(path)
    )
    log.info("schema_migrated", version=number, name=path.stem)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
