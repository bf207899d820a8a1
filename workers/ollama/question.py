"""A question in the words of Ollama's chat API."""

from collections.abc import Sequence

from contracts import ChatMessage, JsonObject
from workers.base import Job
from workers.base.chat import calls_made, conversation, function_answered, json_wanted, split_data_url


def body_of(job: Job, options: JsonObject, keep_alive: str | None) -> JsonObject:
    """`options` are the operator's and go above the caller's. Raises `BullpenError(invalid_request)`."""
    request, messages = job.request, conversation(job)
    generation: JsonObject = {
        "temperature": request.temperature,
        "num_predict": job.max_tokens,
        "top_p": request.top_p,
        "stop": [stop for stop in request.stops if stop] or None,
        "seed": request.seed,
        **options,
    }
    is_json, schema = json_wanted(request.response_format)
    return {
        "model": job.model.model_id,
        "messages": [_message(message, messages) for message in messages],
        "tools": list(request.tools) if request.tools and request.tool_choice != "none" else None,
        "format": (schema or "json") if is_json else None,
        "options": {key: value for key, value in generation.items() if value is not None},
        "keep_alive": keep_alive,
        "logprobs": True if "logprobs" in job.model.capabilities else None,
        "stream": True,
    }


def _message(message: ChatMessage, messages: Sequence[ChatMessage]) -> JsonObject:
    told: JsonObject = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.images:
        told["images"] = [split_data_url(url)[1] for url in message.images]
    if message.tool_calls:
        made = calls_made(message)
        told["tool_calls"] = [{"function": {"name": name, "arguments": arguments}} for name, arguments in made]
    if message.role == "tool":
        told["tool_name"] = function_answered(message, messages)
    return told
