"""A last word to somebody who may be reconnecting right now: while nobody listens there it is said again, for a while.

A message to an inbox without a listener is lost without a word, unless it names a reply subject: then the server says
"no responders". After a restart of the server everybody finds it again within some seconds, callers too.
"""

import asyncio

import structlog

from bus.connection import Bus, Headers, Message
from bus.errors import BusError

log = structlog.get_logger(__name__)

BACK_WITHIN = 5.0
"""Seconds in which a reader is back, or will not come back."""
AGAIN_AFTER = 0.25
HEARD_AFTER = 1.5
"""Seconds without a "no responders" after which it was heard."""


async def publish_with_retry(bus: Bus, subject: str, data: bytes, headers: Headers) -> None:
    """Publishes once, and goes on by itself when that was not heard. Raises as `Bus.publish`."""
    await _RepeatedMessage(bus, subject, data, headers).say()


class _RepeatedMessage:
    def __init__(self, bus: Bus, subject: str, data: bytes, headers: Headers) -> None:
        self._bus = bus
        self._subject = subject
        self._data = data
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + BACK_WITHIN
        self._listener = bus.listen(self._heard)
        self._closing = self._loop.call_later(HEARD_AFTER, self._listener.close)
        self._again: asyncio.Task[None] | None = None

    async def say(self) -> None:
        await self._bus.publish(self._subject, self._data, reply=self._listener.subject, headers=self._headers)

    def _heard(self, message: Message) -> None:
        if not message.no_responders:
            return
        self._closing.cancel()
        if self._loop.time() >= self._until:
            self._listener.close()
            log.info("nobody_listens", subject=self._subject)
            return
        self._again = self._loop.create_task(self._say_later())

    async def _say_later(self) -> None:
        await asyncio.sleep(AGAIN_AFTER)
        self._closing = self._loop.call_later(HEARD_AFTER, self._listener.close)
        try:
            await self.say()
        except BusError as error:
            self._listener.close()
            log.debug("not_said_again", subject=self._subject, error=str(error))
