"""From the stream to the books: fetch a batch, store it in one transaction, then acknowledge.

Nothing is acknowledged before it is committed, and storing twice stores once; so this process, NATS and
Postgres may each die at any moment, and every event is booked exactly once in the end. While the database
is away the batch is held and the stream waits. What can never be booked goes to `dead_letters`, as it came.
"""

import asyncio
from collections.abc import Sequence

import structlog

from bus import Bus
from bus.jetstream import PullConsumer, StoredMessage
from contracts import subjects as s
from telemetry.config import TelemetryConfig
from telemetry.entries import Entry, Unbookable, parts, read
from telemetry.patience import Patience
from telemetry.store import RowsRefused, Store
from telemetry.stream import ACK_WAIT, CONSUMER

log = structlog.get_logger(__name__)

MAX_BYTES = 16 << 20
"""Of one transaction and, as far as one can know before, of one fetch: NATS cuts off who cannot read fast enough
what it asked for, and Postgres wants several times as much memory to take rows apart."""
FIRST_FETCH = 10
"""Few, because before the first batch nobody knows how large events are."""


class Recorder:
    def __init__(self, bus: Bus, store: Store, database: Patience, config: TelemetryConfig) -> None:
        self._bus = bus
        self._store = store
        self._database = database
        self._config = config
        self._held: Sequence[StoredMessage] = ()
        self._largest = MAX_BYTES // FIRST_FETCH
        self.stored = 0
        """Rows written since the start."""
        self.dead = 0
        """Events laid aside since the start."""

    async def run(self, stop: asyncio.Event) -> None:
        """Books whatever comes until `stop` is set. Raises `BusError` when the stream is lost."""
        consumer = await PullConsumer.open(self._bus, stream=s.TELEMETRY_STREAM, durable=CONSUMER, ack_wait_s=ACK_WAIT)
        try:
            while not stop.is_set():
                wanted = max(1, min(self._config.batch_size, MAX_BYTES // self._largest))
                batch = await consumer.fetch(wanted, timeout=self._config.fetch_wait)
                if batch:
                    self._largest = max(len(message.data) for message in batch) or 1
                    await self.keep(batch)
        finally:
            await consumer.close()

    async def keep(self, batch: Sequence[StoredMessage]) -> None:
        """Books one batch, then acknowledges it; waits as long as the database is away."""
        self._held = batch
        try:
            terminated = await self._book(batch)
        except asyncio.CancelledError:
            await self._give_back()
            raise
        for message in batch:
            await (message.term() if message.stream_seq in terminated else message.ack())

    async def _book(self, batch: Sequence[StoredMessage]) -> set[int]:
        """Every event is in its table or in `dead_letters`; returns the numbers of the latter."""
        entries, unbookable = read(batch)
        unsaved = unbookable
        for part in parts(entries, MAX_BYTES):
            refused = await self._save(part, unsaved)
            unbookable, unsaved = [*unbookable, *refused], []
        if unbookable:
            first = unbookable[0]
            log.error("events_unbookable", events=len(unbookable), subject=first.event.subject, reason=first.reason)
        self.dead += len(unbookable)
        return {one.event.stream_seq for one in unbookable}

    async def _save(self, entries: Sequence[Entry], unbookable: Sequence[Unbookable]) -> list[Unbookable]:
        """Stores both. Of entries that the database refuses, the halves, down to the bad ones, which are returned."""
        try:
            await self._commit(entries, unbookable)
        except RowsRefused as error:
            if not entries:
                raise
            if len(entries) == 1:
                bad = Unbookable(entries[0].event, str(error))
                await self._commit([], [*unbookable, bad])
                return [bad]
            middle = len(entries) // 2
            return await self._save(entries[:middle], unbookable) + await self._save(entries[middle:], [])
        return []

    async def _commit(self, entries: Sequence[Entry], unbookable: Sequence[Unbookable]) -> None:
        """One transaction, tried again while the database is away. Raises `RowsRefused`."""
        tables: dict[str, list[bytes]] = {}
        for entry in entries:
            tables.setdefault(entry.table, []).append(entry.row)
        letters = [one.letter for one in unbookable]
        self.stored += await self._database.until_done(lambda: self._store.save(tables, letters), self._hold)

    async def _hold(self) -> None:
        """Tells JetStream that the batch is still being worked on, so that nobody else gets it."""
        if self._bus.is_connected:
            for message in self._held:
                await message.in_progress()

    async def _give_back(self) -> None:
        """We leave: somebody else may have the batch at once."""
        if self._bus.is_connected:
            for message in self._held:
                await message.nak()
