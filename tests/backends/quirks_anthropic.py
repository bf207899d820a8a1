"""What the Messages API is strict about, played by a stand-in: why it would refuse a question, in words of ours."""

import re
from collections.abc import Iterator
from itertools import pairwise

from aiohttp import web

from tests.backends.providers import AnthropicProvider, Json

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
