"""The outbox of a role: it keeps an event until JetStream, or the accountant itself, has acknowledged it.

The request path only calls `put`, which never waits. Pumps with a connection of their own gather events for some
milliseconds and publish those of one subject in one message (see `batch`). When JetStream is away, slow or full, events
go to a spool on disk and are published again from there; an event that comes twice is booked once. So events older than
about two seconds survive the death of this process. Without a spool they wait in memory, up to `MAX_BYTES`. An event
that finds no room is dropped, with an error in the log.

With `before_reply` no answer leaves before its events are safe: they are not gathered, and `secure` waits up to
`SECURE_WITHIN` for their acknowledgement, then writes them through to the disk.
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel
from pydantic_core import from_json

from bus.backoff import Backoff
from bus.connection import Bus
from bus.errors import BusError
from bus.role_status import Figure
from bus.settings import BusSettings
from bus.tasks import Tasks
from contracts import BullpenError, ContentMode
from contracts.headers import MESSAGE_ID
from outbox.batch import Batches, batch_id, packed, portions
from outbox.spool import Event, Spool

log = structlog.get_logger(__name__)

MAX_BYTES = 64 << 20
PUMPS = 8
"""Messages that may wait for their acknowledgement at the same time."""
GATHER = 0.01
"""Seconds in which further events may join a message, in mode `after_reply`."""
ACK_WITHIN = 2.0
RETRY = Backoff(0.1, 2.0)
REOPEN = Backoff(2.0, 60.0)
"""Seconds between two attempts to open a spool."""
EMPTY_SPOOL_FAILURES = 3
"""An empty spool is looked at as seldom as after this many failures."""
OLD = 1.0
"""Seconds that an event may wait in memory for its turn when there is a spool."""
SECURE_WITHIN = 0.25
"""Seconds that an answer waits for the acknowledgement of its events, when it must not leave before."""


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """How a role hands its events to the books."""

    mode: Literal["after_reply", "before_reply"] = "after_reply"
    """Whether the answer may leave before its events are safe."""
    content: ContentMode = "full"
    """The most that the books may keep of prompts and answers."""
    content_key: bytes = field(default=b"", repr=False)
    """The key for digests; the same for all roles of a mesh, so that equal prompts have equal digests. Empty: a random
    key.
    """
    spool: Path | None = None
    """The folder for events that JetStream does not take. None: memory only."""
    spool_max_bytes: int = 1 << 30


@dataclass(eq=False, slots=True)
class Waiting:
    """An event that is not safe yet."""

    event: Event
    since: float
    is_safe: bool = False
    """The event is acknowledged, or dropped for good."""
    _noticed: asyncio.Event | None = None

    def settle(self) -> None:
        """Marks the event as safe."""
        self.is_safe = True
        if self._noticed is not None:
            self._noticed.set()

    async def safe(self) -> None:
        """Returns when the event is safe."""
        if not self.is_safe:
            self._noticed = self._noticed or asyncio.Event()
            await self._noticed.wait()


class Outbox:
    """Make it with `Outbox.open`; `put` events; `close` waits for the last acknowledgements."""

    def __init__(self, bus: Bus, settings: OutboxSettings = OutboxSettings(), spool: Spool | None = None) -> None:
        self._bus = bus
        self.settings = settings
        self._spool = spool
        self._waiting: Batches[Waiting] = Batches()
        self._gathering = asyncio.Lock()
        self._bytes = 0
        self._in_flight: set[Waiting] = set()
        self._something = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._tasks = Tasks(bus.name)
        self._refused_since: float | None = None
        self.refusal = ""
        """Why JetStream, or the accountant, did not take the last event; empty when it did."""
        self.dropped = 0

    @classmethod
    async def open(
        cls,
        name: str,
        bus_settings: BusSettings,
        settings: OutboxSettings = OutboxSettings(),
        *,
        patience: float = 0.0,
        stop: asyncio.Event | None = None,
    ) -> "Outbox":
        """Connects under the name `outbox:<name>`. Raises `BusUnreachable`."""
        bus = await Bus.connect(f"outbox:{name}", bus_settings, patience=patience, stop=stop)
        spool = Spool.open(settings.spool, name, settings.spool_max_bytes) if settings.spool else None
        outbox = cls(bus, settings, spool)
        for number in range(PUMPS):
            outbox._tasks.start(outbox._pump(), f"pump-{number}")
        if spool is not None:
            outbox._use(spool)
        elif settings.spool is not None:
            outbox._tasks.start(outbox._find_spool(settings.spool, name), "find-spool")
        return outbox

    @property
    def pending(self) -> int:
        """Events in memory that are not acknowledged yet."""
        return len(self._waiting) + len(self._in_flight)

    @property
    def spooled_bytes(self) -> int:
        """Bytes of events on disk that wait to be published again."""
        return self._spool.bytes if self._spool else 0

    @property
    def refused_for(self) -> float:
        """Seconds since an event was refused, if none has been acknowledged after it; 0 while events are
        acknowledged.
        """
        return 0.0 if self._refused_since is None else asyncio.get_running_loop().time() - self._refused_since

    @property
    def trouble(self) -> str:
        """Why events are not acknowledged, and why they cannot be spooled either; empty while they are acknowledged."""
        if not self.refusal or self._spool is None or not self._spool.failed:
            return self.refusal
        return f"{self.refusal}; and nothing more can be spooled: {self._spool.failed}"

    def figures(self) -> Iterator[Figure]:
        """The figures for `/metrics`."""
        yield Figure("outbox_events", "Events for the books in memory that are not safe yet", self.pending)
        yield Figure("outbox_spooled_bytes", "Events for the books that wait on disk", self.spooled_bytes)
        yield Figure("outbox_refused_seconds", "For how long no event has been taken", self.refused_for)
        yield Figure("outbox_dropped_total", "Events that found no room anywhere", self.dropped, "counter")

    @property
    def room(self) -> int:
        """Bytes of prompt and answer that an event can carry, with room for the fields around them."""
        return self._bus.max_payload // 2

    @property
    def lost(self) -> asyncio.Event:
        return self._bus.lost

    def put(self, subject: str, record: BaseModel, message_id: str) -> Waiting:
        """Takes over an event; returns at once. An event that is put again must have the same `message_id`."""
        event = Event(subject, record.__pydantic_serializer__.to_json(record, by_alias=True), message_id)
        waiting = Waiting(event, asyncio.get_running_loop().time())
        if self._bytes + len(event.body) <= MAX_BYTES:
            self._bytes += len(event.body)
            self._waiting.put(subject, waiting, len(event.body))
            self._settled.clear()
            self._something.set()
        elif not self._lay_aside(event):
            self._drop(waiting)
        return waiting

    async def secure(self, events: Sequence[Waiting]) -> None:
        """Returns when the events are safe: acknowledged, or on disk. Takes `SECURE_WITHIN` seconds and one write at
        most.
        """
        try:
            async with asyncio.timeout(SECURE_WITHIN):
                for waiting in events:
                    await waiting.safe()
        except TimeoutError:
            unsafe = [waiting.event for waiting in events if not waiting.is_safe]
            if self._spool is None or not await self._spool.secure(unsafe):
                reason = self._spool.failed if self._spool else "there is no spool"
                log.error("telemetry_not_secured", events=len(unsafe), reason=reason)

    async def close(self, timeout: float = 2.0) -> None:
        """Waits up to `timeout` seconds for pending events, writes the rest to the spool, and closes the connection."""
        try:
            async with asyncio.timeout(0.0 if self.refusal and self._spool else timeout):
                await self._settled.wait()
        except TimeoutError:
            pass
        await self._tasks.cancel()
        left = [waiting.event for waiting in (*self._in_flight, *self._waiting)]
        lost = sum(not self._lay_aside(event) for event in left)
        if lost:
            log.error("telemetry_unacknowledged", events=lost)
        elif left:
            log.info("telemetry_spooled", events=len(left))
        if self._spool is not None:
            self._spool.close()
        await self._bus.close()

    # Memory

    async def _pump(self) -> None:
        while True:
            async with self._gathering:
                batch = await self._gather()
            self._in_flight.update(batch)
            await self._send(batch)

    async def _gather(self) -> list[Waiting]:
        """The events of the next message."""
        while True:
            while not self._waiting:
                self._something.clear()
                await self._something.wait()
            if self.settings.mode == "after_reply" and not self._waiting.is_full:
                await asyncio.sleep(GATHER)
            if batch := self._waiting.take():
                return batch

    async def _send(self, batch: list[Waiting]) -> None:
        """Publishes the events until they are acknowledged, or in the spool."""
        attempt = 0
        while not await self._publish([waiting.event for waiting in batch]):
            laid_aside = {waiting for waiting in batch if self._lay_aside(waiting.event)}
            self._forget(laid_aside)
            batch = [waiting for waiting in batch if waiting not in laid_aside]
            if not batch:
                return
            attempt += 1
            await asyncio.sleep(RETRY.wait(attempt))
        for waiting in batch:
            waiting.settle()
        self._forget(batch)

    def _forget(self, events: Collection[Waiting]) -> None:
        self._in_flight.difference_update(events)
        self._bytes -= sum(len(waiting.event.body) for waiting in events)
        if not self.pending:
            self._settled.set()

    def _lay_aside(self, event: Event) -> bool:
        return self._spool is not None and self._spool.append(event)

    def _drop(self, waiting: Waiting) -> None:
        waiting.settle()
        self.dropped += 1
        if self.dropped.bit_count() == 1:
            spool = f", and so is the spool: {self._spool.failed}" if self._spool else ""
            log.error("telemetry_dropped", dropped=self.dropped, cause=f"JetStream is away and memory is full{spool}")

    # Disk

    def _use(self, spool: Spool) -> None:
        self._spool = spool
        self._tasks.start(self._keep_short(spool), "keep-short")
        self._tasks.start(self._replay(spool), "replay")

    async def _find_spool(self, root: Path, name: str) -> None:
        """Tries to open a spool until it works: a disk that was full when the role started may have room later."""
        failures, spool = 0, None
        while spool is None:
            failures += 1
            await asyncio.sleep(REOPEN.ceiling(failures))
            spool = Spool.open(root, name, self.settings.spool_max_bytes)
        self._use(spool)

    async def _keep_short(self, spool: Spool) -> None:
        """Moves events that wait too long in memory to the spool, in case this process dies."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(OLD / 2)
            while (oldest := self._waiting.oldest()) and oldest.since < now() - OLD and spool.append(oldest.event):
                self._waiting.remove(oldest.event.subject)
                self._forget([oldest])

    async def _replay(self, spool: Spool) -> None:
        """Publishes the spool, one file at a time, whenever JetStream acknowledges."""
        failures = 0
        while True:
            await asyncio.sleep(RETRY.wait(failures + 1))
            path = spool.oldest() if not self._waiting else None
            if path is None:
                failures = EMPTY_SPOOL_FAILURES
                continue
            events = await asyncio.to_thread(spool.read, path)
            if await self._publish_all(events):
                spool.remove(path)
                failures = 0
            else:
                failures += 1

    async def _publish_all(self, events: Sequence[Event]) -> bool:
        """Publishes events. Returns whether all are acknowledged; stops at the first message that is not."""
        for batch in portions(events):
            if not await self._publish(batch):
                return False
        return True

    async def _publish(self, events: Sequence[Event]) -> bool:
        """Publishes events of one subject. Returns whether they are done with: acknowledged, or too large for ever."""
        event = events[0]
        try:
            ack = await self._bus.request(
                event.subject, packed(events), timeout=ACK_WITHIN, headers={MESSAGE_ID: batch_id(events)}
            )
            refusal = from_json(ack.data).get("error")
        except BullpenError as error:
            log.error("telemetry_too_large", subject=event.subject, message_id=event.message_id, error=str(error))
            return True
        except (BusError, ValueError, AttributeError) as error:
            refusal = str(error)
        if refusal and not self.refusal:
            log.warning("telemetry_waits", subject=event.subject, reason=str(refusal), pending=self.pending)
        elif not refusal and self.refusal:
            log.info("telemetry_flows", pending=self.pending, spooled_bytes=self.spooled_bytes)
        self._heed(str(refusal) if refusal else "")
        return not refusal

    def _heed(self, refusal: str) -> None:
        self.refusal = refusal
        if not refusal:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = asyncio.get_running_loop().time()
