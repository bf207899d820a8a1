"""Repairs the events of an answer for the SDK, for servers that deviate from the API. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from contracts import JsonObject

PARTS = ("delta", "message", "content_block")
"""Parts of the answer: an untyped event with one of these is an error; any other untyped event is a sign of life."""


def mended(event: JsonObject) -> Iterator[JsonObject]:
    """The event, with a type; or the events of a message that came whole. Raises `ValueError` for an event that cannot
    be read.
    """
    kind = event.get("type")
    if event.get("error"):
        yield {**event, "type": "error"}
    elif kind == "message":
        yield from _events(event)
    elif isinstance(kind, str) and kind:
        yield event
    elif kind is None and not any(event.get(part) for part in PARTS):
        yield {"type": "ping"}
    else:
        raise ValueError("an event without a type")


def _events(message: JsonObject) -> Iterator[JsonObject]:
    told = message.get("content")
    content: list[Any] = told if isinstance(told, list) else []
    yield {"type": "message_start", "message": {**message, "content": []}}
    for index, block in enumerate(content):
        if not isinstance(block, dict):
            raise ValueError("a block that is no object")
        yield {"type": "content_block_start", "index": index, "content_block": block}
        yield from ({"type": "content_block_delta", "index": index, "delta": delta} for delta in _deltas(block))
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": message, "usage": message.get("usage")}
    yield {"type": "message_stop"}


def _deltas(block: JsonObject) -> Iterator[JsonObject]:
    match block.get("type"):
        case "thinking":
            yield {"type": "thinking_delta", "thinking": block.get("thinking") or ""}
            yield {"type": "signature_delta", "signature": block.get("signature") or ""}
        case "tool_use":
            yield {"type": "input_json_delta", "partial_json": json.dumps(block.get("input") or {})}
