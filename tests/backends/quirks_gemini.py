"""What the Gemini API is strict about, played by a stand-in: why it would refuse a question, in words of ours."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from contracts import ErrorCode
from tests.backends.providers import GeminiProvider, Json
from tests.backends.quirks import Quirk

NAME = "[A-Za-z_][A-Za-z0-9_.:-]{0,63}"
KEYWORDS = {
    *("$anchor", "$defs", "$id", "$ref", "additionalProperties", "anyOf", "description", "enum", "format", "items"),
    *("maxItems", "maximum", "minItems", "minimum", "oneOf", "prefixItems", "properties", "propertyOrdering"),
    *("required", "title", "type"),
}


def refusal(body: Json, model: str) -> str | None:
    """The first reason; None: it is taken."""
    declared = [one for tool in body.get("tools", ()) for one in tool["functionDeclarations"]]
    schemas = [one.get("parametersJsonSchema", one.get("parameters_json_schema", {})) for one in declared]
    schemas.append(body.get("generationConfig", {}).get("responseJsonSchema", {}))
    words = [why for schema in schemas for why in _schema(schema)]
    names = [f"a name: {one['name']}" for one in declared if not re.fullmatch(NAME, one["name"])]
    return next(iter((*_turns(body["contents"], signed=bool(re.search("gemini-3", model))), *names, *words, None)))


def _turns(turns: list[Json], *, signed: bool) -> Iterator[str]:
    if not turns or turns[0]["role"] != "user":
        yield "the first turn is not the user's"
    for number, turn in enumerate(turns):
        if number and turn["role"] == turns[number - 1]["role"]:
            yield "roles do not alternate"
        if not turn["parts"] or any("text" in part and not part["text"].strip() for part in turn["parts"]):
            yield "an empty part"
        made = [part for part in turn["parts"] if "functionCall" in part]
        after = turns[number + 1]["parts"] if number + 1 < len(turns) else []
        results = [part["functionResponse"]["name"] for part in after if "functionResponse" in part]
        if results != [part["functionCall"]["name"] for part in made]:
            yield "the number of function responses is not that of the function calls"
        yield from (f"a name: {name}" for name in results if not re.fullmatch(NAME, name))
        if signed and made and not made[0].get("thoughtSignature"):
            yield "a function call is missing a thought_signature"


def _schema(schema: Any) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    yield from (f"unknown keyword {word}" for word in schema if word not in KEYWORDS)
    if not set(schema.get("required", ())) <= schema.get("properties", {}).keys():
        yield "required: property is not defined"
    for word in ("properties", "$defs"):
        for one in schema.get(word, {}).values():
            yield from _schema(one)
    for one in (
        *schema.get("anyOf", ()),
        *schema.get("prefixItems", ()),
        schema.get("items"),
        schema.get("additionalProperties"),
    ):
        yield from _schema(one)


class Strict(GeminiProvider):
    """Knows a model of the kind that wants its own thoughts back, besides the usual one."""

    signs = "gemini-3-pro"

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        router.add_post("/v1beta/models/{model}:streamGenerateContent", self.answer)
        router.add_get("/v1beta/models/{model}", self.model)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.received.append(body := await request.json())
        if why := refusal(body, request.match_info.get("model", "m")):
            return web.json_response({"error": {"code": 400, "message": why, "status": "INVALID_ARGUMENT"}}, status=400)
        return await super().answer(request)


def refused(message: str, status: int = 400) -> Quirk:
    body = {"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}}
    return Quirk("the API", refuses=lambda _: (status, body), error=ErrorCode.CONTEXT_LENGTH_EXCEEDED)


def only(*told: Json | list[Json]) -> Callable[[list[str]], list[str]]:
    return lambda _: [f"data: {json.dumps(one)}\n\n" for one in told]


def chunk(*parts: Json, finish: str | None = None, tokens: int = 3) -> Json:
    candidate = {"content": {"role": "model", "parts": list(parts)}, **({"finishReason": finish} if finish else {})}
    usage = {"promptTokenCount": 7, "thoughtsTokenCount": tokens, "totalTokenCount": 7 + tokens}
    return {"candidates": [candidate], "usageMetadata": usage}


def wordless(*told: Json) -> Quirk:
    return Quirk("the API", pieces=only(*told), error=ErrorCode.EMPTY_ANSWER)


def broken(told: Json | list[Json], error: ErrorCode) -> Quirk:
    return Quirk("the API", pieces=only(chunk({"text": "Well,"}), told), error=error)


def calling(arguments: str = '{"a": 1}', **call: Any) -> Quirk:
    return Quirk(
        "a proxy",
        pieces=only(chunk({"functionCall": {"name": "sum", **call}}, finish="STOP")),
        asked={"tools": [{"type": "function", "function": {"name": "sum", "parameters": {"type": "object"}}}]},
        text="",
        calls=[("sum", arguments)],
        finish="tool_calls",
    )


def said(*told: Json) -> Quirk:
    return Quirk("the API", pieces=only(*told), text="Yes.")


YES = chunk({"text": "Yes."}, finish="STOP")
FRAMES: dict[str, Quirk] = {
    "a mark before the first byte": Quirk("a proxy", lambda pieces: ["\ufeff" + pieces[0], *pieces[1:]]),
    "no blank behind the colon, lines end with CR LF": Quirk(
        "a proxy", lambda pieces: [piece.replace("data: ", "data:").replace("\n", "\r\n") for piece in pieces]
    ),
    "names and numbers of events": Quirk("a proxy", lambda pieces: [f"event: message\nid: 1\n{p}" for p in pieces]),
    "a mark at the end": Quirk("a proxy", lambda pieces: [*pieces, "data: [DONE]\n\n"]),
    "one list instead of a stream": Quirk(
        "a proxy",
        lambda pieces: [json.dumps([json.loads(piece.removeprefix("data: ")) for piece in pieces], indent=1)],
        content_type="application/json",
    ),
    "a page instead of an answer": Quirk(
        "a captive portal",
        lambda _: ["<html>\n<body>Sign in</body></html>\n"],
        content_type="text/html",
        error=ErrorCode.UPSTREAM_ERROR,
    ),
    "no answer at all": Quirk("a proxy", lambda _: [], error=ErrorCode.UPSTREAM_ERROR),
}

SHAPES: dict[str, Quirk] = {
    "an error in the middle": broken({"error": {"code": 429, "message": "slow"}}, ErrorCode.RATE_LIMITED),
    "an error without a number": broken(
        {"error": {"message": "quota", "status": "RESOURCE_EXHAUSTED"}}, ErrorCode.RATE_LIMITED
    ),
    "an error in a list": broken([{"error": {"code": 429, "message": "slow"}}], ErrorCode.RATE_LIMITED),
    "a call that nobody can read": broken(
        {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": "print(x)"}]},
        ErrorCode.MALFORMED_TOOL_CALL,
    ),
    "a call of what was not offered": broken(chunk(finish="UNEXPECTED_TOOL_CALL"), ErrorCode.MALFORMED_TOOL_CALL),
    "no candidates": Quirk(
        "the API", pieces=only({"usageMetadata": {"promptTokenCount": 7}}), error=ErrorCode.UPSTREAM_ERROR
    ),
    "null for candidates": said({"candidates": None}, {"candidates": [None]}, YES),
    "null for content": said({"candidates": [{"content": None}]}, YES),
    "null for parts": said({"candidates": [{"content": {"role": "model", "parts": None}}]}, YES),
    "a part that nobody knows": said(chunk({"tomorrows": {"x": 1}}, {"text": "Yes."}, finish="STOP")),
    "arguments are a text": calling(args='{"a": 1}'),
    "arguments are null": calling("{}", args=None),
    "an id that is a number": calling(id=7, args={"a": 1}),
    "arguments that are no object": Quirk(
        "a model",
        pieces=only(chunk({"functionCall": {"name": "sum", "args": '{"a"'}}, finish="STOP")),
        error=ErrorCode.MALFORMED_TOOL_CALL,
    ),
}

THOUGHT: Json = {"text": "Hm.", "thought": True}
QUIRKS: dict[str, Quirk] = {
    **FRAMES,
    **SHAPES,
    "too long": refused("The input token count (1200293) exceeds the maximum number of tokens allowed (1048576)."),
    "too long, not counted": refused("The input token count exceeds the maximum number of tokens allowed 131072."),
    "too long: what it supports": refused(
        "Unable to submit request because the input token count is 2097153 but model only supports up to 1048576."
    ),
    "too long: the context": refused("Your input context is too long. Please reduce it or retry.", 413),
    "stop without a word": wordless(chunk(finish="STOP", tokens=0)),
    "stop without content": wordless({"candidates": [{"finishReason": "STOP", "index": 0}]}),
    "blanks": wordless(chunk({"text": " \n"}), chunk(finish="STOP")),
    "only thoughts": wordless(chunk(THOUGHT), chunk(finish="STOP", tokens=90)),
    "safety": wordless(chunk(finish="SAFETY")),
    "recitation": wordless(chunk(finish="RECITATION")),
    "a blocked prompt": wordless({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    "safety after some words": Quirk(
        "the API", pieces=only(chunk({"text": "Well,"}), chunk(finish="SAFETY")), text="Well,", finish="content_filter"
    ),
    "only thoughts up to its own limit": wordless(chunk(THOUGHT), chunk(finish="MAX_TOKENS", tokens=900)),
    "only thoughts, as the caller's limit has it": Quirk(
        "the API",
        pieces=only(chunk(THOUGHT), chunk(finish="MAX_TOKENS", tokens=48)),
        asked={"max_tokens": 50},
        text="",
        finish="length",
    ),
}
