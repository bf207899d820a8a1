"""What Ollama's chat API is strict about, played by a stand-in: why it would refuse a question, in words of ours."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from contracts import ErrorCode
from tests.backends.providers import Json, OllamaProvider
from tests.backends.quirks import Quirk

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


def refused(message: str, status: int = 400, **more: Any) -> Quirk:
    body = {"error": {"message": message, **more} if more else message}
    return Quirk("the server", refuses=lambda _: (status, body), error=ErrorCode.CONTEXT_LENGTH_EXCEEDED)


def only(*told: Json) -> Callable[[list[str]], list[str]]:
    return lambda _: [json.dumps(one) + "\n" for one in told]


def line(*, end: str | None = None, tokens: int = 4, **message: Any) -> Json:
    told: Json = {"message": {"role": "assistant", "content": "", **message}, "done": end is not None}
    return told if end is None else {**told, "done_reason": end, "prompt_eval_count": 7, "eval_count": tokens}


def wordless(*told: Json) -> Quirk:
    return Quirk("the server", pieces=only(*told), error=ErrorCode.EMPTY_ANSWER)


def call(**function: Any) -> Json:
    return line(tool_calls=[{"id": 7, "function": {"name": "sum", **function}}])


TOOLS = [{"type": "function", "function": {"name": "sum", "parameters": {"type": "object"}}}]


def calling(told: Json, arguments: str = '{"a": 1}') -> Quirk:
    return Quirk(
        "a proxy",
        pieces=only(told, line(end="stop")),
        asked={"tools": TOOLS},
        text="",
        calls=[("sum", arguments)],
        finish="tool_calls",
    )


def said(*told: Json) -> Quirk:
    return Quirk("a proxy", pieces=only(*told), text="Yes.")


YES = line(content="Yes.")
ENDED = {"done": True, "done_reason": "stop"}

FRAMES: dict[str, Quirk] = {
    "a mark before the first byte": Quirk("a proxy", lambda pieces: ["\ufeff" + pieces[0], *pieces[1:]]),
    "server-sent events": Quirk(
        "a proxy", lambda pieces: [*(f"data:{piece}\n" for piece in pieces), "data: [DONE]\n\n"]
    ),
    "comments and null": Quirk("a proxy", lambda pieces: [": wait\r\n", "null\r\n", *pieces]),
    "one object over many lines": Quirk(
        "a proxy", lambda _: [json.dumps(line(content="Yes.", end="stop"), indent=1)], text="Yes."
    ),
    "a page instead of an answer": Quirk(
        "a captive portal",
        lambda _: ["<html>\n<body>Sign in</body></html>\n"],
        content_type="text/html",
        error=ErrorCode.UPSTREAM_ERROR,
    ),
    "no answer at all": Quirk("a proxy", lambda _: [], error=ErrorCode.UPSTREAM_ERROR),
    "an error in the middle": Quirk(
        "its cloud", only(YES, {"error": {"message": "slow", "code": 429}}), error=ErrorCode.RATE_LIMITED
    ),
}

SHAPES: dict[str, Quirk] = {
    "arguments are a text": calling(call(arguments='{"a": 1}')),
    "arguments are an empty text": calling(call(arguments=""), "{}"),
    "arguments are null": calling(call(arguments=None), "{}"),
    "no arguments": calling(call(), "{}"),
    "a call that is in no list": calling(
        {**line(), "message": {"tool_calls": call(arguments={"a": 1})["message"]["tool_calls"][0]}}
    ),
    "arguments that are no object": Quirk(
        "a model",
        pieces=only(call(arguments='{"a"'), line(end="stop")),
        asked={"tools": TOOLS},
        error=ErrorCode.MALFORMED_TOOL_CALL,
    ),
    "no message at the end": said(YES, ENDED),
    "null for a message at the end": said(YES, {**ENDED, "message": None}),
    "no role": said({"message": {"content": "Yes."}, "done": False}, line(end="stop")),
    "content is a list of parts": said(line(content=[{"type": "text", "text": "Yes."}]), line(end="stop")),
    "no reason": said(YES, {**line(end="stop"), "done_reason": None}),
    "a reason that nobody knows": said(YES, line(end="eos")),
    "a reason that is a number": said(YES, {**line(end="stop"), "done_reason": 7}),
    "unloaded while it answered": said(YES, line(end="unload")),
}

QUIRKS: dict[str, Quirk] = {
    **FRAMES,
    **SHAPES,
    "too long": refused("the input length exceeds the context length"),
    "too long: in the cloud": refused("prompt too long; exceeded max context length by 1234 tokens"),
    "too long: its engine": refused("request (5000 tokens) exceeds the available context size (4096 tokens)", 500),
    "too long: its engine's code": refused("no", 500, type="exceed_context_size_error", n_prompt_tokens=5000),
    "too long: in the middle": Quirk(
        "the server",
        pieces=only({"error": "prompt is too long for this model"}),
        error=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "no memory is another matter": Quirk(
        "the server",
        refuses=lambda _: (500, {"error": "model requires more system memory (9 GiB) than is available"}),
        error=ErrorCode.UPSTREAM_ERROR,
    ),
    "nothing": wordless(line(end="stop", tokens=1)),
    "loaded, not answered": wordless(line(end="load", tokens=0)),
    "only thoughts": wordless(line(thinking="Hm."), line(end="stop")),
    "thoughts in the text": wordless(line(content="<think>Hm."), line(content="</think>\n\n"), line(end="stop")),
    "its window is full": wordless(line(end="length", tokens=0)),
    "only thoughts, as the caller's limit has it": Quirk(
        "the server",
        pieces=only(line(thinking="Hm."), line(end="length", tokens=50)),
        asked={"max_tokens": 50},
        text="",
        finish="length",
    ),
}
