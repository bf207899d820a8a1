"""JSON as bytes, and server-sent events."""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from contracts import JsonObject

LINE_ENDS = {char.encode(): f"\\u{ord(char):04x}".encode() for char in "\x85\u2028\u2029"}
"""What many clients' readers take for the end of a line, and JSON may hold as it is."""


def dumped(value: Any) -> bytes:
    """The value as UTF-8 JSON in one line. Half a surrogate pair, which UTF-8 cannot say, becomes a question mark."""
    try:
        written = to_json(value)
    except PydanticSerializationError:
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    if not written.isascii():
        for end, escaped in LINE_ENDS.items():
            written = written.replace(end, escaped)
    return written


def event(told: JsonObject) -> bytes:
    """A server-sent event that is called as its `type`."""
    return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), dumped(told))
