"""The caller's side of a request: chunks while it lasts, then exactly one final message.

Both who answer callers use it, the Manager and a worker asked directly, so that both keep the same
promises: never silence, never two answers, an answer that is too large becomes an error that says so.

Each piece of a stream names an inbox of ours as its reply subject. Nobody answers there but the server: it says
"no responders" when the reader's inbox is gone, and then the work can stop. A message without a reply subject
would vanish without a word.
"""

import asyncio
from collections.abc import Callable

import structlog

from bus.connection import Bus, Headers, Message
from bus.inbox import Listener
from bus.publish_with_retry import publish_with_retry
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
        self._task_id = task_id
        self._request_id = request_id
        self._streaming = streaming and bool(subject)
        self._seq = 0
        self.delivered = ""
        """The text the caller has so far (streams only)."""
        self.finished = False
        self.was_resumed = False
        self.first_chunk_at: float | None = None
        """When the first piece was passed on (loop's clock, seconds)."""
        self.abandoned = asyncio.Event()
        """Set when the server said that nobody reads this stream any more. Pieces are then kept back."""
        self.told: Headers = {}
        """Headers that each message of the answer carries beside the usual ones."""
        self.on_abandoned = on_abandoned
        """Called once, at the same moment; it must not block."""
        self._echo: Listener[Message] | None = None

    @property
    def streaming(self) -> bool:
        return self._streaming

    async def chunk(self, delta: str, tokens: int | None = None) -> None:
        """Passes a piece on, when the caller wants pieces. `tokens`: those of the answer so far, if known."""
        if not self._streaming or self.finished or not delta:
            return
        chunk = Chunk(task_id=self._task_id, seq=self._seq, delta=delta, tokens=tokens)
        self._seq += 1
        self.delivered += delta
        if self.first_chunk_at is None:
            self.first_chunk_at = asyncio.get_running_loop().time()
        await self._pass_on(chunk)

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
        await self._pass_on(event)

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
        self._close_echo()
        if self._streaming:
            await self._bus.publish(self._subject, body, headers=headers)
            await self._bus.publish(self._subject, b"")  # ADR-47: the stream ends with an empty message
        else:
            await publish_with_retry(self._bus, self._subject, body, headers)

    async def _pass_on(self, piece: Chunk | Resumed) -> None:
        if self.abandoned.is_set():
            return
        if self._echo is None:
            self._echo = self._bus.listen(self._heard)
        await self._bus.publish(self._subject, piece.to_bytes(), reply=self._echo.subject, headers=self._headers())

    def _heard(self, message: Message) -> None:
        if not message.no_responders:
            return  # a reader who answers to pieces: nobody waits for that
        self._close_echo()
        log.info("reader_gone", task_id=self._task_id, request_id=self._request_id, chunks=self._seq)
        self.abandoned.set()
        if self.on_abandoned is not None:
            self.on_abandoned()

    def _close_echo(self) -> None:
        if self._echo is not None:
            self._echo.close()
            self._echo = None

    def _headers(self) -> Headers:
        return {CONTENT_TYPE: JSON, TASK: task_header(self._task_id), **self.told}


def task_header(task_id: str) -> str:
    """The task id as a header value: headers carry ASCII only."""
    return task_id if task_id.isascii() else token(task_id)


def accepts(reply: str) -> bool:
    """Whether we may answer there: an inbox, or nowhere at all (then the answer goes to `result.…`)."""
    return not reply or may_receive_reply(reply)


def internal_error() -> BullpenError:
    """What a caller is told of our own bugs; the details are in the log only."""
    return BullpenError(ErrorCode.INTERNAL, "a bug of ours; the log has the details")
