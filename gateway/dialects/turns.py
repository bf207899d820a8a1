"""Builds the messages of an `InferenceRequest` from the items or blocks of other dialects.

Those have one item for each text, reasoning, call or result. Here one assistant's message takes all of them until
another role speaks. Images and files that a tool returned follow in a user's message, because a tool's message has only
text.
"""

from mimetypes import guess_type

from contracts import JsonObject

SYSTEM = ("system", "developer")
"""Roles whose messages are no question when there are other messages."""
FROM_TOOL = "What the tool returned besides text:"


class Turns:
    def __init__(self) -> None:
        self._messages: list[JsonObject] = []
        self._assistant: JsonObject | None = None
        """The assistant's message to which parts are still added."""
        self._returned: list[JsonObject] = []
        """Images and files that tools returned, for the next user's message."""

    @property
    def messages(self) -> list[JsonObject]:
        self._hand_over()
        return self._messages

    def system(self, text: str) -> None:
        self._add({"role": "system", "content": text})

    def user(self, parts: list[JsonObject]) -> None:
        if parts:
            self._add({"role": "user", "content": content(parts)})

    def said(self, text: str) -> None:
        message = self._speaking()
        message["content"] = "\n".join(filter(None, (message.get("content"), text)))

    def thought(self, text: str, extra: JsonObject | None = None) -> None:
        message = self._speaking()
        if text:
            message["reasoning_content"] = "\n".join(filter(None, (message.get("reasoning_content"), text)))
        if extra:
            message["extra"] = {**message.get("extra", {}), **extra}

    def called(self, call_id: str, name: str, arguments: str) -> None:
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._speaking().setdefault("tool_calls", []).append(call)

    def returned(self, call_id: str, parts: list[JsonObject]) -> None:
        """Adds a tool's result."""
        self._assistant = None
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
        self._returned += [part for part in parts if part["type"] != "text"]

    def _speaking(self) -> JsonObject:
        if self._assistant is None:
            self._hand_over()
            self._assistant = {"role": "assistant"}
            self._messages.append(self._assistant)
        return self._assistant

    def _add(self, message: JsonObject) -> None:
        self._hand_over()
        self._assistant = None
        self._messages.append(message)

    def _hand_over(self) -> None:
        if self._returned:
            self._messages.append({"role": "user", "content": [text_part(FROM_TOOL), *self._returned]})
            self._returned = []


def content(parts: list[JsonObject]) -> str | list[JsonObject]:
    """A message's content: a plain text if it has only text."""
    if any(part["type"] != "text" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def with_question(messages: list[JsonObject]) -> list[JsonObject]:
    """Makes the last message a user's when all messages are the system's: other servers answer those too.

    `messages` may be anything that a client sent.
    """
    if messages and all(isinstance(message, dict) and message.get("role") in SYSTEM for message in messages):
        return [*messages[:-1], {**messages[-1], "role": "user"}]
    return messages


def says_something(messages: list[JsonObject]) -> bool:
    """Whether any message beside the system's says something."""
    spoken = [message for message in messages if message["role"] not in SYSTEM]
    return any(
        message["role"] == "tool" or message.get("tool_calls") or _has_content(message.get("content"))
        for message in spoken
    )


def text_part(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def image_part(url: str, detail: str | None = None) -> JsonObject:
    return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}


def file_part(data: str, media_type: str | None, filename: str | None) -> JsonObject:
    """A file's part. `data`: base64, or a data URL."""
    if not data.startswith("data:"):
        kind = media_type or guess_type(filename or "")[0] or "application/octet-stream"
        data = f"data:{kind};base64,{data}"
    return {"type": "file", "file": {"file_data": data, **({"filename": filename} if filename else {})}}


def _has_content(told: str | list[JsonObject] | None) -> bool:
    return bool(told.strip()) if isinstance(told, str) else bool(told)
