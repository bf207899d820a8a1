"""Publishes a final message again while its reader is reconnecting.

A message to an inbox without a subscriber is lost silently, unless it names a reply subject: then the server reports
"no responders". After a restart of the server every client, callers included, is back within a few seconds.
"""

import asyncio

import structlog

from bus.connection import Bus, Message
from bus.errors import BusError
from bus.headers import Headers

log = structlog.get_logger(__name__)

BACK_WITHIN = 5.0
"""Seconds in which a reader returns, if it returns at all."""
AGAIN_AFTER = 0.25
HEARD_AFTER = 1.5
"""Seconds without "no responders" after which the message counts as received."""


async def publish_with_retry(bus: Bus, subject: str, data: bytes, headers: Headers) -> None:
    """Publishes once, and again in the background while there is no reader. Raises as `Bus.publish`."""
    await _RepeatedMessage(bus, subject, data, headers).publish()


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

    async def publish(self) -> None:
        await self._bus.publish(self._subject, self._data, reply=self._listener.subject, headers=self._headers)

    def _heard(self, message: Message) -> None:
        if not message.no_responders:
            return
        self._closing.cancel()
        if self._loop.time() >= self._until:
            self._listener.close()
            log.info("no_reader", subject=self._subject)
            return
        self._again = self._loop.create_task(self._publish_later())

    async def _publish_later(self) -> None:
        await asyncio.sleep(AGAIN_AFTER)
        self._closing = self._loop.call_later(HEARD_AFTER, self._listener.close)
        try:
            await self.publish()
        except BusError as error:
            self._listener.close()
            log.debug("not_published_again", subject=self._subject, error=str(error))
