"""JSON as bytes, and server-sent events."""

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from contracts import JsonObject

LINE_ENDS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""Characters at which Unicode ends a line and JSON does not, and how JSON can say them otherwise."""


def dumped(value: Any) -> bytes:
    """The value as UTF-8 JSON, on one line for every reader: Ollama's own client ends a line where Unicode does.

    Half a surrogate pair, which UTF-8 cannot say, becomes a question mark.
    """
    try:
        written = to_json(value)
    except PydanticSerializationError:
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    if not written.isascii():
        for end, escaped in LINE_ENDS:
            written = written.replace(end, escaped)
    return written


def event(told: JsonObject) -> bytes:
    """A server-sent event that is called as its `type`."""
    return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), dumped(told))
