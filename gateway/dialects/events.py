"""JSON as bytes, and server-sent events."""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from contracts import JsonObject

LINE_ENDS = {char.encode(): f"\\u{ord(char):04x}".encode() for char in "\x85\u2028\u2029"}
"""Characters that JSON may hold as they are, and that many clients take for the end of a line."""


def dumped(value: Any) -> bytes:
    """The value as UTF-8 JSON in one line. Half a surrogate pair, which UTF-8 cannot express, becomes a question
    mark.
    """
    try:
        written = to_json(value)
    except PydanticSerializationError:
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    if not written.isascii():
        for end, escaped in LINE_ENDS.items():
            written = written.replace(end, escaped)
    return written


def event(told: JsonObject) -> bytes:
    """A server-sent event named after its `type`."""
    return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), dumped(told))
