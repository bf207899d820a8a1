"""The caller's side of a request: chunks while it lasts, then exactly one final message.

Both who answer callers use it, the Manager and a worker asked directly, so that both keep the same
promises: never silence, never two answers, an answer that is too large becomes an error that says so.
"""

import structlog

from bus.connection import Bus, Headers
from contracts import (
    AttemptSummary,
    BullpenError,
    Chunk,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    InferenceResponse,
    Resumed,
)
from contracts.headers import CONTENT_TYPE, JSON, SERVICE_ERROR, SERVICE_ERROR_CODE, TASK
from contracts.subjects import may_receive_reply, result, token

log = structlog.get_logger(__name__)


class Reply:
    """Where one request's answer goes: its reply subject, or `result.<task_id>` when it has none."""

    def __init__(self, bus: Bus, subject: str, task_id: str, request_id: str, *, streaming: bool) -> None:
        self._bus = bus
        self._subject = subject or result(task_id)
        self._task_id = task_id
        self._request_id = request_id
        self._streaming = streaming and bool(subject)
        self._seq = 0
        self.delivered = ""
        """The text the caller has so far (streams only)."""
        self.finished = False
        self.was_resumed = False

    @property
    def streaming(self) -> bool:
        return self._streaming

    async def chunk(self, delta: str) -> None:
        """Passes a piece on, when the caller wants pieces."""
        if not self._streaming or self.finished or not delta:
            return
        chunk = Chunk(task_id=self._task_id, seq=self._seq, delta=delta)
        self._seq += 1
        self.delivered += delta
        await self._bus.publish(self._subject, chunk.to_bytes(), headers=self._headers())

    async def resumed(self, from_worker: str, to_worker: str, *, continued: bool) -> None:
        """Tells a streaming caller that another worker goes on."""
        if not self._streaming or self.finished:
            return
        event = Resumed(
            task_id=self._task_id,
            seq=self._seq,
            from_=from_worker,
            to=to_worker,
            mode="continued" if continued else "restarted",
        )
        self._seq += 1
        self.was_resumed = True
        if not continued:
            self.delivered = ""
        await self._bus.publish(self._subject, event.to_bytes(), headers=self._headers())

    async def response(self, response: InferenceResponse) -> BullpenError | None:
        """The answer. One that is larger than the server takes is told as an error, which is returned."""
        body = FinalResponse(**dict(response)).to_bytes() if self._streaming else response.to_bytes()
        try:
            self._bus.check_size(body, self._headers())
        except BullpenError as error:
            await self.error(error, response.attempts)
            return error
        await self._final(body, self._headers())
        return None

    async def error(self, error: BullpenError, attempts: tuple[AttemptSummary, ...] = ()) -> None:
        """The failure, in the headers and in the body."""
        body = ErrorReply(
            task_id=self._task_id, request_id=self._request_id, error=error.detail(), attempts=attempts
        ).to_bytes()
        text = " ".join(error.message.split())[:500]
        await self._final(body, {**self._headers(), SERVICE_ERROR: text, SERVICE_ERROR_CODE: str(error.status)})

    async def _final(self, body: bytes, headers: Headers) -> None:
        if self.finished:
            log.error("second_answer_withheld", task_id=self._task_id, request_id=self._request_id)
            return
        self.finished = True
        await self._bus.publish(self._subject, body, headers=headers)
        if self._streaming:
            await self._bus.publish(self._subject, b"")  # ADR-47: the stream ends with an empty message

    def _headers(self) -> Headers:
        return {CONTENT_TYPE: JSON, TASK: task_header(self._task_id)}


def task_header(task_id: str) -> str:
    """The task id as a header value: headers carry ASCII only."""
    return task_id if task_id.isascii() else token(task_id)


def accepts(reply: str) -> bool:
    """Whether we may answer there: an inbox, or nowhere at all (then the answer goes to `result.…`)."""
    return not reply or may_receive_reply(reply)


def internal_error() -> BullpenError:
    """What a caller is told of our own bugs; the details are in the log only."""
    return BullpenError(ErrorCode.INTERNAL, "a bug of ours; the log has the details")
