"""No provider refuses what a worker makes of a request that is in order, however strict it is."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from contracts import ChatMessage, InferenceRequest, JsonObject
from tests.backends import quirks_anthropic, quirks_gemini, quirks_ollama
from tests.backends.providers import Json, OpenAIProvider, Provider, configured
from workers.base import Backend, Job, ModelConfig
from workers.base.interface.discovery import discover

pytestmark = pytest.mark.asyncio(loop_scope="module")

THINKING = {"thinking": {"type": "enabled", "budget_tokens": 2048}}


class StrictMistral(OpenAIProvider):
    """Ids of nine letters or digits, results right after their calls, nothing that it does not know."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.received.append(body := await request.json())
        waiting: list[str] = []
        for message in body["messages"]:
            calls = message.get("tool_calls", ())
            fits = all(re.fullmatch("[A-Za-z0-9]{9}", call["id"]) and len(call) == 3 for call in calls)
            due = waiting.pop(0) if waiting else None
            if not fits or message.get("tool_call_id") != due or not isinstance(message["content"], str):
                return web.json_response({"message": "invalid"}, status=422)
            waiting += [call["id"] for call in calls]
        return await super().answer(request)


KINDS: dict[str, tuple[type[Provider], str, JsonObject]] = {
    "anthropic": (quirks_anthropic.Strict, "m", {}),
    "anthropic that thinks": (quirks_anthropic.Strict, "claude-sonnet-4-6", THINKING),
    "anthropic's newest": (quirks_anthropic.Strict, "claude-opus-5-5", THINKING),
    "gemini": (quirks_gemini.Strict, "m", {}),
    "gemini that signs": (quirks_gemini.Strict, quirks_gemini.Strict.signs, {}),
    "ollama": (quirks_ollama.Strict, "m", {"think": "low"}),
    "mistral": (StrictMistral, "mistral-small", {}),
}
ABLE = ["chat", "stream", "tools", "vision", "json", "prefill"]


Strict = tuple[Provider, Backend[Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS.values(), ids=KINDS.keys())
async def strict(request: pytest.FixtureRequest) -> AsyncIterator[Strict]:
    kind, model, options = request.param
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(kind())
        environ = stack.enter_context(pytest.MonkeyPatch.context())
        environ.setenv(f"{provider.backend.upper()}_API_KEY", "sk-test")
        cls = discover()[provider.backend].load()
        models = [{"name": model, "capabilities": ABLE, "options": options}]
        backend = cls(configured(cls.config_class, {**provider.config(), "models": models}))
        stack.push_async_callback(backend.close)
        yield provider, backend


def job(backend: Backend[Any], prefix: str = "", max_tokens: int | None = 50, **asked: Any) -> Job:
    request = InferenceRequest(**{"prompt": None if "messages" in asked else "Who?", **asked})
    (model,) = backend.config.models
    return Job(request, ModelConfig.card(model, local=False), max_tokens, prefix)


def call(call_id: str | None, name: str = "weather.get", **more: Any) -> JsonObject:
    told = {"type": "function", "function": {"name": name, "arguments": '{"in": "Rome"}'}, **more}
    return told if call_id is None else {"id": call_id, **told}


def said(*calls: JsonObject, text: str | None = None) -> ChatMessage:
    return ChatMessage(role="assistant", content=text, tool_calls=calls or None)


def result(call_id: str | None, text: str = "20") -> ChatMessage:
    return ChatMessage(role="tool", tool_call_id=call_id, content=text)


def user(text: str = "How warm is it?") -> ChatMessage:
    return ChatMessage(role="user", content=text)


SIGNED: JsonObject = {"extra_content": {"google": {"thought_signature": "dGhvdWdodHM="}}, "index": 0}
TOOL = {"type": "function", "function": {"name": "weather.get", "parameters": {"type": "object"}}}
CONVERSATIONS: dict[str, tuple[ChatMessage, ...]] = {
    "from openai": (
        user(),
        said(call("call_9f3Kq2LmXw81"), call("call_b")),
        result("call_9f3Kq2LmXw81"),
        result("call_b"),
    ),
    "from gemini": (user(), said(call("0198b5a2-7c1e", **SIGNED)), result("0198b5a2-7c1e"), said(text="20."), user()),
    "from a server of its own": (user(), said(call("functions.weather:0 ü" * 9)), result("functions.weather:0 ü" * 9)),
    "the same id in each turn": (user(), said(call("0")), result("0"), said(call("0")), result("0"), user()),
    "without ids": (user(), said(call(None), call(None, "1st")), result(None), result(None)),
    "results out of place": (user(), said(call("a"), call("b")), user("Quick!"), result("b"), result("a")),
    "a result without a call": (user(), result("gone"), user("So?")),
    "a call without a result": (user(), said(call("a"), text="Let me see."), user("So?")),
    "ends with a call": (user(), said(call("a"))),
    "the assistant first": (said(text="Hello!"), user()),
    "the same side twice": (user("One."), user("Two."), said(text="Three."), said(text="Four."), user()),
    "system in the middle": (user(), said(text="20."), ChatMessage(role="system", content="Be kind."), user()),
    "blanks": (user(), said(text=" "), user(" \n"), ChatMessage(role="system", content=""), user()),
    "the assistant last": (user(), said(text="It is ")),
    "an empty result": (user(), said(call("a")), result("a", "")),
}


@pytest.mark.parametrize("tools", [None, (TOOL,)], ids=["no tools", "tools"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
async def test_a_conversation_begun_elsewhere_is_taken(
    strict: Strict, messages: tuple[ChatMessage, ...], tools: Any
) -> None:
    _, backend = strict
    done = (await backend.infer(job(backend, messages=messages, tools=tools))).done
    assert done.finish_reason in ("stop", "tool_calls")


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 0.3},
        {"temperature": 0.3, "top_p": 0.5},
        {"top_p": 0.97, "seed": 7, "stop": ("END", " ")},
        {"tools": (TOOL,), "tool_choice": "required", "temperature": 0.1},
        {"tools": (TOOL,), "tool_choice": TOOL},
        {"prefix": "The capital "},
        {"max_tokens": 1},
        {"max_tokens": 2048},
        {"max_tokens": 4000},
        {"max_tokens": None, "temperature": 1.7},
    ],
    ids=" ".join,
)
async def test_no_parameter_is_refused(strict: Strict, asked: Json) -> None:
    _, backend = strict
    done = (await backend.infer(job(backend, **asked))).done
    assert done.finish_reason in ("stop", "tool_calls")


SCHEMA: Json = json.loads(
    """{
    "$schema": "http://json-schema.org/draft-07/schema#", "$id": "x", "title": "Order", "type": "object",
    "definitions": {"size": {"const": "small"}},
    "properties": {
        "default": {"type": "string", "format": "uuid", "minLength": 1, "pattern": "^a", "default": "a"},
        "size": {"$ref": "#/definitions/size"},
        "count": {"type": ["integer", "null"], "exclusiveMinimum": 0, "multipleOf": 2},
        "either": {"oneOf": [{"type": "string", "examples": ["a"]}, {"type": "array", "items": {"not": {}}}]},
        "both": {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}]}
    },
    "required": ["default", "gone"], "additionalProperties": false, "unevaluatedProperties": false,
    "patternProperties": {"^x": {}}, "dependentRequired": {"a": ["b"]}, "if": {}, "then": {}
}"""
)


async def test_no_keyword_of_a_schema_is_refused(strict: Strict) -> None:
    _, backend = strict
    tool = {"type": "function", "function": {"name": "order", "parameters": SCHEMA}}
    await backend.infer(job(backend, tools=(tool,)))
    wanted = {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}}
    await backend.infer(job(backend, response_format=wanted))
