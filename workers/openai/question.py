"""A request as this API is asked it. Pure. Always streamed, unless the server refuses just that."""

from contracts import JsonObject
from workers.base import Job
from workers.base.interface.config import Parameter
from workers.base.provider.chat import chat_messages
from workers.base.provider.parameters import is_set

LIMITS: tuple[Parameter, Parameter] = ("max_completion_tokens", "max_tokens")
"""What servers call the limit; one that refuses the one takes the other."""
FIELDS: tuple[Parameter, ...] = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "logprobs",
    "stream_options",
    "tools",
    "tool_choice",
    "response_format",
    "stream",
)
"""Parameters that are fields of the question by the same name."""


def question(job: Job, limit: Parameter, left_out: frozenset[Parameter]) -> JsonObject:
    """The question without what the model refuses. `limit`: what the server calls the most tokens of an answer."""
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
        "logprobs": True if "logprobs" in job.model.capabilities else None,
        "stream": True,
        "stream_options": None if "stream" in left_out else {"include_usage": True},
    }
    if (field := _limit(limit, left_out)) is not None:
        wanted[field] = job.max_tokens
    return {name: value for name, value in wanted.items() if value is not None and name not in left_out}


def sent(body: JsonObject, left_out: frozenset[Parameter]) -> list[Parameter]:
    """What of a question a server may refuse and could be asked without."""
    found = [name for name in FIELDS if name in body]
    found += [name for name in LIMITS if name in body and not left_out.intersection(LIMITS)]
    if any(message["role"] == "developer" for message in body["messages"]):
        found.append("developer_role")
    return found


def _limit(limit: Parameter, left_out: frozenset[Parameter]) -> Parameter | None:
    return next((name for name in (limit, *LIMITS) if name not in left_out), None)


def _messages(job: Job, left_out: frozenset[Parameter]) -> list[JsonObject]:
    messages = chat_messages(job)
    if "developer_role" not in left_out:
        return messages
    return [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]
