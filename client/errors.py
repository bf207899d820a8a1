"""What a caller catches: the contract's error, with the whole error reply."""

from contracts import BullpenError, ErrorCode, ErrorReply


class RequestFailed(BullpenError):
    """A request failed. `reply` is the error's body as on the wire, with the attempts made."""

    def __init__(self, reply: ErrorReply) -> None:
        error = reply.error
        super().__init__(
            error.code,
            error.message,
            field=error.field,
            retry_after_ms=error.retry_after_ms,
            retryable=error.retryable,
        )
        self.reply = reply

    @classmethod
    def here(cls, code: ErrorCode, message: str, task_id: str | None) -> "RequestFailed":
        """A failure that the client noticed itself, in the form of one from the wire."""
        return cls(ErrorReply(task_id=task_id, error=BullpenError(code, message).detail()))
