"""`infer.feedback`: somebody judged an answer. Kept like every other event, by way of the stream."""

from pydantic import ValidationError

from bus import Bus, Message, Subscription
from bus.outbox import Outbox
from bus.reply import accepts
from contracts import BullpenError, ErrorCode, ErrorReply, Feedback, FeedbackRecord, new_id, utc_now
from contracts import headers as h
from contracts import subjects as s

STORED = b'{"stored": true}'


async def serve_feedback(bus: Bus, outbox: Outbox) -> Subscription:
    """Takes judgements, and confirms each to whoever wants to know."""

    async def handle(message: Message) -> None:
        if not accepts(message.reply):
            return
        try:
            feedback = Feedback.model_validate_json(message.data, strict=True, extra="forbid")
        except ValidationError as error:
            await _refuse(bus, message, error)
            return
        feedback_id = new_id()
        record = FeedbackRecord(**feedback.model_dump(), feedback_id=feedback_id, created_at=utc_now())
        outbox.put(s.TELEMETRY_FEEDBACK, record, feedback_id)
        if message.reply:
            await bus.publish(message.reply, STORED, headers={h.CONTENT_TYPE: h.JSON})

    return await bus.subscribe(s.INFER_FEEDBACK, handle, queue=s.INFER_QUEUE)


async def _refuse(bus: Bus, message: Message, error: ValidationError) -> None:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(step) for step in first["loc"]) or None
    refusal = BullpenError(ErrorCode.INVALID_REQUEST, f"{field or 'the feedback'}: {first['msg']}", field=field)
    if message.reply:
        await bus.publish(
            message.reply,
            ErrorReply(error=refusal.detail()).to_bytes(),
            headers={h.SERVICE_ERROR: refusal.message, h.SERVICE_ERROR_CODE: str(refusal.status)},
        )
