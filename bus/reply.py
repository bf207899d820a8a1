"""The answer to one request, from the role that serves it: any number of chunks, then exactly one final message.

A Manager and a worker that a caller asks directly answer through the same `Reply`, so both keep the same promises:
never silence, never two answers, and an answer that is too large becomes an error that says so.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from bus.connection import Bus
from bus.delivered import Delivered
from bus.headers import Headers
from contracts import Answer, AttemptSummary, BullpenError, ErrorCode, ErrorReply, FinalResponse, Piece
from contracts.headers import CONTENT_TYPE, JSON, SERVICE_ERROR, SERVICE_ERROR_CODE, TASK
from contracts.subjects import header_value, may_receive_reply

MAX_ERROR_HEADER = 500
"""Characters of the error header."""


class Reply(Protocol):
    """The destination of one request's answer. `InboxReply` publishes it, `CapturedReply` stores it in memory."""

    extra_headers: Headers
    """Headers that each message of the answer carries beside the usual ones."""
    on_abandoned: Callable[[], None] | None
    """Called once when the reader of a stream has gone; it must not block."""

    @property
    def streaming(self) -> bool: ...

    @property
    def delivered(self) -> Delivered:
        """What the caller has so far (for streams only)."""
        ...

    @property
    def was_resumed(self) -> bool: ...

    @property
    def first_chunk_at(self) -> float | None:
        """When the first chunk with a part of the answer was sent (loop's clock, seconds)."""
        ...

    async def chunk(self, piece: Piece) -> None:
        """Sends a part of the answer if the caller streams."""
        ...

    async def resumed(self, from_worker: str, to_worker: str, *, continued: bool) -> None:
        """Tells a streaming caller that another worker continues."""
        ...

    async def response(self, response: Answer) -> BullpenError | None:
        """Sends the answer. An answer too large for the server becomes an error, which is returned."""
        ...

    async def error(self, error: BullpenError, attempts: tuple[AttemptSummary, ...] = ()) -> None:
        """Sends the failure, in the headers and in the body."""
        ...


class FinalMessage(NamedTuple):
    body: bytes
    headers: Headers


class FinalMessages:
    """Writes the final message of one request, which has to fit into the server's `max_payload`."""

    def __init__(self, bus: Bus, task_id: str, request_id: str) -> None:
        self._bus = bus
        self.task_id = task_id
        self.request_id = request_id
        self._headers = {CONTENT_TYPE: JSON, TASK: header_value(task_id)}

    def headers(self, extra: Headers) -> Headers:
        return {**self._headers, **extra}

    def response(self, response: Answer, extra: Headers, *, streaming: bool) -> FinalMessage:
        """Raises `BullpenError(payload_too_large)`."""
        body = FinalResponse.of(response).to_bytes() if streaming else response.to_bytes()
        headers = self.headers(extra)
        self._bus.check_size(body, headers)
        return FinalMessage(body, headers)

    def error(self, error: BullpenError, attempts: tuple[AttemptSummary, ...], extra: Headers) -> FinalMessage:
        reply = ErrorReply(task_id=self.task_id, request_id=self.request_id, error=error.detail(), attempts=attempts)
        text = " ".join(error.message.split())[:MAX_ERROR_HEADER]
        failure = {SERVICE_ERROR: text, SERVICE_ERROR_CODE: str(error.status)}
        return FinalMessage(reply.to_bytes(), {**self.headers(extra), **failure})


def accepts(reply: str) -> bool:
    """Whether an answer may go to this subject: an inbox, or, if it is empty, `result.…`."""
    return not reply or may_receive_reply(reply)


def internal_error() -> BullpenError:
    """The error that a caller gets for a bug in Bullpen; only the log has the details."""
    return BullpenError(ErrorCode.INTERNAL, "a bug of ours; the log has the details")
