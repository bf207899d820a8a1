"""`infer.feedback`: callers' judgements on answers. They are stored like every other event, by way of the stream.

The caller gets `stored` when JetStream has the judgement, else the error.
"""

import asyncio

import structlog
from pydantic import ValidationError
from pydantic_core import from_json

from bus import Bus, BusError, Message, Subscription
from bus.reply import accepts
from bus.service import EndpointStats
from contracts import BullpenError, ErrorCode, ErrorReply, Feedback, FeedbackRecord, new_id, utc_now
from contracts import headers as h
from contracts import subjects as s
from outbox.privacy_filter import PrivacyFilter

log = structlog.get_logger(__name__)

STORED = b'{"stored": true}'
ACK_WITHIN = 2.0
TRIES = 2
"""With the same message id, so that the stream keeps one of them."""
FIELD_CHARACTERS = 100
OURS = "verifier:"
"""Prefix of the sources that Managers' verifiers use; a caller may not use it."""


async def serve_feedback(bus: Bus, stats: EndpointStats, privacy_filter: PrivacyFilter) -> Subscription:
    """Receives judgements, and confirms each one that has a reply subject."""

    async def handle(message: Message) -> None:
        if not accepts(message.reply):
            return
        started = asyncio.get_running_loop().time()
        failure: BullpenError | None = None
        try:
            await _store(bus, await privacy_filter.kept(_read(message.data)))
        except BullpenError as error:
            failure = error
            if not message.reply:
                log.warning("feedback_lost", reason=str(error))
        stats.count(asyncio.get_running_loop().time() - started, failure.code if failure else None)
        if message.reply:
            await _answer(bus, message.reply, failure)

    return await bus.subscribe(s.INFER_FEEDBACK, handle, queue=s.INFER_QUEUE)


def _read(data: bytes) -> FeedbackRecord:
    """Raises `BullpenError(invalid_request)` naming the field."""
    try:
        feedback = Feedback.model_validate_json(data, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(step) for step in first["loc"])[:FIELD_CHARACTERS] or None
        message = "unknown field" if first["type"] == "extra_forbidden" else first["msg"]
        raise BullpenError(ErrorCode.INVALID_REQUEST, f"{field or 'the feedback'}: {message}", field=field) from None
    if (feedback.source or "").startswith(OURS):
        raise BullpenError(
            ErrorCode.INVALID_REQUEST, "source: that is a verifier's, which only Managers are", field="source"
        )
    return FeedbackRecord(**feedback.model_dump(), feedback_id=new_id(), created_at=utc_now())


async def _store(bus: Bus, record: FeedbackRecord) -> None:
    """Returns when the stream has the judgement. Raises `BullpenError`."""
    reason = ""
    for _ in range(TRIES):
        try:
            ack = await bus.request(
                s.TELEMETRY_FEEDBACK, record.to_bytes(), timeout=ACK_WITHIN, headers={h.MESSAGE_ID: record.feedback_id}
            )
            refusal = from_json(ack.data).get("error")
        except (BusError, ValueError) as error:
            refusal = {"description": str(error)}
        if not refusal:
            return
        reason = refusal["description"]
    raise BullpenError(ErrorCode.NO_WORKER, f"the feedback is not stored, send it again: {reason}")


async def _answer(bus: Bus, reply: str, failure: BullpenError | None) -> None:
    headers = {h.CONTENT_TYPE: h.JSON}
    if failure is None:
        await bus.publish(reply, STORED, headers=headers)
        return
    headers |= {h.SERVICE_ERROR: failure.message, h.SERVICE_ERROR_CODE: str(failure.status)}
    await bus.publish(reply, ErrorReply(error=failure.detail()).to_bytes(), headers=headers)
