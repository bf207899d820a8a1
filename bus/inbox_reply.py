"""Publishes an answer to its caller's inbox.

Each chunk of a stream has an inbox of this process as its reply subject. Only the server answers there: it reports "no
responders" when the reader's inbox is gone, and then the work can stop. Without a reply subject, a message to an absent
reader would be lost without a trace.
"""

import asyncio
from collections.abc import Callable
from typing import Literal

import structlog

from bus.connection import Bus, Message
from bus.delivered import Delivered
from bus.headers import Headers
from bus.inbox import Listener
from bus.publish_with_retry import BACK_WITHIN, publish_with_retry
from bus.reply import FinalMessage, FinalMessages
from contracts import Answer, AttemptSummary, BullpenError, Chunk, Piece, Resumed
from contracts.subjects import result

log = structlog.get_logger(__name__)


class InboxReply:
    """A `Reply` that goes to the request's reply subject, or to `result.<task_id>` when it has none."""

    def __init__(
        self,
        bus: Bus,
        subject: str,
        task_id: str,
        request_id: str,
        *,
        streaming: bool,
        on_abandoned: Callable[[], None] | None = None,
    ) -> None:
        self._bus = bus
        self._subject = subject or result(task_id)
        self._final = FinalMessages(bus, task_id, request_id)
        self._seq = 0
        self.streaming = streaming and bool(subject)
        self.delivered = Delivered()
        self.finished = False
        self.was_resumed = False
        self.first_chunk_at: float | None = None
        self.abandoned = asyncio.Event()
        """Set when the server reported that the stream's reader is gone. No chunk is sent after that."""
        self.extra_headers: Headers = {}
        self.on_abandoned = on_abandoned
        self._echo: Listener[Message] | None = None

    async def chunk(self, piece: Piece) -> None:
        if not self.streaming or self.finished or not piece:
            return
        chunk = Chunk.of(self._final.task_id, self._seq, piece)
        self._seq += 1
        self.delivered.take(piece)
        if self.first_chunk_at is None and piece.answers:
            self.first_chunk_at = asyncio.get_running_loop().time()
        await self._pass_on(chunk)

    async def resumed(self, from_worker: str, to_worker: str, *, continued: bool) -> None:
        if not self.streaming or self.finished:
            return
        mode: Literal["continued", "restarted"] = "continued" if continued else "restarted"
        event = Resumed(task_id=self._final.task_id, seq=self._seq, from_=from_worker, to=to_worker, mode=mode)
        self._seq += 1
        self.was_resumed = True
        if not continued:
            self.delivered.clear()
        await self._pass_on(event)

    async def response(self, response: Answer) -> BullpenError | None:
        try:
            message = self._final.response(response, self.extra_headers, streaming=self.streaming)
        except BullpenError as error:
            await self.error(error, response.attempts)
            return error
        await self._finish(message)
        return None

    async def error(self, error: BullpenError, attempts: tuple[AttemptSummary, ...] = ()) -> None:
        await self._finish(self._final.error(error, attempts, self.extra_headers))

    async def _finish(self, message: FinalMessage) -> None:
        if self.finished:
            log.error("second_answer_withheld", task_id=self._final.task_id, request_id=self._final.request_id)
            return
        self.finished = True
        self._close_echo()
        if self.streaming:
            await self._bus.publish(self._subject, message.body, headers=message.headers)
            await self._bus.publish(self._subject, b"")  # ADR-47: the stream ends with an empty message
        else:
            await publish_with_retry(self._bus, self._subject, message.body, message.headers)

    async def _pass_on(self, piece: Chunk | Resumed) -> None:
        if self.abandoned.is_set():
            return
        if self._echo is None:
            self._echo = self._bus.listen(self._heard)
        headers = self._final.headers(self.extra_headers)
        await self._bus.publish(self._subject, piece.to_bytes(), reply=self._echo.subject, headers=headers)

    def _heard(self, message: Message) -> None:
        if not message.no_responders:
            return  # a reader that answers to chunks: nothing is expected from it
        if asyncio.get_running_loop().time() < self._bus.reconnected_at + BACK_WITHIN:
            return  # the reader lost the server as we did, and may not have found it yet; the answer has the whole text
        self._close_echo()
        log.info("reader_gone", task_id=self._final.task_id, request_id=self._final.request_id, chunks=self._seq)
        self.abandoned.set()
        if self.on_abandoned is not None:
            self.on_abandoned()

    def _close_echo(self) -> None:
        if self._echo is not None:
            self._echo.close()
            self._echo = None
