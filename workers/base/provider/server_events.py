"""Reads server-sent events from bytes, as real servers send them; also bodies that are no events. Pure.

Lines may end in any way and be cut anywhere. The blank line after an event may be missing. A body without any event (a
JSON object, an HTML page) is returned as one text; a line that is a whole JSON object is returned at once.
"""

import json
from collections.abc import Iterator

from contracts import JsonObject
from workers.base.provider.errors import garbage

LONGEST_EVENT = 8 << 20
"""Bytes of an event, or of a body without events."""
MARK = b"\xef\xbb\xbf"
FIELDS = ("event", "id", "retry")


class EventReader:
    def __init__(self) -> None:
        self._rest: list[bytes] = []
        """The pieces of an unfinished line; they are joined only once, because the line may be long."""
        self._began = False
        self._data: list[str] = []
        self._bare: list[str] = []
        """Lines that belong to no event."""
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The data of the events that are complete now. Raises `BullpenError(upstream_error)` for an event that does
        not end.
        """
        self._rest.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and not self._rest[0].endswith(b"\r"):
            return
        *lines, rest = _lines(b"".join(self._rest))
        self._rest = [rest] if rest else []
        for line in lines:
            yield from self._take(line)

    def end(self) -> Iterator[str]:
        """The data that remains when no more bytes come."""
        rest, self._rest = b"".join(self._rest), []
        for line in rest.splitlines():
            yield from self._take(line)
        yield from self._told()
        if self._bare and (text := "\n".join(self._bare).strip()):
            yield text

    def _take(self, line: bytes) -> Iterator[str]:
        self._size += len(line)
        if self._size > LONGEST_EVENT:
            raise garbage("an event without end")
        text = (line if self._began else line.removeprefix(MARK)).decode(errors="replace")
        self._began = True
        name, colon, value = text.partition(":")
        if not text.strip():
            yield from self._told()
        elif name == "data":
            if len(self._data) == 1 and _is_whole(self._data[0]):
                yield from self._told()
            self._data.append(value.removeprefix(" "))
        elif not name or (colon and name in FIELDS):
            self._size -= len(line)
        elif not self._bare and text.startswith("{") and _is_whole(text):
            self._size -= len(line)
            yield text
        else:
            self._bare.append(text)

    def _told(self) -> Iterator[str]:
        if self._data:
            data, self._data = "\n".join(self._data), []
            self._size = sum(map(len, self._bare))
            yield data


def decoded(data: str) -> list[JsonObject]:
    """The JSON objects of one event: usually one; none for null, blanks and text that is not JSON (a ping, a comment).

    Raises `BullpenError(upstream_error)` for broken JSON, or JSON that is not an object.
    """
    text = data.strip()
    if not text:
        return []
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        if "\n" in text:
            return [one for line in text.split("\n") for one in decoded(line)]
        if text[0] in "{[":
            raise garbage(text) from None
        return []
    if isinstance(told, list) and told and all(isinstance(one, dict) for one in told):
        return told
    if told is None or isinstance(told, dict):
        return [] if told is None else [told]
    raise garbage(text)


def _lines(data: bytes) -> list[bytes]:
    """The lines, and as the last item the unfinished one; a CR at the end may be half of a line ending."""
    held = b"\r" if data.endswith(b"\r") else b""
    lines = data.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    lines[-1] += held
    return lines


def _is_whole(text: str) -> bool:
    """Whether the text needs no more lines: a JSON object, or a word like `[DONE]`."""
    if not text.lstrip().startswith("{"):
        return "\n" not in text
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
