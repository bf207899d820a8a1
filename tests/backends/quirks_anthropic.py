"""What the Messages API is strict about, played by a stand-in: why it would refuse a question, in words of ours."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from aiohttp import web

from contracts import ErrorCode
from tests.backends.providers import AnthropicProvider, Json
from tests.backends.quirks import Quirk

NAME, CALL_ID = "[A-Za-z0-9_-]{1,64}", "[A-Za-z0-9_-]{1,64}"


def refusal(body: Json) -> str | None:
    """The first reason; None: it is taken."""
    return next(iter((*_turns(body["messages"]), *_calls(body), *_thinking(body), *_sampling(body), None)))


def _turns(turns: list[Json]) -> Iterator[str]:
    if not turns or turns[0]["role"] != "user":
        yield "the first message is not the user's"
    for turn, other in pairwise(turns):
        if turn["role"] == other["role"]:
            yield "roles do not alternate"
    for turn in turns:
        if not turn["content"]:
            yield "a message without content"
        yield from (
            "an empty text" for block in turn["content"] if block["type"] == "text" and not block["text"].strip()
        )
    last = turns[-1]["content"][-1] if turns and turns[-1]["role"] == "assistant" else {}
    if last.get("text", "") != last.get("text", "").rstrip():
        yield "the last text ends in blanks"


def _calls(body: Json) -> Iterator[str]:
    seen: set[str] = set()
    names = {tool["name"] for tool in body.get("tools", ())}
    yield from (f"a tool's name: {name}" for name in names if not re.fullmatch(NAME, name))
    for number, turn in enumerate(body["messages"]):
        made = [block for block in turn["content"] if block["type"] == "tool_use"]
        for block in made:
            if not re.fullmatch(CALL_ID, block["id"]) or block["id"] in seen:
                yield f"a call's id: {block['id']}"
            if not names or not re.fullmatch(NAME, block["name"]):
                yield f"a call of {block['name']}, and no tools"
            seen.add(block["id"])
        after = body["messages"][number + 1]["content"] if number + 1 < len(body["messages"]) else []
        results = [block["tool_use_id"] for block in after if block["type"] == "tool_result"]
        if results != [block["id"] for block in made]:
            yield "calls without results, or results without calls"
        if any(block["type"] != "tool_result" for block in after[: len(made)]):
            yield "something before the results"


def _thinking(body: Json) -> Iterator[str]:
    thinking = body.get("thinking", {})
    kind = thinking.get("type", "disabled")
    if kind == "disabled":
        return
    if kind == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        yield "max_tokens must be greater than thinking.budget_tokens"
    if body.get("temperature", 1) != 1 or "top_k" in body or body.get("top_p", 1) < 0.95:
        yield "temperature, top_k or top_p beside thinking"
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        yield "a function that must be called, beside thinking"
    if body["messages"][-1]["role"] == "assistant":
        yield "a begun answer beside thinking"
    if kind == "enabled" and any(block["type"] == "tool_result" for block in body["messages"][-1]["content"]):
        yield "a call without the thoughts before it"


def _sampling(body: Json) -> Iterator[str]:
    told = {"temperature", "top_p", "top_k"} & body.keys()
    if re.search("opus-4-7|opus-5|sonnet-5", body["model"]) and (told or "budget_tokens" in body.get("thinking", {})):
        yield f"deprecated for this model: {told or 'budget_tokens'}"
    if re.search("4-[1-6]", body["model"]) and {"temperature", "top_p"} <= told:
        yield "temperature and top_p cannot both be specified for this model"


class Strict(AnthropicProvider):
    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.received.append(body := await request.json())
        if why := refusal(body):
            return web.json_response(
                {"type": "error", "error": {"type": "invalid_request_error", "message": why}}, status=400
            )
        return await super().answer(request)


def refused(message: str, status: int = 400, kind: str = "invalid_request_error") -> Quirk:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return Quirk("the API", refuses=lambda _: (status, body), error=ErrorCode.CONTEXT_LENGTH_EXCEEDED)


def only(*told: Json) -> Callable[[list[str]], list[str]]:
    """The usual beginning, then these events."""
    return lambda pieces: [pieces[0], *(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in told)]


def block(kind: str, **delta: Any) -> list[Json]:
    return [
        {"type": "content_block_start", "index": 0, "content_block": {"type": kind, kind: ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
    ]


def end(reason: str, tokens: int = 4) -> list[Json]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}},
        {"type": "message_stop"},
    ]


def wordless(*told: Json) -> Quirk:
    return Quirk("the API", pieces=only(*told), error=ErrorCode.EMPTY_ANSWER)


THOUGHT = block("thinking", type="thinking_delta", thinking="Hm.")
QUIRKS: dict[str, Quirk] = {
    "too long: the prompt": refused("prompt is too long: 208310 tokens > 200000 maximum"),
    "too long: with the answer": refused(
        "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease one and try again"
    ),
    "too long: behind a proxy": refused("Input is too long for requested model.", kind="validation_error"),
    "too long: with 413": refused("The prompt exceeds the context window of this model", 413),
    "too long: by its code": refused("no", kind="context_length_exceeded"),
    "too long: in the middle": Quirk(
        "the API",
        pieces=only(
            {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens"}}
        ),
        error=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "nothing": wordless(*end("end_turn")),
    "blanks": wordless(*block("text", type="text_delta", text=" \n\u200b"), *end("end_turn")),
    "only thoughts": wordless(*THOUGHT, *end("end_turn")),
    "a refusal without a word": wordless(*end("refusal", 0)),
    "no room for a word": wordless(*end("model_context_window_exceeded", 1)),
    "only thoughts, as the caller's limit has it": Quirk(
        "the API", pieces=only(*THOUGHT, *end("max_tokens", 50)), asked={"max_tokens": 50}, text="", finish="length"
    ),
    "an open connection after the end": Quirk(
        "a proxy", pieces=lambda pieces: [*pieces, 'event: ping\ndata: {"type": "ping"}\n\n'], questions=1
    ),
    "arguments that are no object": Quirk(
        "a model",
        pieces=only(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "tool_use", "id": "c1", "name": "add"},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": '{"a": '},
            },
            *end("tool_use"),
        ),
        error=ErrorCode.MALFORMED_TOOL_CALL,
    ),
}
