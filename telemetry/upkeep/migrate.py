"""The schema: numbered files that run once each, in order, forward only.

Several accountants may start at once: an advisory lock lets one migrate while the others wait. A database that is newer
than this code, or a file that was changed after it ran, is an error.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from telemetry.store import SQL, Connection, Store, sql

log = structlog.get_logger(__name__)

FOLDER = SQL / "migrations"
LOCK = 0x62756C6C
"""The key of the advisory lock: an arbitrary number."""
LONGEST = 3600.0
"""Seconds that one migration of a full database may take, with the wait for another process."""


class SchemaMismatch(Exception):
    """The database's schema does not fit this code; the message says how and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    path: Path
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def available(folder: Path = FOLDER) -> dict[int, Path]:
    """The migration files by number."""
    return {int(path.name[:4]): path for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))}


async def migrate(store: Store, folder: Path = FOLDER) -> int:
    """Brings the database to the newest schema and returns its version. Raises `DatabaseAway`, `SchemaMismatch`.

    Each migration is a transaction of its own: what succeeded stays when a later one fails.
    """
    files = [Migration(number, path, path.read_text("utf-8")) for number, path in available(folder).items()]

    async def step(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            await connection.execute(sql("schema_migrations"))
            if missing := await _missing(connection, files):
                await _apply(connection, missing[0])

    while await store.perform(lambda connection: _missing(connection, files)):
        await store.perform(step, within=LONGEST)
    return files[-1].number


async def _missing(connection: Connection, files: list[Migration]) -> list[Migration]:
    """The migrations that have not run yet. Raises `SchemaMismatch`."""
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return files
    rows = await connection.fetch("SELECT version, digest FROM schema_migrations ORDER BY version")
    done: dict[int, str] = {row["version"]: row["digest"] for row in rows}
    known = {file.number: file for file in files}
    if unknown := done.keys() - known.keys():
        raise SchemaMismatch(
            f"the database has migration {max(unknown):04d}, which this version does not know: run a newer bullpen"
        )
    for number, digest in done.items():
        if known[number].digest != digest:
            raise SchemaMismatch(f"{known[number].path.name} was changed after it ran: add a new migration instead")
    return [file for file in files if file.number not in done]


async def _apply(connection: Connection, file: Migration) -> None:
    await connection.execute(file.text)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, digest) VALUES ($1, $2, $3)",
        file.number,
        file.path.stem,
        file.digest,
    )
    log.info("schema_migrated", version=file.number, name=file.path.stem)
