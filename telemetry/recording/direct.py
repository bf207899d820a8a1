"""Books without JetStream: a role keeps its events until the accountant confirms that they are committed.

A server without JetStream has no stream in which events could wait. Accountants then subscribe to `telemetry.>`
themselves and share the work. They answer `{"stored": true}` only after the commit, or `{"error": …}`, as a stream
would. A message may carry many events; an event that comes twice is booked once, as always. While the database is away
accountants keep no events: these stay with the roles that sent them.
"""

import asyncio
from collections import deque

import structlog
from pydantic_core import to_json

from bus import Bus, BusError, Message, Subscription, Tasks
from bus.reply import accepts
from contracts import headers as h
from contracts import subjects as s
from telemetry.recording.recorder import Recorder
from telemetry.recording.retry_forever import RetryForever
from telemetry.stream import CONSUMER

log = structlog.get_logger(__name__)

STORED = b'{"stored": true}'
MAX_BYTES = 32 << 20
"""Bytes of events that may wait to be booked."""


class ReceivedEvent:
    """An event that came without JetStream."""

    stream_seq = 0

    def __init__(self, message: Message) -> None:
        self.subject = message.subject
        self.data = message.data
        self.reply = message.reply


class Direct:
    """Books events that come without JetStream. `start` and `stop` may be called any number of times."""

    def __init__(self, bus: Bus, recorder: Recorder, database: RetryForever, batch_size: int) -> None:
        self._bus = bus
        self._recorder = recorder
        self._database = database
        self._batch_size = batch_size
        self._waiting: deque[ReceivedEvent] = deque()
        self._bytes = 0
        self._something = asyncio.Event()
        self._settled = asyncio.Event()
        self._tasks = Tasks(f"{bus.name}:direct")
        self._subscription: Subscription | None = None
        self.open_books = asyncio.Event()
        """Set when the tables exist. Until then every event is answered with "try again"."""
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Subscribes, and books events from now on. Raises `BusError`."""
        if self._subscription is not None:
            return
        log.warning(
            "no_jetstream",
            cure="events wait with the roles that send them, not in a stream; give NATS JetStream, and room for it",
        )
        self._subscription = await self._bus.subscribe(s.TELEMETRY_ANY, self._take, queue=CONSUMER)
        self._tasks.start(self._keep_booking(), "booking")
        self.started.set()

    async def stop(self, within: float) -> None:
        """Books the events that have come, for up to `within` seconds, and unsubscribes."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        self.started.clear()
        try:
            async with asyncio.timeout(within):
                await subscription.drain()
                await self._settled.wait()
        except TimeoutError:
            log.warning("events_not_taken", events=len(self._waiting))
        await self._tasks.cancel()
        self._waiting.clear()
        self._bytes = 0
        log.info("direct_books_closed")

    async def _take(self, message: Message) -> None:
        if not accepts(message.reply):
            return
        if reason := self._reason_to_refuse(len(message.data)):
            await self._answer(message.reply, to_json({"error": {"code": 503, "description": reason}}))
            return
        self._bytes += len(message.data)
        self._waiting.append(ReceivedEvent(message))
        self._settled.clear()
        self._something.set()

    def _reason_to_refuse(self, size: int) -> str:
        if not self.open_books.is_set() or self._database.away:
            return f"the database is away: {self._database.away or 'its tables are not made yet'}"
        return "too many events wait to be booked" if self._bytes and self._bytes + size > MAX_BYTES else ""

    async def _keep_booking(self) -> None:
        while True:
            if not self._waiting:
                self._settled.set()
                self._something.clear()
                await self._something.wait()
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
            await self._recorder.book(batch)
            for event in batch:
                self._bytes -= len(event.data)
                await self._answer(event.reply, STORED)

    async def _answer(self, reply: str, body: bytes) -> None:
        if not reply:
            return
        try:
            await self._bus.publish(reply, body, headers={h.CONTENT_TYPE: h.JSON})
        except BusError as error:
            log.debug("answer_lost", error=str(error))  # it is sent again, and booked once
