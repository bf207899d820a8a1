"""One question under way: its private inbox, its patience, and the cancel when its asker leaves early."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from bus import Bus, BusError, Message
from bus.deadline import header
from client.errors import RequestFailed
from client.question import Question
from contracts import (
    CancelRequest,
    Chunk,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    InferenceResponse,
    Resumed,
    StreamEvent,
)
from contracts.headers import DEADLINE
from contracts.subjects import INFER_AUTO, INFER_CANCEL

GRACE = 1.0
"""Seconds after the deadline in which the one final message must have come."""

_EVENT: TypeAdapter[Chunk | Resumed | FinalResponse] = TypeAdapter(StreamEvent)


class Exchange:
    """From the question's departure to its final message. Left before that, it tells the mesh to stop."""

    def __init__(self, bus: Bus, question: Question) -> None:
        self._bus = bus
        self._question = question
        self._heard: asyncio.Queue[Message | None] = asyncio.Queue()
        self._listener = bus.listen(self._heard.put_nowait)
        self._end = asyncio.get_running_loop().time() + question.deadline_ms / 1000 + GRACE
        self._settled = False
        self._seq = 0

    async def __aenter__(self) -> Self:
        seconds = self._question.deadline_ms / 1000
        try:
            await self._bus.publish(
                INFER_AUTO, self._question.body, reply=self._listener.subject, headers={DEADLINE: header(seconds)}
            )
        except BaseException:
            self._listener.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        await self.abandon()

    async def abandon(self) -> None:
        """Stops the work, unless its final message has come."""
        if self._settled:
            return
        self._settled = True
        with suppress(BusError):
            await self._bus.publish(INFER_CANCEL, cancel_body(self._question.task_id))

    def connection_lost(self) -> None:
        """Nothing will come any more."""
        self._heard.put_nowait(None)

    async def response(self) -> InferenceResponse:
        """The one answer. Raises `RequestFailed`."""
        message = await self._next()
        try:
            response = InferenceResponse.model_validate_json(message.data)
        except ValidationError:
            raise self._failure(message.data) from None
        self._settled = True
        return response

    async def event(self) -> Chunk | Resumed | FinalResponse:
        """The next piece of a stream, none missing before it. Raises `RequestFailed`."""
        message = await self._next()
        if not message.data:
            raise self._fail(ErrorCode.INTERNAL, "the stream ended without an answer")
        try:
            event = _EVENT.validate_json(message.data)
        except ValidationError:
            raise self._failure(message.data) from None
        if isinstance(event, FinalResponse):
            self._settled = True
        else:
            self._check_order(event.seq)
        return event

    def _check_order(self, seq: int) -> None:
        if seq != self._seq:
            raise self._fail(ErrorCode.INTERNAL, f"a piece of the stream was lost: {self._seq} is due, {seq} came")
        self._seq += 1

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._heard.get()
        except TimeoutError:
            raise self._fail(ErrorCode.DEADLINE_EXCEEDED, self._why_silent()) from None
        if message is None:
            raise BusError("the connection to NATS is lost for good: connect again")
        if message.no_responders:
            self._settled = True
            raise self._fail(
                ErrorCode.NO_WORKER,
                f"no Manager listens on {INFER_AUTO}: start the mesh with `bullpen up`, or one with `bullpen manager`",
            )
        return message

    def _why_silent(self) -> str:
        waited = f"no answer within {self._question.deadline_ms / 1000 + GRACE:g} s"
        if not self._bus.is_connected:
            return f"{waited}: the connection to NATS at {self._bus.settings.where} is down"
        return f"{waited}: the Manager that took the question may have died, ask again"

    def _failure(self, data: bytes) -> RequestFailed:
        """The error that a final message tells."""
        try:
            reply = ErrorReply.model_validate_json(data)
        except ValidationError:
            return self._fail(ErrorCode.INTERNAL, "the answer cannot be read: is the Manager of another version?")
        self._settled = True
        return RequestFailed(reply)

    def _fail(self, code: ErrorCode, message: str) -> RequestFailed:
        return RequestFailed.here(code, message, self._question.task_id)


def cancel_body(task_id: str) -> bytes:
    return CancelRequest(task_id=task_id).model_dump_json().encode()
