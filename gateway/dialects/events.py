"""JSON as bytes, and server-sent events."""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from contracts import JsonObject


def dumped(value: Any) -> bytes:
    """The value as UTF-8 JSON. Half a surrogate pair, which UTF-8 cannot say, becomes a question mark."""
    try:
        return to_json(value)
    except PydanticSerializationError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def event(told: JsonObject) -> bytes:
    """A server-sent event that is called as its `type`."""
    return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), dumped(told))
