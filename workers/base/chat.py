"""A conversation in the form that OpenAI made common, which several providers understand."""

from contracts import BullpenError, ChatMessage, ErrorCode, JsonObject
from workers.base.backend import Job

BYTES_PER_TOKEN = 16
MAX_ANSWER_BYTES = 32 << 20


def openai_messages(job: Job) -> list[JsonObject]:
    """The messages of a job; the start of an answer that another worker began comes last."""
    messages = [_message(message) for message in job.request.conversation]
    if job.prefix:
        messages.append({"role": "assistant", "content": job.prefix})
    return messages


def _message(message: ChatMessage) -> JsonObject:
    return message.model_dump(mode="json", exclude_none=True)


def split_data_url(url: str) -> tuple[str, str]:
    """The media type and the base64 data of an image given as a data URL."""
    head, _, data = url.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), data


class SizeGuard:
    """Ends an answer that no honest provider would send, before it fills the memory."""

    def __init__(self, max_tokens: int | None) -> None:
        self._left = min(MAX_ANSWER_BYTES, max_tokens * BYTES_PER_TOKEN + 4096) if max_tokens else MAX_ANSWER_BYTES

    def take(self, text: str) -> str:
        """The text, unless it is too much. Raises `BullpenError(upstream_error)`."""
        self._left -= len(text)
        if self._left < 0:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "the provider sends far more than was asked for")
        return text
