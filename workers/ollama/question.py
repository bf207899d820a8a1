"""A question in the form of Ollama's chat API."""

from base64 import b64decode
from collections.abc import Sequence

from contracts import BullpenError, ChatMessage, ErrorCode, JsonObject, ReasoningEffort
from workers.base import Job
from workers.base.interface.config import Parameter
from workers.base.provider.call_forms import CallRule
from workers.base.provider.chat import (
    calls_made,
    conversation,
    function_answered,
    json_wanted,
    split_data_url,
    temperature_wanted,
)
from workers.ollama.sdk import ollama
from workers.ollama.settings import TOP_LEVEL

STEERED: frozenset[Parameter] = frozenset(
    {"temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "reasoning_effort"}
)
"""The steering parameters that Ollama takes."""
CALLS = CallRule(ids=".*", names=".*")
"""Ollama accepts any name of a function, and matches calls by it."""
LEVELLED = "gpt-oss"
"""Part of the names of models that take a level of thinking; other models take only yes or no."""
EFFORTS: dict[ReasoningEffort, str] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
RENDERER = "\nRENDERER "
"""A Modelfile's mark that one of the server's own renderers is used; its template then does not count."""
OPEN_END = "not $last"
"""A template's mark that it closes an answer only when another message follows: it leaves the last answer open."""


def goes_on(shown: ollama.ShowResponse) -> bool:
    """Whether a model surely continues a last message of the assistant, as far as Ollama shows.

    Templates of the old kind know only prompt and response: Ollama ends them where the response does. Templates that
    write the messages decide this themselves, and most close every answer. A model that thinks would start thinking in
    the middle of its answer. The server's own renderers cannot be inspected: list `prefill` in the config for them.
    """
    template = shown.template or ""
    unseen = not template or "{%" in template or RENDERER in (shown.modelfile or "")
    if unseen or "thinking" in (shown.capabilities or ()):
        return False
    return ".Messages" not in template or OPEN_END in template


def body_of(job: Job, options: JsonObject, keep_alive: float | str | None) -> JsonObject:
    """The body of the question; the operator's `options` override the caller's parameters. Raises
    `BullpenError(invalid_request)`.

    Log-probabilities are always asked for: servers without them ignore the field.
    """
    request, messages = job.request, conversation(job)
    generation: JsonObject = {
        "temperature": temperature_wanted(request),
        "num_predict": job.max_tokens,
        "top_p": request.top_p,
        "stop": [stop for stop in request.stops if stop] or None,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        **{name: value for name, value in options.items() if name not in TOP_LEVEL},
    }
    is_json, schema = json_wanted(request.response_format)
    return {
        "model": job.model.model_id,
        "messages": [_message(message, messages) for message in messages],
        "tools": list(request.tools) if request.tools and request.tool_choice != "none" else None,
        "format": (schema or "json") if is_json else None,
        "options": {key: value for key, value in generation.items() if value is not None},
        "keep_alive": keep_alive,
        "logprobs": True,
        "top_logprobs": request.top_logprobs or None,
        "think": _think(job),
        **{name: value for name, value in options.items() if name in TOP_LEVEL},
        "stream": True,
    }


def _think(job: Job) -> bool | str | None:
    """Ollama's `think` field: whether the model should think, or how much. None: the model cannot think, or decides
    itself.
    """
    effort = job.request.reasoning_effort
    if effort is None or "reasoning" not in job.model.capabilities:
        return None
    if effort == "none":
        return False
    return EFFORTS[effort] if LEVELLED in job.model.model_id else True


def _image(url: str) -> bytes:
    """The image, decoded: the SDK would take a text for a file's path, and read and send that file if it exists."""
    try:
        return b64decode(split_data_url(url)[1], validate=True)
    except ValueError:
        raise BullpenError(ErrorCode.INVALID_REQUEST, "an image is not valid base64", field="messages") from None


def _message(message: ChatMessage, messages: Sequence[ChatMessage]) -> JsonObject:
    told: JsonObject = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.images:
        told["images"] = [_image(url) for url in message.images]
    if message.tool_calls:
        told |= {"thinking": message.reasoning_content} if message.reasoning_content else {}
        made = calls_made(message)
        told["tool_calls"] = [{"function": {"name": name, "arguments": arguments}} for name, arguments in made]
    if message.role == "tool":
        told["tool_name"] = function_answered(message, messages)
    return told
