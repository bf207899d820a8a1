"""Partitions by month: created in advance, and dropped when they are too old, while the books are read and written.

A new partition is created as a table of its own and attached empty, which locks no reader out. An old partition is
first detached `CONCURRENTLY`: Postgres waits for its readers, and no query waits for Postgres. Only then is it dropped.
Creating needs only the right to call `make_partitions` (role `bullpen_recorder`). Dropping needs the owner of the
tables, so a stolen recorder's password cannot delete the past.
"""

from collections.abc import Iterable
from datetime import datetime

import asyncpg
import structlog

from telemetry.store import Connection, Row, Store, sql

log = structlog.get_logger(__name__)

MONTHS_AHEAD = 3
LOCK_TIMEOUT = "5s"
"""How long dropping a partition waits for its readers before it is left for the next round."""
BUSY = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.UndefinedTableError,
)
"""Errors when the partition is being read, or another accountant is dropping it."""


async def ensure(store: Store, months: Iterable[datetime]) -> list[str]:
    """Creates the missing partitions for the months of these moments; returns their names. Raises `DatabaseAway`."""

    async def work(connection: Connection) -> list[str]:
        return [row[0] for row in await connection.fetch("SELECT make_partitions($1)", list(months))]

    return await store.perform(work)


async def ensure_ahead(connection: Connection, now: datetime) -> list[str]:
    """Creates the partitions of this month and the next `MONTHS_AHEAD` months."""
    made = [row["name"] for row in await connection.fetch(sql("make_partitions"), now, MONTHS_AHEAD)]
    if made:
        log.info("partitions_made", names=made)
    return made


async def drop_ended(connection: Connection, before: datetime, query: str = "partitions_due") -> list[str]:
    """Drops the partitions that ended before `before`; returns their names. A partition in use is left for the next
    round.

    `query`: finds these partitions. It runs outside a transaction: `DETACH … CONCURRENTLY` makes its own.
    """
    due = await connection.fetch(sql(query), before)
    if foreign := [row["name"] for row in due if not row["ours"]]:
        log.warning("partitions_not_ours", names=foreign, cure="let telemetry connect as the owner of the tables")
    await connection.execute("SELECT set_config('lock_timeout', $1, false)", LOCK_TIMEOUT)
    dropped = [row["name"] for row in due if row["ours"] and await _drop(connection, row)]
    if dropped:
        log.info("partitions_dropped", names=dropped)
    return dropped


async def _drop(connection: Connection, row: Row) -> bool:
    try:
        if row["detach"]:
            await connection.execute(row["detach"])
        await connection.execute(row["drop"])
    except BUSY as error:
        log.info("partition_in_use", name=row["name"], error=type(error).__name__)
        return False
    return True
