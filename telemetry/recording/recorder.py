"""From the stream to the books: fetch a batch, store it in one transaction, then acknowledge.

A message is acknowledged only after the commit, and an event that is stored twice has one row. So this process, NATS
and Postgres may each die at any moment, and every event is booked exactly once in the end. While the database is away,
the batch is held and the other events stay in the stream. An event that can never be booked goes to `dead_letters`, as
it came.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from bus import Bus
from bus.jetstream import PullConsumer
from bus.pull import ACK, IN_PROGRESS, NAK, TERM, StoredMessage, settle
from contracts import subjects as s
from outbox.privacy_filter import PrivacyFilter
from telemetry.config import TelemetryConfig
from telemetry.recording.entries import Booking, QueuedMessage, Unbookable, by_table, parts, read, rewritten
from telemetry.recording.retry_forever import RetryForever
from telemetry.store import DatabaseAway, DeadLetter, RowsRefused, Store
from telemetry.stream import ACK_WAIT, CONSUMER

log = structlog.get_logger(__name__)

MAX_BYTES = 8 << 20
"""Bytes of one transaction and of one fetch. NATS disconnects a client that reads too slowly, and Postgres needs
several times as much memory to take rows apart.
"""
PROTOCOL_BYTES = 64 << 10
"""Bytes that a stored message may have beside its content."""
LANES = 3
"""Batches under way at the same time: one is fetched, one is read, one is written to the database."""


class Recorder:
    def __init__(
        self, bus: Bus, store: Store, database: RetryForever, config: TelemetryConfig, privacy_filter: PrivacyFilter
    ) -> None:
        self._bus = bus
        self._store = store
        self._database = database
        self.config = config
        self._privacy_filter = privacy_filter
        self._held: list[Sequence[StoredMessage]] = []
        self._turn = asyncio.Lock()
        self.stored = 0
        """Rows written since the start."""
        self.dead = 0
        """Events written to `dead_letters` since the start."""

    async def run(self, stop: asyncio.Event) -> None:
        """Books events until `stop` is set. Raises `BusError` when the stream is lost."""
        consumer = await PullConsumer.open(self._bus, stream=s.TELEMETRY_STREAM, durable=CONSUMER, ack_wait_s=ACK_WAIT)
        lanes = [asyncio.create_task(self._lane(consumer, stop), name=f"lane-{number}") for number in range(LANES)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.wait(lanes)
            await consumer.close()

    async def _lane(self, consumer: PullConsumer, stop: asyncio.Event) -> None:
        most = max(MAX_BYTES, self._bus.max_payload + PROTOCOL_BYTES)  # whatever was stored can be fetched
        while not stop.is_set():
            async with self._turn:
                if stop.is_set():
                    return
                batch = await consumer.fetch(self.config.batch_size, timeout=self.config.fetch_wait, max_bytes=most)
            if batch:
                await self._keep(batch)

    async def _keep(self, batch: Sequence[StoredMessage]) -> None:
        """Books one batch, then acknowledges it. Waits while the database is away."""
        self._held.append(batch)
        try:
            unbookable = await self.book(batch)
        except asyncio.CancelledError:
            if self._bus.is_connected:
                await settle(self._bus, batch, NAK)  # another accountant may have it at once
            raise
        finally:
            self._held.remove(batch)
        await settle(self._bus, [message for message in batch if message not in unbookable], ACK)
        await settle(self._bus, [message for message in batch if message in unbookable], TERM)

    async def book(self, batch: Sequence[QueuedMessage]) -> set[QueuedMessage]:
        """Books every event of the batch, or writes it to `dead_letters`. Returns the messages with dead letters.

        Waits while the database is away.
        """
        entries, unbookable = read(batch)
        unsaved = unbookable
        for part in parts(entries, MAX_BYTES):
            refused = await self._save(part, unsaved)
            unbookable, unsaved = [*unbookable, *refused], []
        if unbookable:
            first = unbookable[0]
            log.error("events_unbookable", events=len(unbookable), subject=first.event.subject, reason=first.reason)
        self.dead += len(unbookable)
        return {one.event.message for one in unbookable}

    async def _save(self, entries: Sequence[Booking], unbookable: Sequence[Unbookable]) -> list[Unbookable]:
        """Stores events and dead letters. When the database refuses the rows, stores each half, until only bad events
        are left; returns those.
        """
        try:
            await self._commit(entries, unbookable)
        except RowsRefused as error:
            reason = str(error)
            if len(entries) == 1 and (again := rewritten(entries[0])) != entries[0]:
                return await self._save([again], unbookable)
            if len(entries) == 1:
                if unbookable:
                    await self._commit([], unbookable)
                return await self._database.until_done(lambda: self._judged(entries[0], reason), self._hold)
            middle = len(entries) // 2
            return await self._save(entries[:middle], unbookable) + await self._save(entries[middle:], [])
        return []

    async def _judged(self, entry: Booking, reason: str) -> list[Unbookable]:
        """Books a refused event after all, or writes it to `dead_letters` and returns it. Raises `DatabaseAway`."""
        letter = self._letter(Unbookable(entry.event, reason))
        if why := await self._store.judge(entry.table, entry.row, letter):
            return [Unbookable(entry.event, why)]
        self.stored += 1
        return []

    def _letter(self, one: Unbookable) -> DeadLetter:
        """The dead letter, with as much of its words as the books may keep."""
        return replace(one.letter, body=self._privacy_filter.unread(one.letter.body))

    async def _commit(self, entries: Sequence[Booking], unbookable: Sequence[Unbookable]) -> None:
        """One transaction, tried again while the database is away. Raises `RowsRefused`."""
        await self._database.until_done(lambda: self._store_now(entries, unbookable), self._hold)

    async def _store_now(self, entries: Sequence[Booking], unbookable: Sequence[Unbookable]) -> None:
        """Stores them in one transaction. Raises `RowsRefused`, and `DatabaseAway` also when the database takes no dead
        letter either.
        """
        letters = list(map(self._letter, unbookable))
        try:
            new = await self._store.save(by_table(entries), letters)
        except RowsRefused as error:
            if entries:
                raise
            raise DatabaseAway(f"it takes no row at all: {error}") from None
        self.stored += new  # not in one line: the others' lanes add to it while this one waits

    async def _hold(self) -> None:
        """Tells JetStream that this accountant still works on these messages, so that no other one gets them."""
        if self._bus.is_connected:
            for batch in self._held:
                await settle(self._bus, batch, IN_PROGRESS)
