"""A question in the form of the Messages API: turns made of blocks, and the parameters of the answer."""

from base64 import b64decode
from collections.abc import Sequence

from contracts import AudioPart, BullpenError, ChatMessage, ErrorCode, FilePart, InferenceRequest, JsonObject
from workers.anthropic.limits import accepted, thinking_at
from workers.anthropic.thoughts import NAME, in_order
from workers.base import Job
from workers.base.provider.call_forms import CallRule
from workers.base.provider.chat import (
    BEGIN,
    calls_made,
    conversation,
    json_wanted,
    split_data_url,
    temperature_wanted,
)

CALLS = CallRule(ids="[A-Za-z0-9_-]{1,64}")
UNTOLD_MAX_TOKENS = 8192
"""Tokens: the limit of an answer when neither request nor config has one, because the API requires a limit."""
WARMEST = 1.0
"""The API's highest temperature, half of the common scale's; higher values are reduced to it."""
SYSTEM = ("system", "developer")
CHOICES = {"auto": "auto", "none": "none", "required": "any"}
OWN_HEADERS = ("anthropic-beta", "anthropic-version")
ONLY_JSON = "Answer with one JSON object and nothing else."


def question_of(job: Job, options: JsonObject) -> JsonObject:
    """The body of the call; the operator's `options` override the caller's parameters. Raises `BullpenError`."""
    request = job.request
    is_json, schema = json_wanted(request.response_format)
    system = [message.text for message in request.conversation if message.role in SYSTEM]
    tools = [_tool(tool) for tool in request.tools or ()] or _tools_called(request.conversation)
    thinking, effort = thinking_at(request.reasoning_effort, job.model) if "thinking" not in options else (None, None)
    output = {"format": {"type": "json_schema", "schema": schema}} if schema is not None else {}
    wanted: JsonObject = {
        "max_tokens": job.max_tokens or UNTOLD_MAX_TOKENS,
        "system": "\n\n".join([*system, *([ONLY_JSON] if is_json and schema is None else [])]),
        "temperature": _temperature(request),
        "top_p": request.top_p,
        "stop_sequences": [stop for stop in request.stops if stop.strip()],
        "output_config": {**output, **({"effort": effort} if effort else {})},
        "thinking": thinking,
        "tools": tools,
        "tool_choice": _tool_choice(request) if tools else None,
    }
    turns = _turns(conversation(job))
    told = {**{key: value for key, value in wanted.items() if value not in (None, "", [], {})}, **options}
    told = {key: value for key, value in told.items() if value is not None}
    own_limit = job.max_tokens is None and "max_tokens" not in options
    told = accepted(told, job.model.model_id, turns, own_limit=own_limit)
    headers = headers_of(request)
    return {
        **({"extra_headers": headers} if headers else {}),
        "model": job.model.model_id,
        "messages": turns,
        "max_tokens": told.pop("max_tokens"),
        "extra_body": told,  # the SDK's own arguments change with the newest models, the API takes the older ones' too
    }


def headers_of(request: InferenceRequest) -> dict[str, str]:
    """The Anthropic headers that the caller's program sent to the gateway, unchanged."""
    own = (request.extra or {}).get(NAME)
    told = own.get("headers") if isinstance(own, dict) else None
    found = {name: told.get(name) for name in OWN_HEADERS} if isinstance(told, dict) else {}
    return {
        name: text for name, text in found.items() if isinstance(text, str) and text.isascii() and text.isprintable()
    }


def _temperature(request: InferenceRequest) -> float | None:
    told = temperature_wanted(request)
    return None if told is None else min(WARMEST, told)


def _turns(messages: Sequence[ChatMessage]) -> list[JsonObject]:
    """The turns. Messages of the same side in a row become one turn, and the first turn is the user's."""
    turns: list[JsonObject] = []
    for message in messages:
        blocks = [] if message.role in SYSTEM else _blocks(message)
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": BEGIN}]})
    return turns


def _blocks(message: ChatMessage) -> list[JsonObject]:
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id or "", "content": message.text}]
    made = zip(calls_made(message), message.tool_calls or (), strict=True)
    calls: list[JsonObject] = [
        {"type": "tool_use", "id": str(call.get("id") or name), "name": name, "input": arguments}
        for (name, arguments), call in made
    ]
    if (blocks := in_order(message, calls)) is not None:
        return blocks
    blocks = [*(_image(url) for url in message.images), *(_document(part) for part in message.attachments)]
    if message.text.strip():
        text = message.text.rstrip() if message.role == "assistant" else message.text
        blocks.append({"type": "text", "text": text})
    return [*blocks, *calls]


def _document(part: AudioPart | FilePart) -> JsonObject:
    if not isinstance(part, FilePart):
        raise BullpenError(ErrorCode.INVALID_REQUEST, "this provider takes no sound", field="messages")
    media_type, data = split_data_url(part.file.file_data)
    source: JsonObject = {"type": "base64", "media_type": media_type, "data": data}
    if media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": b64decode(data).decode(errors="replace")}
    return {"type": "document", "source": source, **({"title": part.file.filename} if part.file.filename else {})}


def _image(url: str) -> JsonObject:
    media_type, data = split_data_url(url)
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _tools_called(messages: Sequence[ChatMessage]) -> list[JsonObject]:
    """The functions that earlier answers called: the API refuses calls of functions that the question does not
    declare.
    """
    names = {call["function"]["name"]: None for message in messages for call in message.tool_calls or ()}
    return [_tool({"function": {"name": name}}) for name in names]


def _tool(tool: JsonObject) -> JsonObject:
    function = tool.get("function", {})
    told = {
        "name": function.get("name"),
        "description": function.get("description"),
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    return {key: value for key, value in told.items() if value is not None}


def _tool_choice(request: InferenceRequest) -> JsonObject | None:
    """The API's form of `tool_choice`: a word, or the one function to call."""
    choice = request.tool_choice if request.tools else "none"
    one = {"disable_parallel_tool_use": True} if request.parallel_tool_calls is False else {}
    if isinstance(choice, dict):
        return {"type": "tool", "name": choice.get("function", {}).get("name"), **one}
    kind = CHOICES.get(choice or "auto", "auto")
    if kind == "none":
        return {"type": kind}
    return None if kind == "auto" and not one else {"type": kind, **one}
