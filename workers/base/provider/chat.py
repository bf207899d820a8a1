"""A conversation in OpenAI's form, which several providers understand."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from contracts import (
    BullpenError,
    ChatMessage,
    ErrorCode,
    FunctionDelta,
    InferenceRequest,
    JsonObject,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    new_id,
)
from contracts.response import MOST_TOP_LOGPROBS
from workers.base.interface.backend import Job, Usage
from workers.base.provider.errors import garbage, sendable
from workers.base.provider.overlap_trimmer import begun

BYTES_PER_TOKEN = 16
CHARACTERS_PER_TOKEN = 4
MAX_ANSWER_BYTES = 32 << 20
THOUGHTS_LEAST = 1 << 20
"""Bytes allowed for thoughts beside those of `max_tokens`: not every provider counts thoughts in `max_tokens`."""
BEGIN = "(The conversation begins with your words.)"
"""Words of the user before a first message of the assistant, for providers that require a user's turn first."""
LEAST_LIKELY = 1e6
"""Values of this size or more are no log-probabilities."""


# What is asked


def conversation(job: Job) -> tuple[ChatMessage, ...]:
    """The messages that the model gets; the start of an answer that another worker began comes last."""
    *earlier, last = job.request.conversation
    start = begun(job.prefix)
    if not start:
        return (*earlier, last)
    if last.role == "assistant" and not last.tool_calls:
        return (*earlier, last.model_copy(update={"content": last.text + start}))
    return (*earlier, last, ChatMessage(role="assistant", content=start))


def chat_messages(job: Job) -> list[JsonObject]:
    return [_openai_message(message) for message in conversation(job)]


def _openai_message(message: ChatMessage) -> JsonObject:
    """A message in OpenAI's form, always with a content: many servers refuse null or no content beside tool calls.

    Thoughts are included only beside calls: some models need theirs back there, and other models ignore them.
    """
    left_out = {"extra"} if message.tool_calls else {"extra", "tool_calls", "reasoning_content"}
    return {"role": message.role, "content": "", **message.model_dump(mode="json", exclude_none=True, exclude=left_out)}


def split_data_url(url: str) -> tuple[str, str]:
    """The media type (without its parameters) and the base64 data of an image in a data URL."""
    head, _, data = url.partition(",")
    return head.removeprefix("data:").partition(";")[0], data


def temperature_wanted(request: InferenceRequest) -> float | None:
    """The temperature, if the caller set it: a default here would replace the model's own, and some models refuse
    any.
    """
    return request.temperature if "temperature" in request.model_fields_set else None


def json_wanted(response_format: JsonObject | None) -> tuple[bool, JsonObject | None]:
    """Whether the answer should be JSON, and its schema if there is one."""
    if response_format is None or response_format.get("type") == "text":
        return False, None
    schema = response_format.get("json_schema")
    return True, schema.get("schema") if isinstance(schema, dict) else None


def calls_made(message: ChatMessage) -> list[tuple[str, JsonObject]]:
    """The functions that an earlier answer called, with their arguments. Raises `BullpenError(invalid_request)`."""
    try:
        made = [call["function"] for call in message.tool_calls or ()]
        read = [(str(function["name"]), json.loads(function.get("arguments") or "{}")) for function in made]
    except (ValueError, LookupError, TypeError, AttributeError):
        read = [("", None)]
    if not all(isinstance(arguments, dict) for _, arguments in read):
        raise BullpenError(
            ErrorCode.INVALID_REQUEST,
            "each of tool_calls needs a function with a name, and arguments that are a JSON object",
            field="messages",
        )
    return read


def function_answered(message: ChatMessage, messages: Iterable[ChatMessage]) -> str:
    """The name of the function whose result a `tool` message has: the message's own name, or that of the call that it
    answers.
    """
    made = (call for other in messages for call in other.tool_calls or () if call.get("id") == message.tool_call_id)
    return message.name or next((str(call["function"]["name"]) for call in made), message.tool_call_id or "")


# What is answered


def tokens(told: object, otherwise: int) -> int:
    """A number of tokens as the provider reports it; `otherwise` when it reports none, or nothing usable."""
    return counted(told) or otherwise


def counted(told: object) -> int | None:
    """A count from the provider's bill; a text or 12.0 will do as well.

    None: the provider did not report it, or it is no count. No guess replaces it.
    """
    if isinstance(told, str) and len(told) <= len(str(1 << 31)) and told.isascii() and told.isdigit():
        told = int(told)
    if isinstance(told, float) and told.is_integer():
        told = int(told)
    return told if isinstance(told, int) and not isinstance(told, bool) and 0 <= told < 1 << 31 else None


def call_id(told: object) -> str:
    """The id of a call as text; some servers send numbers. Empty when no id can be read."""
    if isinstance(told, int) and not isinstance(told, bool) and abs(told) < 1 << 63:
        return str(told)
    return told if isinstance(told, str) else ""


def plausible(told: Usage, *, answered: bool) -> Usage:
    """The usage as far as it can be true; when a part is larger than its whole, the whole is unknown.

    Every prompt has tokens, and so has every real answer (`answered`): zero then means that the provider did not report
    them.
    """
    prompt, completion = told.prompt_tokens, told.completion_tokens
    if not prompt or (told.cached_tokens or 0) + (told.cache_write_tokens or 0) > prompt:
        told = replace(told, prompt_tokens=None, cached_tokens=None, cache_write_tokens=None)
    if completion is None or (answered and not completion) or (told.reasoning_tokens or 0) > completion:
        told = replace(told, completion_tokens=None, reasoning_tokens=None)
    return told


def logprobs(told: Iterable[object]) -> tuple[float, ...]:
    """The values that are log-probabilities."""
    return tuple(min(0.0, value) for value in told if isinstance(value, int | float) and abs(value) < LEAST_LIKELY)


def token_logprobs(told: object) -> tuple[TokenLogprob, ...]:
    """Tokens with their log-probabilities, from OpenAI's form, as far as they can be read."""
    listed = told if isinstance(told, list) else []
    return tuple(token for one in listed if (token := _token(one)) is not None)


def _token(told: object) -> TokenLogprob | None:
    own = _likelihood(told)
    if own is None or not isinstance(told, dict):
        return None
    others = told.get("top_logprobs")
    top = (_likelihood(one) for one in (others if isinstance(others, list) else [])[:MOST_TOP_LOGPROBS])
    return TokenLogprob(**dict(own), top_logprobs=tuple(one for one in top if one is not None))


def _likelihood(told: object) -> TopLogprob | None:
    text, value = (told.get("token"), told.get("logprob")) if isinstance(told, dict) else (None, None)
    if not isinstance(text, str) or not (chance := logprobs([value])):
        return None
    data = told.get("bytes") if isinstance(told, dict) else None
    is_bytes = isinstance(data, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in data)
    raw = tuple(data) if is_bytes and data is not None else None
    return TopLogprob(token=sendable(text), logprob=chance[0], bytes=raw)


def whole_calls(calls: Iterable[JsonObject], first: int) -> tuple[ToolCallDelta, ...]:
    """Whole calls as pieces; `first` is the index of the first one in its answer."""
    return tuple(
        ToolCallDelta(index=index, id=call["id"], function=FunctionDelta(**call["function"]))
        for index, call in enumerate(calls, first)
    )


class SizeGuard:
    """Ends an answer that no honest provider would send, before it fills the memory."""

    def __init__(self, max_tokens: int | None, *, least: int = 4096) -> None:
        """`least`: bytes allowed beside those of `max_tokens`."""
        self._left = min(MAX_ANSWER_BYTES, max_tokens * BYTES_PER_TOKEN + least) if max_tokens else MAX_ANSWER_BYTES

    def take(self, text: object) -> str:
        """The text; half a surrogate pair becomes a `?`. Raises `BullpenError(upstream_error)` when it is no text, or
        too much.
        """
        if not isinstance(text, str):
            raise garbage("an answer that is not text")
        data = text.encode(errors="replace")
        self._left -= len(data)
        if self._left < 0:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "the provider sends far more than was asked for")
        return data.decode()

    def call_id(self, told: object) -> str:
        """The id of a call as text; a new id when none can be read."""
        return self.take(call_id(told) or new_id())

    def call(self, name: str, arguments: Mapping[str, Any], told_id: object = None) -> JsonObject:
        """A call of a function, from a provider that sends the call in one piece."""
        function = {"name": self.take(name), "arguments": self.take(json.dumps(dict(arguments)))}
        return {"id": self.call_id(told_id), "type": "function", "function": function}
