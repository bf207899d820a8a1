"""Repairs the chunks of an answer for the SDK, for servers that deviate from the API. Pure."""

from typing import Any

from contracts import JsonObject
from workers.base.provider.chat import call_id
from workers.base.provider.tool_calls import read_arguments


def mended(chunk: JsonObject) -> JsonObject:
    """The chunk, repaired. Raises `BullpenError(malformed_tool_call)` for a call whose arguments are no object."""
    for candidate in _list(chunk.get("candidates")):
        content = candidate.get("content")
        for part in _list(content.get("parts")) if isinstance(content, dict) else ():
            if isinstance(call := part.get("functionCall"), dict):
                part["functionCall"] = _call(call)
    return chunk


def _call(told: JsonObject) -> JsonObject:
    arguments = told.get("args")
    if isinstance(arguments, str):
        arguments = read_arguments(arguments)
    return {**told, "args": arguments, "id": call_id(told.get("id")) or None}


def _list(told: Any) -> list[JsonObject]:
    return [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
