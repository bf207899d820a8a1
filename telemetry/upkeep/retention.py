"""What the books keep, and for how long: figures for months; prompts, answers and routing decisions for days.

Every hour an accountant creates partitions in advance, drops those beyond `retention`, and empties the words that are
older than `content_retention`, a batch per transaction, so that no query waits. Among several accountants an advisory
lock lets one do it. A round has connections of its own: booking does not wait for it.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from telemetry.config import TelemetryConfig
from telemetry.store import Connection, DatabaseAway, Store, sql
from telemetry.upkeep.migrate import LOCK
from telemetry.upkeep.partitions import drop_ended, ensure_ahead

log = structlog.get_logger(__name__)

FIRST_AFTER = 60.0
"""Seconds before the first round: the events that waited for an accountant are booked first."""
EVERY = 3600.0
"""Seconds between two rounds."""
LONGEST = 3600.0
"""Seconds that a round may take."""
BATCH = 2000
"""Rows whose words are emptied in one transaction."""
FROM_THE_START_EVERY = timedelta(days=1)
"""Time between two complete rounds. In between, a round goes on where the last one ended, and skips rows that are empty
already.
"""
FIRST = UUID(int=0)
WORDS = ("expire_content", "expire_errors", "expire_comments")
"""The SQL that empties the words of requests, of attempts and of judgements."""


class Housekeeper:
    def __init__(self, store: Store, config: TelemetryConfig) -> None:
        self._store = store
        self.config = config
        self._emptied_up_to = dict.fromkeys(WORDS, FIRST)
        self._began: datetime | None = None

    async def run(self) -> None:
        """Does round after round, until cancelled. A round without a database is skipped."""
        await asyncio.sleep(FIRST_AFTER)
        while True:
            try:
                await self.tidy(datetime.now(UTC))
            except DatabaseAway as error:
                log.warning("housekeeping_put_off", error=str(error), seconds=EVERY)
            await asyncio.sleep(EVERY)

    async def tidy(self, now: datetime) -> bool:
        """Does one round; False: another accountant does it. Raises `DatabaseAway`."""
        return await self._store.perform(lambda connection: self._round(connection, now), within=LONGEST)

    async def _round(self, connection: Connection, now: datetime) -> bool:
        # Of the session, not of a transaction: it goes when the connection returns to its pool, or dies.
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, 2)", LOCK):
            return False
        await ensure_ahead(connection, now)
        if self.config.retention is not None:
            await drop_ended(connection, _months_before(now, self.config.retention))
        await drop_ended(connection, now - timedelta(days=self.config.decisions_retention), "decisions_due")
        if self.config.content_retention is not None:
            await self._empty(connection, now, timedelta(days=self.config.content_retention))
        return True

    async def _empty(self, connection: Connection, now: datetime, age: timedelta) -> None:
        if self._began is None or now - self._began >= FROM_THE_START_EVERY:
            self._began, self._emptied_up_to = now, dict.fromkeys(WORDS, FIRST)
        for query in WORDS:
            count = 0
            while rows := await connection.fetch(sql(query), self._emptied_up_to[query], now - age, BATCH):
                count += len(rows)
                self._emptied_up_to[query] = max(row["last"] for row in rows)
            if count:
                log.info("content_expired", by=query, rows=count)


def _months_before(now: datetime, months: int) -> datetime:
    """The first day of the month that is so many months before."""
    years, month = divmod(now.year * 12 + now.month - 1 - months, 12)
    return datetime(years, month + 1, 1, tzinfo=UTC)
