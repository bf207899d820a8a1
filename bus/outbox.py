"""Telemetry on its way out: an event is kept until JetStream has acknowledged it.

The request path only calls `put`, which never waits. A pump with a connection of its own publishes
each event, and publishes it again with the same `Nats-Msg-Id` until the acknowledgement comes: the
stream drops duplicates, and so do the books. What is not promised: events still waiting when this
process is killed are gone; bytes beyond `MAX_BYTES` are dropped, loudly.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass

import structlog
from pydantic import BaseModel
from pydantic_core import from_json

from bus.connection import Bus
from bus.errors import BusError
from bus.settings import BusSettings
from bus.tasks import Tasks
from contracts import BullpenError
from contracts.headers import MESSAGE_ID

log = structlog.get_logger(__name__)

MAX_BYTES = 64 << 20
PUMPS = 64
"""Events that may wait for their acknowledgement at the same time."""
ACK_WITHIN = 2.0
RETRY_CAP = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    subject: str
    body: bytes
    message_id: str


class Outbox:
    """Make it with `Outbox.open`; `put` events; `close` waits for the last acknowledgements."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[Event] = deque()
        self._bytes = 0
        self._in_flight = 0
        self._something = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._tasks = Tasks(bus.name)
        self._refused = False
        self.dropped = 0

    @classmethod
    async def open(
        cls, name: str, settings: BusSettings, *, patience: float = 0.0, stop: asyncio.Event | None = None
    ) -> "Outbox":
        """Connects under the name `outbox:<name>`. Raises `BusUnreachable`."""
        outbox = cls(await Bus.connect(f"outbox:{name}", settings, patience=patience, stop=stop))
        for number in range(PUMPS):
            outbox._tasks.start(outbox._pump(), f"pump-{number}")
        return outbox

    @property
    def pending(self) -> int:
        """Events that JetStream has not acknowledged yet."""
        return len(self._waiting) + self._in_flight

    @property
    def room(self) -> int:
        """Bytes of content that an event can carry, whatever is written around it."""
        return self._bus.max_payload // 2

    @property
    def lost(self) -> asyncio.Event:
        return self._bus.lost

    def put(self, subject: str, record: BaseModel, message_id: str) -> None:
        """Hands over an event; returns at once. `message_id` must be the same when it is put again."""
        event = Event(subject, record.__pydantic_serializer__.to_json(record, by_alias=True), message_id)
        if self._bytes + len(event.body) > MAX_BYTES:
            self.dropped += 1
            if self.dropped.bit_count() == 1:
                log.error("telemetry_dropped", dropped=self.dropped, cause="JetStream is away and memory is full")
            return
        self._bytes += len(event.body)
        self._waiting.append(event)
        self._settled.clear()
        self._something.set()

    async def close(self, timeout: float = 2.0) -> None:
        """Waits up to `timeout` seconds for what is still pending, then leaves."""
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            log.error("telemetry_unacknowledged", events=self.pending)
        await self._tasks.cancel()
        await self._bus.close()

    async def _pump(self) -> None:
        while True:
            while not self._waiting:
                self._something.clear()
                await self._something.wait()
            event = self._waiting.popleft()
            self._in_flight += 1
            await self._publish_until_acknowledged(event)
            self._in_flight -= 1
            self._bytes -= len(event.body)
            if not self.pending:
                self._settled.set()

    async def _publish_until_acknowledged(self, event: Event) -> None:
        attempt = 0
        while not await self._publish(event):
            attempt += 1
            await asyncio.sleep(random.uniform(0.02, min(RETRY_CAP, 0.1 * 2**attempt)))  # noqa: S311 — jitter

    async def _publish(self, event: Event) -> bool:
        """Whether the event needs no further care: acknowledged, or one that can never be stored."""
        try:
            ack = await self._bus.request(
                event.subject, event.body, timeout=ACK_WITHIN, headers={MESSAGE_ID: event.message_id}
            )
            refusal = from_json(ack.data).get("error")
        except BullpenError as error:
            log.error("telemetry_too_large", subject=event.subject, message_id=event.message_id, error=str(error))
            return True
        except (BusError, ValueError) as error:
            refusal = str(error)
        if refusal and not self._refused:
            log.warning("telemetry_waits", subject=event.subject, reason=str(refusal), pending=self.pending)
        elif not refusal and self._refused:
            log.info("telemetry_flows", pending=self.pending)
        self._refused = bool(refusal)
        return not refusal
