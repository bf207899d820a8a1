"""Turns a request into this API's question. Pure. Always streamed, unless the server refuses streaming."""

from contracts import JsonObject
from workers.base import Job
from workers.base.interface.config import Parameter
from workers.base.provider.chat import chat_messages
from workers.base.provider.parameters import is_set

LIMITS: tuple[Parameter, Parameter] = ("max_completion_tokens", "max_tokens")
"""Servers' fields for the most tokens of an answer; a server that refuses one takes the other."""
FIELDS: tuple[Parameter, ...] = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "stream",
)
"""Parameters whose field in the question has the same name."""


def question(job: Job, limit: Parameter, left_out: frozenset[Parameter]) -> JsonObject:
    """The question without the parameters in `left_out`. `limit`: the server's field for the most tokens of an
    answer.
    """
    request = job.request
    wanted: JsonObject = {
        "model": job.model.model_id,
        "messages": _messages(job, left_out),
        "temperature": request.temperature if is_set(request, "temperature") else None,
        "top_p": request.top_p,
        "stop": [stop for stop in request.stops if stop] or None,
        "seed": request.seed,
        "response_format": request.response_format,
        "tools": list(request.tools) if request.tools else None,
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "logit_bias": request.logit_bias or None,
        "logprobs": True if request.logprobs or "logprobs" in job.model.capabilities else None,
        "top_logprobs": request.top_logprobs or None,
        "reasoning_effort": request.reasoning_effort,
        "stream": True,
        "stream_options": None if "stream" in left_out else {"include_usage": True},
    }
    if (field := _limit(limit, left_out)) is not None:
        wanted[field] = job.max_tokens
    return {name: value for name, value in wanted.items() if value is not None and name not in left_out}


def sent(body: JsonObject, left_out: frozenset[Parameter]) -> list[Parameter]:
    """Parameters of a question that a server may refuse and that could be left out."""
    found = [name for name in FIELDS if name in body]
    found += [name for name in LIMITS if name in body and not left_out.intersection(LIMITS)]
    if any(message["role"] == "developer" for message in body["messages"]):
        found.append("developer_role")
    if any("reasoning_content" in message for message in body["messages"]):
        found.append("reasoning_content")
    return found


def _limit(limit: Parameter, left_out: frozenset[Parameter]) -> Parameter | None:
    return next((name for name in (limit, *LIMITS) if name not in left_out), None)


def _messages(job: Job, left_out: frozenset[Parameter]) -> list[JsonObject]:
    return [_message(message, left_out) for message in chat_messages(job)]


def _message(message: JsonObject, left_out: frozenset[Parameter]) -> JsonObject:
    told = {name: value for name, value in message.items() if name != "reasoning_content" or name not in left_out}
    if told["role"] == "developer" and "developer_role" in left_out:
        told["role"] = "system"
    if isinstance(told["content"], list):
        told["content"] = [_part(part) for part in told["content"]]
    return told


def _part(part: JsonObject) -> JsonObject:
    """A part in the API's form: a file gets a name, because one without a name is refused."""
    return {**part, "file": {"filename": "file", **part["file"]}} if part["type"] == "file" else part
