"""Repairs the lines of an answer for the SDK, for servers that deviate from the API. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from contracts import JsonObject
from workers.base.provider.tool_calls import read_arguments
from workers.ollama.sdk import ollama


def mended(line: JsonObject) -> Iterator[JsonObject]:
    """Yields the line, repaired. Raises `ollama.ResponseError` for an error, `BullpenError(malformed_tool_call)` for a
    broken call.
    """
    if error := line.get("error"):
        raise ollama.ResponseError(error if isinstance(error, str) else json.dumps(line))
    if "message" in line or "done" in line:
        line["message"] = _message(line.get("message") or {})
        if not isinstance(line.get("done_reason"), str):
            line["done_reason"] = None
    yield line


def _message(told: Any) -> Any:
    if not isinstance(told, dict):
        return told
    content, calls = told.get("content"), told.get("tool_calls")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(text for part in content if isinstance(text := part.get("text"), str))
    calls = [calls] if isinstance(calls, dict) else calls
    if isinstance(calls, list):
        calls = [_call(call) for call in calls if call is not None]
    return {**told, "role": told.get("role") or "assistant", "content": content, "tool_calls": calls}


def _call(told: Any) -> Any:
    function = told.get("function") if isinstance(told, dict) else None
    if not isinstance(function, dict):
        return told
    return {**told, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(told: object) -> object:
    """The arguments as an object, also when a server sends them as text or leaves them out."""
    if isinstance(told, str):
        return read_arguments(told)
    return {} if told is None else told
