"""Finds out whether the database takes writes, by writing: a full database, or a standby, can still be read."""

from telemetry.store import Connection, DatabaseAway, Store

LOGGED = "SELECT pg_logical_emit_message(true, 'bullpen', 'is this written?')"
"""Commits in the write-ahead log, and leaves no row."""
ROW = "INSERT INTO dead_letters (stream_seq, subject, reason, body) VALUES (-1, 'check', 'a check', '')"


async def why_not_written(store: Store) -> str:
    """Why the database takes no write now; empty: it does. A user who may only read is not checked.

    Raises `DatabaseAway` when the database cannot be asked.
    """

    async def write(connection: Connection) -> None:
        if not await connection.fetchval("SELECT has_table_privilege('dead_letters', 'INSERT')"):
            return
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(ROW)
        finally:
            await transaction.rollback()
        await connection.execute(LOGGED)

    try:
        await store.perform(write)
    except DatabaseAway as error:
        await store.perform(lambda connection: connection.fetchval("SELECT 1"))
        return f"nothing can be written: {error}"
    return ""
