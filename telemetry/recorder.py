"""From the stream to the books: fetch a batch, store it in one transaction, then acknowledge.

Nothing is acknowledged before it is committed, and storing twice stores once; so this process, NATS and
Postgres may each die at any moment, and every event is booked exactly once in the end. While the database
is away the batch is held and the stream waits. What can never be booked goes to `dead_letters`, as it came.
"""

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from bus import BusError
from bus.jetstream import PullConsumer, StoredMessage
from contracts import AttemptRecord, FeedbackRecord, OpenModel, ResponseRecord, WorkerEventRecord
from contracts import subjects as s
from telemetry.config import TelemetryConfig
from telemetry.store import DatabaseAway, DeadLetter, RowsRefused, Store, declare

log = structlog.get_logger(__name__)

TABLES: dict[str, tuple[str, type[OpenModel]]] = {
    s.TELEMETRY_RESPONSE: ("responses", ResponseRecord),
    s.TELEMETRY_ATTEMPT: ("attempts", AttemptRecord),
    s.TELEMETRY_FEEDBACK: ("feedback", FeedbackRecord),
    s.TELEMETRY_WORKER: ("worker_events", WorkerEventRecord),
}
"""Which table an event of a subject belongs to, and what it must look like."""
for _table, _record in TABLES.values():
    declare(_table, list(_record.model_fields))

FETCH_WAIT = 0.5
NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
REPLACED = rb"\1\\ufffd"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, ready to be booked."""

    message: StoredMessage
    table: str
    row: bytes


class Recorder:
    def __init__(self, consumer: PullConsumer, store: Store, config: TelemetryConfig) -> None:
        self._consumer = consumer
        self._store = store
        self._config = config
        self.stored = 0
        """Events booked since the start (an event delivered twice counts twice)."""
        self.dead = 0
        self.away = ""
        """Why the database is away; empty while it is there."""

    async def run(self) -> None:
        """Books whatever comes, until cancelled. Raises `BusError` when the stream is lost."""
        while True:
            batch = await self._consumer.fetch(self._config.batch_size, timeout=FETCH_WAIT)
            if batch:
                await self.keep(batch)

    async def keep(self, batch: Sequence[StoredMessage]) -> None:
        """Books one batch and acknowledges it; waits as long as the database is away."""
        entries, dead = _read(batch)
        await self._save(entries, [letter for _, letter in dead])
        for entry in entries:
            await entry.message.ack()
        for message, _ in dead:
            await message.term()
        self.stored += len(entries)
        self.dead += len(dead)

    async def _save(self, entries: Sequence[Entry], letters: Sequence[DeadLetter]) -> None:
        """Stores the entries; of a batch that the database refuses, the halves, down to the one bad row."""
        try:
            await self._patiently(entries, letters)
        except RowsRefused as error:
            if len(entries) == 1:
                log.error("event_unbookable", subject=entries[0].message.subject, reason=str(error))
                self.dead += 1
                await self._patiently([], [*letters, _letter(entries[0].message, str(error))])
                return
            middle = len(entries) // 2
            await self._save(entries[:middle], letters)
            await self._save(entries[middle:], [])

    async def _patiently(self, entries: Sequence[Entry], letters: Sequence[DeadLetter]) -> None:
        """Stores, and tries again while the database is away. Raises `RowsRefused`."""
        tables: dict[str, list[bytes]] = {}
        for entry in entries:
            tables.setdefault(entry.table, []).append(entry.row)
        pause = 0.1
        while True:
            try:
                await self._store.save(tables, letters)
            except DatabaseAway as error:
                self._tell_away(str(error))
                await self._hold(entries)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 — jitter
                pause = min(pause * 2, self._config.retry_at_most)
            else:
                self._tell_away("")
                return

    async def _hold(self, entries: Sequence[Entry]) -> None:
        """Tells JetStream that these are still being worked on, so that nobody else gets them."""
        try:
            for entry in entries:
                await entry.message.in_progress()
        except BusError as error:
            log.debug("hold_failed", error=str(error))

    def _tell_away(self, reason: str) -> None:
        if reason and not self.away:
            log.warning(
                "database_away", reason=reason, cure="events wait in JetStream; start Postgres or check DATABASE_URL"
            )
        elif self.away and not reason:
            log.info("database_back")
        self.away = reason


def _read(batch: Sequence[StoredMessage]) -> tuple[list[Entry], list[tuple[StoredMessage, DeadLetter]]]:
    """The batch as rows, and what of it can't be read."""
    entries: list[Entry] = []
    dead: list[tuple[StoredMessage, DeadLetter]] = []
    for message in batch:
        try:
            entries.append(_entry(message))
        except (ValidationError, KeyError) as error:
            reason = "no such subject" if isinstance(error, KeyError) else str(error).replace("\n", " ")[:500]
            log.error("event_unreadable", subject=message.subject, reason=reason)
            dead.append((message, _letter(message, reason)))
    return entries, dead


def _entry(message: StoredMessage) -> Entry:
    table, record = TABLES[message.subject]
    row = record.model_validate_json(message.data).to_bytes()
    # Postgres has no U+0000 in text; the event's own bytes keep it in the stream.
    return Entry(message, table, NUL.sub(REPLACED, row) if b"\\u0000" in row else row)


def _letter(message: StoredMessage, reason: str) -> DeadLetter:
    subject = message.subject.replace("\0", "�")
    return DeadLetter(message.stream_seq, subject, reason.replace("\0", "�"), message.data)
