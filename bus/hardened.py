"""nats-py's client, made to survive what was found to kill it (nats-py 2.16; re-check when it moves).

* One message whose subject, reply or status line is not UTF-8 raises inside the read loop, which then
  ends while `is_connected` stays true: the process is deaf and does not know. Here such a message is
  counted and dropped.
* A `flush()` that was cancelled or timed out leaves a finished future behind; the next PONG trips over
  it and ends the read loop in the same silent way.
* A connection that was opened but never greeted (a frozen server) is forgotten without being closed. Here it
  is aborted before the next one is opened.
* When the server freezes, reconnecting first waits for the old socket to close, which can take
  minutes. Here the old socket is aborted after a second.
"""

import asyncio
from typing import Any

import structlog
from nats.aio.client import Client, Srv
from nats.aio.transport import Transport

log = structlog.get_logger(__name__)

CLOSE_WITHIN = 1.0
"""Seconds an old connection may take to close before it is aborted."""


class HardenedClient(Client):
    """A nats-py client whose read loop does not die in silence."""

    poisoned = 0
    """Messages dropped because they could not be read."""

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:
            self.poisoned += 1
            log.warning("message_unreadable", error=repr(error), dropped=self.poisoned)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        return self.msg_class(
            subject=subject.decode("utf-8", "replace"),
            reply=reply.decode("utf-8", "replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _connect_to_server(self, s: Srv) -> None:
        writer = _writer(self._transport)
        if writer is not None:
            writer.transport.abort()
        await super()._connect_to_server(s)

    async def _attempt_reconnect(self) -> None:
        _abort_later(self._transport)
        await super()._attempt_reconnect()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        _abort_later(self._transport)
        await super()._close(status, do_cbs)


def _abort_later(transport: Transport | None) -> None:
    """Drops the connection of this moment if it has not closed by itself soon. Harmless when it has.

    The writer is remembered, not the transport: nats-py puts the next connection into the same object.
    """
    writer = _writer(transport)
    if writer is not None:
        asyncio.get_running_loop().call_later(CLOSE_WITHIN, writer.transport.abort)


def _writer(transport: Transport | None) -> asyncio.StreamWriter | None:
    return getattr(transport, "_io_writer", None)
