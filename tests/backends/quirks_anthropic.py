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


def call(told_id: object = "c1", name: str = "sum", **more: Any) -> list[Json]:
    told = {"type": "tool_use", "id": told_id, "name": name, **more}
    return [
        {"type": "content_block_start", "index": 0, "content_block": told},
        {"type": "content_block_stop", "index": 0},
    ]


def calling(*told: Json, name: str = "sum", arguments: str = '{"a": 1}') -> Quirk:
    asked = {"tools": [{"type": "function", "function": {"name": "sum", "parameters": {"type": "object"}}}]}
    return Quirk("a proxy", pieces=only(*told), asked=asked, text="", calls=[(name, arguments)], finish="tool_calls")


def said(*told: Json, finish: str = "stop") -> Quirk:
    return Quirk("the API", pieces=only(*told), text="Yes.", finish=finish)


def broken(told: str, error: ErrorCode, who: str = "the API") -> Quirk:
    return Quirk(who, lambda pieces: [*pieces[:3], told], error=error)


YES = block("text", type="text_delta", text="Yes.")
OVERLOADED = json.dumps({"type": "error", "error": {"type": "rate_limit_error", "message": "try again in 3s"}})
WHOLE = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Yes."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 7, "output_tokens": 1},
}
BROKEN: dict[str, Quirk] = {
    "an error in the middle": broken(f"event: error\ndata: {OVERLOADED}\n\n", ErrorCode.RATE_LIMITED),
    "an error without its name": broken(f"data: {OVERLOADED}\n\n", ErrorCode.RATE_LIMITED, "a proxy"),
    "an error in a 200": Quirk(
        "a proxy", lambda _: [OVERLOADED], content_type="application/json", error=ErrorCode.RATE_LIMITED
    ),
    "an error in plain words": broken("event: error\ndata: upstream died\n\n", ErrorCode.UPSTREAM_ERROR, "a proxy"),
    "a page instead of an answer": Quirk(
        "a captive portal",
        lambda _: ["<html>\n<body>Sign in</body></html>\n"],
        content_type="text/html",
        error=ErrorCode.UPSTREAM_ERROR,
    ),
    "no answer at all": Quirk("a proxy", lambda _: [], error=ErrorCode.UPSTREAM_ERROR),
    "pings and nothing else": broken('event: ping\ndata: {"type": "ping"}\n\n', ErrorCode.UPSTREAM_ERROR),
    "it wants to be asked to go on": Quirk(
        "the API", pieces=only(*YES, *end("pause_turn")), error=ErrorCode.UPSTREAM_ERROR
    ),
}

FRAMES: dict[str, Quirk] = {
    "a mark before the first byte": Quirk("a proxy", lambda pieces: ["\ufeff" + pieces[0], *pieces[1:]]),
    "no blank behind the colon, lines end with CR LF": Quirk(
        "a proxy", lambda pieces: [piece.replace(": ", ":", 2).replace("\n", "\r\n") for piece in pieces]
    ),
    "events without names": Quirk("a proxy", lambda pieces: [piece[piece.index("data:") :] for piece in pieces]),
    "another mark at the end": Quirk("a proxy", lambda pieces: [*pieces[:-1], "data: [DONE]\n\n"]),
    "a whole message instead of a stream": Quirk(
        "servers that ignore `stream`", lambda _: [json.dumps(WHOLE)], content_type="application/json", text="Yes."
    ),
}

SHAPES: dict[str, Quirk] = {
    "events and blocks that nobody knows": said(
        {"type": "tomorrows", "x": 1},
        {"type": "content_block_start", "index": 7, "content_block": {"type": "tomorrows", "id": "x"}},
        {"type": "content_block_delta", "index": 7, "delta": {"type": "tomorrows", "x": 1}},
        {"type": "content_block_stop", "index": 7},
        *YES,
        *end("end_turn"),
    ),
    "a refusal with words": said(*YES, *end("refusal"), finish="content_filter"),
    "the words stand in the beginning of a block": said(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Yes."}},
        YES[2],
        *end("end_turn"),
    ),
    "null for words": said(
        YES[0],
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": None}},
        *YES[1:],
        *end("end_turn"),
    ),
    "counts after the end": said(
        *YES,
        end("end_turn")[0],
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 4}},
    ),
    "arguments stand in the beginning of a call": calling(*call(input={"a": 1}), *end("tool_use")),
    "an id that is a number": calling(*call(7, input={}), *end("tool_use"), arguments="{}"),
    "half a character in a name": calling(*call(name="s\ud800"), *end("tool_use"), name="s?", arguments="{}"),
    "a call that ends like words": calling(*call(), *end("end_turn"), arguments="{}"),
}

THOUGHT = block("thinking", type="thinking_delta", thinking="Hm.")
QUIRKS: dict[str, Quirk] = {
    **BROKEN,
    **FRAMES,
    **SHAPES,
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
