"""What Ollama's chat API is strict about, played by a stand-in: why it would refuse a question, in words of ours."""

import re
from collections.abc import Iterator

from aiohttp import web

from tests.backends.providers import Json, OllamaProvider

DURATION = re.compile(r"-?(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+")
TOP_LEVEL = {
    *("model", "messages", "tools", "stream", "format", "options"),
    *("keep_alive", "think", "logprobs", "top_logprobs"),
}
ROLES = ("system", "user", "assistant", "tool")


def refusal(body: Json) -> str | None:
    """The first reason; None: it is taken."""
    return next(iter((*_fields(body), *_messages(body["messages"]), None)))


def _fields(body: Json) -> Iterator[str]:
    yield from (f"unknown field {name}" for name in body if name not in TOP_LEVEL)
    yield from (f"{name} is no option" for name in body.get("options", {}) if name in TOP_LEVEL)
    keep = body.get("keep_alive", 0)
    if isinstance(keep, str) and not DURATION.fullmatch(keep):
        yield f"time: invalid duration {keep}"
    if body.get("think", True) not in (True, False, "low", "medium", "high"):
        yield f"invalid think value {body['think']}"


def _messages(messages: list[Json]) -> Iterator[str]:
    for message in messages:
        if message["role"] not in ROLES or not isinstance(message.get("content", ""), str):
            yield "a message without a role and content"
        yield from (
            "arguments" for call in message.get("tool_calls", ()) if not isinstance(call["function"]["arguments"], dict)
        )


class Strict(OllamaProvider):
    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.received.append(body := await request.json())
        if why := refusal(body):
            return web.json_response({"error": why}, status=400)
        return await super().answer(request)
